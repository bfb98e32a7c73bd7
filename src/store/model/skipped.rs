//! The events that operators have skipped in a projection.

use std::collections::HashMap;

use chrono::{DateTime, SubsecRound, Utc};
use serde::{Deserialize, Serialize};

use crate::error::{ErrorKind, Result};
use crate::event::RecordedEvent;
use crate::id::{EventId, Position, ProjectionName, StreamId, Version};
use crate::store::model::interventions::By;
use crate::store::model::parking::Parked;

/// An event that a projection does not apply, because an operator has skipped it; or the withdrawal of such a skip.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Skipped {
    /// The projection that had parked the aggregate.
    pub projection: ProjectionName,
    /// The stream of the aggregate.
    pub stream: StreamId,
    /// The version of the event.
    pub version: Version,
    /// The position of the event.
    pub position: Position,
    /// The id of the event; `None` if it is unknown.
    pub event_id: Option<EventId>,
    /// The error that the projection failed with.
    pub error: String,
    /// When it was skipped, or the skip was withdrawn, by the clock of the program, to the microsecond.
    pub at: DateTime<Utc>,
    /// The operator and their reason.
    #[serde(flatten)]
    pub by: By,
    /// Whether this row skips the event, or withdraws a skip. The last row of an event counts.
    pub state: SkipState,
}

/// Whether a row skips an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SkipState {
    /// The event is not applied.
    Skipped,
    /// The event is applied again when the log is replayed.
    Withdrawn,
}

impl SkipState {
    /// Returns the stored form of the state.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Skipped => "skipped",
            Self::Withdrawn => "withdrawn",
        }
    }

    /// Parses the stored form of a state.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if `stored` is not the stored form of a state.
    pub fn parse(stored: &str) -> Result<Self> {
        let known = [Self::Skipped, Self::Withdrawn].into_iter().find(|state| state.as_str() == stored);
        known.ok_or_else(|| ErrorKind::Corrupt(format!("unknown state of a skipped event {stored:?}")).into())
    }
}

impl Skipped {
    /// Creates the row that skips the event on which `parked` fails.
    ///
    /// # Errors
    /// [`ErrorKind::NotParked`] if the aggregate is not parked from exactly `version`.
    pub fn of(
        projection: &ProjectionName,
        (stream, version, event_id): (&StreamId, Version, Option<EventId>),
        parked: Option<Parked>,
        by: &By,
    ) -> Result<Self> {
        match parked {
            Some(parked) if parked.from_version == version => Ok(Self {
                projection: projection.clone(),
                stream: stream.clone(),
                version,
                position: parked.from_position,
                event_id,
                error: parked.error,
                at: Utc::now().trunc_subsecs(6),
                by: by.clone(),
                state: SkipState::Skipped,
            }),
            parked => Err(ErrorKind::NotParked {
                projection: projection.clone(),
                stream: stream.clone(),
                version,
                parked: parked.map(|parked| parked.from_version),
            }
            .into()),
        }
    }

    /// Returns whether the event is skipped by the last of its `rows`, which are sorted by their age.
    pub(crate) fn is_last_of(&self, rows: &[Self]) -> bool {
        let last = rows.iter().rev().find(|row| row.version == self.version);
        last.is_some_and(|last| last.state == self.state)
    }

    /// Returns the row that withdraws this skip; `None` if it is withdrawn.
    pub fn withdraw(mut self, projection: &ProjectionName, by: &By) -> Option<Self> {
        if self.state == SkipState::Withdrawn {
            return None;
        }
        (self.projection, self.at, self.by) = (projection.clone(), Utc::now().trunc_subsecs(6), by.clone());
        self.state = SkipState::Withdrawn;
        Some(self)
    }

    /// Returns the name that all generations of a view share, and the name itself of any other projection. Every generation honors the skips
    /// of the others.
    pub fn shared_name(projection: &ProjectionName) -> &str {
        let name = projection.as_str();
        match name.split_once('@') {
            Some((view, generation)) if generation.bytes().all(|byte| byte.is_ascii_digit()) => view,
            _ => name,
        }
    }
}

/// The events that a projection does not apply.
#[derive(Debug, Clone, Default)]
pub(crate) struct Skips(HashMap<StreamId, HashMap<Version, Skipped>>);

impl Skips {
    /// Takes over the rows of a projection, the newest last.
    pub(crate) fn of(rows: Vec<Skipped>) -> Self {
        let mut skips = Self::default();
        for row in rows {
            skips.0.entry(row.stream.clone()).or_default().insert(row.version, row);
        }
        skips
    }

    /// Returns the row that skips an event.
    pub(crate) fn get(&self, event: &RecordedEvent) -> Option<&Skipped> {
        let row = self.0.get(&event.stream)?.get(&event.version)?;
        let is_same = row.event_id.is_none_or(|id| id == event.event.id);
        (row.state == SkipState::Skipped && is_same).then_some(row)
    }
}

/// The columns of a skipped event, as every database stores them.
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub(crate) struct SkippedColumns {
    pub(crate) projection: String,
    pub(crate) aggregate_type: String,
    pub(crate) aggregate_id: String,
    pub(crate) version: i64,
    pub(crate) position: i64,
    pub(crate) event_id: Option<EventId>,
    pub(crate) error: String,
    pub(crate) at: DateTime<Utc>,
    pub(crate) who: String,
    pub(crate) reason: String,
    pub(crate) state: String,
}

#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
impl SkippedColumns {
    pub(crate) fn parse(self) -> Result<Skipped> {
        Ok(Skipped {
            projection: ProjectionName::new(self.projection)?,
            stream: StreamId::parse(&self.aggregate_type, &self.aggregate_id)?,
            version: Version::new(self.version.unsigned_abs()),
            position: Position::new(self.position.unsigned_abs()),
            event_id: self.event_id,
            error: self.error,
            at: self.at,
            by: By::new(self.who, self.reason),
            state: SkipState::parse(&self.state)?,
        })
    }
}
