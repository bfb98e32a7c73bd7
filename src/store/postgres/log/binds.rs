//! What goes with an append to the server.

use uuid::Uuid;

use crate::event::NewEvent;
use crate::id::{ExpectedVersion, StreamId};
use crate::store::log::append::{Append, StreamAppend};
use crate::store::server::convert::{count, to_sql};

/// The arguments of the server's function `append`, in its order.
#[derive(Default)]
pub(crate) struct Binds<'a> {
    pub(crate) key_append: Vec<i32>,
    pub(crate) key_text: Vec<&'a str>,
    pub(crate) part_append: Vec<i32>,
    pub(crate) part_type: Vec<&'a str>,
    pub(crate) part_id: Vec<&'a str>,
    pub(crate) part_expected: Vec<i64>,
    pub(crate) part_events: Vec<i32>,
    pub(crate) event_part: Vec<i32>,
    pub(crate) event_place: Vec<i32>,
    pub(crate) event_id: Vec<Uuid>,
    pub(crate) event_type: Vec<&'a str>,
    pub(crate) event_schema: Vec<i64>,
    pub(crate) event_codec: Vec<i16>,
    pub(crate) event_correlation: Vec<Option<Uuid>>,
    pub(crate) event_causation: Vec<Option<Uuid>>,
    pub(crate) event_metadata: Vec<Option<String>>,
    pub(crate) event_payload: Vec<&'a [u8]>,
}

impl<'a> Binds<'a> {
    pub(crate) fn of(round: &[&'a Append]) -> Self {
        let mut binds = Self::default();
        let mut parts: Vec<(i32, &StreamAppend)> = Vec::with_capacity(round.len());
        let mut keys: Vec<(&str, i32)> = Vec::new();
        for (number, append) in (1..).zip(round) {
            keys.extend(append.key().map(|key| (key.as_str(), number)));
            for part in append.streams() {
                binds.part(number, part);
                parts.push((count(binds.part_id.len()), part));
            }
        }
        // The server writes in this order.
        parts.sort_unstable_by_key(|(_, part)| &part.stream);
        for (number, part) in parts {
            for (place, event) in (1..).zip(&part.events) {
                binds.event(number, place, event);
            }
        }
        keys.sort_unstable();
        (binds.key_text, binds.key_append) = keys.into_iter().unzip();
        binds
    }

    fn part(&mut self, append: i32, part: &'a StreamAppend) {
        self.part_append.push(append);
        self.part_type.push(part.stream.aggregate_type().as_str());
        self.part_id.push(part.stream.aggregate_id().as_str());
        self.part_expected.push(expected_to_sql(part.expected));
        self.part_events.push(count(part.events.len()));
    }

    fn event(&mut self, part: i32, place: i32, event: &'a NewEvent) {
        let event = Stored::of(event);
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
}

/// The arguments of `append_one`: one event of one stream, without a key and without claims.
pub(crate) struct One<'a> {
    pub(crate) stream: &'a StreamId,
    pub(crate) expected: i64,
    pub(crate) event: Stored<'a>,
}

impl<'a> One<'a> {
    /// If that is all there is to append.
    pub(crate) fn of(round: &[&'a Append]) -> Option<Self> {
        let [append] = round else { return None };
        let ([part], None) = (append.streams(), append.key()) else { return None };
        let ([event], []) = (&part.events[..], &part.claims[..]) else { return None };
        Some(Self { stream: &part.stream, expected: expected_to_sql(part.expected), event: Stored::of(event) })
    }
}

/// What is stored of an event, beside its place.
pub(crate) struct Stored<'a> {
    pub(crate) id: Uuid,
    pub(crate) event_type: &'a str,
    pub(crate) schema: i64,
    pub(crate) codec: i16,
    pub(crate) correlation: Option<Uuid>,
    pub(crate) causation: Option<Uuid>,
    pub(crate) metadata: Option<String>,
    pub(crate) payload: &'a [u8],
}

impl<'a> Stored<'a> {
    fn of(event: &'a NewEvent) -> Self {
        Self {
            id: *event.id.as_uuid(),
            event_type: event.event_type.as_str(),
            schema: i64::from(event.schema_version),
            codec: i16::from(event.codec.number()),
            correlation: event.metadata.correlation_id.map(|id| *id.as_uuid()),
            causation: event.metadata.causation_id.map(|id| *id.as_uuid()),
            // `Append::check` has refused what cannot be written.
            metadata: event.metadata.to_json().ok().flatten(),
            payload: &event.payload,
        }
    }
}

/// What stands for an expected version in both functions.
fn expected_to_sql(expected: ExpectedVersion) -> i64 {
    match expected {
        ExpectedVersion::Any => -1,
        ExpectedVersion::Exists => -2,
        ExpectedVersion::NoStream => 0,
        ExpectedVersion::Exact(version) => to_sql(version.get()),
    }
}
