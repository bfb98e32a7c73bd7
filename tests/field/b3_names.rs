//! Two aggregates whose events share a stored name: a view of one never sees the events of the other.
//!
//! That the derive refuses a name without a dot, and the event of another aggregate, is tested in `macros/tests/ui`.

use retell::prelude::*;
use retell::store::EventReader;
use retell::{ErrorKind, Filter};

mod customers {
    #[derive(retell::Event, Debug)]
    #[event(aggregate = "customer")]
    pub(super) enum CustomerEvent {
        #[event("item.created")]
        Created { name: String },
    }
}

mod products {
    #[derive(retell::Event, Debug)]
    #[event(aggregate = "product")]
    pub(super) enum ProductEvent {
        #[event("item.created")]
        Created { name: String },
        #[event("item.priced")]
        Priced { cents: u64 },
    }
}

use customers::CustomerEvent;
use products::ProductEvent;

struct Customers;

impl View for Customers {
    const NAME: &'static str = "customers";
    type Event = CustomerEvent;
    type State = String;

    fn key(&self, event: &Envelope<CustomerEvent>) -> Option<String> {
        Some(event.stream.aggregate_id().to_string())
    }

    fn apply(&self, state: &mut String, event: Envelope<CustomerEvent>) {
        let CustomerEvent::Created { name } = event.event;
        *state = name;
    }
}

fn hammer() -> ProductEvent {
    ProductEvent::Created { name: "Hammer".into() }
}

#[tokio::test]
async fn a_view_ignores_another_aggregates_events_of_one_name() {
    for store in crate::stores::every_store().await {
        let ada = CustomerEvent::Created { name: "Ada".into() };
        store.events.append_events(("customer", "1"), ExpectedVersion::Any, [ada]).await.unwrap();
        let priced = ProductEvent::Priced { cents: 900 };
        store.events.append_events(("product", "1"), ExpectedVersion::Any, [hammer(), priced]).await.unwrap();

        let models = MemoryReadModel::new();
        let reader = retell::store::EventReader::head(&*store.events).await.unwrap();
        assert_eq!(reader, Position::new(3));
        let caught_up = Worker::view(Customers, store.events.clone(), models.clone()).catch_up().await.unwrap();
        assert!(caught_up.parked.is_empty(), "{}: {caught_up:?}", store.name);
        assert_eq!(Views::new(&Customers, models).get("1").await.unwrap().as_deref(), Some("Ada"), "{}", store.name);
    }
}

#[tokio::test]
async fn an_event_of_another_aggregate_is_not_appended() {
    for store in crate::stores::every_store().await {
        let customer = StreamId::parse("customer", "1").unwrap();
        let encoded = vec![NewEvent::new(&hammer()).unwrap()];
        let attempts = [
            store.events.append_events(customer.clone(), ExpectedVersion::Any, [hammer()]).await,
            store.events.append(Append::new(customer, ExpectedVersion::Any, encoded)).await,
        ];
        for refused in attempts {
            let refused = refused.unwrap_err();
            assert!(
                matches!(refused.kind(), ErrorKind::Invalid(problem) if problem.contains("aggregate product")),
                "{}: {refused}",
                store.name
            );
        }
    }
}

/// Types of several authors, with stored names that they share.
mod shared {
    use retell::Event;

    pub(super) mod drafts {
        #[derive(super::Event)]
        #[event("page.created")]
        pub(in super::super) struct Created;

        #[derive(super::Event)]
        #[event("page.renamed")]
        pub(in super::super) struct Renamed;

        #[derive(super::Event)]
        #[event("page.moved", aggregate = "draft")]
        pub(in super::super) struct Moved;
    }

    pub(super) mod sheets {
        #[derive(super::Event)]
        #[event("page.created")]
        pub(in super::super) struct Created;

        #[derive(super::Event)]
        #[event("page.renamed")]
        pub(in super::super) struct Renamed;

        #[derive(super::Event)]
        #[event("page.moved")]
        pub(in super::super) struct Moved;

        #[derive(super::Event)]
        #[event("page.moved", aggregate = "sheet")]
        pub(in super::super) struct MovedSheet;
    }
}

