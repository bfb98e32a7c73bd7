//! The port of writers: appends, their outcomes, unique values and snapshots.

use async_trait::async_trait;

#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::id::{ClaimScope, ClaimValue, IdempotencyKey, StreamId, Version};
use crate::store::log::append::{Append, Appended, KeptOutcome};
use crate::store::log::reader::EventReader;

/// Largest payload of one event a store takes by default, in bytes: the largest message RabbitMQ 4 takes by default.
pub const MAX_PAYLOAD_BYTES: usize = 16 * 1024 * 1024;

/// Writes the log: appends, and what belongs to them. Object-safe: a program that chooses its database at start holds an
/// `Arc<dyn EventStore>`.
#[async_trait]
pub trait EventStore: EventReader {
    /// Makes the events durable, all or none.
    ///
    /// # Errors
    /// [`ErrorKind::Conflict`] if a stream is not at the expected version, [`ErrorKind::Taken`] for a unique value that another
    /// stream holds, [`ErrorKind::DuplicateEvent`] for an event id that is in the log already. If several apply, the first of
    /// these three is reported. [`ErrorKind::KeyReused`] if the idempotency key belongs to an append to other streams,
    /// [`ErrorKind::Full`], [`ErrorKind::ReadOnly`], and the errors of [`Append::check`]. Nothing was written in any of these cases.
    /// After [`ErrorKind::Transient`] or [`ErrorKind::Backend`] the outcome is unknown: the idempotency key decides.
    ///
    /// # Cancel safety
    /// A dropped call may still write. The store stays usable.
    async fn append(&self, append: Append) -> Result<Appended>;

    /// Returns the outcome of the append that was made under `key`; `None` if there was none.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn find_by_key(&self, key: &IdempotencyKey) -> Result<Option<KeptOutcome>>;

    /// Returns the stream that holds a unique value; `None` if it is free. Another append may change that at any time: only the
    /// append that reserves the value decides.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn holder(&self, scope: &ClaimScope, value: &ClaimValue) -> Result<Option<StreamId>>;

    /// Saves the state of a stream's aggregate, unless a newer one with the same fingerprint is stored. A store keeps one snapshot
    /// per stream.
    ///
    /// # Errors
    /// A [write error](crate::Error#write-errors). A lost snapshot costs time, never data.
    async fn save_snapshot(&self, stream: &StreamId, snapshot: Snapshot) -> Result<()>;

    /// Waits for the appends in flight, then closes the store for all of its handles. Later appends fail.
    ///
    /// # Errors
    /// [`ErrorKind::Backend`] if the database fails while closing.
    async fn close(&self) -> Result<()>;
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
