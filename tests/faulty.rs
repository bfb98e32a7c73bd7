//! The fault-injection kit itself: the outcome and the error of each fault of the wrapped read models, and the projections that
//! `assert_survives` rejects.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;
#[path = "support/workers.rs"]
mod workers;

use std::collections::BTreeMap;
use std::iter::repeat_n;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use retell::Mark;
use retell::store::DeadlineStore;
use retell::store::{Deadline, DeadlineChange, Step, Turn, Work};
use retell::testing::faulty::{CommitFault, Fault, FaultyModels, assert_survives};
use retell::view::ViewProjection;
use retell::{
    AggregateId, BoxError, Envelope, MemoryReadModel, MemoryStore, Position, Projection, ProjectionName, ReadModel,
    Repository, SqliteReadModel, StreamId, View, ViewKey, ViewStore, Worker, async_trait, rusqlite,
};
use support::{Add, Counter, CounterEvent, Rename};
use tokio_util::sync::CancellationToken;
use workers::{reached, while_running};

mod without_a_script {
    use super::{FaultyModels, MemoryReadModel};

    retell::checkpoint_conformance!(async { (FaultyModels::new(MemoryReadModel::with_value(0), []), ()) });

    mod progress {
        use super::{FaultyModels, MemoryReadModel};

        retell::progress_conformance!(async { (FaultyModels::new(MemoryReadModel::with_value(0), []), ()) });
    }

    mod inbox {
        use super::{FaultyModels, MemoryReadModel};

        retell::inbox_conformance!(async { (FaultyModels::new(MemoryReadModel::new(), []), ()) });
    }

    mod deadlines {
        use super::{FaultyModels, MemoryReadModel};

        retell::deadline_conformance!(async { (FaultyModels::new(MemoryReadModel::new(), []), ()) });
    }

    mod views {
        use super::{FaultyModels, MemoryReadModel};

        retell::view_conformance!(async { (FaultyModels::new(MemoryReadModel::new(), []), ()) });
    }
}

fn name() -> ProjectionName {
    ProjectionName::new("seen").unwrap()
}

fn note<Tx>(note: impl FnOnce(&mut Tx) + Send + 'static) -> Work<Tx> {
    Box::new(|tx| {
        note(tx);
        async { Ok(()) }.boxed()
    })
}

fn next(from: u64) -> Step {
    Step::new(&name(), Position::new(from), Position::new(from + 1))
}

/// Runs `call` against a model with one fault and returns the committed value. Asserts that the call never returns if the fault kills the
/// process.
async fn outcome(fault: CommitFault, call: impl AsyncFnOnce(&FaultyModels<MemoryReadModel<u64>>)) -> u64 {
    let models = FaultyModels::new(MemoryReadModel::with_value(0), [fault]);
    let dies = matches!(fault, CommitFault::DieBefore | CommitFault::DieAfter);
    tokio::select! {
        biased;
        () = call(&models) => assert!(!dies, "the call returns"),
        () = models.died() => assert!(dies, "the process dies"),
    }
    *models.inner().value()
}

fn is_kept(fault: CommitFault) -> bool {
    matches!(fault, CommitFault::Commit | CommitFault::LoseAnswer | CommitFault::DieAfter)
}

fn check<T>(fault: CommitFault, answer: retell::Result<T>) {
    match answer {
        Ok(_) => assert_eq!(fault, CommitFault::Commit),
        Err(error) => assert!(error.is_transient() && fault != CommitFault::Commit, "{fault:?}: {error}"),
    }
}

#[tokio::test]
async fn faults_before_the_commit_keep_nothing_and_later_ones_all() {
    for fault in CommitFault::ALL {
        let kept = u64::from(is_kept(fault));
        let advanced = outcome(fault, async |models| {
            check(fault, models.commit(next(0), note(|count| *count += 1)).await);
        });
        assert_eq!(advanced.await, kept, "{fault:?}");
        let begun = outcome(fault, async |models| check(fault, models.begin(&name(), note(|count| *count += 1)).await));
        assert_eq!(begun.await, kept, "{fault:?}");
        let turned = outcome(fault, async |models| {
            let turn: Turn<u64> = Box::new(|count, rows| {
                *count += rows.len() as u64;
                async { Ok(()) }.boxed()
            });
            let stream = StreamId::parse("counter", "a").unwrap();
            models.inner().begin(&name(), note(|_| {})).await.unwrap();
            check(fault, models.turn(&name(), 0, vec![stream], turn).await);
        });
        assert_eq!(turned.await, kept, "{fault:?}");
    }
}

