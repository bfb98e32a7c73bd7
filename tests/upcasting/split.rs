//! Stored events that have become several.

use std::sync::{Arc, Mutex};

use retell::store::{EventReaderExt, EventStoreExt, Outcome};
use retell::{
    Aggregate, AggregateId, App, Apply, BoxError, CancellationToken, CommandFailure, Context, Effects, Envelope,
    ErrorKind, Event, EventUnion, ExpectedVersion, Handle, IdempotencyKey, MemoryReadModel, MemoryStore, Process,
    Reaction, Rebuild, Repository, StartFrom, Value, Version, View, Views, Worker, async_trait,
};

use crate::readers::assert_reads;
use crate::{Stored, append, order};

/// Version 1 of `order.placed` had the payment, and version 2 has not. `order.checked_out` has no variant any more.
#[derive(Debug, Event)]
enum OrderEvent {
    #[event("order.placed", version = 3, upcast(split(placed_v1), placed_v2))]
    Placed { customer: String, note: String },
    #[event("order.paid", version = 2, upcast(split(checked_out)), renamed_from = "order.checked_out")]
    Paid { cents: u64 },
}

#[derive(Value)]
struct PlacedV1 {
    customer: String,
    cents: Option<u64>,
}

#[derive(Value)]
struct PlacedV2 {
    customer: String,
}

fn placed_v1(PlacedV1 { customer, cents }: PlacedV1) -> Vec<OrderEvent> {
    let placed = OrderEvent::Placed { customer, note: String::new() };
    let paid = cents.map(|cents| OrderEvent::Paid { cents });
    std::iter::once(placed).chain(paid).collect()
}

fn placed_v2(PlacedV2 { customer }: PlacedV2) -> OrderEvent {
    OrderEvent::Placed { customer, note: String::new() }
}

fn checked_out(cents: u64) -> [OrderEvent; 2] {
    [OrderEvent::Paid { cents }, OrderEvent::Paid { cents: 0 }]
}

const STORED: [Stored; 4] = [
    Stored("order.placed", 1, r#"{"customer":"ada","cents":5}"#),
    Stored("order.placed", 1, r#"{"customer":"bob"}"#),
    Stored("order.placed", 2, r#"{"customer":"eve"}"#),
    Stored("order.checked_out", 1, "7"),
];

const EXPECTED: [&str; 6] = [
    "Placed { customer: \"ada\", note: \"\" }",
    "Paid { cents: 5 }",
    "Placed { customer: \"bob\", note: \"\" }",
    "Placed { customer: \"eve\", note: \"\" }",
    "Paid { cents: 7 }",
    "Paid { cents: 0 }",
];

#[tokio::test(flavor = "multi_thread")]
async fn every_reader_gets_all_events_of_a_split_in_order() {
    assert_reads::<OrderEvent>(&STORED, &EXPECTED).await;
}

#[derive(Debug, EventUnion)]
enum ShopEvent {
    Order(OrderEvent),
}

#[tokio::test(flavor = "multi_thread")]
async fn a_union_splits_what_its_members_split() {
    let expected: Vec<_> = EXPECTED.iter().map(|text| format!("Order({text})")).collect();
    let expected: Vec<_> = expected.iter().map(String::as_str).collect();
    assert_reads::<ShopEvent>(&STORED, &expected).await;
}

#[tokio::test]
async fn parts_share_their_place_and_have_ids_of_their_own() {
    let log = MemoryStore::new();
    append(&log, "1", &STORED[..1]).await;
    let read = log.read_stream(&order("1"), Version::ZERO, 1).await.unwrap();
    let parts = read[0].decode_all::<OrderEvent>().unwrap();
    let again = read[0].decode_all::<OrderEvent>().unwrap();
    let [placed, paid] = &parts[..] else { panic!("{parts:?}") };
    assert_eq!((placed.position, placed.version, placed.id), (paid.position, paid.version, paid.id));
    assert_eq!((placed.part, paid.part), (0, 1));
    assert_eq!(placed.part_id(), placed.id, "an effect of an older release is known by this id");
    assert_ne!(paid.part_id(), paid.id);
    assert_eq!(paid.part_id(), again[1].part_id());
    let error = read[0].decode::<OrderEvent>().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::NotOneEvent { .. }), "{error}");
}

#[tokio::test]
async fn a_payload_that_does_not_decode_names_its_event() {
    let log = MemoryStore::new();
    append(&log, "1", &[Stored("order.placed", 1, "{}")]).await;
    let read = log.read_stream(&order("1"), Version::ZERO, 1).await.unwrap();
    let error = read[0].decode_all::<OrderEvent>().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Undecodable { .. }), "{error}");
}

/// Notes each event that it reacts to.
struct Noting(Arc<Mutex<Vec<String>>>);

#[async_trait]
impl Reaction for Noting {
    const NAME: &'static str = "noting";
    type Event = OrderEvent;
    type Tx = ();

    async fn react(&self, (): &mut (), event: Envelope<OrderEvent>) -> Result<(), BoxError> {
        self.0.lock().unwrap().push(format!("{:?}", event.event));
        Ok(())
    }
}

#[tokio::test]
async fn a_reaction_handles_each_part_once() {
    let (log, models, noted) = (MemoryStore::new(), MemoryReadModel::with_value(()), Arc::default());
    append(&log, "1", &STORED).await;
    for _ in 0..2 {
        let app = App::new(log.clone(), models.clone()).reaction(Noting(Arc::clone(&noted)), StartFrom::Beginning);
        app.catch_up().await.unwrap();
    }
    assert_eq!(*noted.lock().unwrap(), EXPECTED);
}

