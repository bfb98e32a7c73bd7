//! Damage that a verification finds in a log.

use serde::{Deserialize, Serialize};

use crate::id::Position;

/// Names a kind of damage. In JSON the name is in `kebab-case`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum FaultId {
    /// Positions without an event.
    EventMissing,
    /// Two events at one position.
    PositionTwice,
    /// The rows of a commit do not match its entry in the order of the log: their number or their time.
    CommitMismatch,
    /// An event that belongs to no commit, so no reader gets it.
    EventStray,
    /// The event before it in its stream is missing.
    VersionMissing,
    /// The event before it in its stream has a later position.
    VersionOrder,
    /// Two events of a stream have one version.
    VersionTwice,
    /// Two events have one id.
    IdTwice,
    /// A column has a value that readers refuse.
    RowDamaged,
    /// A unique index of the log is missing, so the database does not refuse duplicates.
    IndexMissing,
    /// A unique value whose stream has no events.
    ClaimStray,
    /// A snapshot whose event is not in the log: it is ahead of its stream, or from another history.
    SnapshotAhead,
    /// A processor whose place is not in the log: it is ahead of the head, or from another history.
    CheckpointAhead,
    /// An idempotency key whose events are not in the log: a retry gets an outcome that does not exist.
    KeyStray,
    /// A reaction that starts after a place that is not in the log.
    StartAhead,
    /// A processor that has seen an event of an aggregate that is not in the log.
    ProgressAhead,
    /// A processor that has not applied an event of an aggregate, although the aggregate is not parked.
    ProgressDamaged,
    /// A reaction that has handled an event that is not in the log: it was lost. The row does no harm, and may be deleted.
    InboxStray,
    /// A relay whose place is not in the log: it is ahead of the head, or from another history.
    RelayAhead,
    /// The events of a seal are not those that were sealed.
    SealMismatch,
    /// A range between two seals has no seal, or two seals overlap.
    SealGap,
    /// A seal does not continue the one before it.
    SealChain,
    /// A seal ends after the head of the log: the end of the log is missing.
    SealAhead,
}

impl FaultId {
    /// Returns the name, as in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::EventMissing => "event-missing",
            Self::PositionTwice => "position-twice",
            Self::CommitMismatch => "commit-mismatch",
            Self::EventStray => "event-stray",
            Self::VersionMissing => "version-missing",
            Self::VersionOrder => "version-order",
            Self::VersionTwice => "version-twice",
            Self::IdTwice => "id-twice",
            Self::RowDamaged => "row-damaged",
            Self::IndexMissing => "index-missing",
            Self::ClaimStray => "claim-stray",
            Self::SnapshotAhead => "snapshot-ahead",
            Self::CheckpointAhead => "checkpoint-ahead",
            Self::KeyStray => "key-stray",
            Self::StartAhead => "start-ahead",
            Self::ProgressAhead => "progress-ahead",
            Self::ProgressDamaged => "progress-damaged",
            Self::InboxStray => "inbox-stray",
            Self::RelayAhead => "relay-ahead",
            Self::SealMismatch => "seal-mismatch",
            Self::SealGap => "seal-gap",
            Self::SealChain => "seal-chain",
            Self::SealAhead => "seal-ahead",
        }
    }
}

/// Damage in one place of a log.
///
/// # Examples
/// ```
/// use retell::Position;
/// use retell::operate::{Fault, FaultId};
///
/// let fault = Fault::new(FaultId::EventMissing, "no event").with_positions(Position::new(4), Position::new(5));
/// assert_eq!(serde_json::to_value(&fault)?["id"], "event-missing");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Fault {
    /// The kind of damage.
    pub id: FaultId,
    /// The first position that it concerns, if it has one.
    pub position: Option<Position>,
    /// The last position that it concerns.
    pub through: Option<Position>,
    /// The stream that it concerns, as `type/id`. A damaged log may have names here that no program can append.
    pub stream: Option<String>,
    /// The version in that stream, as stored.
    pub version: Option<i64>,
    /// A sentence about what was found.
    pub detail: String,
}

impl Fault {
    /// Creates a fault without a place.
    pub fn new(id: FaultId, detail: impl Into<String>) -> Self {
        Self { id, position: None, through: None, stream: None, version: None, detail: detail.into() }
    }

    /// Sets the positions from `first` to `last`.
    #[must_use]
    pub fn with_positions(mut self, first: Position, last: Position) -> Self {
        (self.position, self.through) = (Some(first), Some(last));
        self
    }

    /// Sets the stream and the version in it.
    #[must_use]
    pub fn with_stream(mut self, aggregate_type: &str, aggregate_id: &str, version: Option<i64>) -> Self {
        (self.stream, self.version) = (Some(format!("{aggregate_type}/{aggregate_id}")), version);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_is_the_one_in_json() {
        for id in
            [FaultId::EventMissing, FaultId::IdTwice, FaultId::SealAhead, FaultId::ClaimStray, FaultId::InboxStray]
        {
            assert_eq!(serde_json::to_value(id).unwrap(), id.as_str());
        }
    }
}
