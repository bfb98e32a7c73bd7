//! The rule of a projection's row: which worker may continue from it.

#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::id::{Position, ProjectionName};
use crate::store::model::checkpoint::ProjectionState;
#[cfg(doc)]
use crate::store::model::parking::Parking;
use crate::store::model::parking::Step;
use crate::store::model::progress::{in_aggregate_order, in_log_order};

/// What a store keeps of a projection besides its rows. The default is that of a projection that never ran.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Checkpoint {
    /// The position up to which everything is applied, except for parked aggregates.
    pub position: Position,
    /// The count of changes of the parking: see [`Parking::changes`].
    pub parking_changes: u64,
    /// Whether the projection has per-aggregate order: then the position is its swept position.
    pub per_aggregate: bool,
    /// How its events get into the read model.
    pub state: ProjectionState,
}

impl Checkpoint {
    /// Creates the row of a projection that runs in log order and has applied everything up to `position`.
    pub fn new(position: Position) -> Self {
        Self { position, ..Self::default() }
    }

    /// Sets the count of changes of the parking.
    #[must_use]
    pub fn with_parking_changes(self, parking_changes: u64) -> Self {
        Self { parking_changes, ..self }
    }

    /// Sets the state.
    #[must_use]
    pub fn with_state(self, state: ProjectionState) -> Self {
        Self { state, ..self }
    }

    /// Refuses a step that does not start here, and any step of a projection that no worker runs in log order. A store calls it in the step's
    /// transaction, before the work.
    ///
    /// # Errors
    /// [`ErrorKind::CheckpointMoved`] or [`ErrorKind::Invalid`].
    pub fn check(&self, step: &Step) -> Result<()> {
        self.check_log_order(&step.projection)?;
        let begins_here = (self.position, self.parking_changes) == (step.from, step.changes);
        if begins_here { Ok(()) } else { Err(step.moved(self.position)) }
    }

    /// Refuses a worker in log order unless the projection is running in log order.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`].
    pub fn check_log_order(&self, projection: &ProjectionName) -> Result<()> {
        self.state.check_running(projection)?;
        if self.per_aggregate { Err(in_aggregate_order(projection)) } else { Ok(()) }
    }

    /// Refuses per-aggregate order for a projection that has applied events in log order. A store also asks
    /// [`check_running`](ProjectionState::check_running) before a worker begins.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`].
    pub fn check_aggregate_order(&self, projection: &ProjectionName) -> Result<()> {
        let begins = self.per_aggregate || self.position == Position::ZERO;
        if begins { Ok(()) } else { Err(in_log_order(projection)) }
    }

    /// Returns the row after a sweep to `to`: the position never moves backward, and not at all unless the projection is running.
    #[must_use]
    pub fn swept(self, to: Position) -> Self {
        let position = if self.state == ProjectionState::Running { to.max(self.position) } else { self.position };
        Self { position, per_aggregate: true, ..self }
    }
}
