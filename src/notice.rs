//! Notices for operators: tasks that fail or freeze, outages, pauses, parked aggregates and skipped events, leases.
//!
//! Each notice is built once. [`tracing`] gets it as an event of the target `retell::notice`, and [`App::on_notice`](crate::App::on_notice)
//! passes the same ones to the program. A state that lasts is told when it begins and when it ends, however often its cause is seen.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock, Weak};

use tracing::{Level, error, info, warn};

use crate::id::Generation;
use crate::panics::catch;

/// One notice, about one part of the program. `{}` displays it on one line.
///
/// No notice contains a payload, or the text of a handler's error on an event: these may be personal data. The [parked
/// aggregates](crate::ReadModel::parking) have the error. The error of a task that ends may name a stream.
///
/// # Examples
/// ```
/// use retell::notice::{Notice, NoticeKind};
/// use retell::prelude::*;
///
/// fn page(notice: &Notice) {
///     if notice.kind == NoticeKind::Dead {
///         eprintln!("look at {}: {notice}", notice.part);
///     }
/// }
///
/// let app = App::new(MemoryStore::new(), MemoryReadModel::new()).on_notice(page);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Notice {
    /// The projection, reaction, process, relay, view or type of aggregate that it is about.
    pub part: String,
    /// The kind of notice.
    pub kind: NoticeKind,
    /// The error that led to it, with its causes, if it is one of the library or of a database or broker. For a pause or a retirement, the operator and the reason.
    pub error: Option<String>,
}

/// The kind of a [`Notice`], with the level of its event in [`tracing`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoticeKind {
    /// Error: a task has ended with an error or a panic. It restarts after a delay, unless the app stops. Further failures in a row give no
    /// notice.
    TaskFailed,
    /// Info: a task that has failed runs again.
    TaskRestarted,
    /// Warning: the part waits because something has failed. `on` is a [`Wait`](crate::status::Wait) as it is displayed, such as `the broker`.
    OutageBegan {
        /// The cause of the wait.
        on: &'static str,
    },
    /// Info: the wait is over.
    OutageEnded {
        /// The cause of the wait.
        on: &'static str,
    },
    /// Info: the relay publishes from now on.
    LeaseWon,
    /// Info: another relay publishes, or may do so soon.
    LeaseLost,
    /// Warning: a handler has failed on an event, which is retried in place.
    Retrying,
    /// Warning: `aggregates` aggregates are parked. `position` is that of the first event that fails.
    Parked {
        /// The number of aggregates that one transaction has parked.
        aggregates: usize,
        /// The position of the first event that fails.
        position: u64,
    },
    /// Info: a parked aggregate is applied as far as the others.
    Unparked,
    /// Info: an operator has paused the part. The error is the operator and the reason.
    Paused,
    /// Warning: an operator has retired the part, and this program still has it. The error is the operator and the reason.
    Retired,
    /// Info: the pause or the retirement is over.
    Resumed,
    /// Info: the part has passed over the event at `position`, because an operator has skipped it.
    Skipped {
        /// The position of the event.
        position: u64,
    },
    /// Error: the loop of a task has not turned for too long, although it waits for nothing.
    TaskFrozen,
    /// Info: the loop of the task turns again.
    TaskUnfrozen,
    /// Warning: the program is not [ready](crate::app::Health::ready). The error is the first cause.
    NotReady,
    /// Info: the program is ready again.
    Ready,
    /// Error: a parked aggregate has failed too often, and is not retried any more.
    Dead,
    /// Warning: snapshots cannot be saved. It costs time, never data.
    SnapshotsFail,
    /// Info: snapshots are saved again.
    SnapshotsSaved,
    /// Info: readers of the view see another generation.
    GenerationSwitched {
        /// The generation that they see.
        generation: Generation,
    },
}

