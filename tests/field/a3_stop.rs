//! A3. `stop` ends within its grace period, whatever the handlers do.

use std::env;
use std::future::pending;
use std::io::{BufRead, BufReader};
use std::marker::PhantomData;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use futures::FutureExt;
use retell::app::State;
use retell::broker::frame::Frame;
use retell::broker::{Confirm, Publisher};
use retell::prelude::*;
use retell::rusqlite::Connection;
use retell::{DeadlineStore, ErrorKind, ReadModel, WorkerOptions};
use rustix::process::{Pid, Signal, kill_process};
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::sites::{self, Site, on_every_store};

const PATIENCE: Duration = Duration::from_mins(5);
const GRACE: Duration = Duration::from_millis(100);

#[derive(Event)]
#[event("job.started")]
struct Started;

/// Does not return before it is told to.
struct Endless<T: ?Sized> {
    waits: bool,
    entered: Arc<Notify>,
    tx: PhantomData<fn(&T)>,
}

impl<T: ?Sized> Endless<T> {
    fn new(waits: bool) -> Self {
        Self { waits, entered: Arc::default(), tx: PhantomData }
    }
}

#[async_trait]
impl<T: Send + ?Sized + 'static> Projection for Endless<T> {
    const NAME: &'static str = "endless";
    type Event = Started;
    type Tx = T;

    async fn apply(&self, _: &mut T, _: Envelope<Started>) -> Result<(), BoxError> {
        self.entered.notify_one();
        if self.waits { pending().await } else { Ok(()) }
    }
}

#[async_trait]
impl<T: Send + ?Sized + 'static> Process for Endless<T> {
    const NAME: &'static str = "endless_process";
    type Event = Started;
    type State = ();
    type Command = ();

    fn key(&self, event: &Envelope<Started>) -> Option<AggregateId> {
        Some(event.stream.aggregate_id().clone())
    }

    fn on_event(&self, (): &mut (), _: &Envelope<Started>, effects: &mut Effects<()>) {
        effects.send(());
    }

    async fn execute(&self, _: &AggregateId, (): (), _: Context) -> Result<(), CommandFailure> {
        self.entered.notify_one();
        if self.waits { pending().await } else { Ok(()) }
    }
}

async fn append(store: &impl EventStore) {
    store.append_events(("job", "1"), ExpectedVersion::Any, [Started]).await.unwrap();
}

/// A worker that is stopped drops its handler with the transaction. Another worker then applies the event.
async fn worker_drops_its_handler<S, M>(site: Site<S, M>)
where
    S: EventStore + Clone,
    M: ReadModel + Clone,
{
    stop_drops_the_handler(site, |worker| worker).await;
}

async fn worker_per_aggregate_drops_its_handler<S, M>(site: Site<S, M>)
where
    S: EventStore + Clone,
    M: ReadModel + Clone,
{
    stop_drops_the_handler(site, Worker::with_order_per_aggregate).await;
}

/// Sets the order of a worker.
type Ordered<M> = fn(Worker<Endless<<M as ReadModel>::Tx>, M>) -> Worker<Endless<<M as ReadModel>::Tx>, M>;

async fn stop_drops_the_handler<S, M>(Site { store, models, database: _database }: Site<S, M>, ordered: Ordered<M>)
where
    S: EventStore + Clone,
    M: ReadModel + Clone,
{
    append(&store).await;
    let endless = Endless::new(true);
    let (entered, stop) = (endless.entered.clone(), CancellationToken::new());
    let worker = ordered(Worker::new(endless, store.clone(), models.clone()));
    let worker = worker.with_options(WorkerOptions::new().with_grace(GRACE));
    let (ended, ()) = tokio::join!(timeout(PATIENCE, worker.run(stop.clone())), async {
        entered.notified().await;
        stop.cancel();
    });
    let error = ended.expect("the run ends").unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::TimedOut(_)), "{error:?}");
    assert!(error.to_string().contains("projection endless did not stop within 100ms"), "{error}");
    let next = ordered(Worker::new(Endless::new(false), store, models));
    let caught_up = timeout(PATIENCE, next.catch_up()).await.expect("no transaction is left open").unwrap();
    assert!(caught_up.is_complete() && caught_up.position == Position::new(1), "{caught_up:?}");
}

