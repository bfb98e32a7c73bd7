//! The port for writers: appends, their outcomes, unique values and snapshots.

use std::fmt;

use async_trait::async_trait;

#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::{Error, Result};
use crate::event::{Event, NewEvent};
use crate::id::{ClaimScope, ClaimValue, EventId, ExpectedVersion, IdempotencyKey, StreamId, Version};
use crate::store::log::append::{Append, Appended, KeyedOutcome};
use crate::store::log::reader::EventReader;
use crate::store::log::shapes::RegisteredShape;

/// The default limit of one event's payload, in bytes. It equals the default message limit of RabbitMQ 4.
pub const MAX_PAYLOAD_BYTES: usize = 16 * 1024 * 1024;

/// Writes to the log: appends events with their unique values, and saves snapshots.
///
/// The trait is object-safe: a program that chooses its database at startup holds an `Arc<dyn EventStore>`. [`EventStoreExt`] adds a method
/// that appends domain events.
///
/// # Examples
/// ```
/// use retell::{ClaimScope, ClaimValue, prelude::*};
///
/// #[derive(Debug, Event, serde::Serialize, serde::Deserialize)]
/// enum UserEvent {
///     #[event("user.joined")]
///     Joined { name: String },
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let log = MemoryStore::new();
/// let user = StreamId::parse("user", "1")?;
/// let joined = NewEvent::new(&UserEvent::Joined { name: "Ada".into() })?;
/// let append = Append::new(user.clone(), ExpectedVersion::NoStream, vec![joined])
///     .with_claims([Claim::reserve("user.email", "ada@example.com")?]);
/// log.append(append).await?;
/// let holder = log.holder(&ClaimScope::new("user.email")?, &ClaimValue::new("ada@example.com")?).await?;
/// assert_eq!(holder, Some(user));
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
#[async_trait]
pub trait EventStore: EventReader {
    /// Makes the events durable, all or none.
    ///
    /// # Errors
    /// - [`ErrorKind::Conflict`] if a stream is not at the expected version, [`ErrorKind::Taken`] for a unique value that another stream
    ///   holds, and [`ErrorKind::DuplicateEvent`] for an event id that is already in the log. If several apply, the first of these three is
    ///   reported.
    /// - [`ErrorKind::HistoryChanged`] if the last event of a stream does not have the [required id](crate::store::StreamAppend::last_event).
    /// - [`ErrorKind::KeyReused`] if the idempotency key belongs to an append to other streams or with another
    ///   [fingerprint](Append::fingerprint), [`ErrorKind::Full`], [`ErrorKind::ReadOnly`], and the errors of [`Append::check`].
    ///
    /// Nothing was written in any of these cases. After [`ErrorKind::Transient`] or [`ErrorKind::Backend`] the outcome is unknown: append
    /// again under the same idempotency key to learn it.
    ///
    /// # Cancel safety
    /// A dropped call may still write. The store stays usable.
    async fn append(&self, append: Append) -> Result<Appended>;

    /// Returns the outcome of the append under `key`; `None` if there is none.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn find_by_key(&self, key: &IdempotencyKey) -> Result<Option<KeyedOutcome>>;

    /// Returns the stream that holds a unique value; `None` if it is free. Another append may change the holder at any time, so only the
    /// append that reserves the value decides.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn holder(&self, scope: &ClaimScope, value: &ClaimValue) -> Result<Option<StreamId>>;

    /// Saves the state of a stream's aggregate. The store keeps the newest snapshot of a stream, and older ones at the distance of
    /// [`Snapshot::spacing`]. It deletes the others, and those with another fingerprint. It does not save a snapshot whose event is not in the
    /// log under its version, and such a stored snapshot gives way to any other. A store that ignores the spacing, and keeps only the newest
    /// snapshot, is correct.
    ///
    /// # Errors
    /// A [write error](crate::Error#write-errors). A snapshot that was not saved costs time, never data.
    async fn save_snapshot(&self, stream: &StreamId, snapshot: Snapshot) -> Result<()>;

