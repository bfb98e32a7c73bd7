//! The status that a worker, a relay or a process manager reports about itself, with or without an [`App`](crate::App).
//!
//! An app combines it with the position of the part and the head of the log: see [`Health`](crate::app::Health).

use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use tokio::sync::watch;

use crate::error::{Error, Result, reason};
use crate::notice::{self, NoticeKind};
use crate::pulse::{Pulse, Pulses};

/// The status of a worker, a relay or a process manager.
///
/// # Examples
/// ```
/// use retell::prelude::*;
/// use retell::status::Activity;
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let relay = Relay::new(MemoryStore::new(), MemoryBroker::new());
/// let status = relay.status();
/// assert_eq!(status.borrow().activity, Activity::Idle);
///
/// let stop = CancellationToken::new();
/// stop.cancel();
/// relay.run(stop).await?;
/// assert_eq!(status.borrow().to_string(), "stopped");
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Status {
    /// Whether it runs.
    pub activity: Activity,
    /// Everything that it waits for now, the most serious first.
    pub waits: Vec<Waiting>,
    /// The last error that it saw in this run, even if a retry has succeeded since.
    pub last_error: Option<Seen>,
    /// The parked aggregates that it knows of; `None` if there are none.
    pub parked: Option<ParkedCount>,
    /// Facts that are no reason to wait: a newer release writes other versions of its events.
    pub notes: Vec<String>,
}

/// Whether a worker, a relay or a process manager runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Activity {
    /// It was not started.
    #[default]
    Idle,
    /// It connects to its databases and prepares the read model.
    Starting,
    /// It runs.
    Running,
    /// It was stopped, or has caught up.
    Stopped,
    /// It ended with this error.
    Failed(String),
}

/// A reason to wait. The order is that of [`Status::waits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Wait {
    /// The database of the log or of the read model does not answer.
    Database,
    /// The broker has brought events that the log does not show, and the log has not grown for ten seconds: a replica has stopped, or the messages
    /// are those of another log.
    Log,
    /// A newer release has written events that this process does not know. It leaves them to processes of that release.
    Deploy,
    /// An operator has paused the projection. The wait has a [note](Waiting::note): the operator and the reason.
    Paused,
    /// An operator has retired the projection, and this process still has it. The wait has a [note](Waiting::note), as that of a pause.
    Retired,
    /// Every aggregate fails, which looks like an outage of something that the projection needs.
    Outage,
    /// The deadlines of a process cannot be read.
    Deadlines,
    /// The broker does not answer. A worker still reads the log from the store.
    Broker,
    /// A dead letter cannot be sent.
    DeadLetters,
    /// Another relay of the same name publishes.
    Lease,
    /// Another worker of the same projection is active.
    Standby,
    /// The reaction has reached its rate.
    Rate,
}

/// A wait, and its cause if it is an error.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Waiting {
    /// The reason.
    pub on: Wait,
    /// When the wait began.
    pub since: DateTime<Utc>,
    /// The last error, with its causes; `None` if nothing is wrong.
    pub error: Option<String>,
    /// The operator and the reason of a pause or a retirement; `None` for every other wait.
    pub note: Option<String>,
}

/// The number of parked aggregates of a projection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ParkedCount {
    /// The number of aggregates, dead ones included.
    pub aggregates: usize,
    /// When this run first knew of one.
    pub since: DateTime<Utc>,
}

/// An error, and when it occurred.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Seen {
    /// The error with its causes.
    pub error: String,
    /// When it occurred last.
    pub at: DateTime<Utc>,
}

