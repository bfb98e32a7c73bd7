//! Behavior of a manager that is not killed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::LocalBoxFuture;
use retell::store::DeadlineStore;
use retell::testing::store::whole_log;
use retell::worker::WorkerOptions;
use retell::{EventStore, ProcessManager, Repository};
use tokio_util::sync::CancellationToken;

use crate::databases::Place;
use crate::domain::{Fulfilment, Order, OrderEvent, Payment, PaymentEvent};
use crate::models::with_models;

pub(crate) type Test = fn(Place) -> LocalBoxFuture<'static, ()>;

pub(crate) const TESTS: [(&str, Test); 5] = [
    ("paid_orders_are_confirmed_and_others_cancelled", |place| paid_and_unpaid(place).boxed_local()),
    ("a_refused_command_leads_to_another", |place| refused(place).boxed_local()),
    ("two_managers_execute_each_command_once", |place| two_managers(place).boxed_local()),
    ("catch_up_takes_steps_and_handles_deadlines", |place| catching_up(place).boxed_local()),
    ("a_replay_from_the_start_repeats_nothing", |place| again(place).boxed_local()),
];

/// Runs `managers` managers of one process until `done` holds.
pub(crate) async fn run_until<M: DeadlineStore + Clone>(
    process: Fulfilment,
    store: &Arc<dyn EventStore>,
    models: M,
    managers: usize,
    done: impl AsyncFn() -> bool,
) {
    let stop = CancellationToken::new();
    let manage = || {
        ProcessManager::new(process.clone(), store.clone(), models.clone())
            .with_options(WorkerOptions::new().with_sweep(Duration::from_millis(10)).with_batch_events(7))
            .with_look(Duration::from_millis(20))
    };
    let managers: Vec<_> = (0..managers).map(|_| manage()).collect();
    let running = futures::future::try_join_all(managers.iter().map(|manager| manager.run(stop.clone())));
    let waiting = async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        stop.cancel();
    };
    let waiting = tokio::time::timeout(Duration::from_mins(2), waiting);
    let (ran, waited) = futures::join!(running, waiting);
    waited.expect("the managers finish in time");
    ran.unwrap();
}

/// Returns the event types of each aggregate except for the processes' own steps.
async fn log(store: &Arc<dyn EventStore>) -> BTreeMap<String, Vec<String>> {
    let mut log: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for event in whole_log(&**store).await.unwrap() {
        if event.event.event_type.as_str() != "process.stepped" {
            log.entry(event.stream.to_string()).or_default().push(event.event.event_type.to_string());
        }
    }
    log
}

async fn count(store: &Arc<dyn EventStore>, event_type: &str) -> usize {
    log(store).await.values().flatten().filter(|found| *found == event_type).count()
}

async fn create(store: &Arc<dyn EventStore>, order: &str, quantity: u32) {
    Repository::<Order>::new(store.clone()).execute(order, OrderEvent::Created { quantity }).await.unwrap();
}

async fn pay(store: &Arc<dyn EventStore>, order: &str) {
    Repository::<Payment>::new(store.clone()).execute(order, PaymentEvent::Completed).await.unwrap();
}

async fn catching_up(place: Place) {
    let store = place.open().await.unwrap().events;
    for order in ["paid", "unpaid"] {
        create(&store, order, 2).await;
    }
    pay(&store, "paid").await;
    let head = store.head().await.unwrap();
    let process = Fulfilment::new(&store, Duration::ZERO);
    with_models!(&place, |models| {
        let caught_up = ProcessManager::new(process, store.clone(), models).catch_up().await.unwrap();
        assert!(caught_up.position >= head && caught_up.is_complete(), "{caught_up:?}");
    });
    let log = log(&store).await;
    assert_eq!(log["order/paid"], ["order.created", "order.confirmed"]);
    assert_eq!(log["order/unpaid"], ["order.created", "order.cancelled"]);
}

