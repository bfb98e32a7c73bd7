//! D4. No payload reaches a log file.

use std::fmt::Write as _;
use std::sync::Mutex;

use retell::broker::envelope::Announcement;
use retell::broker::frame::Frame;
use retell::broker::rabbitmq::topology::Topology;
use retell::broker::rabbitmq::{RabbitMqBroker, RabbitMqOptions};
use retell::broker::{
    Announced, Announcer, Broker, DeadLetter, DeadLetters, Delivery, DeliveryTag, Publisher, SubscriptionMode,
};
use retell::store::{Fields, Snapshot, ViewRow};
use retell::testing::store::{event, stream};
use retell::{
    Append, Codec, DateTime, Event, EventId, EventType, ExpectedVersion, NewEvent, Position, ProjectionName,
    RecordedEvent, Version, ViewKey,
};
use tracing::Subscriber;
use tracing::field::{Field, Visit};

const SECRET: &str = "4111-1111";

/// The debug form of everything that holds an encoded event.
#[test]
fn d4_debug_forms_show_the_size_of_a_payload() {
    let new = event(format!("\"{SECRET}\""));
    let recorded =
        RecordedEvent::new(Position::new(1), stream("a"), Version::new(1), DateTime::UNIX_EPOCH, new.clone());
    let frame = Frame::split(std::slice::from_ref(&recorded), 1, 1).unwrap().remove(0);
    let delivery = Delivery::new(DeliveryTag::new(1), frame.body().clone());
    let append = Append::new(stream("a"), ExpectedVersion::Any, vec![new.clone()]);
    let bytes: Vec<_> = SECRET.bytes().map(|byte| byte.to_string()).collect();
    for text in [
        format!("{new:?}"),
        format!("{recorded:?}"),
        format!("{frame:?}"),
        format!("{delivery:?}"),
        format!("{append:?}"),
    ] {
        assert!(text.contains(" bytes") && !text.contains(SECRET) && !text.contains(&bytes.join(", ")), "{text}");
    }
}

#[test]
fn d4_debug_forms_of_states_show_their_size() {
    let json = format!("\"{SECRET}\"");
    let recorded =
        RecordedEvent::new(Position::new(1), stream("a"), Version::new(1), DateTime::UNIX_EPOCH, event(json.clone()));
    let snapshot = Snapshot::new(Version::new(1), recorded.event.id, 7, json.clone().into_bytes());
    let row = ViewRow::new(ViewKey::new("a").unwrap(), Some(json.clone()), Fields::new(), Position::new(1));
    let letter = DeadLetter::new(ProjectionName::new("sales").unwrap(), recorded.clone(), "failed".into(), 3);
    let bytes: Vec<_> = SECRET.bytes().map(|byte| byte.to_string()).collect();
    for text in [
        format!("{snapshot:?}"),
        format!("{row:?}"),
        format!("{letter:?}"),
        format!("{:?}", recorded.stored()),
        format!("{:?}", Announcement::from_event(&recorded).unwrap()),
        format!("{:#?}", Announcement::from_event(&recorded).unwrap()),
    ] {
        assert!(text.contains(" bytes") && !text.contains(SECRET) && !text.contains(&bytes.join(", ")), "{text}");
    }
}

#[derive(Event, Debug)]
#[event("card.noted")]
struct Noted {
    amount: u64,
}

/// The reason why a payload cannot be decoded names its type and place, and not its values.
#[test]
fn d4_error_of_a_payload_has_none_of_its_values() {
    for payload in [
        format!("{{\"amount\":\"{SECRET}\"}}"),
        format!("{{\"amount\":\"say \\\"{SECRET}\\\"\"}}"),
        "{\"amount\":-411111114111}".to_owned(),
        "{\"amount\":41111111.4111}".to_owned(),
        format!("{{\"amount\":[\"{SECRET}\"]}}"),
    ] {
        let stored = NewEvent::stored(
            EventId::generate(),
            EventType::new("card.noted").unwrap(),
            1,
            Codec::Json,
            payload.clone().into(),
        );
        let recorded = RecordedEvent::new(Position::new(1), stream("a"), Version::new(1), DateTime::UNIX_EPOCH, stored);
        let error = recorded.decode::<Noted>().unwrap_err();
        let text = format!("{error:#} {error:?}");
        assert!(!text.contains("4111") && text.contains(": invalid "), "{text}");
    }
}

/// Collects what the program and its dependencies log.
struct Capture;

static CAPTURED: Mutex<Vec<String>> = Mutex::new(Vec::new());

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        let _ = write!(self.0, " {field}={value:?}");
    }
}

impl Subscriber for Capture {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        // At TRACE, the client library lists the frames of its connection.
        *metadata.level() <= tracing::Level::DEBUG
    }

    fn new_span(&self, span: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        let mut text = Text(span.metadata().name().to_owned());
        span.record(&mut text);
        CAPTURED.lock().unwrap().push(text.0);
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, values: &tracing::span::Record<'_>) {
        let mut text = Text(String::new());
        values.record(&mut text);
        CAPTURED.lock().unwrap().push(text.0);
    }

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = Text(event.metadata().target().to_owned());
        event.record(&mut text);
        CAPTURED.lock().unwrap().push(text.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

/// Announces to a RabbitMQ on which no channel wants the events, receives frames, and writes a dead letter.
#[tokio::test(flavor = "multi_thread")]
async fn d4_no_payload_is_logged_on_the_way_through_rabbitmq() {
    tracing::subscriber::set_global_default(Capture).unwrap();
    let url = std::env::var("AMQP_URL").expect("AMQP_URL is not set: tests/run.sh starts a RabbitMQ");
    let topology = Topology::new().with_prefix(&format!("d4-{}.", uuid::Uuid::now_v7()));
    let options = RabbitMqOptions::new(&url).unwrap().with_topology(topology);
    let broker = RabbitMqBroker::new(options).unwrap();
    let recorded: Vec<_> = (1..=20)
        .map(|position| {
            let new = event(format!("{{\"card\":\"{SECRET}\"}}"));
            RecordedEvent::new(Position::new(position), stream("a"), Version::new(position), DateTime::UNIX_EPOCH, new)
        })
        .collect();
    let announced = broker.announce(&recorded).await.unwrap().await.unwrap();
    assert_eq!(announced, Announced::new(0), "not counted unless asked for");
    let sales = ProjectionName::new("sales").unwrap();
    let mut consumer = broker.subscribe(&sales, SubscriptionMode::Exclusive).await.unwrap();
    let frames = Frame::split(&recorded, 20, usize::MAX).unwrap();
    broker.publish(&frames).await.unwrap().await.unwrap();
    let last = consumer.next(100).await.unwrap().pop().unwrap();
    consumer.ack_through(last.tag).await.unwrap();
    broker.add(&DeadLetter::new(sales, recorded[0].clone(), "failed".into(), 3)).await.unwrap();
    drop(consumer);
    broker.close().await.unwrap();
    let captured = CAPTURED.lock().unwrap().clone();
    let bytes: Vec<_> = SECRET.bytes().map(|byte| byte.to_string()).collect();
    let leaks: Vec<_> =
        captured.iter().filter(|line| line.contains(SECRET) || line.contains(&bytes.join(", "))).collect();
    assert!(!captured.is_empty() && leaks.is_empty(), "{leaks:#?}");
}
