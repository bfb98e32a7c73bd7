//! Reads stored events in each way that the library has, on two stores.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use retell::aggregate::SnapshotPolicy;
use retell::store::{RelayStore, Snapshot, UpTo};
use retell::worker::{ParkingOptions, WorkerOptions};
use retell::{
    Aggregate, BoxError, CancellationToken, Envelope, Event, EventStore, Filter, Generation, MemoryBroker,
    MemoryReadModel, MemoryStore, ProjectionName, Rebuild, Relay, Repository, SqliteReadModel, SqliteStore, Version,
    View, ViewStore, Views, Worker,
};

use crate::workers::{until, while_running};
use crate::{Stored, append, order};

/// An aggregate that keeps a text of each of its events.
#[derive(Debug)]
struct Folded<E> {
    texts: Vec<String>,
    event: PhantomData<fn() -> E>,
}

impl<E> Clone for Folded<E> {
    fn clone(&self) -> Self {
        Self { texts: self.texts.clone(), event: PhantomData }
    }
}

impl<E> Default for Folded<E> {
    fn default() -> Self {
        Self { texts: Vec::new(), event: PhantomData }
    }
}

impl<E: Event + Debug> Aggregate for Folded<E> {
    const TYPE: &'static str = "order";
    const SNAPSHOTS: SnapshotPolicy = SnapshotPolicy::Every(100);
    type Event = E;

    fn fingerprint() -> u64 {
        1
    }

    fn apply(&mut self, event: E) {
        self.texts.push(format!("{event:?}"));
    }

    fn to_snapshot(&self) -> Result<Vec<u8>, BoxError> {
        Ok(serde_json::to_vec(&self.texts)?)
    }

    fn from_snapshot(bytes: &[u8]) -> Result<Self, BoxError> {
        Ok(Self { texts: serde_json::from_slice(bytes)?, event: PhantomData })
    }
}

/// A view with a text of each event of an order.
#[derive(Debug)]
pub(crate) struct Texts<E> {
    name: &'static str,
    generation: u64,
    /// Whether it receives all events of orders, and not only those that its type names.
    is_wide: bool,
    /// Fails while it is set.
    poison: Arc<AtomicBool>,
    event: PhantomData<fn() -> E>,
}

impl<E> Texts<E> {
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, generation: 1, is_wide: false, poison: Arc::default(), event: PhantomData }
    }

    /// Creates a view that receives all events of orders.
    pub(crate) fn wide(name: &'static str) -> Self {
        Self { is_wide: true, ..Self::new(name) }
    }
}

impl<E: Event + Debug> View for Texts<E> {
    const NAME: &'static str = "texts";
    type Event = E;
    type State = Vec<String>;

    fn name(&self) -> &str {
        self.name
    }

    fn generation(&self) -> Generation {
        Generation::new(self.generation)
    }

    fn key(&self, event: &Envelope<E>) -> Option<String> {
        // No row has an empty key.
        let is_poisoned = self.poison.load(Ordering::SeqCst);
        Some(if is_poisoned { String::new() } else { event.stream.aggregate_id().to_string() })
    }

    fn apply(&self, texts: &mut Vec<String>, event: Envelope<E>) {
        texts.push(format!("{:?}", event.event));
    }

    fn filter(&self) -> retell::Result<Filter> {
        if self.is_wide { Filter::aggregates(["order"]) } else { Filter::of::<E>() }
    }
}

pub(crate) async fn rows<E: Event + Debug, M: ViewStore + Clone>(
    view: &Texts<E>,
    models: &M,
    order: &str,
) -> Vec<String> {
    Views::new(view, models.clone()).get(order).await.unwrap().unwrap_or_default()
}

fn eager() -> WorkerOptions {
    let brief = Duration::from_millis(5);
    let parking = ParkingOptions::new().with_delays(brief, brief).with_retries(u32::MAX);
    WorkerOptions::new().with_sweep(brief).with_longest_delay(brief).with_retries(0).with_parking(parking)
}

/// Asserts that every reader takes `stored` for `expected`. Each event of `expected` is the text of an event.
pub(crate) async fn assert_reads<E: Event + Debug>(stored: &[Stored], expected: &[&str]) {
    let log = MemoryStore::new();
    read_in_all_ways::<E, _, _>(&log, &MemoryReadModel::new(), stored, expected).await;
    let log = SqliteStore::in_memory().await.unwrap();
    read_in_all_ways::<E, _, _>(&log, &SqliteReadModel::in_memory().await.unwrap(), stored, expected).await;
}

async fn read_in_all_ways<E, S, M>(log: &S, models: &M, stored: &[Stored], expected: &[&str])
where
    E: Event + Debug,
    S: EventStore + RelayStore + Clone,
    M: ViewStore + Clone,
{
    append(log, "1", stored).await;
    let last = Version::new(stored.len() as u64);
    is_replayed::<E>(log, last, expected).await;
    is_caught_up::<E, M>(log, models, expected).await;
    is_rebuilt::<E, M>(log, models, expected).await;
    parks_and_heals::<E, M>(log, models, expected).await;
    follows_live::<E, S, M>(log, models, stored, expected).await;
}

