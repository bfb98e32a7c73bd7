//! Conversion of rows to events: owned events for readers of the log, borrowed ones for a replay.

use bytes::Bytes;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use crate::codec::Codec;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Metadata, NewEvent, RecordedEvent, StoredEvent};
use crate::id::{AggregateId, AggregateType, EventId, EventType, Position, StreamId, Version};
use crate::store::log::history::{stream_changed, token_changed};
use crate::store::log::reader::{Replay, UpTo, Visitor};
use crate::store::log::token::Token;
use crate::store::server::convert::{from_sql, position, to_sql};

/// The stored columns of an event.
pub(crate) struct Columns<'r> {
    pub(crate) event_id: Uuid,
    pub(crate) aggregate_type: &'r str,
    pub(crate) aggregate_id: &'r str,
    pub(crate) version: i64,
    pub(crate) event_type: &'r str,
    pub(crate) schema_version: i64,
    pub(crate) codec: i16,
    pub(crate) recorded_at: DateTime<Utc>,
    pub(crate) correlation_id: Option<Uuid>,
    pub(crate) causation_id: Option<Uuid>,
    pub(crate) metadata: Option<&'r str>,
    pub(crate) payload: &'r [u8],
}

/// Builds owned events. Events of the same type share the allocation of its name.
#[derive(Default)]
pub(crate) struct EventBuilder {
    aggregate_types: Vec<AggregateType>,
    event_types: Vec<EventType>,
}

impl EventBuilder {
    /// Builds the event with the number `ordinal` in the commit that begins at position `first`.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`], with the position of the event, if a column is damaged.
    pub(crate) fn build(
        &mut self,
        first: u64,
        ordinal: i32,
        columns: Result<Columns<'_>, sqlx::Error>,
    ) -> Result<RecordedEvent> {
        let position = position(first, ordinal);
        let damaged = |error| Error::with_source(ErrorKind::Corrupt(format!("position {position}")), error);
        self.parse(position, &columns.map_err(damaged)?)
            .map_err(|problem| ErrorKind::Corrupt(format!("position {position}: {problem}")).into())
    }

    fn parse(&mut self, position: Position, columns: &Columns<'_>) -> Result<RecordedEvent, String> {
        let aggregate_type = known(&mut self.aggregate_types, columns.aggregate_type, AggregateType::as_str)?;
        let aggregate_id = AggregateId::new(columns.aggregate_id).map_err(|error| error.to_string())?;
        let (correlation, causation) = (columns.correlation_id.map(Into::into), columns.causation_id.map(Into::into));
        let metadata = Metadata::from_parts(correlation, causation, columns.metadata)
            .map_err(|error| format!("metadata: {error}"))?;
        let version = u64::try_from(columns.version).map_err(|_| format!("negative version {}", columns.version))?;
        Ok(RecordedEvent {
            position,
            stream: StreamId::new(aggregate_type, aggregate_id),
            version: Version::new(version),
            recorded_at: columns.recorded_at,
            event: NewEvent {
                id: columns.event_id.into(),
                event_type: known(&mut self.event_types, columns.event_type, EventType::as_str)?,
                schema_version: schema_version(columns.schema_version)?,
                codec: codec(columns.codec)?,
                payload: Bytes::copy_from_slice(columns.payload),
                metadata,
                declared: None,
            },
        })
    }
}

/// Returns the name `text`, and reuses its allocation if `known` contains it. A log has few different names.
fn known<'t, T>(known: &mut Vec<T>, text: &'t str, as_str: fn(&T) -> &str) -> Result<T, String>
where
    T: Clone + TryFrom<&'t str, Error: std::fmt::Display>,
{
    if let Some(name) = known.iter().find(|name| as_str(name) == text) {
        return Ok(name.clone());
    }
    let name = T::try_from(text).map_err(|error| error.to_string())?;
    known.push(name.clone());
    Ok(name)
}

/// The columns of an event that a replay needs.
pub(crate) struct Replayed<'r> {
    pub(crate) version: i64,
    pub(crate) id: Uuid,
    pub(crate) event_type: &'r str,
    pub(crate) schema_version: i64,
    pub(crate) codec: i16,
    pub(crate) payload: &'r [u8],
}

/// Passes the rows of one stream to a visitor, and checks that no version is missing.
pub(crate) struct Visit<'v> {
    pub(crate) stream: &'v StreamId,
    visitor: &'v mut dyn Visitor,
    due: Option<Version>,
    /// The event that the rows must begin with. The visitor does not get it.
    known: Option<Known>,
}

/// An event that the caller knows, or the last one in a snapshot.
struct Known {
    version: Version,
    id: EventId,
    /// The state as of the event. The visitor gets it once the event is found.
    snapshot: Option<Vec<u8>>,
}

