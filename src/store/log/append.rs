//! Appends to the log, and their outcomes.

use crate::claim::Claim;
use crate::error::{ErrorKind, Result};
use crate::event::NewEvent;
use crate::id::{CommitId, EventId, ExpectedVersion, IdempotencyKey, StreamId, Version};
use crate::store::log::fingerprint::Fingerprint;
use crate::store::log::token::Token;

/// Events for one or more streams that become durable together or not at all.
///
/// # Examples
/// ```
/// use retell::{IdempotencyKey, prelude::*, store::Outcome};
///
/// #[derive(Debug, Event, serde::Serialize, serde::Deserialize)]
/// enum StockEvent {
///     #[event("stock.moved")]
///     Moved { pieces: i64 },
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let log = MemoryStore::new();
/// let moved = |pieces| NewEvent::new(&StockEvent::Moved { pieces });
/// let append = Append::new(StreamId::parse("stock", "north")?, ExpectedVersion::NoStream, vec![moved(-3)?])
///     .with_stream(StreamId::parse("stock", "south")?, ExpectedVersion::NoStream, vec![moved(3)?])
///     .with_key(IdempotencyKey::new("move-17")?);
/// let first = log.append(append.clone()).await?;
/// assert_eq!(first.outcome, Outcome::Written);
/// let second = log.append(append).await?;
/// assert_eq!((second.outcome, second.commit), (Outcome::Repeated, first.commit));
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Append {
    pub(crate) streams: Vec<StreamAppend>,
    pub(crate) key: Option<IdempotencyKey>,
    pub(crate) fingerprint: Option<Fingerprint>,
}

/// The part of an append that concerns one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamAppend {
    /// The stream.
    pub stream: StreamId,
    /// The version that the stream must be at.
    pub expected: ExpectedVersion,
    /// The id that the last event of the stream must have, if the caller knows it. The version alone does not tell whether the stream is the
    /// one that the caller has read: a log that lost events gives their versions to other events.
    pub last_event: Option<EventId>,
    /// The events to add, in order.
    pub events: Vec<NewEvent>,
    /// The values that the stream reserves and releases with these events.
    pub claims: Vec<Claim>,
}

impl StreamAppend {
    fn new(stream: StreamId, expected: ExpectedVersion, events: Vec<NewEvent>) -> Self {
        Self { stream, expected, last_event: None, events, claims: Vec::new() }
    }
}

impl Append {
    /// Creates an append of `events` to one stream.
    pub fn new(stream: StreamId, expected: ExpectedVersion, events: Vec<NewEvent>) -> Self {
        Self { streams: vec![StreamAppend::new(stream, expected, events)], key: None, fingerprint: None }
    }

    /// Adds `events` for another stream to the same commit.
    pub fn with_stream(mut self, stream: StreamId, expected: ExpectedVersion, events: Vec<NewEvent>) -> Self {
        self.streams.push(StreamAppend::new(stream, expected, events));
        self
    }

    /// Requires the last event of the last named stream to have this id, besides the expected version. Otherwise the append is refused with
    /// [`ErrorKind::HistoryChanged`].
    pub fn with_last_event(mut self, id: EventId) -> Self {
        if let Some(part) = self.streams.last_mut() {
            part.last_event = Some(id);
        }
        self
    }

    /// Adds unique values that the last named stream reserves or releases in the same commit.
    ///
    /// An append makes all of its releases before its reservations, so two streams can swap values. If one stream makes several claims on
    /// the same value, the last one counts.
    pub fn with_claims(mut self, claims: impl IntoIterator<Item = Claim>) -> Self {
        if let Some(part) = self.streams.last_mut() {
            part.claims.extend(claims);
        }
        self
    }

    /// Sets the idempotency key: a second append under the same key writes nothing and returns the outcome of the first. An append with other
    /// streams or another [fingerprint](Self::with_fingerprint) is refused with [`ErrorKind::KeyReused`].
    pub fn with_key(mut self, key: IdempotencyKey) -> Self {
        self.key = Some(key);
        self
    }

    /// Sets the fingerprint of the request that led to the append. It is compared in place of the events: set it if a retry may lead to other
    /// events, such as events with the current time.
    pub fn with_fingerprint(mut self, fingerprint: Fingerprint) -> Self {
        self.fingerprint = Some(fingerprint);
        self
    }

