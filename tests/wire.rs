//! The wire format for external consumers outlives the code: the test compares messages with `tests/fixtures/wire`,
//! byte by byte.
//!
//! Consumers in other languages rely on the format. A file there changes only with a new major version;
//! `RETELL_MAKE_FIXTURES=1` writes the files that are missing.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::{env, fs};

use chrono::DateTime;
use retell::broker::envelope::{Announcement, HeaderValue};
use retell::event::{Metadata, NewEvent, RecordedEvent};
use retell::id::CorrelationId;
use retell::{Codec, EventId, EventType, Position, StreamId, Version};
use serde_json::{Value, json};
use uuid::Uuid;

fn id(number: u128) -> Uuid {
    Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 + number)
}

/// Returns an event with every optional part, and with characters of every kind.
fn full() -> RecordedEvent {
    let extra = [
        ("ip", "10.0.0.1"),
        ("quote \"\\\n", "it's \u{1} 🦀"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ];
    // The payload as stored: with spaces, a large number, and its keys in the event's own order.
    let payload = r#"{"to": "Zoë 🦀", "total":12345678901234567890.50, "lines":[{"sku":"a/b"}] }"#;
    let metadata = Metadata::new()
        .with_correlation(CorrelationId::from(id(2)))
        .with_causation(EventId::from(id(3)))
        .with_source("web \"shop\"");
    let metadata = extra.into_iter().fold(metadata, |metadata, (name, value)| metadata.with_entry(name, value));
    RecordedEvent::new(
        Position::new(4711),
        StreamId::parse("order", "zoë's \"🦀\"").unwrap(),
        Version::new(3),
        DateTime::from_timestamp_micros(1_700_000_000_123_456).unwrap(),
        NewEvent::stored(EventId::from(id(1)), EventType::new("order.placed").unwrap(), 2, Codec::Json, payload.into())
            .with_metadata(metadata),
    )
}

/// Returns an event without any optional part, recorded at a whole second.
fn bare() -> RecordedEvent {
    let mut event = full();
    event.position = Position::new(1);
    event.version = Version::new(1);
    event.recorded_at = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
    event.event.payload = "null".into();
    event.event.metadata = Metadata::default();
    event
}

fn compact() -> RecordedEvent {
    let mut event = bare();
    event.event.codec = Codec::Compact;
    event.event.payload = vec![0, 1, 0x7f, 0x80, 0xff].into();
    event
}

/// Formats a message as it is sent: properties and headers, one per line, and then the body.
fn wire(announcement: &Announcement) -> Vec<u8> {
    let mut text = format!(
        "routing key: {}\ncontent_type: {}\ncontent_encoding: {:?}\nmessage_id: {}\ntimestamp: {}\ntype: {}\n",
        announcement.routing_key,
        announcement.content_type,
        announcement.content_encoding,
        announcement.message_id,
        announcement.timestamp,
        announcement.event_type,
    );
    for (name, value) in &announcement.headers {
        let (kind, value) = match value {
            HeaderValue::Text(value) => ("text", value.clone()),
            HeaderValue::Number(value) => ("number", value.to_string()),
        };
        text.extend(["header ", name, ": ", kind, " ", &value, "\n"]);
    }
    [text.as_bytes(), b"\n", &announcement.body, b"\n"].concat()
}

fn assert_matches_fixture(name: &str, event: &RecordedEvent) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures/wire").join(name).with_extension("txt");
    let sent = wire(&Announcement::from_event(event).unwrap());
    if env::var_os("RETELL_MAKE_FIXTURES").is_some() && !path.exists() {
        fs::write(&path, &sent).unwrap();
    }
    let fixture = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(String::from_utf8_lossy(&sent), String::from_utf8_lossy(&fixture), "{name}");
    assert_eq!(sent, fixture);
}

#[test]
fn an_announced_event_matches_its_fixture() {
    assert_matches_fixture("full", &full());
    assert_matches_fixture("bare", &bare());
    assert_matches_fixture("compact", &compact());
}

