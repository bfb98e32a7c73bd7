//! A5. Workers and relays without an `App` outlast a full disk, a read-only phase and lost sessions.

use std::collections::HashMap;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use retell::prelude::*;
use retell::store::{Parked, ProjectionState, ProjectionStatus, RegisteredProcessor, RelayStatus, Step, Turn, Work};
use retell::{
    ErrorKind, EventId, Fence, Mark, Parking, ProjectionName, ReadModel, RelayOptions, RelayStore, SqliteOptions, Uuid,
    WorkerOptions,
};

use crate::databases::{Database, Place};
use crate::sites::{Site, on_every_store};

#[derive(Event)]
#[event("shelf.filled")]
struct Filled(u64);

/// Counts the events of each aggregate. Its rows are large.
struct Shelves;

impl View for Shelves {
    const NAME: &'static str = "shelves";
    type Event = Filled;
    type State = (u64, String);

    fn key(&self, event: &Envelope<Filled>) -> Option<String> {
        Some(event.stream.aggregate_id().to_string())
    }

    fn apply(&self, (count, text): &mut (u64, String), event: Envelope<Filled>) {
        *count += event.event.0;
        *text = "x".repeat(4_000);
    }
}

/// Refuses the first calls that write, with one error.
#[derive(Clone)]
struct Refusing<M> {
    inner: M,
    kind: ErrorKind,
    left: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
}

impl<M> Refusing<M> {
    fn new(inner: M, kind: ErrorKind, times: u64) -> Self {
        Self { inner, kind, left: Arc::new(AtomicU64::new(times)), refused: Arc::default() }
    }

    fn check(&self) -> retell::Result<()> {
        let is_refused = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        if !is_refused {
            return Ok(());
        }
        self.refused.fetch_add(1, Ordering::SeqCst);
        Err(self.kind.clone().into())
    }