    /// Keeps wire shapes of events for [`EventReader::registered_shapes`]. A store keeps one row for each event type, version, codec and
    /// [digest](RegisteredShape::digest), and never changes or deletes one: a shape that is kept already stays as it is.
    ///
    /// # Errors
    /// A [write error](crate::Error#write-errors).
    async fn register_shapes(&self, shapes: &[RegisteredShape]) -> Result<()>;

    /// Waits for the appends in flight, then closes the store for all of its handles. Later appends fail with [`ErrorKind::Closed`].
    ///
    /// # Errors
    /// [`ErrorKind::Backend`] if the database fails while closing.
    async fn close(&self) -> Result<()>;
}

/// Appends domain events without an aggregate. Every [`EventStore`] has these methods; a store does not implement them. See
/// [`append_events`](Self::append_events) for an example.
pub trait EventStoreExt: EventStore {
    /// Encodes `events` and appends them to `stream`, all or none, if the stream is at the `expected` version.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if no store accepts the name of the stream or an event belongs to [another
    /// aggregate](crate::event::EventSchema::aggregate), [`ErrorKind::Unencodable`] if an event cannot be encoded and decoded again, and
    /// the errors of [`append`](EventStore::append).
    ///
    /// # Cancel safety
    /// A dropped call may still write. The store stays usable.
    ///
    /// # Examples
    /// ```
    /// use retell::prelude::*;
    ///
    /// #[derive(Debug, Event, serde::Serialize, serde::Deserialize)]
    /// enum ShelfEvent {
    ///     #[event("shelf.filled")]
    ///     Filled { books: u32 },
    /// }
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let log = MemoryStore::new();
    /// let filled = ShelfEvent::Filled { books: 12 };
    /// let appended = log.append_events(("shelf", "1"), ExpectedVersion::NoStream, [filled]).await?;
    /// assert_eq!(appended.versions, [Version::new(1)]);
    /// # Ok::<(), BoxError>(())
    /// # }).unwrap();
    /// ```
    fn append_events<E: Event>(
        &self,
        stream: impl TryInto<StreamId, Error: Into<Error>>,
        expected: ExpectedVersion,
        events: impl IntoIterator<Item = E>,
    ) -> impl Future<Output = Result<Appended>> + Send {
        let append = encoded(stream, expected, events);
        async { self.append(append?).await }
    }
}

impl<S: EventStore + ?Sized> EventStoreExt for S {}

fn encoded<E: Event>(
    stream: impl TryInto<StreamId, Error: Into<Error>>,
    expected: ExpectedVersion,
    events: impl IntoIterator<Item = E>,
) -> Result<Append> {
    let stream = stream.try_into().map_err(Into::into)?;
    let events = events.into_iter().map(|event| NewEvent::new(&event)).collect::<Result<_>>()?;
    Ok(Append::new(stream, expected, events))
}

/// The state of a stream's aggregate as of a version.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Snapshot {
    /// The version of the last event in the state.
    pub version: Version,
    /// The id of that event. The snapshot counts only while the log has this event under this version.
    pub event_id: EventId,
    /// The fingerprint of the state's type. A state type with another fingerprint does not read this snapshot.
    pub fingerprint: u64,
    /// The encoded state.
    pub state: Vec<u8>,
    /// The distance of the older snapshots that the store keeps: of each `spacing` versions, the first one that has a snapshot. With 0, the
    /// store keeps none.
    pub spacing: u64,
}

/// Shows the size of the state only, so that no state gets into a log.
impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("version", &self.version)
            .field("event_id", &self.event_id)
            .field("fingerprint", &self.fingerprint)
            .field("state", &format_args!("{} bytes", self.state.len()))
            .field("spacing", &self.spacing)
            .finish()
    }
}

impl Snapshot {
    /// Creates a snapshot of the encoded `state` as of the event `event_id` at `version`, without older snapshots.
    pub fn new(version: Version, event_id: EventId, fingerprint: u64, state: Vec<u8>) -> Self {
        Self { version, event_id, fingerprint, state, spacing: 0 }
    }

    /// Keeps older snapshots at a distance of `spacing` versions.
    pub fn with_spacing(mut self, spacing: u64) -> Self {
        self.spacing = spacing;
        self
    }
}
