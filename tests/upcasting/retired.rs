//! Events that are stored and no longer read.

use retell::registry::{Lock, Registry};
use retell::store::{EventReaderExt, EventStoreExt, Outcome, UpTo};
use retell::{
    Aggregate, Apply, Context, ErrorKind, Event, EventUnion, ExpectedVersion, Filter, Handle, IdempotencyKey,
    MemoryReadModel, MemoryStore, Repository, Version, Worker,
};

use crate::readers::{Texts, assert_reads};
use crate::{Stored, append, order};

#[derive(Debug, Event)]
#[event(retired("order.flagged", "OrderRated"))]
enum OrderEvent {
    #[event("order.placed")]
    Placed,
    #[event("order.closed")]
    Closed,
}

const STORED: [Stored; 5] = [
    Stored("order.placed", 1, "{}"),
    Stored("order.flagged", 7, "not even JSON"),
    Stored("OrderRated", 1, "5"),
    Stored("order.closed", 1, "{}"),
    Stored("order.flagged", 1, "{}"),
];

#[tokio::test(flavor = "multi_thread")]
async fn every_reader_passes_over_a_retired_event() {
    assert_reads::<OrderEvent>(&STORED, &["Placed", "Closed"]).await;
}

#[derive(Debug, EventUnion)]
enum ShopEvent {
    User(UserEvent),
    Order(OrderEvent),
}

#[derive(Debug, Event)]
#[event(retired("user.rated"))]
enum UserEvent {
    #[event("user.left")]
    Left,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_union_passes_over_what_its_members_have_retired() {
    assert_eq!(ShopEvent::RETIRED, ["user.rated", "order.flagged", "OrderRated"]);
    let stored = [&STORED[..], &[Stored("user.rated", 1, "{}"), Stored("user.left", 1, "{}")]].concat();
    assert_reads::<ShopEvent>(&stored, &["Order(Placed)", "Order(Closed)", "User(Left)"]).await;
}

#[tokio::test]
async fn a_filter_of_the_type_leaves_retired_events_out() {
    let names: Vec<_> = Filter::of::<OrderEvent>().unwrap().event_types.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["order.placed", "order.closed"]);
}

#[tokio::test]
async fn a_retired_event_is_none_and_an_unknown_one_an_error() {
    let log = MemoryStore::new();
    append(&log, "1", &[STORED[1], Stored("order.lost", 1, "{}")]).await;
    let read = log.read_stream(&order("1"), Version::ZERO, 2).await.unwrap();
    let error = read[0].decode::<OrderEvent>().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::NotOneEvent { .. }), "{error}");
    assert!(read[0].decode_all::<OrderEvent>().unwrap().is_empty());
    for error in [read[1].decode::<ShopEvent>().unwrap_err(), read[1].decode_all::<ShopEvent>().unwrap_err()] {
        assert!(matches!(error.kind(), ErrorKind::UnknownEventType { .. }), "{error}");
    }
}

/// A handler that is called with no events would fail here.
#[tokio::test]
async fn no_handler_is_called_for_a_batch_of_retired_events() {
    use retell::{BoxError, Envelope, Projection, async_trait};

    struct Refusing;

    #[async_trait]
    impl Projection for Refusing {
        const NAME: &'static str = "refusing";
        type Event = OrderEvent;
        type Tx = ();

        fn filter(&self) -> retell::Result<Filter> {
            Ok(Filter::all())
        }

        async fn apply(&self, (): &mut (), _: Envelope<OrderEvent>) -> Result<(), BoxError> {
            Err("an event".into())
        }

        async fn apply_batch(&self, (): &mut (), _: Vec<Envelope<OrderEvent>>) -> Result<(), BoxError> {
            Err("a batch".into())
        }
    }

    let log = MemoryStore::new();
    append(&log, "1", &STORED[1..3]).await;
    let caught_up = Worker::new(Refusing, log, MemoryReadModel::with_value(())).catch_up().await.unwrap();
    assert_eq!((caught_up.position.get(), caught_up.parked.len()), (2, 0));
}

#[derive(Debug, Default, Clone, Aggregate)]
#[aggregate("order", event = OrderEvent, snapshots = 1)]
struct Order {
    events: u64,
}

impl Apply<OrderEvent> for Order {
    fn apply(&mut self, _: OrderEvent) {
        self.events += 1;
    }
}

