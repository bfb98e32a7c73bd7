//! A newer release of a projection reads more kinds of events. Workers of the older one leave those events to it, and pass over none of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use retell::prelude::*;
use retell::store::{ProcessorKind, RegisteredProcessor};
use retell::{ErrorKind, ParkingOptions, ProjectionName, RelayStore, Utc, ViewStore, WorkerOptions};
use tokio::runtime::Handle;
use tokio::time::timeout;

use crate::deploys::{PATIENCE, Working, is_behind};
use crate::sites::{Site, on_every_store};

#[derive(Event, Debug)]
#[event("sale.placed")]
struct Placed;

#[derive(Event, Debug)]
#[event("sale.paid")]
struct Paid;

#[derive(EventUnion, Debug)]
enum Any {
    Placed(Placed),
    Paid(Paid),
}

#[derive(Debug, Default, Clone, PartialEq, serde::Serialize, serde::Deserialize, Shape)]
struct Sale {
    placed: u64,
    paid: u64,
}

/// The view of the older release.
#[derive(Default)]
struct Old {
    fails: Arc<AtomicBool>,
}

impl View for Old {
    const NAME: &'static str = "sales";
    type Event = Placed;
    type State = Sale;

    fn key(&self, event: &Envelope<Placed>) -> Option<String> {
        assert!(!self.fails.load(Ordering::SeqCst), "the handler fails");
        Some(event.stream.aggregate_id().to_string())
    }

    fn apply(&self, sale: &mut Sale, _: Envelope<Placed>) {
        sale.placed += 1;
    }
}

/// The view of the newer release, which reads one more kind of events.
struct New;

impl View for New {
    const NAME: &'static str = "sales";
    type Event = Any;
    type State = Sale;

    fn key(&self, event: &Envelope<Any>) -> Option<String> {
        Some(event.stream.aggregate_id().to_string())
    }

    fn apply(&self, sale: &mut Sale, event: Envelope<Any>) {
        match event.event {
            Any::Placed(_) => sale.placed += 1,
            Any::Paid(_) => sale.paid += 1,
        }
    }
}

fn sales() -> ProjectionName {
    ProjectionName::new("sales").unwrap()
}

async fn append<E: Event>(store: &impl EventStore, sale: &str, event: E) {
    store.append_events(("sale", sale), ExpectedVersion::Any, [event]).await.unwrap();
}

