//! Aggregates that a projection has set aside, and the steps that set them aside and take them up again.

use std::fmt;

use chrono::{DateTime, SubsecRound, Utc};

use crate::error::{Error, ErrorKind};
use crate::id::{Position, ProjectionName, StreamId, Version};

/// An aggregate that a projection has set aside, since one of its events failed. None of its later events is applied before that one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Parked {
    /// Which aggregate.
    pub stream: StreamId,
    /// The event that failed: the first of the aggregate's that is not applied.
    pub from_version: Version,
    /// The position of that event.
    pub from_position: Position,
    /// Why it failed the last time.
    pub error: String,
    /// How often it was tried in vain, the time that parked it included.
    pub attempts: u32,
    /// When it is tried again, to the microsecond.
    pub next_at: DateTime<Utc>,
    /// Whether it is tried again at all.
    pub state: ParkedState,
}

impl Parked {
    /// Creates the row of an aggregate whose event at `from_version` has failed `attempts` times and is due again at `next_at`.
    pub fn new(
        stream: StreamId,
        from_version: Version,
        from_position: Position,
        error: impl Into<String>,
        attempts: u32,
        next_at: DateTime<Utc>,
    ) -> Self {
        let error = error.into();
        Self { stream, from_version, from_position, error, attempts, next_at, state: ParkedState::Waiting }
    }

    /// Sets whether the aggregate is tried again.
    pub fn with_state(mut self, state: ParkedState) -> Self {
        self.state = state;
        self
    }

    /// Makes it due now, with a fresh retry budget: the change that a store makes when a caller asks for a retry.
    pub fn revive(&mut self) {
        (self.attempts, self.next_at, self.state) = (0, Utc::now().trunc_subsecs(6), ParkedState::Waiting);
    }
}

/// A row of the table, as all the databases have it.
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub(crate) struct ParkedColumns<'r> {
    pub(crate) aggregate_type: &'r str,
    pub(crate) aggregate_id: &'r str,
    pub(crate) from_version: i64,
    pub(crate) from_position: i64,
    pub(crate) error: &'r str,
    pub(crate) attempts: i64,
    pub(crate) next_at: DateTime<Utc>,
    pub(crate) state: &'r str,
}

#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
impl ParkedColumns<'_> {
    pub(crate) fn parse(self) -> Result<Parked, Error> {
        let damaged = |what: &str| {
            let (kind, id) = (self.aggregate_type, self.aggregate_id);
            Error::new(ErrorKind::Corrupt(format!("the parked aggregate {kind}/{id}: {what}")))
        };
        let number = |number: i64| u64::try_from(number).map_err(|_| damaged("a negative number"));
        Ok(Parked {
            stream: StreamId::parse(self.aggregate_type, self.aggregate_id).map_err(|e| damaged(&e.to_string()))?,
            from_version: Version::new(number(self.from_version)?),
            from_position: Position::new(number(self.from_position)?),
            error: self.error.to_owned(),
            attempts: u32::try_from(self.attempts).map_err(|_| damaged("attempts"))?,
            next_at: self.next_at,
            state: ParkedState::parse(self.state).ok_or_else(|| damaged("its state"))?,
        })
    }
}

/// What becomes of a parked aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParkedState {
    /// It is tried again when its time has come.
    Waiting,
    /// It has failed too often: it stays until somebody calls for it
    /// ([`retry_parked`](crate::ReadModel::retry_parked)).
    Dead,
}

impl ParkedState {
    /// The state as it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Dead => "dead",
        }
    }

    /// A stored state.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Waiting, Self::Dead].into_iter().find(|state| state.as_str() == text)
    }
}

impl fmt::Display for ParkedState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A projection's parked aggregates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Parking {
    /// How often aggregates were parked, failed again or were released: what a [`Step`] that goes on from here must know.
    pub changes: u64,
    /// Those that are parked, by position.
    pub parked: Vec<Parked>,
}

impl Parking {
    /// Creates the parking after `changes` changes. `parked` is sorted by position.
    pub fn new(changes: u64, parked: Vec<Parked>) -> Self {
        Self { changes, parked }
    }
}

/// A change of a projection's parking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParkingChange {
    /// The aggregate is parked from now on, or it was and has failed again.
    Park(Parked),
    /// All of its events are applied.
    Release(StreamId),
}

impl ParkingChange {
    /// Which aggregate is parked or released.
    pub fn stream(&self) -> &StreamId {
        match self {
            Self::Park(parked) => &parked.stream,
            Self::Release(stream) => stream,
        }
    }
}

/// One step of a projection: from a checkpoint to the next, and what it changes of the parking.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Step {
    /// Whose step.
    pub projection: ProjectionName,
    /// Where the checkpoint must be.
    pub from: Position,
    /// Where it will be.
    pub to: Position,
    /// How many [`changes`](Parking::changes) the parking must have seen. Who releases an aggregate need not move the checkpoint, so a
    /// position alone would not tell another worker that it knows too little.
    pub changes: u64,
    /// What changes in the same transaction.
    pub parking: Vec<ParkingChange>,
}

impl Step {
    /// A step of a projection that has never parked anything.
    pub fn new(projection: &ProjectionName, from: Position, to: Position) -> Self {
        Self { projection: projection.clone(), from, to, changes: 0, parking: Vec::new() }
    }

    /// After so many [`changes`](Parking::changes) of the parking, with these on top.
    pub fn with_parking(mut self, changes: u64, parking: Vec<ParkingChange>) -> Self {
        self.changes = changes;
        self.parking = parking;
        self
    }

    /// Returns the error of a step that does not start where the checkpoint is, `actual`, or that does not know the last change of the parking.
    /// A store compares both in the step's transaction.
    pub fn moved(&self, actual: Position) -> Error {
        let (projection, expected) = (self.projection.clone(), self.from);
        ErrorKind::CheckpointMoved { projection, expected, actual }.into()
    }

    /// What [`Parking::changes`] will be.
    pub fn changes_after(&self) -> u64 {
        self.changes + u64::from(!self.parking.is_empty())
    }
}
