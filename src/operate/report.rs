//! The parts of the answers.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::id::{AggregateId, Generation, Position, ProjectionName, StreamId, Version};
use crate::store::log::blocker::Blocker;
use crate::store::log::relay::Leader;
use crate::store::model::checkpoint::ProjectionState;
use crate::store::model::interventions::Pause;
use crate::store::model::parking::{Parked, ParkedState};
use crate::store::model::processors::{ProcessorKind, RegisteredProcessor};
use crate::store::model::skipped::Skipped;

/// The most relays in a [`Report`].
pub const MAX_RELAYS: usize = 100;
/// The most processors in a [`Report`]. Each takes about seven short queries.
pub const MAX_PROCESSORS: usize = 200;
/// The most releases of a processor in a [`Report`], the newest ones.
pub const MAX_RELEASES: usize = 10;
/// The most parked aggregates of a processor that a [`Report`] counts.
pub const MAX_PARKED: usize = 1_000;
/// The most skipped events of a processor in a [`Report`], the first ones.
pub const MAX_SKIPPED: usize = 100;
/// The most due deadlines of a process that a [`Report`] counts.
pub const MAX_DUE: usize = 1_000;
/// The most sessions in a [`Report`] that can block commits, those with the oldest transactions.
pub const MAX_BLOCKERS: usize = 20;
/// The most bytes of an error in an answer. A longer one ends with `..`.
pub const MAX_REASON_BYTES: usize = 1_024;

/// The first items of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct List<T> {
    /// The items.
    pub items: Vec<T>,
    /// Whether there are more of them.
    pub truncated: bool,
}

impl<T> List<T> {
    /// Creates a list of the first `limit` of `items`.
    pub(super) fn first(mut items: Vec<T>, limit: usize) -> Self {
        let truncated = items.len() > limit;
        items.truncate(limit);
        Self { items, truncated }
    }
}

/// The number of rows that were counted up to a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Count {
    /// The number of rows within the limit.
    pub count: u64,
    /// Whether there are more rows, so that the number may be larger.
    pub at_least: bool,
}

impl Count {
    /// Counts the first `limit` of `rows` that `matches`.
    pub(super) fn of<T>(rows: &[T], limit: usize, matches: impl Fn(&T) -> bool) -> Self {
        let count = rows.iter().take(limit).filter(|row| matches(row)).count() as u64;
        Self { count, at_least: rows.len() > limit }
    }
}

/// The state of a log and its read models: the answer of [`status`](super::status()).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Report {
    /// When the report was made, by the clock of this process. Ages count from it.
    pub at: DateTime<Utc>,
    /// The end of the log.
    pub head: Head,
    /// The number of commits that are visible and have no position yet. If it stays above a few, no reader reads the end of the log.
    pub unsequenced: u64,
    /// The sessions with open transactions that can keep these commits from getting positions, the oldest transaction first. Empty if there are no
    /// such commits, or if the database user may not see other sessions.
    pub blockers: List<Blocker>,
    /// The relays by name; `None` if the store cannot list them.
    pub relays: Option<List<RelayPlace>>,
    /// The projections, views, reactions and processes of the read models, by name.
    pub processors: List<Processor>,
    /// The views among these processors.
    pub views: Vec<Generations>,
    /// The processes among these processors that have due deadlines, except for retired ones.
    pub deadlines: Vec<Deadlines>,
}

/// The commits without a position, and who blocks them: the answer of [`blocked`](super::blocked()).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Blocked {
    /// As [`Report::unsequenced`].
    pub unsequenced: u64,
    /// As [`Report::blockers`].
    pub blockers: List<Blocker>,
}

/// The end of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Head {
    /// The position of the newest event; zero if there is none.
    pub position: Position,
    /// When that event was recorded.
    pub recorded_at: Option<DateTime<Utc>>,
}

/// How far a reader of the log is behind its head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Lag {
    /// The number of events after the reader's position, also those that it does not want.
    pub events: u64,
    /// The age of the first of these events, in whole seconds; zero if there are none. A reader passes over events that it does not want,
    /// so this is for how long it has not.
    pub seconds: u64,
}

/// A relay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RelayPlace {
    /// Its name.
    pub name: String,
    /// The position up to which the broker has confirmed every event.
    pub position: Position,
    /// How far it is behind the head of the log; `None` if [`history_changed`](Self::history_changed).
    pub lag: Option<Lag>,
    /// Whether the log does not have the event that the relay published last. Restore the log, or reset the relay.
    pub history_changed: bool,
    /// The process that publishes now; `None` if none does.
    pub leader: Option<Leader>,
}

/// The order in which a processor applies events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Order {
    /// Log order. The checkpoint is the last position that is applied.
    Log,
    /// Order per aggregate. The checkpoint is the swept position: later events may be applied, too.
    Aggregate,
}