fn parsed(event: &RecordedEvent) -> Value {
    serde_json::from_slice(&Announcement::from_event(event).unwrap().body).unwrap()
}

#[test]
fn every_field_can_be_read_back_from_the_body() {
    let body = parsed(&full());
    let expected = json!({
        "event_id": id(1), "event_type": "order.placed", "aggregate_type": "order", "aggregate_id": "zoë's \"🦀\"",
        "version": 3, "timestamp": 1_700_000_000,
        "metadata": {
            "source": "web \"shop\"", "correlation_id": id(2), "causation_id": id(3), "ip": "10.0.0.1",
            "quote \"\\\n": "it's \u{1} 🦀", "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        },
        "payload": {"to": "Zoë 🦀", "total": 12_345_678_901_234_567_890.50, "lines": [{"sku": "a/b"}]},
        "position": 4711, "schema_version": 2, "recorded_at": "2023-11-14T22:13:20.123456Z",
    });
    assert_eq!(body, expected);
    let body = parsed(&bare());
    assert_eq!(body["metadata"], json!({"source": null, "correlation_id": null, "causation_id": null}));
    assert_eq!((&body["payload"], &body["recorded_at"]), (&Value::Null, &json!("2023-11-14T22:13:20.000000Z")));
    let body = parsed(&compact());
    assert_eq!((&body["payload"], &body["payload_encoding"]), (&json!("AAF/gP8="), &json!("compact")));
}

#[test]
fn the_payload_is_embedded_as_stored() {
    let (event, announcement) = (full(), Announcement::from_event(&full()).unwrap());
    let body = std::str::from_utf8(&announcement.body).unwrap();
    let payload = std::str::from_utf8(&event.event.payload).unwrap();
    assert!(body.contains(&format!(r#","payload":{payload},"position":4711,"#)), "{body}");
    assert!(body.contains("zoë") && body.contains('🦀'), "characters are not escaped: {body}");
}

#[test]
fn an_empty_payload_becomes_null() {
    let mut event = bare();
    event.event.payload = "".into();
    assert_eq!(parsed(&event)["payload"], Value::Null);
}

/// A map would keep the last of two equal keys; a struct refuses them.
#[derive(serde::Deserialize)]
struct Body {
    metadata: Fields,
}

#[derive(serde::Deserialize)]
struct Fields {
    correlation_id: Uuid,
    causation_id: Uuid,
    #[serde(flatten)]
    rest: BTreeMap<String, String>,
}

#[test]
fn metadata_never_duplicates_a_key_of_the_envelope() {
    let mut event = full();
    let names = ["correlation_id", "causation_id", "payload", "event_id"];
    event.event.metadata.extra = names.map(|name| (name.to_owned(), "mine".to_owned())).into();
    let body: Body = serde_json::from_slice(&Announcement::from_event(&event).unwrap().body).unwrap();
    assert_eq!((body.metadata.correlation_id, body.metadata.causation_id), (id(2), id(3)));
    assert_eq!(body.metadata.rest.keys().collect::<Vec<_>>(), ["event_id", "payload", "source"]);
}

#[test]
fn a_large_body_is_compressed_and_marked() {
    let mut event = full();
    event.event.payload = format!(r#"{{"text": "{}"}}"#, "many words ".repeat(1_000)).into();
    let plain = Announcement::from_event(&event).unwrap();
    assert_eq!(plain.clone().compressed(plain.body.len()).unwrap(), plain, "the body is not over the threshold");
    let mut compressed = plain.clone().compressed(4 * 1024).unwrap();
    assert_eq!(compressed.content_encoding, Some("zstd"));
    assert_eq!(zstd::stream::decode_all(&compressed.body[..]).unwrap(), plain.body);
    assert_eq!(compressed.clone().compressed(0).unwrap(), compressed, "a compressed body is not compressed again");
    (compressed.body, compressed.content_encoding) = (plain.body.clone(), None);
    assert_eq!(compressed, plain, "nothing else differs");
}
