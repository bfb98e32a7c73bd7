//! The broker's side of a relay: sends events in one of two forms, and waits for answers.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::Either;
use futures::{FutureExt, TryFutureExt, future};
use tokio::time::{Instant, sleep};

use crate::broker::frame::Frame;
use crate::broker::{Announcer, Confirm, Publisher};
use crate::error::{Error, ErrorKind, Result};
use crate::event::RecordedEvent;
use crate::panics::catch_in;
use crate::pulse::Pulse;
use crate::status::{Reporter, Wait};

/// The relay asks this often why an answer is late.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// An answer that takes longer than this is reported even if the broker does not say why. A healthy broker answers within a second, and a queue
/// that elects a new leader within a few.
const LATE: Duration = Duration::from_secs(10);

/// The form in which a relay publishes events, and the broker's side for it.
pub(super) enum Outlet {
    Frames(Arc<dyn Publisher>),
    Single(Arc<dyn Announcer>),
}

impl Outlet {
    /// Sends events, as `frames` if that is the form. The confirm returns how many events no queue received.
    pub(super) async fn send(&self, frames: &[Frame], events: &[RecordedEvent]) -> Result<Confirm<u64>> {
        match self {
            Self::Frames(publisher) => Ok(publisher.publish(frames).await?.map_ok(|()| 0).boxed()),
            Self::Single(announcer) => {
                Ok(announcer.announce(events).await?.map_ok(|announced| announced.unroutable).boxed())
            }
        }
    }

    /// Awaits an answer of the broker, however long it takes, and reports a late one as a wait for the broker. The caller reports the end of the
    /// wait when events are confirmed. A panic of a publisher is retried as its failure: it must not end the relay.
    pub(super) async fn answer<T>(
        &self,
        reporter: &Reporter,
        pulse: &Pulse,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let (mut call, began) = (pin!(catch_in(call)), Instant::now());
        loop {
            // A call that waits is no frozen loop. One that blocks its thread is.
            pulse.turn();
            let late = pin!(self.late(began));
            match future::select(&mut call, late).await {
                Either::Left((answer, _)) => {
                    return answer.unwrap_or_else(|panicked| {
                        Err(Error::with_source(
                            ErrorKind::Transient("publish: the publisher panicked".into()),
                            panicked,
                        ))
                    });
                }
                Either::Right((Some(reason), _)) => reporter.waits_after(Wait::Broker, reason),
                Either::Right((None, _)) => {}
            }
        }
    }

    /// Waits for a moment, then returns why an answer that is awaited since `began` is late, if it is.
    async fn late(&self, began: Instant) -> Option<String> {
        sleep(ASK_EVERY).await;
        let asked = async {
            match self {
                Self::Frames(publisher) => publisher.publishing_blocked().await,
                Self::Single(announcer) => announcer.announcing_blocked().await,
            }
        };
        let reason = catch_in(asked).await.unwrap_or_else(|panicked| Some(format!("the publisher {panicked}")));
        let silent = || format!("the broker has not confirmed the last messages within {LATE:?}, and does not say why");
        reason.or_else(|| (began.elapsed() >= LATE).then(silent))
    }
}
