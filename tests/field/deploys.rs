//! Two releases of a program run side by side while the newer one is rolled out, or rolled back. The older one leaves events that it does
//! not know to the newer one, and parks nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use retell::error::ErrorKind;
use retell::prelude::*;
use retell::registry::Registry;
use retell::status::{Status, Wait};
use retell::{CommandError, DeadlineStore, ParkingOptions, ProjectionName, RelayStore, ViewStore, WorkerOptions};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::sites::{Site, on_every_store};

pub(crate) const PATIENCE: Duration = Duration::from_mins(5);

/// A release with an order and a view of its price.
macro_rules! release {
    ($name:ident, $event:item, $placed:expr, $cents:expr) => {
        mod $name {
            use super::*;

            $event

            #[derive(Aggregate, Debug, Default, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
            #[aggregate("order", event = OrderEvent)]
            pub(super) struct Order {
                cents: u64,
            }

            impl Apply<OrderEvent> for Order {
                fn apply(&mut self, event: OrderEvent) {
                    self.cents += $cents(&event);
                }
            }

            impl Handle<Place> for Order {
                type Error = String;

                fn handle(&self, place: &Place) -> Result<Vec<OrderEvent>, String> {
                    Ok(vec![$placed(place.cents)])
                }
            }

            pub(super) struct Prices;

            impl View for Prices {
                const NAME: &'static str = "prices";
                type Event = OrderEvent;
                type State = Price;

                fn key(&self, event: &Envelope<OrderEvent>) -> Option<String> {
                    Some(event.stream.aggregate_id().to_string())
                }

                fn apply(&self, price: &mut Price, event: Envelope<OrderEvent>) {
                    price.events += 1;
                    price.cents += $cents(&event.event);
                }
            }
        }
    };
}

struct Place {
    cents: u64,
}

#[derive(Debug, Default, Clone, PartialEq, serde::Serialize, serde::Deserialize, Shape)]
struct Price {
    events: u64,
    cents: u64,
}

release!(
    old,
    #[derive(Event, Debug)]
    pub(super) enum OrderEvent {
        #[event("order.placed")]
        Placed { cents: u64 },
    },
    |cents| OrderEvent::Placed { cents },
    |event: &OrderEvent| match event {
        OrderEvent::Placed { cents } => *cents,
    }
);

release!(
    new,
    #[derive(Event, Debug)]
    pub(super) enum OrderEvent {
        #[event("order.placed", version = 2, upcast(placed_v1))]
        Placed { price: u64, currency: String },
    },
    |cents| OrderEvent::Placed { price: cents, currency: "EUR".into() },
    |event: &OrderEvent| match event {
        OrderEvent::Placed { price, .. } => *price,
    }
);

#[derive(serde::Deserialize)]
struct PlacedV1 {
    cents: u64,
}

fn placed_v1(PlacedV1 { cents }: PlacedV1) -> new::OrderEvent {
    new::OrderEvent::Placed { price: cents, currency: "USD".into() }
}

release!(
    careless,
    #[derive(Event, Debug)]
    pub(super) enum OrderEvent {
        #[event("order.placed")]
        Placed { cents: u64, currency: String },
    },
    |cents| OrderEvent::Placed { cents, currency: "EUR".into() },
    |event: &OrderEvent| match event {
        OrderEvent::Placed { cents, .. } => *cents,
    }
);

/// A worker that runs until this value is stopped.
pub(crate) struct Working {
    stop: CancellationToken,
    status: watch::Receiver<Status>,
    task: tokio::task::JoinHandle<retell::Result<()>>,
}

impl Working {
    pub(crate) fn start<V: View, M: ViewStore + Clone>(
        view: V,
        store: &(impl EventStore + Clone),
        models: &M,
        broker: Option<&MemoryBroker>,
        per_aggregate: bool,
    ) -> Self {
        let options = WorkerOptions::new().with_sweep(Duration::from_millis(50));
        let worker = Worker::view(view, store.clone(), models.clone()).with_options(options);
        let worker = if per_aggregate { worker.with_order_per_aggregate() } else { worker };
        let worker = match broker {
            Some(broker) => worker.with_broker(broker.clone()),
            None => worker,
        };
        let (stop, status) = (CancellationToken::new(), worker.status());
        let stopped = stop.clone();
        let task = tokio::spawn(async move { worker.run(stopped).await });
        Self { stop, status, task }
    }