    /// Returns the parts of the append, one per stream.
    pub fn streams(&self) -> &[StreamAppend] {
        &self.streams
    }

    /// Returns the events of all streams.
    pub(crate) fn events(&self) -> impl Iterator<Item = &NewEvent> {
        self.streams.iter().flat_map(|part| &part.events)
    }

    /// Returns the idempotency key.
    pub fn key(&self) -> Option<&IdempotencyKey> {
        self.key.as_ref()
    }

    /// Returns the fingerprint that the store keeps with the idempotency key. Unless one was set, it is computed from the types and payloads of
    /// the events. The order of entries in a JSON object does not count.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint.unwrap_or_else(|| Fingerprint::of_events(self.streams.iter().map(|part| &part.events[..])))
    }

    /// Returns the streams that the append writes to, in order.
    pub fn stream_ids(&self) -> impl Iterator<Item = &StreamId> {
        self.streams.iter().map(|part| &part.stream)
    }

    /// Returns whether the append reserves or releases any value.
    pub fn has_claims(&self) -> bool {
        self.streams.iter().any(|part| !part.claims.is_empty())
    }

    /// Returns the id of the last event that the append adds; `None` if it has no events.
    pub fn last_new_event(&self) -> Option<EventId> {
        self.streams.last().and_then(|part| part.events.last()).map(|event| event.id)
    }

    /// Returns the total size of all payloads, in bytes.
    pub fn payload_bytes(&self) -> usize {
        self.streams.iter().flat_map(|part| &part.events).map(|event| event.payload.len()).sum()
    }
}

/// The outcome of an append.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Appended {
    /// The commit that made the append durable.
    pub commit: CommitId,
    /// The id of the last event of the append. For a repeated append, that of the first call.
    pub last_event: EventId,
    /// The new version of each stream, in the order of the append.
    pub versions: Vec<Version>,
    /// Whether this call or an earlier one wrote the events.
    pub outcome: Outcome,
}

impl Appended {
    /// Creates the outcome of an append. `last_event` is the id of its last event. `versions` holds the new version of each stream, in the
    /// order of the append.
    pub fn new(commit: CommitId, last_event: EventId, versions: Vec<Version>, outcome: Outcome) -> Self {
        Self { commit, last_event, versions, outcome }
    }

    /// Returns the token to wait for until a projection has applied these events.
    pub fn token(&self) -> Token {
        Token::new(self.commit, self.last_event)
    }
}

impl From<&Appended> for Token {
    fn from(appended: &Appended) -> Self {
        appended.token()
    }
}

/// The outcome that a store keeps under an idempotency key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyedOutcome {
    /// The streams of the append, in order.
    pub streams: Vec<StreamId>,
    /// The version of each stream before the append.
    pub before: Vec<Version>,
    /// The fingerprint of the request.
    pub fingerprint: Fingerprint,
    /// The outcome of the append, with [`Outcome::Repeated`].
    pub appended: Appended,
}

impl KeyedOutcome {
    /// Creates the stored outcome of an append to `streams`, whose versions were `before`.
    pub fn new(streams: Vec<StreamId>, before: Vec<Version>, fingerprint: Fingerprint, appended: Appended) -> Self {
        Self { streams, before, fingerprint, appended }
    }

    /// Returns the outcome of a second append under the same key.
    ///
    /// # Errors
    /// [`ErrorKind::KeyReused`] if `append` has other streams than the first append, or the same ones in another order, or another
    /// fingerprint.
    pub fn repeat(self, append: &Append) -> Result<Appended> {
        if append.stream_ids().eq(&self.streams) && append.fingerprint() == self.fingerprint {
            return Ok(self.appended);
        }
        Err(match append.key() {
            Some(key) => ErrorKind::KeyReused(key.clone()).into(),
            None => ErrorKind::Invalid("an append without a key repeats nothing".into()).into(),
        })
    }
}

/// Whether an append wrote anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// This call wrote the events.
    Written,
    /// An earlier append under the same idempotency key wrote its events; this call wrote nothing.
    Repeated,
}