    async fn refused_often(&self) {
        while self.refused.load(Ordering::SeqCst) < 3 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

#[async_trait]
impl<M: ReadModel> ReadModel for Refusing<M> {
    type Tx = M::Tx;

    async fn mark(&self, projection: &ProjectionName) -> retell::Result<Mark> {
        self.inner.mark(projection).await
    }

    async fn state(&self, projection: &ProjectionName) -> retell::Result<ProjectionState> {
        self.inner.state(projection).await
    }

    async fn projections(&self, limit: usize) -> retell::Result<Vec<ProjectionStatus>> {
        self.inner.projections(limit).await
    }

    async fn parked(
        &self,
        projection: &ProjectionName,
        stream: Option<&StreamId>,
        limit: usize,
    ) -> retell::Result<Vec<Parked>> {
        self.inner.parked(projection, stream, limit).await
    }

    async fn parking(&self, projection: &ProjectionName) -> retell::Result<Parking> {
        self.inner.parking(projection).await
    }

    async fn retry_parked(&self, projection: &ProjectionName, stream: &StreamId) -> retell::Result<bool> {
        self.inner.retry_parked(projection, stream).await
    }

    async fn commit(&self, step: Step, work: Work<M::Tx>) -> retell::Result<()> {
        self.check()?;
        self.inner.commit(step, work).await
    }

    async fn begin(&self, projection: &ProjectionName, work: Work<M::Tx>) -> retell::Result<()> {
        self.check()?;
        self.inner.begin(projection, work).await
    }

    async fn seen(
        &self,
        projection: &ProjectionName,
        streams: &[StreamId],
    ) -> retell::Result<HashMap<StreamId, retell::store::Seen>> {
        self.inner.seen(projection, streams).await
    }

    async fn turn(
        &self,
        projection: &ProjectionName,
        changes: u64,
        streams: Vec<StreamId>,
        turn: Turn<M::Tx>,
    ) -> retell::Result<()> {
        self.check()?;
        self.inner.turn(projection, changes, streams, turn).await
    }

    async fn sweep(&self, projection: &ProjectionName, changes: u64, from: Mark, to: Mark) -> retell::Result<Mark> {
        self.check()?;
        self.inner.sweep(projection, changes, from, to).await
    }

    async fn register_processor(
        &self,
        projection: &ProjectionName,
        processor: &RegisteredProcessor,
    ) -> retell::Result<()> {
        self.inner.register_processor(projection, processor).await
    }

    async fn processors(&self, projection: &ProjectionName) -> retell::Result<Vec<RegisteredProcessor>> {
        self.inner.processors(projection).await
    }

    async fn forget_processor(
        &self,
        projection: &ProjectionName,
        processor: &RegisteredProcessor,
    ) -> retell::Result<bool> {
        self.inner.forget_processor(projection, processor).await
    }

    async fn reset(&self, projection: &ProjectionName, to: Mark, work: Work<M::Tx>) -> retell::Result<()> {
        self.check()?;
        self.inner.reset(projection, to, work).await
    }

    async fn mark_handled(&self, tx: &mut M::Tx, reaction: &ProjectionName, event: EventId) -> retell::Result<bool> {
        self.inner.mark_handled(tx, reaction, event).await
    }

    async fn start_after(&self, reaction: &ProjectionName, mark: Mark) -> retell::Result<Mark> {
        self.check()?;
        self.inner.start_after(reaction, mark).await
    }
}

#[async_trait]
impl<S: RelayStore> RelayStore for Refusing<S> {
    async fn mark(&self, relay: &str) -> retell::Result<Mark> {
        self.inner.mark(relay).await
    }

    async fn relay_statuses(&self, limit: usize) -> retell::Result<Option<Vec<RelayStatus>>> {
        self.inner.relay_statuses(limit).await
    }

    async fn advance(&self, relay: &str, to: Mark, fence: Fence) -> retell::Result<()> {
        self.check()?;
        self.inner.advance(relay, to, fence).await
    }

    async fn reset(&self, relay: &str, to: Mark) -> retell::Result<()> {
        self.check()?;
        self.inner.reset(relay, to).await
    }

    async fn acquire_lease(&self, name: &str, holder: Uuid, length: Duration) -> retell::Result<Option<Fence>> {
        self.check()?;
        self.inner.acquire_lease(name, holder, length).await
    }

    async fn release_lease(&self, name: &str, holder: Uuid) -> retell::Result<()> {
        self.inner.release_lease(name, holder).await
    }
}

/// The errors of a store that is down.
fn outages() -> [ErrorKind; 3] {
    [ErrorKind::Full, ErrorKind::ReadOnly, ErrorKind::Transient("reach the server".into())]
}

fn options() -> WorkerOptions {
    WorkerOptions::new().with_longest_delay(Duration::from_millis(2)).with_sweep(Duration::from_millis(5))
}

fn relay_options() -> RelayOptions {
    RelayOptions::new().with_longest_delay(Duration::from_millis(2))
}

async fn append(store: &impl EventStore, shelves: u64) {
    for shelf in 0..shelves {
        let stream = ("shelf", format!("s{shelf}"));
        store.append_events(stream, ExpectedVersion::Any, [Filled(1)]).await.unwrap();
    }
}

/// Applies nothing.
struct Watching<T: ?Sized>(String, PhantomData<fn(&T)>);

#[async_trait]
impl<T: Send + ?Sized + 'static> Projection for Watching<T> {
    const NAME: &'static str = "watching";
    type Event = Filled;
    type Tx = T;

    fn name(&self) -> &str {
        &self.0
    }

    async fn apply(&self, _: &mut T, _: Envelope<Filled>) -> Result<(), BoxError> {
        Ok(())
    }
}

fn worker<M: ReadModel>(name: &str, store: impl EventReader, models: M) -> Worker<Watching<M::Tx>, M> {
    Worker::new(Watching(name.to_owned(), PhantomData), store, models).with_options(options())
}

/// A worker waits for a store that is full or read-only, in both orders, and parks nothing.
async fn worker_outlasts_an_outage<S, M>(Site { store, models, .. }: Site<S, M>)
where
    S: EventStore + Clone,
    M: ReadModel + Clone,
{
    append(&store, 5).await;
    for kind in outages() {
        let refusing = Refusing::new(models.clone(), kind.clone(), 5);
        let caught_up = worker(&format!("{kind}"), store.clone(), refusing.clone()).catch_up().await.unwrap();
        assert!(caught_up.is_complete() && caught_up.position == Position::new(5), "{kind}: {caught_up:?}");
        assert_eq!(refusing.refused.load(Ordering::SeqCst), 5, "{kind}");
    }
}

async fn worker_per_aggregate_outlasts_an_outage<S, M>(Site { store, models, .. }: Site<S, M>)
where
    S: EventStore + Clone,
    M: ReadModel + Clone,
{
    append(&store, 5).await;
    for kind in outages() {
        let refusing = Refusing::new(models.clone(), kind.clone(), 5);
        let worker = worker(&format!("{kind}"), store.clone(), refusing.clone()).with_order_per_aggregate();
        let caught_up = worker.catch_up().await.unwrap();
        assert!(caught_up.is_complete() && caught_up.position == Position::new(5), "{kind}: {caught_up:?}");
        assert_eq!(refusing.refused.load(Ordering::SeqCst), 5, "{kind}");
    }
}

/// Runs a worker or a relay until `script` has stopped it. It may not end before.
async fn run_beside(
    run: impl Future<Output = retell::Result<()>>,
    script: impl Future<Output = ()>,
) -> retell::Result<()> {
    let mut run = std::pin::pin!(run);
    tokio::select! {
        biased;
        () = script => run.await,
        ended = &mut run => panic!("ended early: {ended:?}"),
    }
}

/// A worker and a relay that are stopped during an outage end without an error.
async fn stop_in_an_outage_is_no_error<S, M>(Site { store, models, .. }: Site<S, M>)
where
    S: EventStore + RelayStore + Clone,
    M: ReadModel + Clone,
{
    append(&store, 5).await;
    for kind in outages() {
        for (per_aggregate, is_sudden) in [(false, false), (false, true), (true, false), (true, true)] {
            let refusing = Refusing::new(models.clone(), kind.clone(), if is_sudden { 0 } else { u64::MAX });
            let worker = worker(&format!("{kind} {per_aggregate} {is_sudden}"), store.clone(), refusing.clone());
            let worker = if per_aggregate { worker.with_order_per_aggregate() } else { worker };
            let (stop, mut applied) = (CancellationToken::new(), worker.applied());
            let ended = run_beside(worker.run(stop.clone()), async {
                if is_sudden {
                    // The outage begins while the worker runs.
                    applied.wait_for(|applied| applied.get() >= 5).await.unwrap();
                    refusing.left.store(u64::MAX, Ordering::SeqCst);
                    append(&store, 1).await;
                }
                refusing.refused_often().await;
                stop.cancel();
            })
            .await;
            ended.unwrap_or_else(|error| panic!("{kind}, per aggregate: {per_aggregate}: {error:?}"));
        }
        let leases = Refusing::new(store.clone(), kind.clone(), u64::MAX);
        let relay = Relay::new(store.clone(), MemoryBroker::new()).with_checkpoint(leases.clone(), "frames");
        let relay = relay.with_options(relay_options());
        let stop = CancellationToken::new();
        let ended = run_beside(relay.run(stop.clone()), async {
            leases.refused_often().await;
            stop.cancel();
        })
        .await;
        ended.unwrap_or_else(|error| panic!("{kind}: {error:?}"));
    }
}

/// A relay waits for a store that is full or read-only, and publishes then.
async fn relay_outlasts_an_outage<S, M>(Site { store, .. }: Site<S, M>)
where
    S: EventStore + RelayStore + Clone,
{
    append(&store, 5).await;
    for kind in outages() {
        let (leases, name) = (Refusing::new(store.clone(), kind.clone(), 5), format!("{kind}"));
        let relay = Relay::new(store.clone(), MemoryBroker::new()).with_checkpoint(leases.clone(), name.clone());
        let relay = relay.with_options(relay_options());
        let stop = CancellationToken::new();
        let ended = run_beside(relay.run(stop.clone()), async {
            while store.position(&name).await.unwrap() < Position::new(5) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            stop.cancel();
        });
        ended.await.unwrap();
        assert_eq!(leases.refused.load(Ordering::SeqCst), 5, "{kind}");
    }
}

/// A worker on a full SQLite file continues when there is room again. The caller of an append is told at once.
#[tokio::test(flavor = "multi_thread")]
async fn worker_continues_when_a_full_file_has_room() {
    let database = Database::sqlite();
    let Place::Sqlite(path) = &database.place else { unreachable!("a file") };
    let store = SqliteStore::open(path).await.unwrap();
    append(&store, 100).await;
    let models = path.with_file_name("models.db");
    drop(SqliteReadModel::open(&models).await.unwrap());
    let db = retell::rusqlite::Connection::open(&models).unwrap();
    db.execute_batch("CREATE TABLE junk (text BLOB); INSERT INTO junk VALUES (zeroblob(900000))").unwrap();
    // The empty tables have 36 pages, and there is room for some of the rows.
    let limit = SqliteOptions::new().with_max_file_bytes(1_112_288);
    let models = SqliteReadModel::open_with(&models, limit).await.unwrap();
    let options = options().with_batch_events(10);
    let worker = Worker::view(Shelves, store.clone(), models.clone()).with_options(options);
    let rows = Views::new(&Shelves, models.clone());
    let (stop, applied) = (CancellationToken::new(), worker.applied());
    let ended = run_beside(worker.run(stop.clone()), async {
        let still = async || {
            let before = *applied.borrow();
            tokio::time::sleep(Duration::from_millis(200)).await;
            before.get() > 0 && *applied.borrow() == before
        };
        let full = async { while !still().await {} };
        tokio::time::timeout(Duration::from_mins(5), full).await.expect("the worker stops at the full file");
        assert!(applied.borrow().get() < 100, "the file is full");
        db.execute_batch("DELETE FROM junk").unwrap();
        applied.clone().wait_for(|applied| applied.get() == 100).await.unwrap();
        stop.cancel();
    });
    ended.await.unwrap();
    assert_eq!(rows.get("s99").await.unwrap().map(|(count, _)| count), Some(1));
    let parked = models.parking(&ProjectionName::new("shelves").unwrap()).await.unwrap().parked;
    assert!(parked.is_empty(), "{parked:?}");

    let full = SqliteOptions::new().with_max_file_bytes(200_000);
    let log = SqliteStore::open_with(path.with_file_name("full.db"), full).await.unwrap();
    let append = async || {
        let event = NewEvent::stored(
            EventId::generate(),
            "shelf.filled".try_into().unwrap(),
            1,
            retell::Codec::Json,
            vec![b'1'; 50_000].into(),
        );
        log.append(Append::new(StreamId::parse("shelf", "1").unwrap(), ExpectedVersion::Any, vec![event])).await
    };
    let refused = loop {
        if let Err(error) = append().await {
            break error;
        }
    };
    assert!(matches!(refused.kind(), ErrorKind::Full), "{refused:?}");
}

on_every_store! {
    worker_outlasts_an_outage,
    worker_per_aggregate_outlasts_an_outage,
    stop_in_an_outage_is_no_error,
    relay_outlasts_an_outage,
}