/// Replays the stream, from its beginning and from a snapshot.
async fn is_replayed<E: Event + Debug>(log: &(impl EventStore + Clone), last: Version, expected: &[&str]) {
    let loaded = Repository::<Folded<E>>::new(log.clone()).load("1").await.unwrap();
    assert_eq!((loaded.version, loaded.state.texts), (last, owned(expected)), "replayed");
    // A text in the state tells that the snapshot was read.
    let middle = Repository::<Folded<E>>::new(log.clone()).load_at("1", UpTo::Version(Version::new(1))).await.unwrap();
    let of_first = middle.state.texts.len();
    let state = Folded::<E> { texts: vec!["snapshot".into()], event: PhantomData }.to_snapshot().unwrap();
    let snapshot = Snapshot::new(middle.version, middle.last_event().unwrap(), Folded::<E>::fingerprint(), state);
    log.save_snapshot(&order("1"), snapshot).await.unwrap();
    let loaded = Repository::<Folded<E>>::new(log.clone()).load("1").await.unwrap();
    let after = [&["snapshot"], &expected[of_first..]].concat();
    assert_eq!((loaded.version, loaded.state.texts), (last, owned(&after)), "replayed from a snapshot");
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(ToString::to_string).collect()
}

/// Catches up in log order and in order per aggregate, with the filter of the type and with a wide one.
async fn is_caught_up<E: Event + Debug, M: ViewStore + Clone>(
    log: &(impl EventStore + Clone),
    models: &M,
    expected: &[&str],
) {
    for (name, is_wide) in [("narrow", false), ("wide", true)] {
        let view = Texts::<E> { is_wide, ..Texts::new(name) };
        let caught_up = Worker::view(view, log.clone(), models.clone()).catch_up().await.unwrap();
        assert_eq!((caught_up.position, &*caught_up.parked), (log.head().await.unwrap(), &[][..]), "{name}");
        assert_eq!(rows(&Texts::<E>::new(name), models, "1").await, expected, "{name}");
    }
    let worker = Worker::view(Texts::<E>::wide("lanes"), log.clone(), models.clone());
    let caught_up = worker.with_order_per_aggregate().catch_up().await.unwrap();
    assert!(caught_up.parked.is_empty(), "{:?}", caught_up.parked);
    assert_eq!(rows(&Texts::<E>::new("lanes"), models, "1").await, expected, "in order per aggregate");
}

async fn is_rebuilt<E: Event + Debug, M: ViewStore + Clone>(
    log: &(impl EventStore + Clone),
    models: &M,
    expected: &[&str],
) {
    let view = || Texts::<E> { generation: 2, ..Texts::wide("narrow") };
    let rebuild = Rebuild::new(view(), log.clone(), models.clone());
    rebuild.run(CancellationToken::new()).await.unwrap();
    rebuild.switch().await.unwrap();
    assert_eq!(rows(&view(), models, "1").await, expected, "rebuilt");
}

/// Parks the order at its first event, and applies its events when the cause is gone.
async fn parks_and_heals<E: Event + Debug, M: ViewStore + Clone>(
    log: &(impl EventStore + Clone),
    models: &M,
    expected: &[&str],
) {
    let (view, name) = (Texts::<E>::wide("parked"), ProjectionName::new("parked").unwrap());
    let poison = view.poison.clone();
    poison.store(true, Ordering::SeqCst);
    let worker = [Worker::view(view, log.clone(), models.clone()).with_options(eager())];
    let is_parked = async || !models.parking(&name).await.unwrap().parked.is_empty();
    while_running(&worker, async {
        until(&is_parked).await;
        assert!(rows(&Texts::<E>::new("parked"), models, "1").await.is_empty());
        poison.store(false, Ordering::SeqCst);
        until(async || !is_parked().await).await;
    })
    .await;
    assert_eq!(rows(&Texts::<E>::new("parked"), models, "1").await, expected, "retried");
}

/// Follows a broker that brings the same events of another order.
async fn follows_live<E, S, M>(log: &S, models: &M, stored: &[Stored], expected: &[&str])
where
    E: Event + Debug,
    S: EventStore + RelayStore + Clone,
    M: ViewStore + Clone,
{
    let broker = MemoryBroker::new();
    let view = Texts::<E>::wide("live");
    let worker = [Worker::view(view, log.clone(), models.clone()).with_broker(broker.clone()).with_options(eager())];
    let relay = Relay::new(log.clone(), broker);
    let stop = CancellationToken::new();
    let (relayed, ()) = tokio::join!(relay.run(stop.clone()), async {
        while_running(&worker, async {
            append(log, "2", stored).await;
            let head = log.head().await.unwrap();
            until(async || *worker[0].applied().borrow() >= head).await;
        })
        .await;
        stop.cancel();
    });
    relayed.unwrap();
    for order in ["1", "2"] {
        assert_eq!(rows(&Texts::<E>::new("live"), models, order).await, expected, "live, order {order}");
    }
}
