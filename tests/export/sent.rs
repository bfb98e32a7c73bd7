//! Messages as a client without the library gets them from a real RabbitMQ, compared with the AsyncAPI document. Needs `AMQP_URL`.

use std::collections::BTreeSet;
use std::env;
use std::slice::from_ref;
use std::time::Duration;

use lapin::message::BasicGetMessage;
use lapin::options::{BasicGetOptions, BasicPublishOptions};
use lapin::types::AMQPValue;
use lapin::{BasicProperties, Connection, ConnectionProperties};
use retell::broker::rabbitmq::topology::{Channel, Topology};
use retell::broker::rabbitmq::{RabbitMqBroker, RabbitMqOptions};
use retell::broker::{Broker, SubscriptionMode};
use retell::event::{Metadata, NewEvent};
use retell::id::CorrelationId;
use retell::registry::asyncapi::AsyncApi;
use retell::store::Append;
use retell::trace::TraceContext;
use retell::worker::{ParkingOptions, WorkerOptions};
use retell::{
    BoxError, DateTime, Envelope, Event, EventStore, ExpectedVersion, MemoryReadModel, MemoryStore, Projection,
    ProjectionName, Relay, StreamId, Uuid, Worker, async_trait,
};
use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use crate::asyncapi::schema;
use crate::domain::{Line, OrderEvent, Payment, ScaleEvent, lock};
use crate::workers::while_running;

const EVENTS: &str = "order.events";

/// A projection that cannot apply any order.
struct Failing;

#[async_trait]
impl Projection for Failing {
    const NAME: &'static str = "failing";
    type Event = OrderEvent;
    type Tx = ();

    async fn apply(&self, (): &mut (), _: Envelope<OrderEvent>) -> Result<(), BoxError> {
        Err("no table \"orders\"".into())
    }
}

fn name(projection: &str) -> ProjectionName {
    ProjectionName::new(projection).unwrap()
}

/// A RabbitMQ, its topology under names that no other test uses, and the document of both.
struct Setup {
    topology: Topology,
    broker: RabbitMqBroker,
    document: Value,
    client: lapin::Channel,
}

impl Setup {
    async fn new() -> Self {
        let url = env::var("AMQP_URL").expect("AMQP_URL is not set: tests/run.sh starts a RabbitMQ");
        let channel = Channel::new(EVENTS, ["order.*", "scale.*"]);
        let topology = Topology::new().with_channel(channel).with_prefix(&format!("sent-{}.", Uuid::new_v4()));
        let options = RabbitMqOptions::new(&url).unwrap().with_name("tests").with_topology(topology.clone());
        let broker = RabbitMqBroker::new(options.with_compressed_envelopes(10_000)).unwrap();
        broker.declare().await.unwrap();
        let document = AsyncApi::new("Shop", "1.0.0", topology.clone())
            .with_events(lock())
            .with_projection(name("failing"), SubscriptionMode::Exclusive)
            .with_projection(name("stock"), SubscriptionMode::Competing)
            .document()
            .unwrap();
        let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
        Self { topology, broker, document, client: connection.create_channel().await.unwrap() }
    }

