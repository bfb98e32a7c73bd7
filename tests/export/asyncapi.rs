//! AsyncAPI documents against the official schema, the messages that are sent, and the queues that are declared.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use jsonschema::Validator;
use retell::broker::SubscriptionMode;
use retell::broker::envelope::{Announcement, HeaderValue};
use retell::broker::rabbitmq::topology::{Channel, Topology};
use retell::event::{Metadata, NewEvent, RecordedEvent};
use retell::id::CorrelationId;
use retell::registry::Lock;
use retell::registry::asyncapi::AsyncApi;
use retell::{DateTime, ErrorKind, Event, Position, ProjectionName, StreamId, Uuid, Version};
use serde_json::{Map, Value, json};

use crate::assert_golden;
use crate::domain::{Line, OrderEvent, Payment, ScaleEvent, lock};

fn topology() -> Topology {
    let orders = Channel::new("order.events", ["order.*"]);
    let all = Channel::new("all/events ü", ["#"]).with_kind("quorum").with_max_length(10).with_message_ttl_ms(60_000);
    Topology::new().with_channel(orders).with_channel(all).with_prefix("shop.")
}

fn builder() -> AsyncApi {
    let projection = |name| ProjectionName::new(name).unwrap();
    AsyncApi::new("Shop", "1.2.0", topology())
        .with_events(lock())
        .with_projection(projection("sales"), SubscriptionMode::Exclusive)
        .with_projection(projection("stock"), SubscriptionMode::Competing)
}

fn document() -> Value {
    builder().document().unwrap()
}

/// The schema that the AsyncAPI Initiative publishes for its documents.
fn official() -> Validator {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/asyncapi/3.0.0.json");
    let schema: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    jsonschema::options().build(&schema).unwrap()
}

#[test]
fn the_official_schema_accepts_the_document() {
    let official = official();
    let accepted = |document: &Value| official.validate(document).map_err(|error| error.to_string());
    assert_eq!(accepted(&document()), Ok(()));
    assert_eq!(accepted(&AsyncApi::new("Empty", "0", Topology::new()).document().unwrap()), Ok(()));

    let changes: [(&str, Value); 5] = [
        ("/asyncapi", json!("2.6.0")),
        ("/info/title", json!(7)),
        ("/operations/announce.order.paid/action", json!("publish")),
        ("/channels/frames/bindings/amqp/is", json!("exchange")),
        ("/components/schemas/retell.headers/type", json!("record")),
    ];
    for (place, value) in changes {
        let mut damaged = document();
        *damaged.pointer_mut(place).unwrap() = value;
        assert!(accepted(&damaged).is_err(), "{place} is not checked");
    }
}

/// Collects the references of a document.
fn references<'d>(value: &'d Value, found: &mut BTreeSet<&'d str>) {
    match value {
        Value::Array(items) => items.iter().for_each(|item| references(item, found)),
        Value::Object(fields) => {
            found.extend(fields.get("$ref").and_then(Value::as_str));
            fields.values().for_each(|field| references(field, found));
        }
        _ => {}
    }
}

#[test]
fn each_reference_has_its_target() {
    let document = document();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    assert!(found.len() > 20, "{found:?}");
    for reference in found {
        let pointer = reference.strip_prefix('#').unwrap().replace("%20", " ").replace("%C3%BC", "ü");
        assert!(document.pointer(&pointer).is_some(), "{reference} refers to nothing");
    }
}

/// Returns a schema of the document that refers to the others.
pub(crate) fn schema(document: &Value, pointer: &str) -> Validator {
    let mut whole =
        json!({ "$schema": "http://json-schema.org/draft-07/schema#", "components": document["components"] });
    whole["allOf"] = json!([document.pointer(pointer).unwrap_or_else(|| panic!("nothing at {pointer}"))]);
    jsonschema::options().should_validate_formats(true).build(&whole).unwrap()
}

fn recorded<E: Event>(event: &E) -> RecordedEvent {
    let metadata =
        Metadata::new().with_correlation(CorrelationId::from(Uuid::from_u128(9))).with_entry("tenant", "acme");
    let stream = StreamId::parse("order", "7").unwrap();
    let event = NewEvent::new(event).unwrap().with_metadata(metadata);
    RecordedEvent::new(Position::new(5), stream, Version::new(2), DateTime::UNIX_EPOCH, event)
}

fn headers(message: &Announcement) -> Value {
    let value = |value: &HeaderValue| match value {
        HeaderValue::Text(text) => json!(text),
        HeaderValue::Number(number) => json!(number),
    };
    message.headers.iter().map(|(name, each)| ((*name).to_owned(), value(each))).collect::<Map<_, _>>().into()
}

fn body(message: &Announcement) -> Value {
    serde_json::from_slice(&message.body).unwrap()
}