impl<'v> Visit<'v> {
    pub(crate) fn new(stream: &'v StreamId, visitor: &'v mut dyn Visitor, replay: Replay) -> Self {
        let known = replay.after_event.map(|id| Known { version: replay.after, id, snapshot: None });
        Self { stream, visitor, due: None, known }
    }

    /// Returns whether the visitor has seen nothing yet.
    pub(crate) fn is_untouched(&self) -> bool {
        self.due.is_none()
    }

    /// Creates the visit of a replay that starts after a snapshot of `state`.
    #[cfg_attr(not(feature = "mysql"), expect(dead_code, reason = "PostgreSQL checks the snapshot in the statement"))]
    pub(crate) fn from_snapshot(
        stream: &'v StreamId,
        visitor: &'v mut dyn Visitor,
        replay: Replay,
        state: Vec<u8>,
    ) -> Self {
        let mut visit = Self::new(stream, visitor, replay);
        if let Some(known) = &mut visit.known {
            known.snapshot = Some(state);
        }
        visit
    }

    #[cfg(feature = "postgres")]
    pub(crate) fn snapshot(&mut self, version: i64, id: Uuid, state: &[u8]) -> Result<()> {
        let version = Version::new(from_sql(version, "version")?);
        self.due = Some(version.next());
        self.visitor.snapshot(version, id.into(), state)
    }

    pub(crate) fn event(&mut self, row: &Replayed<'_>) -> Result<()> {
        let stream = self.stream;
        let (version, id) = (Version::new(from_sql(row.version, "version")?), EventId::from(row.id));
        if let Some(known) = self.known.take() {
            if (version, id) != (known.version, known.id) {
                let found = Some(id).filter(|_| version == known.version);
                return Err(stream_changed(stream, known.version, known.id, found));
            }
            self.due = Some(version.next());
            return known.snapshot.map_or(Ok(()), |state| self.visitor.snapshot(version, id, &state));
        }
        if let Some(due) = self.due
            && due != version
        {
            return Err(ErrorKind::Corrupt(format!("{stream}: expected version {due}, found {version}")).into());
        }
        self.due = Some(version.next());
        let damaged = |problem| Error::new(ErrorKind::Corrupt(format!("{stream} version {version}: {problem}")));
        let codec = codec(row.codec).map_err(damaged)?;
        let schema_version = schema_version(row.schema_version).map_err(damaged)?;
        let (event_type, payload) = (row.event_type, row.payload);
        self.visitor.event(version, id, StoredEvent { event_type, schema_version, codec, payload })
    }

    /// Ends the visit after the last row.
    pub(crate) fn end(&mut self) -> Result<()> {
        self.known.take().map_or(Ok(()), |known| Err(stream_changed(self.stream, known.version, known.id, None)))
    }

    /// Returns the error of a row whose columns cannot be read.
    pub(crate) fn damaged(&self, error: sqlx::Error) -> Error {
        Error::with_source(ErrorKind::Corrupt(format!("row of {}", self.stream)), error)
    }
}

fn codec(number: i16) -> Result<Codec, String> {
    let known = u8::try_from(number).ok().and_then(Codec::from_number);
    known.ok_or_else(|| format!("unknown codec {number}"))
}

fn schema_version(number: i64) -> Result<u32, String> {
    u32::try_from(number).map_err(|_| format!("invalid schema version {number}"))
}

/// Returns the version that the rows of a replay begin with: the known event, or the first one after the start.
pub(crate) fn first_version(replay: Replay) -> i64 {
    to_sql(if replay.after_event.is_some() { replay.after } else { replay.after.next() }.get())
}

/// Returns the last version that the rows of a replay include, or the time that it ends at.
pub(crate) fn end_of(replay: Replay) -> Result<i64, DateTime<Utc>> {
    match replay.up_to {
        UpTo::Head => Ok(i64::MAX),
        UpTo::Version(version) => Ok(to_sql(version.max(replay.after).get())),
        UpTo::Time(time) => Err(time),
    }
}

/// Returns a replay up to a time as a replay up to the version that a query has found, which is `None` if no event is that old.
pub(crate) fn up_to_found(replay: Replay, version: Option<(i64,)>) -> Result<Replay> {
    let version = version.map_or(Ok(0), |(version,)| from_sql(version, "version"))?;
    Ok(replay.with_up_to(UpTo::Version(Version::new(version))))
}

/// Returns the position that a token's commit has, if the commit's event there is that of the token.
pub(crate) fn position_of(token: Token, last_event: EventId, position: i64, found: Option<Uuid>) -> Result<Position> {
    let position = Position::new(from_sql(position, "position")?);
    match found.map(EventId::from) {
        Some(found) if found == last_event => Ok(position),
        found => Err(token_changed(token, position, found)),
    }
}
