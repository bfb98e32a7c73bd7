//! The state of a projection, which determines whether workers or appends move its checkpoint.

use serde::{Deserialize, Serialize};

use crate::error::{ErrorKind, Result};
use crate::id::ProjectionName;
use crate::id::mark::Mark;

/// How the events of a projection get into its read model. A store keeps it next to the checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ProjectionState {
    /// Workers apply the events and move the checkpoint. Every projection begins in this state.
    #[default]
    Running,
    /// Appends on a database server apply their own events, see [`inline`](mod@crate::inline). The checkpoint is the head of the log, and
    /// workers are refused.
    Inline,
    /// The rows of this generation of a view are being deleted. The checkpoint is zero, and workers are refused until all rows are gone.
    Deleting,
}

impl ProjectionState {
    /// Refuses a worker unless the projection is running.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if its events are applied inline or its rows are being deleted.
    pub fn check_running(self, projection: &ProjectionName) -> Result<()> {
        let problem = match self {
            Self::Running => return Ok(()),
            Self::Inline => "is applied inline by the appends: a worker would apply its events twice",
            Self::Deleting => "is being deleted: finish the deletion first",
        };
        Err(ErrorKind::Invalid(format!("projection {projection} {problem}")).into())
    }

    /// Returns the stored form of the state.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Inline => "inline",
            Self::Deleting => "deleting",
        }
    }

    /// Parses the stored form of a state.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if `stored` is not the stored form of a state.
    pub fn parse(stored: &str) -> Result<Self> {
        match stored {
            "running" => Ok(Self::Running),
            "inline" => Ok(Self::Inline),
            "deleting" => Ok(Self::Deleting),
            _ => Err(ErrorKind::Corrupt(format!("unknown projection state {stored:?}")).into()),
        }
    }
}

/// The checkpoint of a projection, its order and its state, as [`ReadModel::projections`](crate::ReadModel::projections) lists them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProjectionStatus {
    /// The projection.
    pub projection: ProjectionName,
    /// The place up to which it has applied everything except parked aggregates.
    pub mark: Mark,
    /// Whether it has per-aggregate order. If so, `mark` is its swept position.
    pub per_aggregate: bool,
    /// How its events get into the read model.
    pub state: ProjectionState,
}

impl ProjectionStatus {
    /// Creates the status of a projection that runs in log order.
    pub fn new(projection: ProjectionName, mark: Mark) -> Self {
        Self { projection, mark, per_aggregate: false, state: ProjectionState::Running }
    }

    /// Sets whether the projection has per-aggregate order.
    #[must_use]
    pub fn with_per_aggregate(mut self, per_aggregate: bool) -> Self {
        self.per_aggregate = per_aggregate;
        self
    }

    /// Sets the state.
    #[must_use]
    pub fn with_state(mut self, state: ProjectionState) -> Self {
        self.state = state;
        self
    }
}
