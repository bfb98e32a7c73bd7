//! The rule of a projection's row: which worker may continue from it.

use crate::error::Result;
use crate::id::{Position, ProjectionName};
use crate::store::model::checkpoint::ProjectionState;
#[cfg(doc)]
use crate::store::model::parking::Parking;
use crate::store::model::parking::Step;
use crate::store::model::progress::{in_aggregate_order, in_log_order};

/// A projection's row of checkpoints, as every driver stores it.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Checkpoint {
    pub(crate) position: Position,
    /// See [`Parking::changes`].
    pub(crate) parking_changes: u64,
    pub(crate) per_aggregate: bool,
    pub(crate) state: ProjectionState,
}

impl Checkpoint {
    /// Refuses a step that does not begin here, and any step of a projection that is not a worker's in log order.
    pub(crate) fn check(&self, step: &Step) -> Result<()> {
        self.check_log_order(&step.projection)?;
        let begins_here = (self.position, self.parking_changes) == (step.from, step.changes);
        if begins_here { Ok(()) } else { Err(step.moved(self.position)) }
    }

    /// Refuses a worker in log order.
    pub(crate) fn check_log_order(&self, projection: &ProjectionName) -> Result<()> {
        self.state.check_running(projection)?;
        if self.per_aggregate { Err(in_aggregate_order(projection)) } else { Ok(()) }
    }

    /// Refuses order per aggregate for a projection that has begun in log order.
    pub(crate) fn check_aggregate_order(&self, projection: &ProjectionName) -> Result<()> {
        let begins = self.per_aggregate || self.position == Position::ZERO;
        if begins { Ok(()) } else { Err(in_log_order(projection)) }
    }
}
