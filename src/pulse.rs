//! The pulses of loops: whether a loop has turned lately, or rests.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use chrono::{DateTime, SubsecRound, Utc};
use tokio::time::Instant;

/// A point in time, for comparisons by the monotonic clock and for display.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Since(pub(crate) Instant, pub(crate) DateTime<Utc>);

impl Since {
    pub(crate) fn now() -> Self {
        Self(Instant::now(), Utc::now().trunc_subsecs(6))
    }
}

/// The pulses of the loops of one part. Clones share them.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pulses(Arc<Mutex<Vec<Weak<Mutex<Turning>>>>>);

impl Pulses {
    /// Adds the pulse of a loop that begins now. It counts until it is dropped.
    pub(crate) fn add(&self) -> Pulse {
        let turning = Arc::new(Mutex::new(Turning { rests: 0, turned: Since::now() }));
        let mut known = locked(&self.0);
        known.retain(|pulse| pulse.strong_count() > 0);
        known.push(Arc::downgrade(&turning));
        Pulse(turning)
    }

    /// Returns the last turn of the loop whose last turn is the longest ago. A loop that rests does not count.
    pub(crate) fn last_turn(&self) -> Option<Since> {
        let pulses: Vec<_> = locked(&self.0).iter().filter_map(Weak::upgrade).collect();
        let turns = pulses.iter().filter_map(|pulse| {
            let pulse = locked(pulse);
            (pulse.rests == 0).then_some(pulse.turned)
        });
        turns.min_by_key(|since| since.0)
    }
}

#[derive(Debug)]
struct Turning {
    /// The number of waits that the loop is in.
    rests: usize,
    turned: Since,
}

/// The pulse of a loop.
#[derive(Debug, Clone)]
pub(crate) struct Pulse(Arc<Mutex<Turning>>);

impl Pulse {
    /// Tells that the loop turns.
    pub(crate) fn turn(&self) {
        locked(&self.0).turned = Since::now();
    }

    /// Tells that the loop has nothing to do until the returned value is dropped. Then it turns.
    pub(crate) fn rest(&self) -> Rest {
        locked(&self.0).rests += 1;
        Rest(self.clone())
    }
}

/// A wait of a loop.
#[derive(Debug)]
pub(crate) struct Rest(Pulse);

impl Drop for Rest {
    fn drop(&mut self) {
        let mut turning = locked(&self.0.0);
        turning.rests -= 1;
        turning.turned = Since::now();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_a_loop_that_neither_turns_nor_rests_gets_old() {
        let (pulses, minute) = (Pulses::default(), Duration::from_mins(1));
        let age = |pulses: &Pulses| pulses.last_turn().map(|since| since.0.elapsed());
        assert_eq!(age(&pulses), None);
        let (one, other) = (pulses.add(), pulses.add());
        tokio::time::advance(minute).await;
        one.turn();
        assert_eq!(age(&pulses), Some(minute), "the other loop has not turned");
        let (outer, inner) = (other.rest(), other.rest());
        assert_eq!(age(&pulses), Some(Duration::ZERO));
        drop(inner);
        tokio::time::advance(minute).await;
        drop(one);
        assert_eq!(age(&pulses), None, "a loop that has ended does not count, and the other still rests");
        drop(outer);
        assert_eq!(age(&pulses), Some(Duration::ZERO));
    }
}