    /// Waits for a message in a queue, and takes it.
    async fn get(&self, queue: &str) -> BasicGetMessage {
        let wait = async {
            loop {
                let options = BasicGetOptions { no_ack: true };
                if let Some(message) = self.client.basic_get(queue.into(), options).await.unwrap() {
                    return message;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), wait).await.expect("a message arrives")
    }

    /// Compares the headers and properties of a message with the document, and returns the content of the document.
    fn assert_described(&self, name: &str, channel: &str, sent: &BasicGetMessage) -> &Value {
        let message = &self.document["components"]["messages"][name];
        let headers = headers(&sent.properties);
        let described = schema(&self.document, &format!("/components/messages/{name}/headers"));
        described.validate(&headers).unwrap_or_else(|error| panic!("{name}: {error} in {headers:#}"));
        let properties = properties(&sent.properties);
        let described = message["x-retell"]["properties"].as_object().unwrap();
        assert_eq!(properties["content_type"], message["contentType"], "{name}");
        for property in ["content_type", "delivery_mode"] {
            assert_eq!(properties[property], described[property], "{name}");
        }
        let may_be_missing =
            |property: &&String| *property == "content_encoding" && !properties.contains_key(*property);
        let described: BTreeSet<_> = described.keys().filter(|property| !may_be_missing(property)).collect();
        assert_eq!(properties.keys().collect::<BTreeSet<_>>(), described, "{name}");
        let from = &self.document["channels"][channel];
        assert!(from["messages"][name].is_object(), "{channel} has {name}");
        assert_eq!(from["bindings"]["amqp"]["exchange"]["name"], sent.exchange.as_str(), "{name}");
        assert!(from["address"].is_null() || from["address"] == sent.routing_key.as_str(), "{name}");
        message
    }

    fn assert_payload(&self, name: &str, body: &Value) {
        let payload = schema(&self.document, &format!("/components/messages/{name}/payload/schema"));
        payload.validate(body).unwrap_or_else(|error| panic!("{name}: {error} in {body:#}"));
    }
}

fn headers(properties: &BasicProperties) -> Value {
    let json = |value: &AMQPValue| match value {
        AMQPValue::LongString(text) => json!(text.to_string()),
        AMQPValue::LongLongInt(number) => json!(number),
        other => panic!("a header of another type: {other:?}"),
    };
    let headers = properties.headers().as_ref().unwrap().inner();
    Value::Object(headers.iter().map(|(name, value)| (name.to_string(), json(value))).collect())
}

/// Returns the properties that a message has, besides its headers.
fn properties(properties: &BasicProperties) -> Map<String, Value> {
    let text = |text: &Option<lapin::types::ShortString>| text.as_ref().map(|text| json!(text.as_str()));
    let all = [
        ("content_type", text(properties.content_type())),
        ("content_encoding", text(properties.content_encoding())),
        ("delivery_mode", properties.delivery_mode().map(|mode| json!(mode))),
        ("priority", properties.priority().map(|priority| json!(priority))),
        ("correlation_id", text(properties.correlation_id())),
        ("reply_to", text(properties.reply_to())),
        ("expiration", text(properties.expiration())),
        ("message_id", text(properties.message_id())),
        ("timestamp", properties.timestamp().map(|timestamp| json!(timestamp))),
        ("type", text(properties.kind())),
        ("user_id", text(properties.user_id())),
        ("app_id", text(properties.app_id())),
    ];
    all.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

fn placed(note: &str) -> OrderEvent {
    OrderEvent::Placed {
        customer: Uuid::from_u128(1),
        lines: vec![Line { sku: "tea".into(), count: 2 }],
        at: Some(DateTime::UNIX_EPOCH),
        note: Some(note.into()),
    }
}

fn with_metadata<E: Event>(event: &E) -> NewEvent {
    let metadata = Metadata::new().with_source("checkout").with_correlation(CorrelationId::from(Uuid::from_u128(9)));
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let context = TraceContext::parse(trace, Some("rojo=00f067aa0ba902b7")).unwrap();
    NewEvent::new(event).unwrap().with_metadata(metadata.with_trace_context(&context).with_entry("tenant", "acme"))
}

/// Appends one event of each form, each to a stream of its own.
async fn log() -> MemoryStore {
    let store = MemoryStore::new();
    let events = [
        with_metadata(&placed("now")),
        NewEvent::new(&OrderEvent::Paid(Payment::Card { digits: [1, 2, 3, 4] })).unwrap(),
        NewEvent::new(&placed(&"x".repeat(20_000))).unwrap(),
        with_metadata(&ScaleEvent::Weighed { grams: 1.5, of: ("tea".into(), 1) }),
    ];
    for (number, event) in events.into_iter().enumerate() {
        let stream = StreamId::parse("order", &format!("ü {number}")).unwrap();
        store.append(Append::new(stream, ExpectedVersion::NoStream, vec![event])).await.unwrap();
    }
    store
}

/// Runs a relay until `done` completes.
async fn relaying<T>(relay: Relay, done: impl Future<Output = T>) -> T {
    let stop = CancellationToken::new();
    let (result, done) = tokio::join!(relay.run(stop.clone()), async {
        let done = done.await;
        stop.cancel();
        done
    });
    result.unwrap();
    done
}

#[tokio::test]
async fn sent_announcements_are_as_the_document_says() {
    let setup = Setup::new().await;
    let queue = setup.topology.channels[0].queue.clone();
    let store = log().await;
    let relay = Relay::announcing(store.clone(), setup.broker.clone()).with_checkpoint(store, "announcements");
    let sent = relaying(relay, async {
        let mut sent = Vec::new();
        for _ in 0..4 {
            sent.push(setup.get(&queue).await);
        }
        sent
    })
    .await;
    let names = ["order.placed.v2", "order.paid.v1", "order.placed.v2", "scale.weighed.v1.compact"];
    for (name, sent) in names.into_iter().zip(&sent) {
        let channel = format!("event.{}", sent.routing_key);
        let message = setup.assert_described(name, &channel, sent);
        let properties = properties(&sent.properties);
        assert_eq!(properties["type"], message["bindings"]["amqp"]["messageType"]);
        let body = match properties.get("content_encoding") {
            Some(encoding) => {
                assert_eq!(encoding, "zstd");
                zstd::decode_all(&*sent.data).unwrap()
            }
            None => sent.data.clone(),
        };
        let body: Value = serde_json::from_slice(&body).unwrap();
        setup.assert_payload(name, &body);
        assert_eq!((&properties["message_id"], &properties["timestamp"]), (&body["event_id"], &body["timestamp"]));
        let headers = headers(&sent.properties);
        for field in ["aggregate_type", "aggregate_id", "version", "position", "schema_version"] {
            assert_eq!(headers[field], body[field], "{name}: {field}");
        }
        let described = format!("queue.{queue}");
        assert!(setup.document["channels"][described]["messages"][name].is_object(), "{name} is in {queue}");
    }
    let has = |sent: &BasicGetMessage, header: &str| headers(&sent.properties).get(header).is_some();
    for header in ["traceparent", "tracestate"] {
        assert_eq!(sent.iter().map(|sent| has(sent, header)).collect::<Vec<_>>(), [true, false, false, true]);
    }
    assert!(sent[2].properties.content_encoding().is_some(), "a large envelope is compressed");
}

#[tokio::test]
async fn sent_frames_are_as_the_document_says() {
    let setup = Setup::new().await;
    let queue = setup.topology.queue(&name("stock"), SubscriptionMode::Competing).unwrap();
    drop(setup.broker.subscribe(&name("stock"), SubscriptionMode::Competing).await.unwrap());
    let store = log().await;
    let relay = Relay::new(store.clone(), setup.broker.clone()).with_checkpoint(store, "frames");
    let frame = relaying(relay, setup.get(&queue)).await;
    let message = setup.assert_described("retell.frame", "frames", &frame);
    assert!(message.get("payload").is_none(), "a frame has no schema");
    assert_eq!(headers(&frame.properties)["first_position"], 1);
    let in_queue = &setup.document["channels"][format!("queue.{queue}")]["messages"];
    assert!(in_queue["retell.frame"].is_object(), "{in_queue}");
}

#[tokio::test]
async fn sent_dead_letters_are_as_the_document_says() {
    let setup = Setup::new().await;
    let models = MemoryReadModel::with_value(());
    let brief = Duration::from_millis(5);
    let parking = ParkingOptions::new().with_delays(brief, brief).with_retries(1).with_outage_after(100);
    let options =
        WorkerOptions::new().with_sweep(brief).with_longest_delay(brief).with_retries(1).with_parking(parking);
    let store = log().await;
    let worker = Worker::new(Failing, store, models)
        .with_options(options)
        .with_broker(setup.broker.clone())
        .with_dead_letters(setup.broker.clone());
    let dead = setup.topology.dead_letter_queue.queue.clone();
    let queue = setup.topology.queue(&name("failing"), SubscriptionMode::Exclusive).unwrap();
    // Declares the queue.
    drop(setup.broker.subscribe(&name("failing"), SubscriptionMode::Exclusive).await.unwrap());
    let (letters, joke) = while_running(from_ref(&worker), async {
        let mut letters = Vec::new();
        for _ in 0..3 {
            letters.push(setup.get(&dead).await);
        }
        let options = BasicPublishOptions::default();
        setup
            .client
            .basic_publish("".into(), queue.as_str().into(), options, b"\xff", BasicProperties::default())
            .await
            .unwrap();
        (letters, setup.get(&dead).await)
    })
    .await;
    for letter in &letters {
        let message = setup.assert_described("retell.dead-letter", "dead-letters", letter);
        assert!(message["x-retell"]["properties"].get("content_encoding").is_none());
        let body: Value = serde_json::from_slice(&letter.data).expect("a dead letter is not compressed");
        setup.assert_payload("retell.dead-letter", &body);
        let headers = headers(&letter.properties);
        assert_eq!((&headers["projection"], &headers["attempts"]), (&json!("failing"), &json!(2)));
        assert!(headers["reason"].as_str().unwrap().contains("no table"), "{headers}");
        assert_eq!(body["event_type"], letter.routing_key.as_str());
    }
    let message = setup.assert_described("retell.unreadable", "dead-letters", &joke);
    assert!(message.get("payload").is_none());
    assert_eq!((&*joke.data, &headers(&joke.properties)["queue"]), (&b"\xff"[..], &json!(queue)));
}