/// Sends one command for each event.
struct Shipping(Arc<Mutex<Vec<String>>>);

#[async_trait]
impl Process for Shipping {
    const NAME: &'static str = "shipping";
    type Event = OrderEvent;
    type State = u64;
    type Command = String;

    fn key(&self, event: &Envelope<OrderEvent>) -> Option<AggregateId> {
        Some(event.stream.aggregate_id().clone())
    }

    fn on_event(&self, events: &mut u64, event: &Envelope<OrderEvent>, effects: &mut Effects<String>) {
        *events += 1;
        effects.send(format!("{events}: {:?}", event.event));
    }

    async fn execute(&self, _: &AggregateId, command: String, _: Context) -> Result<(), CommandFailure> {
        self.0.lock().unwrap().push(command);
        Ok(())
    }
}

#[tokio::test]
async fn a_process_takes_a_step_for_each_part() {
    let (log, sent) = (MemoryStore::new(), Arc::<Mutex<Vec<String>>>::default());
    append(&log, "1", &STORED).await;
    App::new(log, MemoryReadModel::new()).process(Shipping(Arc::clone(&sent))).catch_up().await.unwrap();
    let expected: Vec<_> = (1..).zip(EXPECTED).map(|(step, text)| format!("{step}: {text}")).collect();
    assert_eq!(*sent.lock().unwrap(), expected);
}

/// Counts events under the name of their kind. It cannot place a payment.
struct Placed {
    takes_payments: bool,
}

impl View for Placed {
    const NAME: &'static str = "placed";
    type Event = OrderEvent;
    type State = u64;

    fn key(&self, event: &Envelope<OrderEvent>) -> Option<String> {
        let is_refused = matches!(event.event, OrderEvent::Paid { .. }) && !self.takes_payments;
        Some(if is_refused { String::new() } else { "events".to_owned() })
    }

    fn apply(&self, events: &mut u64, _: Envelope<OrderEvent>) {
        *events += 1;
    }
}

#[tokio::test]
async fn a_failed_part_takes_the_other_parts_with_it() {
    let log = MemoryStore::new();
    append(&log, "1", &STORED[..2]).await;
    append(&log, "2", &STORED[1..2]).await;
    let view = |takes_payments| Placed { takes_payments };
    let (worked, built) = (MemoryReadModel::new(), MemoryReadModel::new());
    let caught_up = Worker::view(view(false), log.clone(), worked.clone()).catch_up().await.unwrap();
    assert_eq!(caught_up.parked.len(), 1);
    Rebuild::new(view(false), log.clone(), built.clone()).run(CancellationToken::new()).await.unwrap();
    for models in [worked, built] {
        let events = Views::new(&view(false), models).get("events").await.unwrap();
        assert_eq!(events, Some(1), "the second order alone");
    }
}

#[derive(Debug, Default, Clone, Aggregate)]
#[aggregate("order", event = OrderEvent)]
struct Order {
    events: u64,
}

impl Apply<OrderEvent> for Order {
    fn apply(&mut self, _: OrderEvent) {
        self.events += 1;
    }
}

struct Place(u64);

impl Handle<Place> for Order {
    type Error = std::convert::Infallible;

    fn handle(&self, place: &Place) -> Result<Vec<OrderEvent>, Self::Error> {
        let placed = OrderEvent::Placed { customer: "ada".into(), note: String::new() };
        Ok(vec![placed, OrderEvent::Paid { cents: place.0 }])
    }
}

#[tokio::test]
async fn a_command_whose_event_was_split_since_is_known_by_its_key() {
    #[derive(Debug, Event)]
    enum Before {
        #[event("order.placed")]
        Placed { customer: String, cents: u64 },
    }

    #[derive(Debug, Default, Clone, Aggregate)]
    #[aggregate("order", event = Before)]
    struct OrderBefore {}

    impl Apply<Before> for OrderBefore {
        fn apply(&mut self, _: Before) {}
    }

    impl Handle<Place> for OrderBefore {
        type Error = std::convert::Infallible;

        fn handle(&self, place: &Place) -> Result<Vec<Before>, Self::Error> {
            Ok(vec![Before::Placed { customer: "ada".into(), cents: place.0 }])
        }
    }

    let log = MemoryStore::new();
    let context = || Context::new().with_key(IdempotencyKey::new("k").unwrap());
    Repository::<OrderBefore>::new(log.clone()).execute_with("1", Place(5), context()).await.unwrap();
    let orders = Repository::<Order>::new(log.clone());
    let again = orders.execute_with("1", Place(5), context()).await.unwrap();
    assert_eq!((again.version, again.outcome), (Version::new(1), Outcome::Repeated));
    let other = orders.execute_with("1", Place(6), context()).await.unwrap_err();
    assert!(other.to_string().contains('k'), "{other:?}");
    assert_eq!(orders.load("1").await.unwrap().state.events, 2);
    // The next version is that after the stored event.
    let next = orders.execute("1", Place(7)).await.unwrap();
    assert_eq!(next.version, Version::new(3));
    let placed = OrderEvent::Placed { customer: "eve".into(), note: "n".into() };
    log.append_events(("order", "1"), ExpectedVersion::Exact(Version::new(3)), [placed]).await.unwrap();
}
