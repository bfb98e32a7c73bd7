//! The answers to the probes of a supervisor, and the problems that decide them.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::status::{Status, Wait, Waiting, time};

/// The answer to one question about a program, with its problems. It serializes to JSON whose form is stable.
///
/// # Examples
/// ```
/// use retell::app::Health;
///
/// /// Returns the status code and the body of an answer to a probe over HTTP.
/// fn answer(path: &str, health: &Health) -> serde_json::Result<(u16, String)> {
///     let (is_good, body) = match path {
///         "/live" => (health.live().yes, serde_json::to_string(&health.live())?),
///         "/ready" => (health.ready().yes, serde_json::to_string(&health.ready())?),
///         _ => (health.is_good(), serde_json::to_string(health)?),
///     };
///     Ok((if is_good { 200 } else { 503 }, body))
/// }
///
/// # fn main() -> serde_json::Result<()> {
/// let health = Health::default();
/// assert_eq!(answer("/live", &health)?, (200, r#"{"yes":true,"problems":[]}"#.to_owned()));
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Answer {
    /// The answer.
    pub yes: bool,
    /// The problems that decide it: why a program is not alive, is not ready, or is degraded.
    pub problems: Vec<Problem>,
}

/// A problem of one part of a program. `{}` displays it on one line.
///
/// No problem has a payload, or the text of a handler's error on an event: these may be personal data. [`Health`](crate::app::Health) displays such a text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Problem {
    /// The task, or `log`, `read models`, `sequencer` or `watch`.
    pub part: String,
    /// The kind of problem.
    pub cause: Cause,
    /// When it began, or when this program first saw it.
    pub since: DateTime<Utc>,
    /// The details: an error, a number, or the operator and the reason of a pause or a retirement.
    pub detail: Option<String>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { part, cause, since, detail } = self;
        write!(f, "{part}: {} since {}", cause.text(), time(*since))?;
        detail.as_ref().map_or(Ok(()), |detail| write!(f, ": {detail}"))
    }
}

/// The kind of a [`Problem`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Cause {
    /// The loop of the task has not turned, although it waits for nothing: a handler does not return, or a thread is blocked.
    Frozen,
    /// The watch over the tasks has not looked: the threads of the runtime are blocked, or the app was dropped.
    Unwatched,
    /// The store has not answered yet, because the app has just started.
    Starting,
    /// The store does not answer within the [limit](crate::app::HealthOptions::with_answer_limit), or refuses to.
    Unanswered,
    /// The task waits for processes of a newer release.
    Deploy,
    /// The task was stopped.
    Stopped,
    /// The task has failed, and restarts.
    Failed,
    /// The task is behind the log.
    Behind,
    /// The task is behind the log and does not move.
    Stuck,
    /// Commits get no positions.
    Unsequenced,
    /// Aggregates are parked.
    Parked,
    /// An operator has paused the task.
    Paused,
    /// An operator has retired the task, and this program still has it: remove it from the program, or resume it.
    Retired,
    /// The task waits for its database.
    Database,
    /// The broker has brought events that the log does not show: a replica has stopped, or the messages are those of another log.
    Log,
    /// Every aggregate fails.
    Outage,
    /// The deadlines of a process cannot be read.
    Deadlines,
    /// The broker does not answer.
    Broker,
    /// A dead letter cannot be sent.
    DeadLetters,
}

impl Cause {
    fn text(self) -> &'static str {
        match self {
            Self::Frozen => "frozen",
            Self::Unwatched => "not watched",
            Self::Starting => "starting",
            Self::Unanswered => "no answer",
            Self::Deploy => "behind a deploy",
            Self::Stopped => "stopped",
            Self::Failed => "failed",
            Self::Behind => "behind",
            Self::Stuck => "stuck",
            Self::Unsequenced => "commits without positions",
            Self::Parked => "parked aggregates",
            Self::Paused => "paused",
            Self::Retired => "retired",
            Self::Database => "waiting for the database",
            Self::Log => "waiting for the log",
            Self::Outage => "every aggregate fails",
            Self::Deadlines => "waiting for the deadlines",
            Self::Broker => "waiting for the broker",
            Self::DeadLetters => "waiting for the dead letters",
        }
    }

    pub(super) fn is_dead(self) -> bool {
        matches!(self, Self::Frozen | Self::Unwatched)
    }

    pub(super) fn is_unready(self) -> bool {
        matches!(self, Self::Unwatched | Self::Starting | Self::Unanswered | Self::Deploy | Self::Stopped)
    }

    pub(super) fn is_degraded(self) -> bool {
        !matches!(self, Self::Starting | Self::Stopped)
    }
}

impl Problem {
    pub(super) fn new(part: &str, cause: Cause, since: DateTime<Utc>, detail: Option<String>) -> Self {
        Self { part: part.to_owned(), cause, since, detail }
    }

    /// Returns the problems that a task reports itself.
    pub(super) fn of_status(part: &str, status: &Status) -> Vec<Self> {
        let waits = status.waits.iter().filter_map(|waiting| Self::of_wait(part, waiting));
        let parked = status
            .parked
            .map(|parked| Self::new(part, Cause::Parked, parked.since, Some(parked.aggregates.to_string())));
        waits.chain(parked).collect()
    }

    fn of_wait(part: &str, waiting: &Waiting) -> Option<Self> {
        let Waiting { on, since, error, note } = waiting;
        let cause = match on {
            Wait::Paused => Cause::Paused,
            Wait::Retired => Cause::Retired,
            Wait::Deploy => Cause::Deploy,
            _ if error.is_none() => return None,
            Wait::Database => Cause::Database,
            Wait::Log => Cause::Log,
            Wait::Outage => Cause::Outage,
            Wait::Deadlines => Cause::Deadlines,
            Wait::Broker => Cause::Broker,
            Wait::DeadLetters => Cause::DeadLetters,
            Wait::Lease | Wait::Standby | Wait::Rate => return None,
        };
        // The cause of an outage is the error of a handler.
        let detail = error.as_ref().or(note.as_ref()).filter(|_| *on != Wait::Outage).cloned();
        Some(Self::new(part, cause, *since, detail))
    }
}