async fn paid_and_unpaid(place: Place) {
    let store = place.open().await.unwrap().events;
    for order in ["paid", "unpaid"] {
        create(&store, order, 2).await;
    }
    pay(&store, "paid").await;
    let process = Fulfilment::new(&store, Duration::from_millis(400));
    let done = async || count(&store, "order.cancelled").await == 1;
    with_models!(&place, |models| run_until(process, &store, models, 1, done).await);
    let log = log(&store).await;
    assert_eq!(log["order/paid"], ["order.created", "order.confirmed"]);
    assert_eq!(log["order/unpaid"], ["order.created", "order.cancelled"]);
    assert_eq!(log["stock/thing"], ["stock.reserved", "stock.reserved", "stock.released"]);
    // Events of a command name the event that caused it and the correlation id of the first request.
    let all = whole_log(&*store).await.unwrap();
    let of = |kind: &str, stream: &str| {
        all.iter().find(|event| event.event.event_type.as_str() == kind && event.stream.to_string() == stream).unwrap()
    };
    let (created, cancelled) = (of("order.created", "order/unpaid"), of("order.cancelled", "order/unpaid"));
    assert_eq!(cancelled.event.metadata.correlation_id, created.event.metadata.correlation_id);
    assert_eq!(cancelled.event.metadata.causation_id, Some(created.event.id), "a deadline keeps the cause");
    let chain = retell::operate::chain(&*store, cancelled.event.id, 100).await.unwrap().unwrap();
    let tree: Vec<_> = chain.tree().map(|link| (link.depth, link.event.event_type.to_string())).collect();
    let tree: Vec<_> = tree.iter().map(|(depth, event_type)| (*depth, event_type.as_str())).collect();
    assert_eq!(tree[0], (0, "order.created"));
    assert_eq!(tree[1], (1, "process.stepped"));
    for effect in ["stock.reserved", "stock.released", "order.cancelled"] {
        assert!(tree[1..].contains(&(1, effect)), "{tree:?}");
    }
    assert!(tree[1..].iter().all(|(depth, _)| *depth == 1), "{tree:?}");
    let (paid, confirmed) = (of("payment.completed", "payment/paid"), of("order.confirmed", "order/paid"));
    assert_eq!(confirmed.event.metadata.causation_id, Some(paid.event.id));
}

async fn refused(place: Place) {
    let store = place.open().await.unwrap().events;
    create(&store, "large", 1_000).await;
    let process = Fulfilment::new(&store, Duration::from_millis(1));
    let done = async || count(&store, "order.cancelled").await == 1;
    with_models!(&place, |models| {
        run_until(process, &store, models.clone(), 1, done).await;
        // The deadline of the large order was cancelled with it.
        create(&store, "small", 1).await;
        let process = Fulfilment::new(&store, Duration::from_millis(1));
        let done = async || count(&store, "order.cancelled").await == 2;
        run_until(process, &store, models, 1, done).await;
    });
    let log = log(&store).await;
    assert_eq!(log["order/large"], ["order.created", "order.cancelled"]);
    assert_eq!(log["stock/thing"], ["stock.reserved", "stock.released"]);
}

async fn two_managers(place: Place) {
    let store = place.open().await.unwrap().events;
    for number in 0..20 {
        create(&store, &format!("o{number}"), 1).await;
        if number % 2 == 0 {
            pay(&store, &format!("o{number}")).await;
        }
    }
    let process = Fulfilment::new(&store, Duration::from_millis(600));
    let done = async || count(&store, "order.cancelled").await + count(&store, "order.confirmed").await == 20;
    with_models!(&place, |models| run_until(process, &store, models, 2, done).await);
    let log = log(&store).await;
    assert!((0..20).all(|number| log[&format!("order/o{number}")].len() == 2), "{log:?}");
    let stock = &log["stock/thing"];
    assert_eq!(stock.iter().filter(|kind| *kind == "stock.reserved").count(), 20);
    assert_eq!(stock.len() - 20, log.values().flatten().filter(|kind| *kind == "order.cancelled").count());
}

/// The checkpoint and the deadlines are lost; the steps are in the log.
async fn again(place: Place) {
    let store = place.open().await.unwrap().events;
    create(&store, "paid", 1).await;
    pay(&store, "paid").await;
    create(&store, "unpaid", 1).await;
    let process = || Fulfilment::new(&store, Duration::from_millis(300));
    let done = async || count(&store, "order.cancelled").await >= 1 && count(&store, "order.confirmed").await >= 1;
    with_models!(&place, |models| run_until(process(), &store, models, 1, done).await);
    let before = whole_log(&*store).await.unwrap();
    let (prefix, of) = match &place {
        Place::Sqlite(path) => ("retell_", Place::Sqlite(path.with_extension("models"))),
        Place::Postgres(_) => ("retell.", place.clone()),
        Place::MySql(_) => ("retell_", place.clone()),
    };
    of.run(&format!("DELETE FROM {prefix}checkpoints; DELETE FROM {prefix}deadlines")).await;
    create(&store, "last", 1).await;
    pay(&store, "last").await;
    let done = async || count(&store, "order.confirmed").await == 2;
    with_models!(&place, |models| run_until(process(), &store, models, 1, done).await);
    let after = whole_log(&*store).await.unwrap();
    let new: Vec<_> = after[before.len()..].iter().map(|event| event.stream.aggregate_id().as_str()).collect();
    assert!(new.iter().all(|id| ["last", "thing"].contains(id)), "{new:?}");
}