impl Notice {
    /// Returns the level of the event in [`tracing`].
    pub fn level(&self) -> Level {
        match self.kind {
            NoticeKind::TaskFailed | NoticeKind::TaskFrozen | NoticeKind::Dead => Level::ERROR,
            NoticeKind::OutageBegan { .. }
            | NoticeKind::Retrying
            | NoticeKind::Parked { .. }
            | NoticeKind::Retired
            | NoticeKind::NotReady
            | NoticeKind::SnapshotsFail => Level::WARN,
            NoticeKind::TaskRestarted
            | NoticeKind::OutageEnded { .. }
            | NoticeKind::LeaseWon
            | NoticeKind::LeaseLost
            | NoticeKind::TaskUnfrozen
            | NoticeKind::Ready
            | NoticeKind::Unparked
            | NoticeKind::Paused
            | NoticeKind::Resumed
            | NoticeKind::Skipped { .. }
            | NoticeKind::SnapshotsSaved
            | NoticeKind::GenerationSwitched { .. } => Level::INFO,
        }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.part)?;
        match self.kind {
            NoticeKind::TaskFailed => f.write_str("the task failed")?,
            NoticeKind::TaskRestarted => f.write_str("the task runs again")?,
            NoticeKind::OutageBegan { on } => write!(f, "waiting for {on}")?,
            NoticeKind::OutageEnded { on } => write!(f, "no longer waiting for {on}")?,
            NoticeKind::LeaseWon => f.write_str("the relay has the lease and publishes")?,
            NoticeKind::LeaseLost => f.write_str("the relay has lost its lease")?,
            NoticeKind::Retrying => f.write_str("the handler failed on an event, which is retried")?,
            NoticeKind::Parked { aggregates, position } => {
                write!(f, "{aggregates} aggregates are parked, the first at position {position}")?;
            }
            NoticeKind::Unparked => f.write_str("a parked aggregate is applied again")?,
            NoticeKind::Paused => f.write_str("paused")?,
            NoticeKind::Retired => f.write_str("retired, but this program still has it")?,
            NoticeKind::Resumed => f.write_str("resumed")?,
            NoticeKind::Skipped { position } => {
                write!(f, "the event at position {position} is passed over, because an operator has skipped it")?;
            }
            NoticeKind::TaskFrozen => f.write_str("the task is frozen: its loop does not turn")?,
            NoticeKind::TaskUnfrozen => f.write_str("the task's loop turns again")?,
            NoticeKind::NotReady => f.write_str("the program is not ready")?,
            NoticeKind::Ready => f.write_str("the program is ready again")?,
            NoticeKind::Dead => f.write_str("a parked aggregate is dead")?,
            NoticeKind::SnapshotsFail => f.write_str("snapshots cannot be saved")?,
            NoticeKind::SnapshotsSaved => f.write_str("snapshots are saved again")?,
            NoticeKind::GenerationSwitched { generation } => write!(f, "readers see generation {generation}")?,
        }
        self.error.as_ref().map_or(Ok(()), |error| write!(f, ": {error}"))
    }
}

/// Receives notices.
pub(crate) type Listener = dyn Fn(&Notice) + Send + Sync;

static LISTENERS: RwLock<Vec<Weak<Listener>>> = RwLock::new(Vec::new());

/// Passes the notices of this process to `listener` until it is dropped.
pub(crate) fn listen(listener: &Arc<Listener>) {
    let mut listeners = LISTENERS.write().unwrap_or_else(PoisonError::into_inner);
    let listener = Arc::downgrade(listener);
    // An app may catch up and start.
    listeners.retain(|known| known.strong_count() > 0 && !known.ptr_eq(&listener));
    listeners.push(listener);
}

/// Sends a notice to [`tracing`] and to each listener.
pub(crate) fn send(part: &str, kind: NoticeKind, error: Option<String>) {
    let notice = Notice { part: part.to_owned(), kind, error };
    macro_rules! event {
        ($level:ident) => {
            $level!(target: "retell::notice", { "retell.part" = notice.part }, "{notice}")
        };
    }
    match notice.level() {
        Level::ERROR => event!(error),
        Level::WARN => event!(warn),
        _ => event!(info),
    }
    let listeners = LISTENERS.read().unwrap_or_else(PoisonError::into_inner);
    let listeners: Vec<_> = listeners.iter().filter_map(Weak::upgrade).collect();
    for listener in listeners {
        // A listener that panics loses this notice.
        drop(catch(|| listener(&notice)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_hears_notices_until_it_is_dropped() {
        let heard = Arc::new(RwLock::new(Vec::new()));
        let kept = heard.clone();
        let listener: Arc<Listener> = Arc::new(move |notice: &Notice| {
            if notice.part == "hears notices" {
                kept.write().unwrap().push((notice.to_string(), notice.level()));
                panic!("a fault of the program");
            }
        });
        listen(&listener);
        listen(&listener);
        send("hears notices", NoticeKind::OutageBegan { on: "the broker" }, Some("refused".into()));
        send("hears notices", NoticeKind::Dead, None);
        drop(listener);
        send("hears notices", NoticeKind::LeaseLost, None);
        let expected = [
            ("hears notices: waiting for the broker: refused".to_owned(), Level::WARN),
            ("hears notices: a parked aggregate is dead".to_owned(), Level::ERROR),
        ];
        assert_eq!(*heard.read().unwrap(), expected);
    }
}
