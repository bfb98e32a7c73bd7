//! Parameters of the server's functions `append` and `append_one`.

use sqlx::Postgres;
use sqlx::postgres::PgArguments;
use sqlx::query::{Query, QueryScalar};
use uuid::Uuid;

use crate::event::NewEvent;
use crate::id::ExpectedVersion;
use crate::store::log::append::{Append, StreamAppend};
use crate::store::server::convert::{count, to_sql};

/// The arrays of keys, parts and events that `append` takes, in its order.
#[derive(Default)]
pub(crate) struct Batch<'a> {
    key_append: Vec<i32>,
    key_text: Vec<&'a str>,
    key_fingerprint: Vec<Vec<u8>>,
    part_append: Vec<i32>,
    part_type: Vec<&'a str>,
    part_id: Vec<&'a str>,
    part_kind: Vec<&'static str>,
    part_version: Vec<Option<i64>>,
    part_last_event: Vec<Option<Uuid>>,
    part_events: Vec<i32>,
    event_part: Vec<i32>,
    event_place: Vec<i32>,
    event_id: Vec<Uuid>,
    event_type: Vec<&'a str>,
    event_schema: Vec<i64>,
    event_codec: Vec<i16>,
    event_correlation: Vec<Option<Uuid>>,
    event_causation: Vec<Option<Uuid>>,
    event_metadata: Vec<Option<String>>,
    event_payload: Vec<&'a [u8]>,
}

impl<'a> Batch<'a> {
    pub(crate) fn from_round(round: &[&'a Append]) -> Self {
        let mut binds = Self::default();
        let mut parts: Vec<(i32, &StreamAppend)> = Vec::with_capacity(round.len());
        let mut keys: Vec<(&str, i32, Vec<u8>)> = Vec::new();
        for (number, append) in (1..).zip(round) {
            keys.extend(append.key().map(|key| (key.as_str(), number, append.fingerprint().as_bytes().to_vec())));
            for part in append.streams() {
                binds.part(number, part);
                parts.push((count(binds.part_id.len()), part));
            }
        }
        // The function inserts events in the order of the arrays. One order for all calls prevents deadlocks.
        parts.sort_unstable_by_key(|(_, part)| &part.stream);
        for (number, part) in parts {
            for (place, event) in (1..).zip(&part.events) {
                binds.event(number, place, event);
            }
        }
        keys.sort_unstable();
        for (key, append, fingerprint) in keys {
            binds.key_text.push(key);
            binds.key_append.push(append);
            binds.key_fingerprint.push(fingerprint);
        }
        binds
    }

    fn part(&mut self, append: i32, part: &'a StreamAppend) {
        self.part_append.push(append);
        self.part_type.push(part.stream.aggregate_type().as_str());
        self.part_id.push(part.stream.aggregate_id().as_str());
        let (kind, version) = expectation(part.expected);
        self.part_kind.push(kind);
        self.part_version.push(version);
        self.part_last_event.push(part.last_event.map(Uuid::from));
        self.part_events.push(count(part.events.len()));
    }

    fn event(&mut self, part: i32, place: i32, event: &'a NewEvent) {
        let event = Stored::new(event);
        self.event_part.push(part);
        self.event_place.push(place);
        self.event_id.push(event.id);
        self.event_type.push(event.event_type);
        self.event_schema.push(event.schema);
        self.event_codec.push(event.codec);
        self.event_correlation.push(event.correlation);
        self.event_causation.push(event.causation);
        self.event_metadata.push(event.metadata);
        self.event_payload.push(event.payload);
    }

    /// Binds the arrays, in the order of the function's parameters.
    pub(crate) fn bind(self, query: Query<'a, Postgres, PgArguments>) -> Query<'a, Postgres, PgArguments> {
        query
            .bind(self.key_append)
            .bind(self.key_text)
            .bind(self.key_fingerprint)
            .bind(self.part_append)
            .bind(self.part_type)
            .bind(self.part_id)
            .bind(self.part_kind)
            .bind(self.part_version)
            .bind(self.part_last_event)
            .bind(self.part_events)
            .bind(self.event_part)
            .bind(self.event_place)
            .bind(self.event_id)
            .bind(self.event_type)
            .bind(self.event_schema)
            .bind(self.event_codec)
            .bind(self.event_correlation)
            .bind(self.event_causation)
            .bind(self.event_metadata)
            .bind(self.event_payload)
    }
}

/// The arguments of `append_one`: one event of one stream, without a key and without claims.
pub(crate) struct One<'a> {
    part: &'a StreamAppend,
    event: Stored<'a>,
}

impl<'a> One<'a> {
    /// Returns the arguments if the round is a single event without a key and without claims.
    pub(crate) fn from_round(round: &[&'a Append]) -> Option<Self> {
        let [append] = round else { return None };
        let ([part], None) = (append.streams(), append.key()) else { return None };
        let ([event], []) = (&part.events[..], &part.claims[..]) else { return None };
        Some(Self { part, event: Stored::new(event) })
    }

    /// Binds the values, in the order of the function's parameters.
    pub(crate) fn bind<O>(
        self,
        query: QueryScalar<'a, Postgres, O, PgArguments>,
    ) -> QueryScalar<'a, Postgres, O, PgArguments> {
        let (kind, version) = expectation(self.part.expected);
        query
            .bind(self.part.stream.aggregate_type().as_str())
            .bind(self.part.stream.aggregate_id().as_str())
            .bind(kind)
            .bind(version)
            .bind(self.part.last_event.map(Uuid::from))
            .bind(self.event.id)
            .bind(self.event.event_type)
            .bind(self.event.schema)
            .bind(self.event.codec)
            .bind(self.event.correlation)
            .bind(self.event.causation)
            .bind(self.event.metadata)
            .bind(self.event.payload)
    }
}

/// The columns of an event's row, without its place in the log and the stream.
struct Stored<'a> {
    id: Uuid,
    event_type: &'a str,
    schema: i64,
    codec: i16,
    correlation: Option<Uuid>,
    causation: Option<Uuid>,
    metadata: Option<String>,
    payload: &'a [u8],
}

impl<'a> Stored<'a> {
    fn new(event: &'a NewEvent) -> Self {
        Self {
            id: *event.id.as_uuid(),
            event_type: event.event_type.as_str(),
            schema: i64::from(event.schema_version),
            codec: i16::from(event.codec.number()),
            correlation: event.metadata.correlation_id.map(|id| *id.as_uuid()),
            causation: event.metadata.causation_id.map(|id| *id.as_uuid()),
            // `Append::check` has refused metadata that cannot be encoded.
            metadata: event.metadata.to_json().ok().flatten(),
            payload: &event.payload,
        }
    }
}

/// Returns the kind and the number of an expected version, as the server's `version_fits` takes them.
fn expectation(expected: ExpectedVersion) -> (&'static str, Option<i64>) {
    match expected {
        ExpectedVersion::Any => ("any", None),
        ExpectedVersion::Exists => ("exists", None),
        ExpectedVersion::NoStream => ("exact", Some(0)),
        ExpectedVersion::Exact(version) => ("exact", Some(to_sql(version.get()))),
    }
}
