//! The port of writers: appends and snapshots.

use async_trait::async_trait;

use crate::error::Result;
use crate::id::{ClaimScope, ClaimValue, IdempotencyKey, StreamId, Version};
use crate::store::log::append::{Append, Appended, KeptOutcome};
use crate::store::log::reader::EventReader;

/// Largest payload of one event a store takes by default, in bytes: the largest message RabbitMQ 4 takes by default.
pub const MAX_PAYLOAD_BYTES: usize = 16 * 1024 * 1024;

/// Appends to the log.
#[async_trait]
pub trait EventStore: EventReader + SnapshotStore {
    /// Makes the events durable, all or none.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if a stream is not at the version expected, [`ErrorKind::DuplicateEvent`] for an id that is in the log,
    /// [`ErrorKind::Taken`] for a value that another stream holds, [`ErrorKind::KeyReused`], [`ErrorKind::Full`],
    /// [`ErrorKind::ReadOnly`] and what [`Append::check`] refuses: nothing was written. Of several of them in one append the first of
    /// this list is reported: a conflict, a value that is taken, a duplicate id.
    /// After [`ErrorKind::Transient`] or [`ErrorKind::Backend`] the outcome is unknown: the idempotency key decides.
    ///
    /// # Cancel safety
    /// A dropped call may still write. The store stays usable.
    async fn append(&self, append: Append) -> Result<Appended>;

    /// What the append under this key did; `None` if there was none.
    ///
    /// # Errors
    /// What reading met.
    async fn outcome(&self, key: &IdempotencyKey) -> Result<Option<KeptOutcome>>;

    /// The stream that holds a value; `None` if it is free. Another append may change that at once: the append that reserves the value
    /// is what decides.
    ///
    /// # Errors
    /// What reading met.
    async fn holder(&self, scope: &ClaimScope, value: &ClaimValue) -> Result<Option<StreamId>>;

    /// Waits for the appends under way, then lets go of the store. Later appends are refused.
    ///
    /// # Errors
    /// What closing met.
    async fn close(&self) -> Result<()>;
}

/// Keeps the newest state of streams, so that loading need not replay them whole.
#[async_trait]
pub trait SnapshotStore: Send + Sync + 'static {
    /// Keeps a state, unless a newer one of the same fingerprint is there. One snapshot a stream is kept.
    ///
    /// # Errors
    /// What writing met. A lost snapshot costs time, never data.
    async fn save_snapshot(&self, stream: &StreamId, snapshot: Snapshot) -> Result<()>;
}

/// The state of a stream's aggregate as of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The last event in it.
    pub version: Version,
    /// The shape of the state.
    pub fingerprint: u64,
    /// The encoded state.
    pub state: Vec<u8>,
}
