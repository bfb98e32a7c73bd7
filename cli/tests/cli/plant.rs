//! The planted situation: that of `operate`, and events with payloads.

use bytes::Bytes;
use retell::event::NewEvent;
use retell::store::{ProcessorKind, RegisteredProcessor, RegisteredShape};
use retell::{Append, Codec, CorrelationId, EventType, ExpectedVersion, Filter, Metadata, Uuid};

use crate::planted::{self, Log, Models, id, name, stream, then};

fn shape(event_type: &str, version: u32, codec: Codec, shape: &str, minutes: u64) -> RegisteredShape {
    let first_seen = then() + std::time::Duration::from_mins(minutes);
    RegisteredShape::new(EventType::new(event_type).unwrap(), version, codec, shape, first_seen, "shop")
}

async fn weigh(log: &impl Log, position: u64, event_type: &str, codec: Codec, payload: &'static [u8]) {
    let event_type = EventType::new(event_type).unwrap();
    let event = NewEvent::stored(id(position), event_type, 1, codec, Bytes::from_static(payload));
    log.append(Append::new(stream("scale", "1"), ExpectedVersion::Any, vec![event])).await.unwrap();
}

/// Twelve events; those of `scale/1` have payloads of every kind. A view and a process are registered as such.
pub(crate) async fn everything(log: &impl Log, models: &impl Models) {
    planted::situation(log, models).await;
    let kinds =
        [("orders", ProcessorKind::View), ("orders@2", ProcessorKind::View), ("shipping", ProcessorKind::Process)];
    for (processor, kind) in kinds {
        let own = RegisteredProcessor::new(kind, Filter::all(), then(), "shop");
        models.register_processor(&name(processor), &own).await.unwrap();
    }
    log.register_shapes(&[
        shape("order.placed", 1, Codec::Json, "{customer: text}", 0),
        shape("order.placed", 1, Codec::Json, "{customer: text, note: text?}", 1),
        shape("scale.weighed", 1, Codec::Compact, "{grams: u32}", 2),
        shape("scale.noted", 1, Codec::Json, "{note: text, tags: [text]}", 3),
    ])
    .await
    .unwrap();

    let mut metadata = Metadata::new().with_source("shop").with_entry("tenant", "acme");
    metadata.correlation_id = Some(CorrelationId::from(Uuid::from_u128(77)));
    metadata.causation_id = Some(id(6));
    let noted = EventType::new("scale.noted").unwrap();
    let first = NewEvent::stored(id(7), noted, 1, Codec::Json, r#"{"note": "full", "tags": ["a", "b"]}"#.into());
    let first = first.with_metadata(metadata);
    log.append(Append::new(stream("scale", "1"), ExpectedVersion::Any, vec![first])).await.unwrap();
    // The number 1200 as postcard writes it.
    weigh(log, 8, "scale.weighed", Codec::Compact, &[0xb0, 0x09]).await;
    weigh(log, 9, "scale.sealed", Codec::Compact, &[3, b'w', b'a', b'x']).await;
    weigh(log, 10, "scale.noted", Codec::Json, b"4111 is no JSON").await;
    weigh(log, 11, "scale.noted", Codec::Json, &[b'"', 0xff, 0x1b, b'"']).await;
    weigh(log, 12, "scale.noted", Codec::Json, br#"{"note": "empty", "tags": ["a"], "left": 0}"#).await;
    // A server gives positions when the log is read.
    assert_eq!(log.head().await.unwrap().get(), 12);
}