impl Status {
    /// Returns the most serious wait that has an error, or else the first wait without one.
    pub fn wait(&self) -> Option<&Waiting> {
        self.waits.iter().find(|waiting| waiting.error.is_some()).or(self.waits.first())
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.activity, self.wait()) {
            (Activity::Idle, _) => f.write_str("not started"),
            (Activity::Stopped, _) => f.write_str("stopped"),
            (Activity::Failed(error), _) => write!(f, "failed: {error}"),
            (Activity::Starting | Activity::Running, Some(waiting)) => waiting.fmt(f),
            (Activity::Starting, None) => f.write_str("starting"),
            (Activity::Running, None) => f.write_str("running"),
        }
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.on {
            Wait::Paused => write!(f, "paused since {}", time(self.since))?,
            Wait::Retired => write!(f, "retired since {}", time(self.since))?,
            on => write!(f, "waiting for {on} since {}", time(self.since))?,
        }
        self.error.as_ref().or(self.note.as_ref()).map_or(Ok(()), |text| write!(f, ": {text}"))
    }
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl Wait {
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Database => "the database",
            Self::Log => "the log",
            Self::Deploy => "the newer release",
            Self::Paused => "the end of a pause",
            Self::Retired => "the end of a retirement",
            Self::Outage => "the end of an outage",
            Self::Deadlines => "the deadlines",
            Self::Broker => "the broker",
            Self::DeadLetters => "the dead letters",
            Self::Lease => "the lease",
            Self::Standby => "the active worker",
            Self::Rate => "its rate",
        }
    }
}

/// Formats a time for a line of text.
pub(crate) fn time(time: DateTime<Utc>) -> impl fmt::Display {
    time.format("%Y-%m-%dT%H:%M:%SZ")
}

/// The place where a worker, a relay or a process manager reports its status. Clones report to the same status.
#[derive(Debug, Clone)]
pub(crate) struct Reporter {
    status: Arc<watch::Sender<Status>>,
    pulses: Pulses,
    part: Arc<str>,
}

impl Reporter {
    /// Creates the place of `part`.
    pub(crate) fn of(part: &str) -> Self {
        Self { status: Arc::default(), pulses: Pulses::default(), part: part.into() }
    }

    /// Changes the name under which this reports notices.
    pub(crate) fn named(self, part: &str) -> Self {
        Self { part: part.into(), ..self }
    }

    /// Sends a notice about this part.
    pub(crate) fn notice(&self, kind: NoticeKind) {
        notice::send(&self.part, kind, None);
    }

    /// Adds the pulse of a loop of this part.
    pub(crate) fn pulse(&self) -> Pulse {
        self.pulses.add()
    }

    pub(crate) fn pulses(&self) -> Pulses {
        self.pulses.clone()
    }

    pub(crate) fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// Reports the start and the end of a run.
    pub(crate) async fn track<T>(&self, run: impl Future<Output = Result<T>>) -> Result<T> {
        self.status.send_replace(Status { activity: Activity::Starting, ..Status::default() });
        let ended = run.await;
        self.ended(ended.as_ref().err());
        ended
    }

    /// Reports that the run has ended, with `error` if it failed.
    pub(crate) fn ended(&self, error: Option<&Error>) {
        let activity = error.map_or(Activity::Stopped, |error| Activity::Failed(reason(error)));
        self.status.send_modify(|status| {
            status.activity = activity;
            status.waits.clear();
            status.parked = None;
        });
    }

    /// Reports that the run has started.
    pub(crate) fn runs(&self) {
        self.status.send_if_modified(|status| {
            let is_new = status.activity != Activity::Running;
            status.activity = Activity::Running;
            is_new
        });
    }

    /// Reports what was found at the start.
    pub(crate) fn notes(&self, notes: Vec<String>) {
        self.status.send_if_modified(|status| {
            let is_new = status.notes != notes;
            status.notes = notes;
            is_new
        });
    }

    /// Reports an error that is retried or parked, and does not keep the run waiting.
    pub(crate) fn saw(&self, error: &Error) {
        let seen = Seen { error: reason(error), at: Utc::now() };
        self.status.send_modify(|status| status.last_error = Some(seen));
    }