struct Close;

impl Handle<Close> for Order {
    type Error = std::convert::Infallible;

    fn handle(&self, _: &Close) -> Result<Vec<OrderEvent>, Self::Error> {
        Ok(vec![OrderEvent::Closed])
    }
}

#[tokio::test]
async fn a_command_continues_after_the_version_of_a_retired_event() {
    let log = MemoryStore::new();
    append(&log, "1", &STORED).await;
    let orders = Repository::<Order>::new(log.clone());
    assert_eq!(orders.execute("1", Close).await.unwrap().version, Version::new(6));
    let loaded = orders.load("1").await.unwrap();
    assert_eq!((loaded.version, loaded.state.events), (Version::new(6), 3));
    let at = orders.load_at("1", UpTo::Version(Version::new(3))).await.unwrap();
    assert_eq!((at.version, at.state.events), (Version::new(3), 1));
}

#[tokio::test]
async fn a_repeated_command_is_known_without_its_retired_event() {
    #[derive(Debug, Event)]
    enum Before {
        #[event("order.closed")]
        Closed,
        #[event("order.flagged")]
        Flagged,
    }

    #[derive(Debug, Default, Clone, Aggregate)]
    #[aggregate("order", event = Before)]
    struct OrderBefore {}

    impl Apply<Before> for OrderBefore {
        fn apply(&mut self, _: Before) {}
    }

    impl Handle<Close> for OrderBefore {
        type Error = std::convert::Infallible;

        fn handle(&self, _: &Close) -> Result<Vec<Before>, Self::Error> {
            Ok(vec![Before::Flagged, Before::Closed])
        }
    }

    let log = MemoryStore::new();
    let context = || Context::new().with_key(IdempotencyKey::new("k").unwrap());
    let first = Repository::<OrderBefore>::new(log.clone()).execute_with("1", Close, context()).await.unwrap();
    // The state after the events refuses nothing, so only the key tells that the command is repeated.
    let again = Repository::<Order>::new(log).execute_with("1", Close, context()).await.unwrap();
    assert_eq!((again.version, again.outcome), (first.version, Outcome::Repeated));
}

#[test]
fn the_lock_keeps_the_block_of_a_retired_event() {
    let lock: Lock = "[order.flagged 1 json]\nby: text\n\n[order.flagged 2 compact]\n= u8\n".parse().unwrap();
    let checked = Registry::new().with::<OrderEvent>().unwrap().check(&lock);
    assert!(checked.errors.is_empty(), "{:?}", checked.errors);
    assert!(checked.lock.to_string().contains("[order.flagged 1 json]\nby: text\n\n[order.flagged 2 compact]\n= u8\n"));
    let checked = Registry::new().with::<UserEvent>().unwrap().check(&lock);
    let ids: Vec<_> = checked.errors.iter().map(|error| error.broken.id()).collect();
    assert_eq!(ids, ["E-EVENT-REMOVED", "E-EVENT-REMOVED"]);
}

#[test]
fn a_retired_name_belongs_to_no_other_event() {
    #[derive(Event)]
    #[event("order.flagged")]
    struct Flagged;

    let with_both = [
        Registry::new().with::<OrderEvent>().unwrap().with::<Flagged>(),
        Registry::new().with::<Flagged>().unwrap().with::<OrderEvent>(),
    ];
    for error in with_both.map(Result::unwrap_err) {
        assert!(error.to_string().contains("event order.flagged is retired by one type and declared by"), "{error}");
    }
    assert!(Registry::new().with::<OrderEvent>().unwrap().with::<ShopEvent>().is_ok(), "one type, twice");
}

#[tokio::test]
async fn an_inline_view_passes_over_a_retired_event() {
    let log = retell::SqliteStore::in_memory().await.unwrap();
    let models = log.read_model();
    let view = || Texts::<OrderEvent>::wide("inline");
    let log = retell::inline::inline(log, retell::ViewProjection::new(view(), models.clone())).await.unwrap();
    append(&log, "1", &STORED).await;
    log.append_events(("order", "1"), ExpectedVersion::Any, [OrderEvent::Closed]).await.unwrap();
    assert_eq!(crate::readers::rows(&view(), &models, "1").await, ["Placed", "Closed", "Closed"]);
}