#[tokio::test]
async fn changes_outside_a_projection_fail_like_its_transactions() {
    for fault in [CommitFault::Refuse, CommitFault::LoseAnswer] {
        let models = FaultyModels::new(MemoryReadModel::with_value(0_u64), [fault; 2]);
        check(fault, models.start_after(&name(), Position::new(7).into()).await);
        let kept = models.inner().start_after(&name(), Position::new(8).into()).await.unwrap();
        assert_eq!(kept.position, Position::new(if is_kept(fault) { 7 } else { 8 }));
        check(fault, models.sweep(&name(), 0, Mark::START, Position::new(5).into()).await);
        let swept = models.checkpoint(&name()).await.unwrap();
        assert_eq!(swept == Position::new(5), is_kept(fault));

        let (id, key) = (uuid::Uuid::from_u128(1), AggregateId::new("1").unwrap());
        let deadline = Deadline::new(id, key, "late", chrono::DateTime::UNIX_EPOCH);
        let models: FaultyModels<MemoryReadModel> = FaultyModels::new(MemoryReadModel::new(), [fault]);
        check(fault, models.settle_deadlines(&name(), &[DeadlineChange::Set(deadline)]).await);
        assert_eq!(models.due_deadlines(&name(), chrono::Utc::now(), 9).await.unwrap().len() == 1, is_kept(fault));
    }
}

#[tokio::test]
async fn an_error_of_the_wrapped_model_is_returned_unchanged() {
    let faults = [CommitFault::Refuse, CommitFault::LoseAnswer];
    let models = FaultyModels::new(MemoryReadModel::with_value(0_u64), faults);
    for _ in faults {
        let error = models.commit(next(3), note(|_| {})).await.unwrap_err();
        assert!(!error.is_transient() && error.to_string().contains("seen"), "{error}");
    }
    models.commit(next(0), note(|count| *count = 5)).await.unwrap();
    assert_eq!(*models.inner().value(), 5, "the script is at its end");
}

#[test]
fn a_seed_gives_a_repeatable_script_with_every_fault() {
    assert_eq!(CommitFault::seeded(7, 100), CommitFault::seeded(7, 100));
    assert_ne!(CommitFault::seeded(7, 100), CommitFault::seeded(8, 100));
    assert_eq!(Fault::seeded(7, 100), Fault::seeded(7, 100));
    assert!(CommitFault::ALL.iter().all(|fault| CommitFault::seeded(7, 100).contains(fault)));
    assert!(Fault::ALL.iter().all(|fault| Fault::seeded(7, 100).contains(fault)));
}

async fn log() -> MemoryStore {
    let store = MemoryStore::new();
    let counters = Repository::<Counter>::new(store.clone());
    for (id, amount) in ["a", "b", "a", "c", "b", "a"].into_iter().zip(1..) {
        counters.execute(id, Add(vec![amount, amount])).await.unwrap();
    }
    counters.execute("b", Rename("b")).await.unwrap();
    store
}

type Lines = Vec<(u64, String)>;

/// Numbers the events it applies, by the lines that exist or by a counter of its own.
#[derive(Default)]
struct Seen {
    own_count: Option<Arc<AtomicU64>>,
    poison: Option<u64>,
}

#[async_trait]
impl Projection for Seen {
    const NAME: &'static str = "seen";
    type Event = CounterEvent;
    type Tx = Lines;

    async fn apply(&self, lines: &mut Lines, event: Envelope<CounterEvent>) -> Result<(), BoxError> {
        if self.poison == Some(event.position.get()) {
            return Err("poison".into());
        }
        let number = match &self.own_count {
            Some(count) => count.fetch_add(1, Ordering::SeqCst),
            None => lines.len() as u64,
        };
        lines.push((number, format!("{} {} {}", event.position, event.stream, event.recorded_at)));
        Ok(())
    }
}

async fn lines() -> MemoryReadModel<Lines> {
    MemoryReadModel::with_value(Lines::new())
}

async fn read(models: &MemoryReadModel<Lines>) -> Lines {
    models.value().to_vec()
}

