//! How far a worker got by catching up.

use crate::id::Position;
use crate::store::model::parking::Parked;

/// How far a projection is after [`Worker::catch_up`](crate::Worker::catch_up).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct CaughtUp {
    /// Everything up to here is applied, except for the events of aggregates that are parked.
    pub position: Position,
    /// The parked aggregates, by position: each with its first event that is not applied, and the error.
    pub parked: Vec<Parked>,
}

impl CaughtUp {
    /// Whether everything up to the position is applied: no aggregate is parked.
    pub fn is_complete(&self) -> bool {
        self.parked.is_empty()
    }
}
