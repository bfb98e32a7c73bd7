//! The numbers of rows in an export.

use serde::{Deserialize, Serialize};

/// The numbers of rows of each kind in an export.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ArchivedRows {
    /// Events.
    pub events: u64,
    /// Idempotency keys with their outcomes.
    pub keys: u64,
    /// Unique values with their holders.
    pub claims: u64,
    /// Registered wire shapes.
    pub shapes: u64,
    /// Registered releases of processors.
    pub processors: u64,
    /// Seals.
    pub seals: u64,
}
