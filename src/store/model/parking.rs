//! Parked aggregates, and the steps that park and release them.

use std::fmt;

use chrono::{DateTime, SubsecRound, Utc};

use crate::error::{Error, ErrorKind};
use crate::id::mark::Mark;
use crate::id::{Position, ProjectionName, StreamId, Version};

/// An aggregate that a projection has set aside because one of its events failed. The projection applies none of the later events of the
/// aggregate before that event.
///
/// # Examples
/// ```
/// use retell::{MemoryReadModel, ParkedState, ProjectionName, ReadModel};
///
/// /// Retries every aggregate that `projection` has given up, for example after a bug in it was fixed.
/// async fn retry_dead(models: &impl ReadModel, projection: &ProjectionName) -> retell::Result<()> {
///     for parked in models.parking(projection).await?.parked {
///         if parked.state == ParkedState::Dead {
///             println!("retrying {}, which failed {} times: {}", parked.stream, parked.attempts, parked.error);
///             models.retry_parked(projection, &parked.stream).await?;
///         }
///     }
///     Ok(())
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let misspelt = retry_dead(&MemoryReadModel::new(), &ProjectionName::new("sails")?).await;
/// assert!(misspelt.is_err_and(|error| error.to_string().contains("no projection called sails")));
/// # Ok::<(), retell::BoxError>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Parked {
    /// The stream of the aggregate.
    pub stream: StreamId,
    /// The version of the event that failed: the first event of the aggregate that is not applied.
    pub from_version: Version,
    /// The position of that event.
    pub from_position: Position,
    /// The error of the last attempt.
    pub error: String,
    /// The number of failed attempts, including the one that parked the aggregate.
    pub attempts: u32,
    /// The time of the next attempt, with microsecond precision.
    pub next_at: DateTime<Utc>,
    /// Whether there is a next attempt.
    pub state: ParkedState,
}

impl Parked {
    /// Creates the row of an aggregate whose event at `from_version` has failed `attempts` times and is retried at `next_at`.
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

    /// Sets whether the aggregate is retried.
    pub fn with_state(mut self, state: ParkedState) -> Self {
        self.state = state;
        self
    }

    /// Makes the aggregate due now, with a fresh retry budget. A store makes this change in
    /// [`retry_parked`](crate::ReadModel::retry_parked).
    pub fn revive(&mut self) {
        (self.attempts, self.next_at, self.state) = (0, Utc::now().trunc_subsecs(6), ParkedState::Waiting);
    }
}

/// The columns of a parking row, as every database stores them.
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
        let damaged = |problem: &str| {
            let (kind, id) = (self.aggregate_type, self.aggregate_id);
            Error::new(ErrorKind::Corrupt(format!("parked aggregate {kind}/{id}: {problem}")))
        };
        let number = |number: i64| u64::try_from(number).map_err(|_| damaged("negative version or position"));
        Ok(Parked {
            stream: StreamId::parse(self.aggregate_type, self.aggregate_id).map_err(|e| damaged(&e.to_string()))?,
            from_version: Version::new(number(self.from_version)?),
            from_position: Position::new(number(self.from_position)?),
            error: self.error.to_owned(),
            attempts: u32::try_from(self.attempts).map_err(|_| damaged("invalid number of attempts"))?,
            next_at: self.next_at,
            state: ParkedState::parse(self.state).ok_or_else(|| damaged("unknown state"))?,
        })
    }
}

/// Whether a projection retries a parked aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParkedState {
    /// The projection retries the aggregate at [`Parked::next_at`].
    Waiting,
    /// The projection has given the aggregate up after too many attempts. It stays parked until an operator calls
    /// [`retry_parked`](crate::ReadModel::retry_parked).
    Dead,
}

impl ParkedState {
    /// Returns the stored form of the state.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Dead => "dead",
        }
    }

    /// Parses the stored form of a state; `None` if `text` is not one.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Waiting, Self::Dead].into_iter().find(|state| state.as_str() == text)
    }
}

impl fmt::Display for ParkedState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The parked aggregates of a projection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Parking {
    /// The number of times that an aggregate was parked, failed again or was released, that a release was
    /// [registered](crate::ReadModel::register_processor) or forgotten, or that an operator paused, resumed or skipped something. A [`Step`] succeeds only if it knows this number.
    pub changes: u64,
    /// The parked aggregates, sorted by [`Parked::from_position`].
    pub parked: Vec<Parked>,
}

impl Parking {
    /// Creates the parked aggregates of a projection after `changes` changes. `parked` is sorted by position.
    pub fn new(changes: u64, parked: Vec<Parked>) -> Self {
        Self { changes, parked }
    }
}

/// A change to the parked aggregates of a projection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParkingChange {
    /// Parks an aggregate, or updates a parked aggregate that failed again.
    Park(Parked),
    /// Releases an aggregate: all of its events are applied.
    Release(StreamId),
}

impl ParkingChange {
    /// Returns the stream of the aggregate that is parked or released.
    pub fn stream(&self) -> &StreamId {
        match self {
            Self::Park(parked) => &parked.stream,
            Self::Release(stream) => stream,
        }
    }
}

/// One step of a projection: it moves the checkpoint, and may park and release aggregates.
///
/// # Examples
/// ```
/// use retell::store::Step;
/// use retell::{Position, ProjectionName};
///
/// let step = Step::new(&ProjectionName::new("totals")?, Position::new(3), Position::new(7));
/// assert_eq!(step.changes_after(), 0);
/// # Ok::<(), retell::InvalidName>(())
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Step {
    /// The projection.
    pub projection: ProjectionName,
    /// The place that the checkpoint must be at.
    pub from: Mark,
    /// The place that the checkpoint gets.
    pub to: Mark,
    /// The number of [`changes`](Parking::changes) that there must have been. A worker that releases an aggregate may leave the checkpoint
    /// where it is, so the position alone would not show another worker that its view of the parked aggregates is out of date.
    pub changes: u64,
    /// The changes to the parked aggregates, in the same transaction.
    pub parking: Vec<ParkingChange>,
}

impl Step {
    /// Creates a step of a projection that has never parked an aggregate.
    pub fn new(projection: &ProjectionName, from: impl Into<Mark>, to: impl Into<Mark>) -> Self {
        Self { projection: projection.clone(), from: from.into(), to: to.into(), changes: 0, parking: Vec::new() }
    }

    /// Adds the changes `parking` to the step, which starts after `changes` earlier [changes](Parking::changes).
    pub fn with_parking(mut self, changes: u64, parking: Vec<ParkingChange>) -> Self {
        self.changes = changes;
        self.parking = parking;
        self
    }

    /// Returns the error of a step that does not start at the checkpoint, which is at `actual`, or that does not know the last change to the
    /// parked aggregates. A store compares both in the transaction of the step.
    pub fn moved(&self, actual: Position) -> Error {
        let (projection, expected) = (self.projection.clone(), self.from.position);
        ErrorKind::CheckpointMoved { projection, expected, actual }.into()
    }

    /// Returns the value of [`Parking::changes`] after the step.
    pub fn changes_after(&self) -> u64 {
        self.changes + u64::from(!self.parking.is_empty())
    }
}