    /// Reports the number of parked aggregates.
    pub(crate) fn parks(&self, aggregates: usize) {
        self.status.send_if_modified(|status| {
            let before = status.parked.map_or(0, |parked| parked.aggregates);
            let since = status.parked.map_or_else(Utc::now, |parked| parked.since);
            status.parked = (aggregates > 0).then_some(ParkedCount { aggregates, since });
            before != aggregates
        });
    }

    /// Reports a wait without an error.
    pub(crate) fn waits(&self, on: Wait) {
        self.wait(on, None);
    }

    /// Reports a wait that `error` causes.
    pub(crate) fn waits_after(&self, on: Wait, error: String) {
        self.wait(on, Some(error));
    }

    fn wait(&self, on: Wait, error: Option<String>) {
        let mut begins = false;
        self.status.send_if_modified(|status| {
            let now = Utc::now();
            let before = match status.waits.binary_search_by_key(&on, |waiting| waiting.on) {
                Ok(place) => Some(std::mem::replace(&mut status.waits[place].error, error.clone())),
                Err(place) => {
                    status.waits.insert(place, Waiting { on, since: now, error: error.clone(), note: None });
                    None
                }
            };
            begins = error.is_some() && before.as_ref().is_none_or(Option::is_none);
            if let Some(error) = &error {
                status.last_error = Some(Seen { error: error.clone(), at: now });
            }
            before.as_ref() != Some(&error)
        });
        if begins {
            // The text of a handler's error may have personal data.
            let error = error.filter(|_| on != Wait::Outage);
            notice::send(&self.part, NoticeKind::OutageBegan { on: on.text() }, error);
        }
    }

    /// Reports that an operator has paused or retired the run at the time `since`. One replaces the other.
    pub(crate) fn is_paused(&self, on: Wait, since: DateTime<Utc>, note: String) {
        let text = note.clone();
        let mut begins = false;
        self.status.send_if_modified(|status| {
            let pause = Waiting { on, since, error: None, note: Some(note) };
            if status.waits.contains(&pause) {
                return false;
            }
            begins = status.waits.iter().all(|waiting| waiting.on != on);
            status.waits.retain(|waiting| !matches!(waiting.on, Wait::Paused | Wait::Retired));
            let place = status.waits.partition_point(|waiting| waiting.on < on);
            status.waits.insert(place, pause);
            true
        });
        if begins {
            let kind = if on == Wait::Retired { NoticeKind::Retired } else { NoticeKind::Paused };
            notice::send(&self.part, kind, Some(text));
        }
    }

    /// Reports that a wait is over.
    pub(crate) fn done(&self, on: Wait) {
        let mut ended = None;
        self.status.send_if_modified(|status| {
            let place = status.waits.binary_search_by_key(&on, |waiting| waiting.on);
            ended = place.ok().map(|place| status.waits.remove(place));
            ended.is_some()
        });
        match ended {
            Some(Waiting { on: Wait::Paused | Wait::Retired, .. }) => self.notice(NoticeKind::Resumed),
            Some(Waiting { error: Some(_), .. }) => self.notice(NoticeKind::OutageEnded { on: on.text() }),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[tokio::test]
    async fn a_status_is_one_line_that_names_the_worst_wait() {
        let reporter = Reporter::of("sales");
        let status = || reporter.status().borrow().clone();
        assert_eq!(status().to_string(), "not started");
        reporter.runs();
        reporter.waits(Wait::Standby);
        assert!(status().to_string().starts_with("waiting for the active worker since 2"), "{}", status());
        reporter.waits_after(Wait::Broker, "refused".into());
        assert!(status().to_string().ends_with(": refused") && status().waits.len() == 2, "{}", status());
        reporter.done(Wait::Broker);
        assert_eq!(status().last_error.map(|seen| seen.error).as_deref(), Some("refused"));
        let failed: Result<()> = reporter.track(async { Err(ErrorKind::ReadOnly.into()) }).await;
        assert!(failed.is_err());
        assert_eq!(status().to_string(), "failed: the store is read-only");
    }
}