#[tokio::test(start_paused = true)]
async fn a_projection_that_uses_only_its_transaction_survives() {
    assert_survives(|_| Seen::default(), &log().await, lines, read).await;
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "the projection writes another result")]
async fn a_counter_lost_in_a_crash_is_found() {
    assert_survives(|_| Seen { own_count: Some(Arc::default()), ..Seen::default() }, &log().await, lines, read).await;
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "the projection writes another result")]
async fn a_counter_that_survives_a_crash_is_found() {
    // Survives a crash like a file would. Each round has its own.
    let count = Mutex::new(Arc::<AtomicU64>::default());
    let fresh = async || {
        *count.lock().unwrap() = Arc::default();
        lines().await
    };
    let projection = |_: &_| Seen { own_count: Some(count.lock().unwrap().clone()), ..Seen::default() };
    assert_survives(projection, &log().await, fresh, read).await;
}

/// Returns a worker in log order and one with order per aggregate.
fn in_both_orders<M>(models: &M, log: &MemoryStore) -> [Worker<Seen, M>; 2]
where
    M: ReadModel<Tx = Lines> + Clone,
{
    let worker = || Worker::new(Seen::default(), log.clone(), models.clone());
    [worker(), worker().with_order_per_aggregate()]
}

#[tokio::test(start_paused = true)]
async fn a_worker_waits_for_an_unavailable_read_model() {
    let log = log().await;
    for fault in [CommitFault::Refuse, CommitFault::LoseAnswer] {
        for place in 0..2 {
            let models = FaultyModels::new(lines().await, [fault; 5]);
            let worker = in_both_orders(&models, &log).into_iter().skip(place).take(1).collect::<Vec<_>>();
            while_running(&worker, reached(&models, &name(), 13)).await;
            assert_eq!(models.inner().value().len(), 13, "each event once");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_stops_before_its_read_model_is_available() {
    let log = log().await;
    let models = FaultyModels::new(lines().await, repeat_n(CommitFault::Refuse, 100_000));
    for worker in in_both_orders(&models, &log) {
        let stop = CancellationToken::new();
        let (ended, ()) = tokio::join!(worker.run(stop.clone()), async {
            tokio::time::sleep(Duration::from_mins(1)).await;
            stop.cancel();
        });
        ended.unwrap();
        assert!(models.inner().value().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_failing_event_parks_its_aggregate_under_all_faults() {
    assert_survives(|_| Seen { poison: Some(3), ..Seen::default() }, &log().await, lines, read).await;
}

struct Totals;

impl View for Totals {
    const NAME: &'static str = "totals";
    type Event = CounterEvent;
    type State = i64;

    fn key(&self, event: &Envelope<CounterEvent>) -> Option<String> {
        Some(event.stream.aggregate_id().to_string())
    }

    fn apply(&self, total: &mut i64, event: Envelope<CounterEvent>) {
        if let CounterEvent::Added { amount } = event.event {
            *total += amount;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_view_survives() {
    let read = async |models: &MemoryReadModel| {
        let keys = ["a", "b", "c"].map(|key| ViewKey::new(key).unwrap());
        let rows = models.rows(&ProjectionName::new("totals").unwrap(), None, &keys).await.unwrap();
        let rows: BTreeMap<_, _> = rows.into_iter().map(|row| (row.key.to_string(), row.state.unwrap())).collect();
        assert_eq!(rows["a"], "20", "1, 3 and 6, twice each");
        rows
    };
    let models = async || MemoryReadModel::new();
    assert_survives(|models| ViewProjection::new(Totals, models.clone()), &log().await, models, read).await;
}

/// Records the applied positions in a table.
struct Rows;

#[async_trait]
impl Projection for Rows {
    const NAME: &'static str = "rows";
    type Event = CounterEvent;
    type Tx = rusqlite::Connection;

    async fn setup(&self, db: &mut rusqlite::Connection) -> Result<(), BoxError> {
        Ok(db.execute_batch("CREATE TABLE IF NOT EXISTS seen (position INTEGER)")?)
    }

    async fn apply(&self, db: &mut rusqlite::Connection, event: Envelope<CounterEvent>) -> Result<(), BoxError> {
        db.execute("INSERT INTO seen VALUES (?1)", [i64::try_from(event.position.get())?])?;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_projection_in_sqlite_survives() {
    let read = async |models: &SqliteReadModel| {
        let seen = models.query(|db| {
            let mut seen = db.prepare("SELECT position FROM seen")?;
            seen.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<i64>>>()
        });
        seen.await.unwrap()
    };
    let models = async || SqliteReadModel::in_memory().await.unwrap();
    assert_survives(|_| Rows, &log().await, models, read).await;
}
