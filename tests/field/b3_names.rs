//! Two aggregates whose events share a stored name: a view of one never sees the events of the other.
//!
//! That the derive refuses a name without a dot, and the event of another aggregate, is tested in `macros/tests/ui`.

use retell::prelude::*;
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
    let log = MemoryStore::new();
    let refused = log.append_events(("customer", "1"), ExpectedVersion::Any, [hammer()]).await.unwrap_err();
    assert!(
        matches!(refused.kind(), ErrorKind::Invalid(problem) if problem.contains("aggregate product")),
        "{refused}"
    );
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