/// A process manager that is stopped drops the command that it executes.
async fn process_manager_drops_its_command<S, M>(Site { store, models, database: _database }: Site<S, M>)
where
    S: EventStore + Clone,
    M: DeadlineStore + Clone,
{
    append(&store).await;
    let endless = Endless::<M::Tx>::new(true);
    let (entered, stop) = (endless.entered.clone(), CancellationToken::new());
    let manager = ProcessManager::new(endless, store.clone(), models.clone());
    let manager = manager.with_options(WorkerOptions::new().with_grace(GRACE));
    let (ended, ()) = tokio::join!(timeout(PATIENCE, manager.run(stop.clone())), async {
        entered.notified().await;
        stop.cancel();
    });
    let error = ended.expect("the run ends").unwrap_err();
    assert!(error.to_string().contains("endless_process did not stop within 100ms"), "{error}");
    let next = ProcessManager::new(Endless::<M::Tx>::new(false), store, models);
    timeout(PATIENCE, next.catch_up()).await.expect("no transaction is left open").unwrap();
}

/// `stop` of an app ends, and names the task whose handler it dropped in its result, its health and its log.
async fn app_names_the_task_that_it_drops<S, M>(Site { store, models, database: _database }: Site<S, M>)
where
    S: EventStore + retell::RelayStore + Clone,
    M: ReadModel + Clone,
{
    append(&store).await;
    let endless = Endless::<M::Tx>::new(true);
    let entered = endless.entered.clone();
    let (told, log) = mpsc::channel();
    let app = App::new(store, models).projection(endless).with_broker(MemoryBroker::new()).with_grace(GRACE);
    let running = app.with_on_failure(move |task, error| told.send(format!("{task}: {error}")).unwrap()).start();
    let health = running.health();
    entered.notified().await;
    let error = timeout(PATIENCE, running.stop()).await.expect("stop ends").unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::TimedOut(_)), "{error:?}");
    assert!(error.to_string().contains("endless did not stop within 100ms"), "{error}");
    assert!(log.recv().unwrap().contains("endless did not stop within 100ms"));
    let health = health.borrow();
    let states: Vec<_> = health.tasks().collect();
    assert!(
        states.iter().any(|(task, state)| *task == "endless" && matches!(state, State::Failed { .. })),
        "{states:?}"
    );
}

on_every_store! {
    worker_drops_its_handler,
    worker_per_aggregate_drops_its_handler,
    process_manager_drops_its_command,
    app_names_the_task_that_it_drops,
}

/// Never confirms.
struct Silent;

#[async_trait]
impl Publisher for Silent {
    async fn publish(&self, _: &[Frame]) -> retell::Result<Confirm<()>> {
        Ok(pending().boxed())
    }
}

/// A relay whose broker never confirms ends within its grace period.
#[tokio::test(start_paused = true)]
async fn relay_gives_up_its_last_confirms() {
    let store = MemoryStore::new();
    append(&store).await;
    let relay = Relay::new(store.clone(), Silent).with_checkpoint(store, "frames");
    let stop = CancellationToken::new();
    let (ended, ()) = tokio::join!(timeout(PATIENCE, relay.run(stop.clone())), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        stop.cancel();
    });
    let error = ended.expect("the run ends").unwrap_err();
    assert!(error.to_string().contains("relay frames did not stop within 30s"), "{error}");
}

/// Counts without end, in one statement.
struct Counting(Arc<Notify>);

#[async_trait]
impl Projection for Counting {
    const NAME: &'static str = "counting";
    type Event = Started;
    type Tx = Connection;

    async fn apply(&self, db: &mut Connection, _: Envelope<Started>) -> Result<(), BoxError> {
        self.0.notify_one();
        let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
        Ok(db.query_row(endless, [], |_| Ok(()))?)
    }
}

/// A statement of SQLite that never ends is interrupted, and its transaction rolled back.
#[tokio::test(flavor = "multi_thread")]
async fn endless_statement_of_sqlite_is_interrupted() {
    let Site { store, models, database: _database } = sites::sqlite().await;
    append(&store).await;
    let (entered, stop) = (Arc::<Notify>::default(), CancellationToken::new());
    let worker = Worker::new(Counting(entered.clone()), store, models.clone());
    let worker = worker.with_options(WorkerOptions::new().with_grace(GRACE));
    let (ended, ()) = tokio::join!(timeout(PATIENCE, worker.run(stop.clone())), async {
        entered.notified().await;
        stop.cancel();
    });
    assert!(matches!(ended.expect("the run ends").unwrap_err().kind(), ErrorKind::TimedOut(_)));
    timeout(PATIENCE, models.close()).await.expect("the thread has given its connection back").unwrap();
}