/// A projection, a generation of a view, a reaction or a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Processor {
    /// Its name.
    pub name: ProjectionName,
    /// Its kind, in its newest release; `None` if no worker has registered it.
    pub kind: Option<ProcessorKind>,
    /// How its events get into the read model.
    pub state: ProjectionState,
    /// The order in which it applies events.
    pub order: Order,
    /// The position up to which it has applied everything except parked aggregates.
    pub checkpoint: Position,
    /// How far it is behind the head of the log; `None` if [`history_changed`](Self::history_changed), while it is being deleted, or if it
    /// [is retired](Self::is_retired).
    pub lag: Option<Lag>,
    /// Whether the log does not have the event at the checkpoint. Restore the log, or reset the processor. Not looked for if the processor is
    /// retired.
    pub history_changed: bool,
    /// The registered releases and the events that each one reads, the newest last.
    pub releases: List<RegisteredProcessor>,
    /// Its parked aggregates.
    pub parked: ParkedCounts,
    /// Its pause, if an operator has paused or retired it.
    pub paused: Option<Pause>,
    /// The events that operators have skipped, and withdrawals of skips, the oldest first. The generations of a view share them.
    pub skipped: List<Skipped>,
}

impl Processor {
    /// Returns whether an operator has retired it: it needs no attention.
    pub fn is_retired(&self) -> bool {
        self.paused.as_ref().is_some_and(|pause| pause.retired)
    }
}

/// The parked aggregates of a processor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ParkedCounts {
    /// The number of aggregates that are retried.
    pub waiting: Count,
    /// The number of aggregates that are given up until an operator retries them.
    pub dead: Count,
    /// The aggregate whose failed event is the oldest.
    pub oldest: Option<ParkedAggregate>,
    /// The age of that event, in whole seconds.
    pub oldest_seconds: Option<u64>,
}

/// An aggregate that a processor has parked, and the event that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ParkedAggregate {
    /// The stream of the aggregate.
    pub stream: StreamId,
    /// The version of the event that failed.
    pub version: Version,
    /// The position of that event.
    pub position: Position,
    /// When that event was recorded; `None` if the log does not have it.
    pub recorded_at: Option<DateTime<Utc>>,
    /// The error of the last attempt, up to [`MAX_REASON_BYTES`].
    pub reason: String,
    /// The number of failed attempts.
    pub attempts: u32,
    /// When the processor retries it; `None` if it has given the aggregate up.
    pub next_attempt: Option<DateTime<Utc>>,
}

impl ParkedAggregate {
    pub(super) fn of(parked: Parked, recorded_at: Option<DateTime<Utc>>) -> Self {
        Self {
            version: parked.from_version,
            position: parked.from_position,
            recorded_at,
            reason: shortened(parked.error),
            attempts: parked.attempts,
            next_attempt: (parked.state == ParkedState::Waiting).then_some(parked.next_at),
            stream: parked.stream,
        }
    }
}

/// Cuts a text at [`MAX_REASON_BYTES`].
fn shortened(mut text: String) -> String {
    if text.len() > MAX_REASON_BYTES {
        text.truncate(text.floor_char_boundary(MAX_REASON_BYTES - 2));
        text.push_str("..");
    }
    text
}

/// The generations of a view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Generations {
    /// The name of the view.
    pub view: ProjectionName,
    /// The generation that readers see. Nothing keeps it up to date if it is not among the [`generations`](Self::generations).
    pub live: Generation,
    /// The generations that have a checkpoint, by number.
    pub generations: Vec<ViewGeneration>,
}

/// A generation of a view.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct ViewGeneration {
    /// Its number.
    pub generation: Generation,
    /// The name of its processor.
    pub processor: ProjectionName,
}

/// The due deadlines of a process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Deadlines {
    /// The process.
    pub process: ProjectionName,
    /// The number of deadlines whose time has come.
    pub due: Count,
    /// The earliest of them.
    pub oldest: DueDeadline,
}

/// A deadline whose time has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct DueDeadline {
    /// The process instance.
    pub key: AggregateId,
    /// The name of the deadline.
    pub name: String,
    /// When it is due. A failed attempt moves it.
    pub at: DateTime<Utc>,
    /// The number of failed attempts.
    pub attempts: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_beyond_the_limit_is_a_lower_bound() {
        let rows = [1, 2, 3, 4];
        assert_eq!(Count::of(&rows, 4, |row| row % 2 == 0), Count { count: 2, at_least: false });
        assert_eq!(Count::of(&rows, 3, |row| row % 2 == 0), Count { count: 1, at_least: true });
        assert_eq!(List::first(rows.to_vec(), 4), List { items: rows.to_vec(), truncated: false });
        assert_eq!(List::first(rows.to_vec(), 3), List { items: vec![1, 2, 3], truncated: true });
    }

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        assert_eq!(shortened("short".into()), "short");
        let cut = shortened("é".repeat(MAX_REASON_BYTES));
        assert!(cut.len() <= MAX_REASON_BYTES && cut.ends_with("é.."), "{cut}");
    }
}
