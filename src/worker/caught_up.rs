//! How far a worker got by catching up.

use crate::id::Position;
use crate::store::model::parking::Parked;

/// How far a projection is after [`Worker::catch_up`](crate::Worker::catch_up).
///
/// # Examples
/// ```
/// use retell::{CaughtUp, prelude::*};
///
/// /// Reports a nightly run to its operator.
/// fn report(projection: &str, caught_up: &CaughtUp) -> String {
///     if caught_up.is_complete() {
///         return format!("{projection} has applied everything up to {}", caught_up.position);
///     }
///     let parked = caught_up.parked.iter().map(|parked| format!("{}: {}", parked.stream, parked.error));
///     format!("{projection} has parked {}", parked.collect::<Vec<_>>().join(", "))
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let app = App::new(MemoryStore::new(), MemoryReadModel::new());
/// for (projection, caught_up) in &app.catch_up().await? {
///     println!("{}", report(projection, caught_up));
/// }
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
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
