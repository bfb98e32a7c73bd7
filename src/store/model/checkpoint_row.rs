//! The checkpoint row of a projection, and the rules for the workers that continue from it.

use crate::error::{ErrorKind, Result};
use crate::id::mark::Mark;
use crate::id::{Position, ProjectionName};
use crate::store::model::checkpoint::ProjectionState;
#[cfg(doc)]
use crate::store::model::parking::Parking;
use crate::store::model::parking::Step;
use crate::store::model::progress::{in_aggregate_order, in_log_order};

/// The row that a store keeps for each projection, separate from the read model. The default is the row of a projection that never ran.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Checkpoint {
    /// The place up to which the projection has applied everything except parked aggregates.
    pub mark: Mark,
    /// The number of changes that a worker must know: see [`Parking::changes`].
    pub changes: u64,
    /// Whether the projection has per-aggregate order. If so, `mark` is its swept position.
    pub per_aggregate: bool,
    /// How the events get into the read model.
    pub state: ProjectionState,
    /// Whether an operator has paused the projection.
    pub paused: bool,
}

impl Checkpoint {
    /// Creates the row of a projection that runs in log order and has applied everything up to `mark`.
    pub fn new(mark: impl Into<Mark>) -> Self {
        Self { mark: mark.into(), ..Self::default() }
    }

    /// Sets the number of changes that a worker must know.
    #[must_use]
    pub fn with_changes(self, changes: u64) -> Self {
        Self { changes, ..self }
    }

    /// Sets the state.
    #[must_use]
    pub fn with_state(self, state: ProjectionState) -> Self {
        Self { state, ..self }
    }

    /// Refuses a step unless it starts at this checkpoint and the projection is running in log order. A store calls this in the transaction
    /// of the step, before the work.
    ///
    /// # Errors
    /// [`ErrorKind::CheckpointMoved`] if the step starts elsewhere, and the errors of [`check_log_order`](Self::check_log_order).
    pub fn check(&self, step: &Step) -> Result<()> {
        self.check_log_order(&step.projection)?;
        let begins_here = step.from.is_at(self.mark) && self.changes == step.changes;
        if begins_here { Ok(()) } else { Err(step.moved(self.mark.position)) }
    }

    /// Refuses a worker in log order unless the projection is running in log order.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the projection has per-aggregate order or its state is not [`ProjectionState::Running`].
    pub fn check_log_order(&self, projection: &ProjectionName) -> Result<()> {
        self.state.check_running(projection)?;
        if self.per_aggregate { Err(in_aggregate_order(projection)) } else { Ok(()) }
    }

    /// Returns the row after the projection was moved to `to` by [`ReadModel::reset`](crate::ReadModel::reset).
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the state is not [`ProjectionState::Running`], or if the projection has per-aggregate order and `to` is not the
    /// beginning of the log.
    pub fn reset(&self, projection: &ProjectionName, to: Mark) -> Result<Self> {
        self.state.check_running(projection)?;
        if self.per_aggregate && to != Mark::START {
            let problem = "has order per aggregate: it can only be moved to the beginning of the log";
            return Err(ErrorKind::Invalid(format!("projection {projection} {problem}")).into());
        }
        Ok(Self { mark: to, changes: self.changes + 1, ..*self })
    }

    /// Refuses per-aggregate order for a projection that has applied events in log order. A store also calls
    /// [`check_running`](ProjectionState::check_running) before a worker begins.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the projection has applied events in log order.
    pub fn check_aggregate_order(&self, projection: &ProjectionName) -> Result<()> {
        let begins = self.per_aggregate || self.mark.position == Position::ZERO;
        if begins { Ok(()) } else { Err(in_log_order(projection)) }
    }

    /// Returns the row after a sweep from `from` to `to`. The position moves only from `from`, and only if the projection is running.
    #[must_use]
    pub fn swept(self, from: Mark, to: Mark) -> Self {
        let moves = self.state == ProjectionState::Running && from.is_at(self.mark);
        Self { mark: if moves { to } else { self.mark }, per_aggregate: true, ..self }
    }
}
