//! The state of a worker with order per aggregate between its transactions.

use std::collections::HashSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::id::AggregateType;
use crate::worker::aggregate_order::remembered::{Ahead, Swept};
use crate::worker::transaction::Moved;

/// A row for each aggregate, and the swept position.
pub(in crate::worker) struct AggregateOrder {
    /// The aggregate types that have had a wanted event, unless the filter names types. The others have no rows: if one of their events is
    /// wanted after all, the events before it are read from the store.
    pub(super) kinds: HashSet<AggregateType>,
    /// Events that this worker has applied since the last sweep: the log has them, or has lost them.
    pub(super) moved: Vec<Moved>,
    /// The page that the last sweep moved over, until its rows are found unchanged.
    pub(super) swept: Option<Swept>,
    /// Rows that are ahead of what the sweeps have read.
    pub(super) ahead: Ahead,
    /// When something arrived that the sweep has not covered, for the first time since the last sweep.
    pub(super) unswept_since: Option<Instant>,
    /// How long an event took in the last batch.
    pub(super) pace: Duration,
}
