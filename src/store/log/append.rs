//! What goes into the log, and what comes back.

use crate::claim::Claim;
use crate::error::{ErrorKind, Result};
use crate::event::NewEvent;
use crate::id::{CommitId, ExpectedVersion, IdempotencyKey, StreamId, Version};
use crate::store::log::token::Token;

/// Events for one or several streams that become durable together or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Append {
    pub(crate) streams: Vec<StreamAppend>,
    pub(crate) key: Option<IdempotencyKey>,
}

/// One stream's part of an append.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamAppend {
    /// The stream.
    pub stream: StreamId,
    /// The version that the stream must have.
    pub expected: ExpectedVersion,
    /// The events to add, in order.
    pub events: Vec<NewEvent>,
    /// The values that the stream reserves and releases with these events.
    pub claims: Vec<Claim>,
}

impl StreamAppend {
    fn new(stream: StreamId, expected: ExpectedVersion, events: Vec<NewEvent>) -> Self {
        Self { stream, expected, events, claims: Vec::new() }
    }
}

impl Append {
    /// Events for one stream.
    pub fn new(stream: StreamId, expected: ExpectedVersion, events: Vec<NewEvent>) -> Self {
        Self { streams: vec![StreamAppend::new(stream, expected, events)], key: None }
    }

    /// Events for one more stream, in the same commit.
    pub fn and(mut self, stream: StreamId, expected: ExpectedVersion, events: Vec<NewEvent>) -> Self {
        self.streams.push(StreamAppend::new(stream, expected, events));
        self
    }

    /// Values that the stream named last reserves and releases, in the same commit. All releases of an append come before its
    /// reservations, so that two streams can swap; of several claims of one stream on one value the last counts.
    pub fn with_claims(mut self, claims: impl IntoIterator<Item = Claim>) -> Self {
        if let Some(part) = self.streams.last_mut() {
            part.claims.extend(claims);
        }
        self
    }

    /// Names this append: a second one under the same key writes nothing and returns the outcome of the first.
    pub fn with_key(mut self, key: IdempotencyKey) -> Self {
        self.key = Some(key);
        self
    }

    /// Its parts, one a stream.
    pub fn streams(&self) -> &[StreamAppend] {
        &self.streams
    }

    /// Its name, if it has one.
    pub fn key(&self) -> Option<&IdempotencyKey> {
        self.key.as_ref()
    }

    /// The streams it writes to, in order.
    pub fn stream_ids(&self) -> impl Iterator<Item = &StreamId> {
        self.streams.iter().map(|part| &part.stream)
    }

    /// Whether it reserves or releases anything.
    pub fn has_claims(&self) -> bool {
        self.streams.iter().any(|part| !part.claims.is_empty())
    }

    /// The bytes of all payloads.
    pub fn payload_bytes(&self) -> usize {
        self.streams.iter().flat_map(|part| &part.events).map(|event| event.payload.len()).sum()
    }
}

/// The outcome of an append.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Appended {
    /// The commit that made it durable.
    pub commit: CommitId,
    /// The new version of each stream, in the append's order.
    pub versions: Vec<Version>,
    /// Whether this call wrote it.
    pub outcome: Outcome,
}

impl Appended {
    /// Creates the outcome of an append, with the new version of each of its streams.
    pub fn new(commit: CommitId, versions: Vec<Version>, outcome: Outcome) -> Self {
        Self { commit, versions, outcome }
    }

    /// Returns the token to wait for until a projection has applied these events.
    pub fn token(&self) -> Token {
        Token::of(self.commit)
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
pub struct KeptOutcome {
    /// The streams of the append, in its order.
    pub streams: Vec<StreamId>,
    /// The outcome of the append, with [`Outcome::Repeated`].
    pub appended: Appended,
}

impl KeptOutcome {
    /// Creates the outcome of an append to `streams`.
    pub fn new(streams: Vec<StreamId>, appended: Appended) -> Self {
        Self { streams, appended }
    }

    /// Returns the outcome of a second append under the same key.
    ///
    /// # Errors
    /// [`ErrorKind::KeyReused`] if that append is for other streams.
    pub fn repeat<'a>(self, key: &IdempotencyKey, streams: impl IntoIterator<Item = &'a StreamId>) -> Result<Appended> {
        if streams.into_iter().eq(&self.streams) {
            Ok(self.appended)
        } else {
            Err(ErrorKind::KeyReused(key.clone()).into())
        }
    }
}

/// Whether an append wrote anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// This call wrote the events.
    Written,
    /// An earlier append under the same idempotency key had written its events; this call wrote nothing.
    Repeated,
}
