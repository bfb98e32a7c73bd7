//! A log with everything that a copy could lose.

use std::num::NonZeroU64;

use retell::event::NewEvent;
use retell::operate::SealOptions;
use retell::store::{ProcessorKind, RegisteredProcessor, RegisteredShape};
use retell::{
    Append, Appended, Claim, Codec, CorrelationId, DateTime, EventId, EventType, ExpectedVersion, Filter,
    IdempotencyKey, Metadata, StreamId, Uuid,
};

use crate::home::Home;

/// Payloads, each with its codec.
fn payloads() -> Vec<(Codec, Vec<u8>)> {
    let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
    let json = [
        "{\"a\":1}",
        " {\"a\": 1} ",
        "{\n\"a\":\r\n1}",
        "null",
        "\"null\"",
        "17",
        "{\"n\":123456789012345678901234567890.10,\"e\":1E400,\"m\":-0}",
        "{\"a\":1,\"a\":2}",
        "{\"emoji\":\"🦀\",\"low\":\"\\ud83e\",\"line\":\"\u{2028}\",\"nul\":\"\\u0000\"}",
        "no JSON",
        "",
        "{\"payload\":\"\\\"},\\n{\\\"event\\\":\"}",
    ];
    let mut payloads: Vec<_> = json.iter().map(|text| (Codec::Json, text.as_bytes().to_vec())).collect();
    payloads.push((Codec::Json, deep.into_bytes()));
    payloads.push((Codec::Json, vec![b'"', 0xff, 0xfe, b'"']));
    payloads.push((Codec::Json, b"{\"a\":\"\0\"}".to_vec()));
    payloads.push((Codec::Compact, Vec::new()));
    payloads.push((Codec::Compact, b"{\"a\":1}".to_vec()));
    payloads.push((Codec::Compact, (0..=255).collect()));
    // Latin-1, and the two forms of one letter.
    payloads.push((Codec::Compact, vec![0xe9]));
    payloads.push((Codec::Json, "\"é e\u{301} Ã©\"".into()));
    payloads.push((Codec::Json, format!("\"{}\"", "x".repeat(1024 * 1024)).into_bytes()));
    payloads.push((
        Codec::Compact,
        (0..10 * 1024 * 1024_u32).map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0]).collect(),
    ));
    payloads
}

/// Names of aggregates: the longest ones, and some that differ in little.
fn names() -> Vec<String> {
    let longest = "🦀".repeat(63) + "abc";
    assert_eq!(longest.len(), 255);
    ["é", "e\u{301}", "Ã©", "E", "e", "a b", "a\tb\nc", "x'\"\\;--", " ", "trailing ", "ß", "ss"]
        .map(str::to_owned)
        .into_iter()
        .chain([longest])
        .collect()
}

fn metadata(number: u64) -> Metadata {
    let mut metadata = Metadata::new();
    if number.is_multiple_of(2) {
        metadata = metadata.with_source("shop \u{1}\"\\ 🦀").with_entry("é\n", "\u{7f}\u{2028}").with_entry("", "");
    }
    if number.is_multiple_of(3) {
        metadata.correlation_id = Some(CorrelationId::from(Uuid::from_u128(number.into())));
    }
    if number.is_multiple_of(5) {
        metadata.causation_id = Some(EventId::from(Uuid::from_u128(1)));
    }
    metadata
}

pub(crate) fn stream(kind: &str, id: &str) -> StreamId {
    StreamId::parse(kind, id).unwrap()
}

pub(crate) fn event(codec: Codec, payload: Vec<u8>, number: u64) -> NewEvent {
    let event_type = EventType::new(if number.is_multiple_of(7) { "event.🦀" } else { "note.made" }).unwrap();
    let version = if number == 1 { u32::MAX } else { 1 };
    let id = EventId::from(Uuid::from_u128(u128::from(number) << 64 | 1));
    NewEvent::stored(id, event_type, version, codec, payload.into()).with_metadata(metadata(number))
}

pub(crate) fn small(number: u64) -> NewEvent {
    event(Codec::Json, format!("{{\"n\":{number}}}").into_bytes(), number)
}

pub(crate) fn key(text: &str) -> IdempotencyKey {
    IdempotencyKey::new(text).unwrap()
}

pub(crate) fn reserve(value: &str) -> Claim {
    Claim::reserve("user.email 🦀", value).unwrap()
}

/// An append to two streams under a key, which a test repeats after a copy.
pub(crate) fn keyed() -> Append {
    Append::new(stream("order", "17"), ExpectedVersion::NoStream, vec![small(1_001), small(1_002)])
        .with_claims([reserve("ann@example.com"), reserve("gone")])
        .with_stream(stream("account", "ann"), ExpectedVersion::NoStream, vec![small(1_003)])
        .with_key(key("key 🦀 \u{1}"))
}

/// Fills a log: commits of several events and of several appends, keys, claims that moved and were released, seals, shapes and processors.
/// Returns the outcome of [`keyed`].
pub(crate) async fn fill(home: &Home) -> Appended {
    let log = home.log();
    let mut number = 1;
    for (codec, payload) in payloads() {
        let append = Append::new(stream("note", "1"), ExpectedVersion::Any, vec![event(codec, payload, number)]);
        log.append(append).await.unwrap();
        number += 1;
    }
    log.head().await.unwrap();
    for name in names() {
        let events = vec![small(number), small(number + 1), small(number + 2)];
        let append = Append::new(stream(&name, &name), ExpectedVersion::NoStream, events).with_key(key(&name));
        log.append(append.with_claims([reserve(&name)])).await.unwrap();
        number += 3;
    }
    let appended = log.append(keyed()).await.unwrap();
    let moved = Append::new(stream("order", "17"), ExpectedVersion::Any, vec![small(1_010)]);
    log.append(moved.with_claims([Claim::release("user.email 🦀", "gone").unwrap()])).await.unwrap();
    // Appends that share commits, some under keys.
    let together = (2_000..2_100).map(|number| {
        let id = format!("c{}", number % 10);
        let append =
            Append::new(stream("counter", &id), ExpectedVersion::Any, vec![small(number), small(number + 1_000)]);
        log.append(if number % 3 == 0 { append.with_key(key(&format!("k{number}"))) } else { append })
    });
    for appended in futures::future::join_all(together).await {
        appended.unwrap();
    }
    log.head().await.unwrap();
    home.seal(SealOptions::new().with_events(NonZeroU64::new(50).unwrap())).await;
    log.append(Append::new(stream("order", "18"), ExpectedVersion::NoStream, vec![small(5_000)])).await.unwrap();
    let then = |micros: i64| DateTime::from_timestamp_micros(1_764_000_000_000_000 + micros).unwrap();
    let noted = || EventType::new("note.made").unwrap();
    log.register_shapes(&[
        RegisteredShape::new(noted(), 1, Codec::Json, "{n: u64}", then(1), "shop"),
        RegisteredShape::new(noted(), 1, Codec::Compact, "{n: u64}", then(999_999), "shop 🦀"),
    ])
    .await
    .unwrap();
    let filter = Filter::all().with_event_types([noted()]);
    home.register("notes", &RegisteredProcessor::new(ProcessorKind::Projection, Filter::all(), then(2), "shop")).await;
    home.register("notes", &RegisteredProcessor::new(ProcessorKind::Projection, filter, then(3), "shop")).await;
    appended
}
