//! The options and the result of pruning.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::id::{Position, ProjectionName};

/// A table that [`prune`](super::prune()) shortens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PruneTarget {
    /// Idempotency keys of callers. Those of processes stay: they keep a process from taking a step twice.
    Keys,
    /// Rows of the inboxes of reactions.
    Inbox,
    /// Rows of commits that have positions. Only PostgreSQL keeps them.
    Commits,
}

impl PruneTarget {
    /// Returns the name, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Inbox => "inbox",
            Self::Commits => "commits",
        }
    }
}

/// Options of [`prune`](super::prune()) and [`prunable`](super::prunable).
///
/// # Examples
/// ```
/// use std::time::Duration;
///
/// use retell::operate::PruneOptions;
///
/// let options = PruneOptions::older_than(Duration::from_hours(30 * 24)).with_limit(10_000);
/// assert_eq!(options.limit, 10_000);
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct PruneOptions {
    /// The age that a row must have, by the time of its event.
    pub age: Duration,
    /// The most rows of one call. For inboxes, the most events that are looked up. The default is 100,000.
    pub limit: u64,
    /// Stops when this token is canceled, after the batch under way.
    pub stop: CancellationToken,
}

impl PruneOptions {
    /// Creates options for rows that are older than `age`.
    pub fn older_than(age: Duration) -> Self {
        Self { age, limit: 100_000, stop: CancellationToken::new() }
    }

    /// Sets the most rows of one call.
    pub fn with_limit(mut self, rows: u64) -> Self {
        self.limit = rows;
        self
    }

    /// Sets the token that stops the call.
    pub fn with_stop(mut self, stop: CancellationToken) -> Self {
        self.stop = stop;
        self
    }
}

/// The result of [`prune`](super::prune()) or [`prunable`](super::prunable).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Pruned {
    /// The table.
    pub target: PruneTarget,
    /// Rows of events that were recorded at this time or later are kept.
    pub before: DateTime<Utc>,
    /// The rows: one part for each reaction with an inbox, otherwise a single part.
    pub parts: Vec<PrunedPart>,
    /// Whether no more such rows are left. If not, the next call continues.
    pub is_complete: bool,
}

impl Pruned {
    /// Returns the number of rows of all parts.
    pub fn rows(&self) -> u64 {
        self.parts.iter().map(|part| part.rows).sum()
    }
}

/// The rows of a table, or of one inbox.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct PrunedPart {
    /// The reaction whose inbox it is.
    pub reaction: Option<ProjectionName>,
    /// The number of rows that were deleted, or would be.
    pub rows: u64,
    /// The last position whose rows may go; `None` for commits.
    pub through: Option<Position>,
    /// The reaction that still needs older rows, if there is one.
    pub held_by: Option<Holder>,
}

/// A reaction that still needs rows that are old enough to go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Holder {
    /// The reaction.
    pub reaction: ProjectionName,
    /// The last position that it does not need any more.
    pub position: Position,
    /// Whether it has parked an aggregate after this position. Otherwise its checkpoint is there.
    pub is_parked: bool,
}