/// Dropping an app ends its handlers, so that the runtime can shut down.
#[test]
fn runtime_shuts_down_after_an_app_is_dropped() {
    let (done, ended) = mpsc::channel();
    thread::spawn(move || {
        let runtime = Runtime::new().unwrap();
        let database = runtime.block_on(async {
            let Site { store, models, database } = sites::sqlite().await;
            append(&store).await;
            let endless = Endless::<Connection>::new(true);
            let entered = endless.entered.clone();
            let running = App::new(store, models).projection(endless).start();
            entered.notified().await;
            drop(running);
            database
        });
        drop(runtime);
        done.send(database).unwrap();
    });
    ended.recv_timeout(PATIENCE).expect("no thread is left");
}

/// The mode of a child process: how its handler never returns.
const MODE: &str = "RETELL_A3_MODE";

/// Runs as the child process of the tests below.
#[test]
fn child() {
    let Ok(mode) = env::var(MODE) else { return };
    let (runtime, folder) = (Runtime::new().unwrap(), tempfile::tempdir().unwrap());
    let stopped = runtime.block_on(async {
        let store = SqliteStore::open(folder.path().join("log.db")).await.unwrap();
        append(&store).await;
        let models = SqliteReadModel::open(folder.path().join("models.db")).await.unwrap();
        let grace = if mode == "patient" { PATIENCE } else { GRACE };
        let mut requested = Box::pin(retell::shutdown::requested());
        // The first poll listens for signals.
        assert!(requested.as_mut().now_or_never().is_none());
        tokio::spawn(async move {
            requested.await.unwrap();
            println!("stopping");
        });
        App::new(store, models).projection(Hanging { blocks: mode != "async" }).with_grace(grace).run().await
    });
    drop(runtime);
    println!("{}", stopped.unwrap_err());
}

/// Says that it is ready, and never returns.
struct Hanging {
    blocks: bool,
}

#[async_trait]
impl Projection for Hanging {
    const NAME: &'static str = "hanging";
    type Event = Started;
    type Tx = Connection;

    async fn apply(&self, _: &mut Connection, _: Envelope<Started>) -> Result<(), BoxError> {
        println!("ready");
        loop {
            if self.blocks {
                thread::sleep(Duration::from_secs(1));
            } else {
                pending::<()>().await;
            }
        }
    }
}

/// Starts a child process and waits for its handler.
fn start(mode: &str) -> (Child, mpsc::Receiver<String>) {
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "a3_stop::child", "--nocapture"])
        .env(MODE, mode)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (output, (line, lines)) = (BufReader::new(child.stdout.take().unwrap()), mpsc::channel());
    thread::spawn(move || output.lines().map_while(Result::ok).try_for_each(|text| line.send(text)));
    while lines.recv_timeout(PATIENCE).expect("the child is ready") != "ready" {}
    (child, lines)
}

fn interrupt(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

fn wait(mut child: Child) -> ExitStatus {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        thread::sleep(Duration::from_millis(5));
    }
    child.kill().unwrap();
    panic!("the process does not end");
}

/// After SIGTERM and the grace period the process ends, although a handler never returns.
#[test]
fn process_ends_after_main() {
    let (child, lines) = start("async");
    interrupt(&child, Signal::TERM);
    assert!(wait(child).success());
    let output: Vec<_> = lines.iter().collect();
    assert!(output.iter().any(|line| line.contains("hanging did not stop within 100ms")), "{output:?}");
}

/// The same, although a handler of SQLite blocks its thread.
#[test]
fn blocked_handler_of_sqlite_keeps_no_process() {
    let (child, lines) = start("blocking");
    interrupt(&child, Signal::TERM);
    assert!(wait(child).success());
    let output: Vec<_> = lines.iter().collect();
    assert!(output.iter().any(|line| line.contains("hanging did not stop within 100ms")), "{output:?}");
}

/// The second Ctrl-C ends the process at once, although a handler blocks its thread.
#[test]
fn second_interrupt_ends_the_process() {
    let (mut child, lines) = start("patient");
    interrupt(&child, Signal::INT);
    // A second signal that arrives before the first is handled would count as one with it.
    while lines.recv_timeout(PATIENCE).expect("the first signal is handled") != "stopping" {}
    assert_eq!(child.try_wait().unwrap(), None, "the first signal only asks the process to stop");
    interrupt(&child, Signal::INT);
    assert_eq!(wait(child).code(), Some(130));
}