async fn until_sale(models: &(impl ViewStore + Clone), sale: &str, placed: u64, paid: u64) {
    let (views, wanted) = (Views::new(&New, models.clone()), Some(Sale { placed, paid }));
    let reached = async {
        while views.get(sale).await.unwrap() != wanted {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let is_reached = timeout(PATIENCE, reached).await.is_ok();
    assert!(is_reached, "{:?} of {sale} is not {wanted:?}", views.get(sale).await.unwrap());
}

async fn nothing_is_parked(models: &impl ViewStore) {
    let parking = models.parking(&sales()).await.unwrap();
    assert!(parking.parked.is_empty(), "{parking:?}");
}

async fn rolled_out<S, M>(Site { store, models, database: _database }: Site<S, M>, per_aggregate: bool)
where
    S: EventStore + Clone,
    M: ViewStore + Clone,
{
    append(&store, "a", Placed).await;
    let mut older = Working::start(Old::default(), &store, &models, None, per_aggregate);
    until_sale(&models, "a", 1, 0).await;
    let newer = Working::start(New, &store, &models, None, per_aggregate);
    let registered = async {
        while models.processors(&sales()).await.unwrap().len() < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, registered).await.expect("the newer release is registered at its start");
    append(&store, "a", Paid).await;
    until_sale(&models, "a", 1, 1).await;
    newer.stop().await;

    // Rolled back, with the older release alone.
    append(&store, "b", Placed).await;
    until_sale(&models, "b", 1, 0).await;
    append(&store, "b", Paid).await;
    append(&store, "b", Placed).await;
    let behind = older.until("the older worker leaves the event to the newer release", is_behind).await;
    let cause = behind.wait().and_then(|waiting| waiting.error.clone()).unwrap();
    assert!(cause.contains("sale.paid") && cause.contains("forget_processor"), "{cause}");
    until_sale(&models, "b", 1, 0).await;
    nothing_is_parked(&models).await;

    // Rolled out again. The older worker continues when the newer one has applied the event.
    let newer = Working::start(New, &store, &models, None, per_aggregate);
    until_sale(&models, "b", 2, 1).await;
    older.until("the older worker continues", |status| !is_behind(status)).await;
    newer.stop().await;

    // Rolled back permanently: the older release passes over the event.
    append(&store, "c", Placed).await;
    append(&store, "c", Paid).await;
    older.until("the older worker is behind again", is_behind).await;
    let registered = models.processors(&sales()).await.unwrap();
    assert_eq!(registered.len(), 2, "{registered:?}");
    assert!(models.forget_processor(&sales(), &registered[1]).await.unwrap());
    append(&store, "d", Placed).await;
    until_sale(&models, "d", 1, 0).await;
    until_sale(&models, "c", 1, 0).await;
    older.until("the older worker continues", |status| !is_behind(status)).await;
    older.stop().await;
    nothing_is_parked(&models).await;
}

async fn kind_that_only_the_newer_release_reads_is_left_to_it<S, M>(site: Site<S, M>)
where
    S: EventStore + Clone,
    M: ViewStore + Clone,
{
    rolled_out(site, false).await;
}

async fn kind_per_aggregate_is_left_to_the_newer_release<S, M>(site: Site<S, M>)
where
    S: EventStore + Clone,
    M: ViewStore + Clone,
{
    rolled_out(site, true).await;
}

/// Workers of both releases start and stop in turn while a relay delivers both kinds.
async fn under_load<S, M>(Site { store, models, database: _database }: Site<S, M>, per_aggregate: bool)
where
    S: EventStore + RelayStore + Clone,
    M: ViewStore + Clone,
{
    const SALES: u64 = 40;
    let (broker, stop) = (MemoryBroker::new(), CancellationToken::new());
    let relay = Relay::new(store.clone(), broker.clone());
    let stopped = stop.clone();
    let relaying = tokio::spawn(async move { relay.run(stopped).await });
    let older = Working::start(Old::default(), &store, &models, Some(&broker), per_aggregate);
    append(&store, "first", Placed).await;
    until_sale(&models, "first", 1, 0).await;
    // The older workers run, and do not know yet that the newer release is registered before the first event of the new kind is written.
    let newer = Worker::view(New, store.clone(), models.clone());
    let newer = if per_aggregate { newer.with_order_per_aggregate() } else { newer };
    newer.catch_up().await.unwrap();
    let is_written = Arc::new(AtomicBool::new(false));
    let (writer, written) = (store.clone(), is_written.clone());
    let writing = tokio::spawn(async move {
        for sale in 0..SALES {
            append(&writer, &sale.to_string(), Placed).await;
            append(&writer, &sale.to_string(), Paid).await;
            append(&writer, &(sale / 2).to_string(), Paid).await;
        }
        written.store(true, Ordering::SeqCst);
    });
    loop {
        let is_last = is_written.load(Ordering::SeqCst);
        let newer = Working::start(New, &store, &models, Some(&broker), per_aggregate);
        let another = Working::start(Old::default(), &store, &models, Some(&broker), per_aggregate);
        if is_last {
            for sale in 0..SALES {
                until_sale(&models, &sale.to_string(), 1, if sale < SALES / 2 { 3 } else { 1 }).await;
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

async fn releases_with_other_kinds_change_places_under_load<S, M>(site: Site<S, M>)
where
    S: EventStore + RelayStore + Clone,
    M: ViewStore + Clone,
{
    under_load(site, false).await;
}

async fn releases_with_other_kinds_change_places_per_aggregate<S, M>(site: Site<S, M>)
where
    S: EventStore + RelayStore + Clone,
    M: ViewStore + Clone,
{
    under_load(site, true).await;
}

/// An event of the new kind comes to an aggregate that is parked.
async fn kept_parked<S, M>(Site { store, models, database: _database }: Site<S, M>, per_aggregate: bool)
where
    S: EventStore + Clone,
    M: ViewStore + Clone,
{
    let fails = Arc::new(AtomicBool::new(true));
    let brief = Duration::from_millis(10);
    let parking = ParkingOptions::new().with_delays(brief, brief).with_retries(1_000_000);
    let options = WorkerOptions::new().with_retries(0).with_sweep(brief).with_parking(parking);
    let older = Worker::view(Old { fails: fails.clone() }, store.clone(), models.clone()).with_options(options);
    let newer = Worker::view(New, store.clone(), models.clone()).with_options(options);
    let older = if per_aggregate { older.with_order_per_aggregate() } else { older };
    let newer = if per_aggregate { newer.with_order_per_aggregate() } else { newer };
    append(&store, "a", Placed).await;
    older.catch_up().await.unwrap();
    assert_eq!(models.parking(&sales()).await.unwrap().parked.len(), 1);
    newer.catch_up().await.unwrap();
    append(&store, "a", Placed).await;
    append(&store, "a", Paid).await;
    fails.store(false, Ordering::SeqCst);
    let stop = CancellationToken::new();
    let (older, newer) = (older.run(stop.clone()), newer.run(stop.clone()));
    let (older, newer, ()) = futures::join!(older, newer, async {
        until_sale(&models, "a", 2, 1).await;
        stop.cancel();
    });
    older.unwrap();
    newer.unwrap();
    nothing_is_parked(&models).await;
}

async fn parked_aggregate_keeps_the_new_kind<S, M>(site: Site<S, M>)
where
    S: EventStore + Clone,
    M: ViewStore + Clone,
{
    kept_parked(site, false).await;
}

async fn parked_aggregate_keeps_the_new_kind_per_aggregate<S, M>(site: Site<S, M>)
where
    S: EventStore + Clone,
    M: ViewStore + Clone,
{
    kept_parked(site, true).await;
}

/// The view of the older release. While it folds, the newer one is registered.
struct Overtaken<M> {
    models: M,
    is_registered: AtomicBool,
}

impl<M: ViewStore> View for Overtaken<M> {
    const NAME: &'static str = "sales";
    type Event = Placed;
    type State = Sale;

    fn key(&self, event: &Envelope<Placed>) -> Option<String> {
        if !self.is_registered.swap(true, Ordering::SeqCst) {
            let newer =
                RegisteredProcessor::new(ProcessorKind::Projection, Filter::of::<Any>().unwrap(), Utc::now(), "newer");
            let registering = async { self.models.register_processor(&sales(), &newer).await.unwrap() };
            tokio::task::block_in_place(|| Handle::current().block_on(registering));
        }
        Old::default().key(event)
    }

    fn apply(&self, sale: &mut Sale, event: Envelope<Placed>) {
        Old::default().apply(sale, event);
    }
}

/// A build of the older release writes what comes before an event of the new kind, and says why it stops there.
async fn build_stops_at_the_new_kind<S, M>(Site { store, models, database: _database }: Site<S, M>)
where
    S: EventStore + Clone,
    M: ViewStore + Clone,
{
    append(&store, "a", Placed).await;
    append(&store, "a", Paid).await;
    append(&store, "b", Placed).await;
    let overtaken = Overtaken { models: models.clone(), is_registered: AtomicBool::new(false) };
    for build in [
        Rebuild::new(overtaken, store.clone(), models.clone()).run(CancellationToken::new()).await,
        Rebuild::new(Old::default(), store.clone(), models.clone()).run(CancellationToken::new()).await,
    ] {
        let error = build.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::BehindDeploy(kind) if kind.as_str() == "sale.paid"), "{error:?}");
        assert_eq!(models.checkpoint(&sales()).await.unwrap(), Position::new(1));
    }
    Rebuild::new(New, store, models.clone()).run(CancellationToken::new()).await.unwrap();
    until_sale(&models, "a", 1, 1).await;
    until_sale(&models, "b", 1, 0).await;
    nothing_is_parked(&models).await;
}

/// A build registers its release, so that a worker of an older one passes over nothing that comes later.
async fn build_registers_its_release<S, M>(Site { store, models, database: _database }: Site<S, M>)
where
    S: EventStore + Clone,
    M: ViewStore + Clone,
{
    append(&store, "a", Placed).await;
    Worker::view(Old::default(), store.clone(), models.clone()).catch_up().await.unwrap();
    Rebuild::new(New, store.clone(), models.clone()).run(CancellationToken::new()).await.unwrap();
    append(&store, "a", Paid).await;
    let error = Worker::view(Old::default(), store, models).catch_up().await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::BehindDeploy(_)), "{error:?}");
}

on_every_store! {
    kind_that_only_the_newer_release_reads_is_left_to_it,
    kind_per_aggregate_is_left_to_the_newer_release,
    releases_with_other_kinds_change_places_under_load,
    releases_with_other_kinds_change_places_per_aggregate,
    parked_aggregate_keeps_the_new_kind,
    parked_aggregate_keeps_the_new_kind_per_aggregate,
    build_stops_at_the_new_kind,
    build_registers_its_release,
}