#[tokio::test]
async fn two_types_of_one_name_are_refused_in_a_log() {
    use shared::{drafts, sheets};

    async fn put<E: Event>(log: &dyn EventStore, kind: &str, event: E) -> retell::Result<()> {
        let append =
            Append::new(StreamId::parse(kind, "1").unwrap(), ExpectedVersion::Any, vec![NewEvent::new(&event)?]);
        log.append(append).await.map(drop)
    }

    for store in crate::stores::every_store().await {
        let log = &*store.events;
        let refused = |result: retell::Result<()>, by: &str| {
            let error = result.unwrap_err();
            assert!(
                matches!(error.kind(), ErrorKind::Invalid(problem) if problem.contains(by)),
                "{}: {error}",
                store.name
            );
        };
        put(log, "draft", drafts::Created).await.unwrap();
        refused(put(log, "sheet", sheets::Created).await, "drafts::Created");
        // The type of another release, or of a module that knows the same events.
        put(log, "draft", sheets::Created).await.unwrap();
        // One type for the events of several aggregates.
        put(log, "draft", drafts::Renamed).await.unwrap();
        put(log, "note", drafts::Renamed).await.unwrap();
        refused(put(log, "sheet", sheets::Renamed).await, "drafts::Renamed");
        // Types that name their aggregates are told apart, if both do.
        put(log, "draft", drafts::Moved).await.unwrap();
        put(log, "sheet", sheets::MovedSheet).await.unwrap();
        refused(put(log, "sheet", sheets::Moved).await, "drafts::Moved");
        assert_eq!(store.events.head().await.unwrap(), Position::new(6), "{}", store.name);
    }
}

#[derive(EventUnion)]
enum Priced {
    Product(ProductEvent),
    Shoe(Shoe),
}

#[derive(retell::Event, Debug)]
#[event("shoe.priced", aggregate = "shoe")]
struct Shoe;

#[derive(retell::Event, Debug)]
#[event("hat.priced")]
struct Hat;

#[derive(EventUnion)]
enum Mixed {
    Shoe(Shoe),
    Hat(Hat),
}

#[test]
fn a_derived_filter_asks_for_the_aggregates_of_a_union() {
    let types = |filter: Filter| filter.aggregate_types.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(types(Filter::of::<Priced>().unwrap()), ["product", "shoe"]);
    // An event that does not name its aggregate may be of any.
    assert!(types(Filter::of::<Mixed>().unwrap()).is_empty());
}

mod orders {
    #[derive(retell::Event, Debug)]
    pub(super) enum OrderEvent {
        #[event("thing.placed")]
        Placed { name: String },
    }
}

mod readers {
    /// A second type for the events of orders, with the fields that a reader needs.
    #[derive(retell::Event, Debug)]
    #[event("thing.placed")]
    pub(super) struct Placed {}

    #[derive(retell::Event, Debug)]
    #[event("thing.placed", aggregate = "order")]
    pub(super) struct PlacedOrder {}

    #[derive(retell::Event, Debug)]
    #[event("thing.placed", aggregate = "bet")]
    pub(super) struct PlacedBet {}
}

/// Counts the events of one type.
struct Counts<E>(&'static str, std::marker::PhantomData<fn(E)>);

impl<E> Counts<E> {
    fn named(name: &'static str) -> Self {
        Self(name, std::marker::PhantomData)
    }
}

impl<E: Event> View for Counts<E> {
    const NAME: &'static str = "counts";
    type Event = E;
    type State = u64;

    fn name(&self) -> &str {
        self.0
    }

    fn key(&self, event: &Envelope<E>) -> Option<String> {
        Some(event.stream.to_string())
    }

    fn apply(&self, count: &mut u64, _: Envelope<E>) {
        *count += 1;
    }
}

/// Two types with one stored name are taken for each other, unless both say which aggregate they belong to.
#[tokio::test]
async fn two_types_of_one_name_are_refused_in_an_app() {
    let app = || App::new(MemoryStore::new(), MemoryReadModel::new());
    let refused = |app: App<MemoryReadModel>| {
        let error = app.check().unwrap_err();
        assert!(
            matches!(error.kind(), ErrorKind::Invalid(problem) if problem.contains("thing.placed") && problem.contains("OrderEvent")),
            "{error}"
        );
    };
    let orders = || app().view(Counts::<orders::OrderEvent>::named("orders"));
    refused(orders().view(Counts::<readers::Placed>::named("others")));
    refused(orders().view(Counts::<readers::PlacedBet>::named("bets")));
    // The same type twice, and types that name their aggregates.
    orders().view(Counts::<orders::OrderEvent>::named("again")).check().unwrap();
    let named = app().view(Counts::<readers::PlacedOrder>::named("orders"));
    named.view(Counts::<readers::PlacedBet>::named("bets")).check().unwrap();

    let running =
        orders().view(Counts::<readers::Placed>::named("others")).view(Counts::<Shoe>::named("shoes")).start();
    let mut health = running.health();
    let both = |health: &retell::app::Health| {
        ["orders", "others"].iter().all(|part| health.task(part).is_some_and(|state| !state.is_good()))
    };
    let patience = std::time::Duration::from_mins(1);
    tokio::time::timeout(patience, health.wait_for(both)).await.unwrap().unwrap();
    assert!(health.borrow().task("shoes").is_some_and(retell::app::State::is_good));
    running.stop().await.unwrap();
}
