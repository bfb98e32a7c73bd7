//! Which events a reaction has had: what makes a second delivery do nothing.

use async_trait::async_trait;

use crate::error::Result;
use crate::id::{EventId, Position, ProjectionName};
use crate::store::model::checkpoint::CheckpointStore;

/// Where reactions keep their inboxes, beside their checkpoints. A checkpoint says how far a reaction has got, and may be set back; the inbox
/// says what it has done, and stays.
#[async_trait]
pub trait InboxStore: CheckpointStore {
    /// Takes an event into the reaction's inbox, in a transaction of the reaction's. Returns whether it was not there before.
    ///
    /// # Errors
    /// What writing met.
    async fn take(&self, tx: &mut Self::Tx, reaction: &ProjectionName, event: EventId) -> Result<bool>;

    /// Keeps the position after which a reaction begins, unless one is kept already. Returns the one that is kept then.
    ///
    /// # Errors
    /// What writing met.
    ///
    /// # Cancel safety
    /// A dropped call may still keep it.
    async fn begin_after(&self, reaction: &ProjectionName, position: Position) -> Result<Position>;
}