#[test]
fn announcements_are_as_the_document_says() {
    let document = document();
    let placed = |note| OrderEvent::Placed {
        customer: Uuid::from_u128(1),
        lines: vec![Line { sku: "tea".into(), count: 2 }],
        at: Some(DateTime::UNIX_EPOCH),
        note,
    };
    for (name, event) in [
        ("order.placed.v2", recorded(&placed(None))),
        ("order.placed.v2", recorded(&placed(Some("now".into())))),
        ("order.paid.v1", recorded(&OrderEvent::Paid(Payment::Cash))),
        ("order.closed.v1", recorded(&OrderEvent::Closed)),
        ("scale.weighed.v1.compact", recorded(&ScaleEvent::Weighed { grams: 1.5, of: ("tea".into(), 1) })),
    ] {
        let whole = Announcement::from_event(&event).unwrap();
        let message = format!("/components/messages/{name}");
        let payload = schema(&document, &format!("{message}/payload/schema"));
        let sent = body(&whole);
        assert!(payload.is_valid(&sent), "{name}: {sent:#}");
        assert!(payload.is_valid(&body(&Announcement::without_payload(&event).unwrap())), "{name}");
        assert!(schema(&document, &format!("{message}/headers")).is_valid(&headers(&whole)), "{name}");
        let of_message = &document.pointer(&message).unwrap()["bindings"]["amqp"]["messageType"];
        assert_eq!(*of_message, whole.event_type.as_str());
        let channel = &document["channels"][format!("event.{}", whole.event_type)];
        assert_eq!(channel["address"], whole.routing_key.as_str());
        assert!(channel["messages"][name].is_object());

        for (field, value) in [
            ("event_type", json!("order.other")),
            ("schema_version", json!(9)),
            ("event_id", json!("7")),
            ("payload", json!([7])),
            ("payload_encoding", json!("base32")),
            ("position", json!(0)),
            ("metadata", json!({})),
        ] {
            let mut damaged = sent.clone();
            damaged[field] = value;
            assert!(!payload.is_valid(&damaged), "{name}: {field}");
        }
        let mut damaged = headers(&whole);
        damaged["position"] = json!("5");
        assert!(!schema(&document, &format!("{message}/headers")).is_valid(&damaged));
    }
}

/// An event that an earlier release has stored under the same version.
#[test]
fn announcements_of_earlier_releases_are_valid() {
    let document = document();
    let payload = schema(&document, "/components/messages/order.placed.v2/payload/schema");
    let mut sent = body(&Announcement::from_event(&recorded(&OrderEvent::Closed)).unwrap());
    sent["event_type"] = json!("order.placed");
    sent["schema_version"] = json!(2);
    sent["payload"] = json!({"customer": Uuid::from_u128(1), "lines": [{"sku": "tea", "quantity": 2}], "old": true});
    assert!(payload.is_valid(&sent), "{sent:#}");
    sent["payload"] = json!({"lines": []});
    assert!(!payload.is_valid(&sent));
}

#[test]
fn queues_have_the_messages_and_arguments_of_the_topology() {
    let document = document();
    let queue = |name: &str| &document["channels"][format!("queue.shop.{name}")];
    let messages = |name: &str| queue(name)["messages"].as_object().unwrap().len();
    assert_eq!([messages("order.events"), messages("all/events ü"), messages("projection.sales")], [5, 6, 1]);
    assert_eq!(
        queue("order.events")["x-retell"],
        json!({
            "arguments": {"x-message-ttl": 604_800_000, "x-max-length": 1_000_000},
            "bindings": [{"exchange": "shop.event.exchange", "routingKey": "order.*"}],
        })
    );
    assert_eq!(
        queue("all/events ü")["x-retell"]["arguments"],
        json!({"x-message-ttl": 60_000, "x-max-length": 10, "x-queue-type": "quorum"})
    );
    let shared = json!({"x-queue-type": "quorum", "x-delivery-limit": 20, "x-max-length": 100_000});
    assert_eq!(queue("projection.stock.shared")["x-retell"]["arguments"], shared);
    let mut alone = shared;
    alone["x-single-active-consumer"] = json!(true);
    assert_eq!(queue("projection.sales")["x-retell"]["arguments"], alone);
    // RabbitMQ itself sends nothing there: the queue has no such argument.
    assert_eq!(queue("projection.sales")["x-retell"]["unreadableTo"], "shop.event.dead");
    assert_eq!(queue("dead.events")["x-retell"]["bindings"][0]["exchange"], "shop.event.dead");
}

#[test]
fn bad_input_is_refused() {
    let kind = |api: AsyncApi| api.document().map(drop).unwrap_err().to_string();
    let lock: Lock = "[order/placed 1 json]\n".parse().unwrap();
    let invalid = AsyncApi::new("Shop", "1", Topology::new()).with_events(lock);
    assert!(matches!(invalid.document().unwrap_err().kind(), ErrorKind::Invalid(_)));
    assert!(kind(invalid).contains("no event with the name \"order/placed\""));

    let mut topology = Topology::new();
    topology.log_exchange.kind = "topic".into();
    let invalid = AsyncApi::new("Shop", "1", topology);
    assert!(matches!(invalid.document().unwrap_err().kind(), ErrorKind::Topology(_)));

    let long = ProjectionName::new("x".repeat(250)).unwrap();
    let invalid = builder().with_projection(long, SubscriptionMode::Exclusive);
    assert!(matches!(invalid.document().unwrap_err().kind(), ErrorKind::Topology(_)));
}

#[test]
fn the_exported_document_changes_only_in_a_review() {
    assert_golden("asyncapi.json", &document());
}
