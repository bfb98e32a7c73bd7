//! The port for export and import: a log as it is stored, out of one store and into another one.

use async_trait::async_trait;

use crate::error::{ErrorKind, Result};
use crate::id::{ClaimScope, ClaimValue, IdempotencyKey, Position, StreamId, Version};
use crate::store::log::fingerprint::Fingerprint;
use crate::store::log::inspect::Inspect;
use crate::store::log::seal::Seal;
use crate::store::log::shapes::RegisteredShape;
use crate::store::log::stored_row::StoredRow;

/// Gives out the parts of a log that are not events, and writes a log into an empty store.
///
/// Every method has a default, so a store of your own needs only `impl Archive for MyStore {}`. Its log is then neither exported nor imported.
#[async_trait]
pub trait Archive: Inspect {
    /// Passes the head of the log to `visitor`, and then each claimed value as of that head, ordered by the bytes of scope and value. Returns
    /// `false` if the store does not give out its claims.
    ///
    /// # Errors
    /// [`ErrorKind::Transient`] if the log grows too fast to read it at one position, otherwise a [read error](crate::Error#read-errors) or the
    /// error of `visitor`.
    async fn claims(&self, visitor: &mut dyn ClaimVisitor) -> Result<bool> {
        let _ = visitor;
        Ok(false)
    }

    /// Returns the first `limit` idempotency keys after `after` whose events are at or before `through`, ordered by their bytes. Returns `None`
    /// if the store does not give out its keys.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn archived_keys(
        &self,
        through: Position,
        after: Option<&IdempotencyKey>,
        limit: usize,
    ) -> Result<Option<Vec<ArchivedKey>>> {
        let _ = (through, after, limit);
        Ok(None)
    }

    /// Writes a log whose last position is `head` into this log, which is empty, in one transaction. The next append gets the position after
    /// `head`. If `parts` returns an error or this process ends, nothing is written.
    ///
    /// # Errors
    /// [`ErrorKind::NotEmpty`] if the log has any of these, or an inline projection; [`ErrorKind::Invalid`]
    /// if the store takes no import; otherwise a [write error](crate::Error#write-errors) or the error of `parts`.
    ///
    /// # Cancel safety
    /// A dropped call writes nothing, unless it was about to end.
    async fn import(&self, head: Position, parts: &mut dyn Parts) -> Result<()> {
        let _ = (head, parts);
        Err(ErrorKind::Invalid("this store takes no import".into()).into())
    }
}

/// Receives the claims of a log.
pub trait ClaimVisitor: Send {
    /// Receives the head of the log, once and before the first claim.
    ///
    /// # Errors
    /// An error ends the call of [`Archive::claims`].
    fn head(&mut self, head: Position) -> Result<()>;

    /// Receives a claim.
    ///
    /// # Errors
    /// An error ends the call of [`Archive::claims`].
    fn claim(&mut self, claim: ArchivedClaim) -> Result<()>;
}

/// Gives the parts of a log to [`Archive::import`].
pub trait Parts: Send {
    /// Returns the next part; `None` after the last one.
    ///
    /// # Errors
    /// An error ends the import, which then writes nothing.
    fn next(&mut self) -> Result<Option<Part>>;
}

/// Rows of one kind: at most 500, and about 1 MiB unless a single row is larger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Events, in the order of their positions.
    Events(Vec<ArchivedEvent>),
    /// Commits whose events came before.
    Commits(Vec<ArchivedCommit>),
    /// Idempotency keys whose events came before.
    Keys(Vec<ArchivedKey>),
    /// Claimed values.
    Claims(Vec<ArchivedClaim>),
    /// Registered shapes. The log may have some of them.
    Shapes(Vec<RegisteredShape>),
    /// Seals, in the order of their positions.
    Seals(Vec<Seal>),
}

/// An event with its place in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivedEvent {
    /// The first position of its commit.
    pub first: i64,
    /// Its number in the commit, from 1.
    pub ordinal: i32,
    /// Its columns.
    pub row: StoredRow,
}

impl ArchivedEvent {
    /// Returns the position of the event.
    pub fn position(&self) -> i64 {
        self.first + i64::from(self.ordinal) - 1
    }
}