    pub(crate) async fn until(&mut self, what: &str, holds: impl FnMut(&Status) -> bool) -> Status {
        let found = timeout(PATIENCE, self.status.wait_for(holds)).await;
        found.unwrap_or_else(|_| panic!("{what}")).unwrap().clone()
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        timeout(PATIENCE, self.task).await.unwrap().unwrap().unwrap();
    }
}

pub(crate) fn is_behind(status: &Status) -> bool {
    status.waits.iter().any(|waiting| waiting.on == Wait::Deploy)
}

async fn nothing_is_parked(models: &impl ViewStore) {
    let parking = models.parking(&ProjectionName::new("prices").unwrap()).await.unwrap();
    assert!(parking.parked.is_empty(), "{parking:?}");
}

async fn price(models: &(impl ViewStore + Clone), order: &str) -> Option<Price> {
    Views::new(&new::Prices, models.clone()).get(order).await.unwrap()
}

async fn until_price(models: &(impl ViewStore + Clone), order: &str, wanted: Price) {
    let reached = async {
        while price(models, order).await.as_ref() != Some(&wanted) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let is_reached = timeout(PATIENCE, reached).await.is_ok();
    assert!(is_reached, "{:?} of {order} is not {wanted:?}", price(models, order).await);
}

async fn rolled_out<S, M>(Site { store, models, .. }: Site<S, M>, per_aggregate: bool)
where
    S: EventStore + Clone,
    M: ViewStore + Clone,
{
    let (old, new) = (Repository::<old::Order>::new(store.clone()), Repository::<new::Order>::new(store.clone()));
    old.execute("a", Place { cents: 1 }).await.unwrap();
    let mut older = Working::start(old::Prices, &store, &models, None, per_aggregate);
    until_price(&models, "a", Price { events: 1, cents: 1 }).await;
    for (order, cents) in [("a", 10), ("b", 20)] {
        new.execute(order, Place { cents }).await.unwrap();
    }
    let behind = older.until("the older worker is behind the deploy", is_behind).await;
    let cause = behind.wait().and_then(|waiting| waiting.error.clone()).unwrap();
    assert!(cause.contains("behind a deploy") && cause.contains("order.placed has schema version 2"), "{cause}");
    nothing_is_parked(&models).await;

    let newer = Working::start(new::Prices, &store, &models, None, per_aggregate);
    until_price(&models, "a", Price { events: 2, cents: 11 }).await;
    until_price(&models, "b", Price { events: 1, cents: 20 }).await;
    older.until("the older worker notices that the newer one has applied them", |status| !is_behind(status)).await;

    // Rolled back: the older release waits for an event that it does not know, and handles the ones before.
    newer.stop().await;
    old.execute("c", Place { cents: 3 }).await.unwrap();
    until_price(&models, "c", Price { events: 1, cents: 3 }).await;
    new.execute("c", Place { cents: 30 }).await.unwrap();
    older.until("the older worker is behind again", is_behind).await;
    nothing_is_parked(&models).await;

    // And rolled out again.
    older.stop().await;
    let newer = Working::start(new::Prices, &store, &models, None, per_aggregate);
    until_price(&models, "c", Price { events: 2, cents: 33 }).await;
    newer.stop().await;
    nothing_is_parked(&models).await;
}

async fn newer_events_are_left_to_the_newer_release<S, M>(site: Site<S, M>)
where
    S: EventStore + Clone,
    M: ViewStore + Clone,
{
    rolled_out(site, false).await;
}

async fn newer_events_per_aggregate_are_left_to_it<S, M>(site: Site<S, M>)
where
    S: EventStore + Clone,
    M: ViewStore + Clone,
{
    rolled_out(site, true).await;
}

/// Both releases write, and their workers start and stop in turn while a relay delivers.
async fn under_load<S, M>(Site { store, models, database: _database }: Site<S, M>, per_aggregate: bool)
where
    S: EventStore + RelayStore + Clone,
    M: ViewStore + Clone,
{
    const ORDERS: u64 = 30;
    let (broker, stop) = (MemoryBroker::new(), CancellationToken::new());
    let relay = Relay::new(store.clone(), broker.clone());
    let stopped = stop.clone();
    let relaying = tokio::spawn(async move { relay.run(stopped).await });
    let is_written = Arc::new(AtomicBool::new(false));
    let (writer, written) = (store.clone(), is_written.clone());
    let writing = tokio::spawn(async move {
        let old = Repository::<old::Order>::new(writer.clone());
        let new = Repository::<new::Order>::new(writer);
        for order in 0..ORDERS {
            old.execute(order.to_string(), Place { cents: 1 }).await.unwrap();
            new.execute(order.to_string(), Place { cents: 100 }).await.unwrap();
            new.execute(order.to_string(), Place { cents: 100 }).await.unwrap();
        }
        written.store(true, Ordering::SeqCst);
    });
    let older = Working::start(old::Prices, &store, &models, Some(&broker), per_aggregate);
    loop {
        let is_last = is_written.load(Ordering::SeqCst);
        let newer = Working::start(new::Prices, &store, &models, Some(&broker), per_aggregate);
        let another = Working::start(old::Prices, &store, &models, Some(&broker), per_aggregate);
        if is_last {
            for order in 0..ORDERS {
                until_price(&models, &order.to_string(), Price { events: 3, cents: 201 }).await;
            }
        } else {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        newer.stop().await;
        another.stop().await;
        if is_last {
            break;
        }
    }
    writing.await.unwrap();
    older.stop().await;
    stop.cancel();
    relaying.await.unwrap().unwrap();
    nothing_is_parked(&models).await;
}

async fn releases_change_places_under_load<S, M>(site: Site<S, M>)
where
    S: EventStore + RelayStore + Clone,
    M: ViewStore + Clone,
{
    under_load(site, false).await;
}

async fn releases_change_places_per_aggregate<S, M>(site: Site<S, M>)
where
    S: EventStore + RelayStore + Clone,
    M: ViewStore + Clone,
{
    under_load(site, true).await;
}

/// A later event of an aggregate that is parked for another reason.
async fn parked_aggregate_waits_for_the_newer_release<S, M>(Site { store, models, database: _database }: Site<S, M>)
where
    S: EventStore + Clone,
    M: ViewStore + Clone,
{
    struct Refusing(Arc<AtomicBool>);

    impl View for Refusing {
        const NAME: &'static str = "prices";
        type Event = old::OrderEvent;
        type State = Price;

        fn key(&self, event: &Envelope<old::OrderEvent>) -> Option<String> {
            assert!(!self.0.load(Ordering::SeqCst), "the handler fails");
            old::Prices.key(event)
        }

        fn apply(&self, price: &mut Price, event: Envelope<old::OrderEvent>) {
            old::Prices.apply(price, event);
        }
    }

    let (old, new) = (Repository::<old::Order>::new(store.clone()), Repository::<new::Order>::new(store.clone()));
    let fails = Arc::new(AtomicBool::new(true));
    let options = WorkerOptions::new().with_retries(0).with_parking(
        ParkingOptions::new().with_delays(Duration::from_millis(10), Duration::from_millis(10)).with_retries(20),
    );
    let worker = Worker::view(Refusing(fails.clone()), store.clone(), models.clone()).with_options(options);
    old.execute("a", Place { cents: 1 }).await.unwrap();
    worker.catch_up().await.unwrap();
    new.execute("a", Place { cents: 10 }).await.unwrap();
    // The newer event comes to an aggregate that is parked.
    assert_eq!(worker.catch_up().await.unwrap().position, Position::new(2));
    fails.store(false, Ordering::SeqCst);
    let parked = || async { models.parking(&ProjectionName::new("prices").unwrap()).await.unwrap().parked };
    assert_eq!(parked().await.len(), 1);
    let stop = CancellationToken::new();
    let (ended, watching) = (worker.run(stop.clone()), async {
        let waits = async {
            while !parked().await.iter().any(|parked| parked.error.contains("behind a deploy")) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(timeout(PATIENCE, waits).await.is_ok(), "the retry finds the newer event: {:?}", parked().await);
        // More attempts than make an aggregate dead.
        tokio::time::sleep(Duration::from_millis(500)).await;
        stop.cancel();
    });
    let (ended, ()) = futures::join!(ended, watching);
    ended.unwrap();
    let kept = parked().await;
    assert!(kept.len() == 1 && kept[0].state == retell::ParkedState::Waiting, "{kept:?}");
    let newer = Worker::view(new::Prices, store.clone(), models.clone());
    let stop = CancellationToken::new();
    let (ended, ()) = futures::join!(newer.run(stop.clone()), async {
        until_price(&models, "a", Price { events: 2, cents: 11 }).await;
        stop.cancel();
    });
    ended.unwrap();
    nothing_is_parked(&models).await;
}

async fn command_of_the_older_release_says_why<S, M>(Site { store, database: _database, .. }: Site<S, M>)
where
    S: EventStore + Clone,
{
    let (old, new) = (Repository::<old::Order>::new(store.clone()), Repository::<new::Order>::new(store.clone()));
    new.execute("a", Place { cents: 1 }).await.unwrap();
    let refused = old.execute("a", Place { cents: 2 }).await.unwrap_err();
    let CommandError::BehindDeploy(error) = &refused else { panic!("{refused:?}") };
    assert!(error.is_behind_deploy() && !error.is_corrupt(), "{error:#}");
    assert!(refused.to_string().contains("behind a deploy"), "{refused}");
    // Other aggregates of the older release work, also in a process that starts now.
    old.execute("b", Place { cents: 2 }).await.unwrap();
    Repository::<old::Order>::new(store).execute("b", Place { cents: 2 }).await.unwrap();
}

async fn catching_up_ends_behind_a_deploy<S, M>(Site { store, models, database: _database }: Site<S, M>)
where
    S: EventStore + Clone,
    M: ViewStore + Clone,
{
    Repository::<new::Order>::new(store.clone()).execute("a", Place { cents: 1 }).await.unwrap();
    let worker = Worker::view(old::Prices, store, models.clone());
    let ended = timeout(PATIENCE, worker.catch_up()).await.expect("it does not wait").unwrap_err();
    assert!(ended.is_behind_deploy(), "{ended:#}");
    nothing_is_parked(&models).await;
    let notes = worker.status().borrow().notes.clone();
    assert_eq!(notes, ["a newer release writes version 2 of order.placed, this one knows version 1"]);
}

/// An unregistered version is damage.
async fn unregistered_version_is_parked<S, M>(Site { store, models, database: _database }: Site<S, M>)
where
    S: EventStore + Clone,
    M: ViewStore + Clone,
{
    let placed = new::OrderEvent::Placed { price: 1, currency: "EUR".into() };
    store.append_events(("order", "a"), ExpectedVersion::NoStream, [placed]).await.unwrap();
    let caught_up = Worker::view(old::Prices, store, models).catch_up().await.unwrap();
    assert!(caught_up.parked.len() == 1 && caught_up.parked[0].error.contains("schema version 2"), "{caught_up:?}");
}

async fn changed_shape_is_refused<S, M>(Site { store, models, database: _database }: Site<S, M>)
where
    S: EventStore + Clone,
    M: ViewStore + Clone,
{
    let careless = Repository::<careless::Order>::new(store.clone());
    Registry::new().with::<old::OrderEvent>().unwrap().register(&store).await.unwrap();
    let old = Repository::<old::Order>::new(store.clone());
    old.execute("a", Place { cents: 1 }).await.unwrap();
    let refused = careless.execute("b", Place { cents: 2 }).await.unwrap_err();
    let CommandError::Failed(refused) = refused else { panic!("{refused:?}") };
    assert_refused(&refused);
    let refused = Worker::view(careless::Prices, store.clone(), models.clone()).catch_up().await.unwrap_err();
    assert_refused(&refused);
    // Nothing was written, and the other release continues.
    assert!(old.load("b").await.unwrap().version == Version::ZERO);
    old.execute("b", Place { cents: 2 }).await.unwrap();
}

fn assert_refused(error: &retell::Error) {
    assert!(matches!(error.kind(), ErrorKind::ShapeChanged(_)), "{error:#}");
    let text = error.to_string();
    let what = "order.placed 1: E-FIELD-REQUIRED-ADDED at currency";
    assert!(text.contains(what) && text.contains("raise `version` and write an upcaster"), "{text}");
}

/// Before the first event of a kind is written, its shape may change.
async fn shape_without_events_may_change<S, M>(Site { store, database: _database, .. }: Site<S, M>)
where
    S: EventStore + Clone,
{
    Registry::new().with::<old::OrderEvent>().unwrap().register(&store).await.unwrap();
    Repository::<careless::Order>::new(store.clone()).execute("a", Place { cents: 1 }).await.unwrap();
    let shapes: Vec<_> = store.registered_shapes().await.unwrap().into_iter().map(|each| each.shape).collect();
    assert!(shapes.contains(&"{cents: u64}".into()) && shapes.contains(&"{cents: u64, currency: text}".into()));
}

/// A process manager whose command meets a newer event of another aggregate.
async fn process_waits_for_the_newer_release<S, M>(Site { store, models, database: _database }: Site<S, M>)
where
    S: EventStore + Clone,
    M: ViewStore + DeadlineStore + Clone,
{
    #[derive(Event, Debug)]
    #[event("cart.checked_out")]
    struct CheckedOut;

    struct Ordering<A: Aggregate>(Repository<A>);

    #[async_trait]
    impl<A: Handle<Place, Error = String>> Process for Ordering<A> {
        const NAME: &'static str = "ordering";
        type Event = CheckedOut;
        type State = ();
        type Command = ();

        fn key(&self, event: &Envelope<CheckedOut>) -> Option<AggregateId> {
            Some(event.stream.aggregate_id().clone())
        }

        fn on_event(&self, (): &mut (), _: &Envelope<CheckedOut>, effects: &mut Effects<()>) {
            effects.send(());
        }

        async fn execute(&self, key: &AggregateId, (): (), context: Context) -> Result<(), CommandFailure> {
            self.0.execute_with(key.clone(), Place { cents: 5 }, context).await?;
            Ok(())
        }
    }

    Repository::<new::Order>::new(store.clone()).execute("a", Place { cents: 1 }).await.unwrap();
    store.append_events(("cart", "a"), ExpectedVersion::NoStream, [CheckedOut]).await.unwrap();
    let old = Ordering(Repository::<old::Order>::new(store.clone()));
    let manager = ProcessManager::new(old, store.clone(), models.clone());
    let ended = timeout(PATIENCE, manager.catch_up()).await.expect("it does not wait").unwrap_err();
    assert!(ended.is_behind_deploy(), "{ended:#}");
    let parking = models.parking(&ProjectionName::new("ordering").unwrap()).await.unwrap();
    assert!(parking.parked.is_empty(), "{parking:?}");
    let new = Ordering(Repository::<new::Order>::new(store.clone()));
    let caught_up = ProcessManager::new(new, store.clone(), models.clone()).catch_up().await.unwrap();
    assert!(caught_up.is_complete(), "{caught_up:?}");
    assert_eq!(Repository::<new::Order>::new(store).load("a").await.unwrap().version, Version::new(2));
}

on_every_store! {
    newer_events_are_left_to_the_newer_release,
    newer_events_per_aggregate_are_left_to_it,
    releases_change_places_under_load,
    releases_change_places_per_aggregate,
    parked_aggregate_waits_for_the_newer_release,
    command_of_the_older_release_says_why,
    catching_up_ends_behind_a_deploy,
    unregistered_version_is_parked,
    changed_shape_is_refused,
    shape_without_events_may_change,
    process_waits_for_the_newer_release,
}