/// A commit: events that were committed together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArchivedCommit {
    /// Its first position.
    pub first: i64,
    /// The number of its events.
    pub events: i32,
    /// The time of its events, in microseconds since 1970.
    pub recorded_at: i64,
}

/// An idempotency key with the outcome of its append.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivedKey {
    /// The key.
    pub key: IdempotencyKey,
    /// The fingerprint of the request.
    pub fingerprint: Fingerprint,
    /// The first position of the commit that has the events of the append.
    pub commit: i64,
    /// The position of the append's last event. The events are next to each other.
    pub last: i64,
    /// The streams of the append in order, each with its version before and after the append.
    pub streams: Vec<(StreamId, Version, Version)>,
}

impl ArchivedKey {
    /// Returns the number of the append's events.
    pub fn events(&self) -> i64 {
        let events: u64 = self.streams.iter().map(|(_, before, after)| after.get().saturating_sub(before.get())).sum();
        i64::try_from(events).unwrap_or(i64::MAX)
    }

    /// Returns the streams as JSON, in the form that stores keep.
    #[cfg(any(feature = "sqlite", feature = "mysql"))]
    pub(crate) fn streams_to_json(&self) -> String {
        let streams: Vec<_> = self
            .streams
            .iter()
            .map(|(stream, before, after)| {
                (stream.aggregate_type().as_str(), stream.aggregate_id().as_str(), before.get(), after.get())
            })
            .collect();
        // Text and numbers always encode as JSON.
        serde_json::to_string(&streams).unwrap_or_default()
    }

    /// Parses the streams as stores keep them.
    #[cfg(any(feature = "sqlite", feature = "mysql"))]
    pub(crate) fn streams_from_json(key: &str, json: &[u8]) -> Result<Vec<(StreamId, Version, Version)>> {
        let parts: Vec<(String, String, u64, u64)> = serde_json::from_slice(json).map_err(|error| {
            let problem = format!("cannot decode the outcome of idempotency key {key}");
            crate::error::Error::with_source(ErrorKind::Corrupt(problem), error)
        })?;
        parts
            .into_iter()
            .map(|(kind, id, before, after)| {
                Ok((StreamId::parse(&kind, &id)?, Version::new(before), Version::new(after)))
            })
            .collect()
    }
}

/// A unique value and the stream that holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchivedClaim {
    /// The scope that the value is unique in.
    pub scope: ClaimScope,
    /// The value.
    pub value: ClaimValue,
    /// The stream that holds it.
    pub holder: StreamId,
}

impl ArchivedClaim {
    /// Parses a stored row.
    pub(crate) fn parse(scope: &str, value: &str, aggregate_type: &str, aggregate_id: &str) -> Result<Self> {
        let scope = ClaimScope::new(scope).map_err(|error| damaged(&error))?;
        let value = ClaimValue::new(value).map_err(|error| damaged(&error))?;
        Ok(Self { scope, value, holder: StreamId::parse(aggregate_type, aggregate_id)? })
    }
}

fn damaged(error: &impl std::fmt::Display) -> crate::error::Error {
    ErrorKind::Corrupt(format!("a claim: {error}")).into()
}

/// The contents that keep a log from being empty, in the order of the answers that [`not_empty`] takes.
pub(crate) const CONTENTS: [&str; 5] =
    ["events", "idempotency keys", "claims", "seals", "an inline projection, which would miss the events"];

/// Refuses a log that has anything of [`CONTENTS`].
pub(crate) fn not_empty(found: [bool; 5]) -> Result<()> {
    match CONTENTS.iter().zip(found).find(|(_, is_there)| *is_there) {
        Some((content, _)) => Err(ErrorKind::NotEmpty(content).into()),
        None => Ok(()),
    }
}

/// Refuses text in bytes that are not UTF-8.
pub(crate) fn utf8<'b>(bytes: &'b [u8], what: &str) -> Result<&'b str> {
    std::str::from_utf8(bytes).map_err(|error| ErrorKind::Invalid(format!("{what}: {error}")).into())
}
