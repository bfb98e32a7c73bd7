//! One program, or its part of one: store, broker, relays, workers and process managers as tasks that somebody owns.
//!
//! ```
//! # use retell::{Envelope, Event, View};
//! # #[derive(Event)]
//! # enum Sold { #[event("shoe.sold")] Shoe { customer: String, cents: u64 } }
//! # struct Spent;
//! # impl View for Spent {
//! #     const NAME: &'static str = "spent";
//! #     type Event = Sold;
//! #     type State = u64;
//! #     fn key(&self, event: &Envelope<Sold>) -> Option<String> { let Sold::Shoe { customer, .. } = &event.event; Some(customer.clone()) }
//! #     fn apply(&self, spent: &mut u64, event: Envelope<Sold>) { let Sold::Shoe { cents, .. } = event.event; *spent += cents; }
//! # }
//! use retell::{App, MemoryBroker, SqliteReadModel, SqliteStore};
//!
//! # #[tokio::main]
//! # async fn main() -> retell::Result<()> {
//! let app = App::new(SqliteStore::in_memory().await?, SqliteReadModel::in_memory().await?)
//!     .with_broker(MemoryBroker::new())
//!     .view(Spent);
//! let running = app.start();
//! // A program that only serves calls `app.run()`, which returns after SIGTERM or Ctrl-C.
//! running.stop().await
//! # }
//! ```

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff::delays;
use crate::broker::{Announcer, Broker, DeadLetters};
use crate::error::{Error, ErrorKind, Result};
use crate::id::Position;
use crate::process::Process;
use crate::process::manager::ProcessManager;
use crate::projection::Projection;
use crate::reaction::{Reaction, StartFrom};
use crate::relay::Relay;
use crate::shutdown::{self, Signal};
use crate::store::log::event_store::EventStore;
use crate::store::log::relay::RelayStore;
use crate::store::model::deadlines::DeadlineStore;
use crate::store::model::read_model::ReadModel;
use crate::store::model::views::ViewStore;
use crate::view::View;
use crate::worker::Worker;

/// The waits before a task that failed is started again.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// A task that has run for so long was well, whatever happened then.
const WELL: Duration = Duration::from_mins(1);

/// What a process does. Others, on the same store and broker, do the rest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub enum Role {
    /// Everything.
    #[default]
    All,
    /// Runs commands, and none of the tasks.
    Api,
    /// Carries the log to the broker.
    Relay,
    /// Runs projections, views, reactions and process managers.
    Worker,
}

impl Role {
    fn has(self, part: Self) -> bool {
        self == Self::All || self == part
    }
}

/// Everything that a program has beside its commands.
pub struct App<M> {
    store: Arc<dyn EventStore>,
    relays: Arc<dyn RelayStore>,
    models: M,
    broker: Option<Arc<dyn Broker>>,
    dead_letters: Option<Arc<dyn DeadLetters>>,
    role: Role,
    on_failure: OnFailure,
    tasks: Vec<Task>,
    applied: Vec<watch::Receiver<Position>>,
}

type OnFailure = Arc<dyn Fn(&str, &Error) + Send + Sync>;

/// Something that runs until it is told to stop, and can be started again.
struct Task {
    name: String,
    part: Role,
    run: Arc<dyn Fn(CancellationToken) -> BoxFuture<'static, Result<()>> + Send + Sync>,
}

impl<M> std::fmt::Debug for App<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let tasks: Vec<_> = self.tasks.iter().map(|task| &task.name).collect();
        f.debug_struct("App").field("role", &self.role).field("tasks", &tasks).finish_non_exhaustive()
    }
}

impl<M: ReadModel + Clone> App<M> {
    /// A program that does everything, on a log and read models.
    pub fn new(store: impl EventStore + RelayStore, models: M) -> Self {
        let store = Arc::new(store);
        Self::on(store.clone(), store, models)
    }

    /// As [`new`](Self::new), for a program that chooses its store when it starts.
    pub fn on(store: Arc<dyn EventStore>, relays: Arc<dyn RelayStore>, models: M) -> Self {
        let (broker, dead_letters) = (None, None);
        let on_failure: OnFailure = Arc::new(|_, _| {});
        let (tasks, applied) = (Vec::new(), Vec::new());
        Self { store, relays, models, broker, dead_letters, role: Role::All, on_failure, tasks, applied }
    }

    /// Only a part of it. Call it whenever you like.
    pub fn with_role(mut self, role: Role) -> Self {
        self.role = role;
        self
    }

    /// Hears of each task that fails, with its name, before it is started again: for a log.
    pub fn with_on_failure(mut self, hear: impl Fn(&str, &Error) + Send + Sync + 'static) -> Self {
        self.on_failure = Arc::new(hear);
        self
    }

    /// A broker within this process. Before the projections: those that come later take this way.
    pub fn with_broker(mut self, broker: impl Broker) -> Self {
        let broker: Arc<dyn Broker> = Arc::new(broker);
        self.relay("relay", Relay::new(self.store.clone(), broker.clone()));
        self.broker = Some(broker);
        self
    }

    /// A broker that outlives this process, such as RabbitMQ: a relay for the projections and one for everybody else go on where those of
    /// the same name were, and what is given up goes to the dead letters. Before the projections, as [`with_broker`](Self::with_broker).
    pub fn with_shared_broker<B: Broker + Announcer + DeadLetters + Clone>(mut self, broker: B, name: &str) -> Self {
        let announcing = format!("{name} announcements");
        let frames = Relay::new(self.store.clone(), broker.clone()).with_checkpoint(self.relays.clone(), name);
        let single = Relay::announcing(self.store.clone(), broker.clone());
        self.relay("relay", frames);
        self.relay("announcing relay", single.with_checkpoint(self.relays.clone(), announcing));
        self.dead_letters = Some(Arc::new(broker.clone()));
        self.broker = Some(Arc::new(broker));
        self
    }

    /// A projection, in log order.
    pub fn project<P: Projection<Tx = M::Tx>>(self, projection: P) -> Self {
        let worker = Worker::new(projection, self.store.clone(), self.models.clone());
        self.work(worker)
    }

    /// A worker of the caller's making. It gets the broker, if there is one.
    pub fn work<P: Projection<Tx = M::Tx>>(mut self, worker: Worker<P, M>) -> Self {
        let name = worker.name().to_owned();
        let worker = match &self.broker {
            Some(broker) => worker.with_broker(broker.clone()),
            None => worker,
        };
        let worker = match &self.dead_letters {
            Some(dead_letters) => worker.with_dead_letters(dead_letters.clone()),
            None => worker,
        };
        self.applied.push(worker.applied());
        let worker = Arc::new(worker);
        self.task(name, Role::Worker, move |stop| {
            let worker = worker.clone();
            async move { worker.run(stop).await }.boxed()
        });
        self
    }

    /// A view, in log order.
    pub fn view<V: View>(self, view: V) -> Self
    where
        M: ViewStore,
    {
        let worker = Worker::view(view, self.store.clone(), self.models.clone());
        self.work(worker)
    }

    /// A reaction, in log order. For [a rate](Worker::with_rate), make its worker and hand it to [`work`](Self::work).
    pub fn react<R: Reaction<Tx = M::Tx>>(self, reaction: R, begin: StartFrom) -> Self
    where
        M: ReadModel,
    {
        let worker = Worker::reaction(reaction, begin, self.store.clone(), self.models.clone());
        self.work(worker)
    }

    /// A kind of process.
    pub fn process<P: Process>(mut self, process: P) -> Self
    where
        M: DeadlineStore,
    {
        let manager = ProcessManager::new(process, self.store.clone(), self.models.clone());
        let manager = match &self.broker {
            Some(broker) => manager.with_broker(broker.clone()),
            None => manager,
        };
        let manager = match &self.dead_letters {
            Some(dead_letters) => manager.with_dead_letters(dead_letters.clone()),
            None => manager,
        };
        self.applied.push(manager.applied());
        let manager = Arc::new(manager);
        self.task(P::NAME.to_owned(), Role::Worker, move |stop| {
            let manager = manager.clone();
            async move { manager.run(stop).await }.boxed()
        });
        self
    }

    fn relay(&mut self, name: &str, relay: Relay) {
        let relay = Arc::new(relay);
        self.task(name.to_owned(), Role::Relay, move |stop| {
            let relay = relay.clone();
            async move { relay.run(stop).await }.boxed()
        });
    }

    fn task(
        &mut self,
        name: String,
        part: Role,
        run: impl Fn(CancellationToken) -> BoxFuture<'static, Result<()>> + Send + Sync + 'static,
    ) {
        self.tasks.push(Task { name, part, run: Arc::new(run) });
    }

    /// Starts the tasks of this role.
    pub fn start(self) -> Running {
        let Self { store, role, on_failure, tasks, applied, .. } = self;
        let health = watch::Sender::new(Health::default());
        let (workers, relays) = (Group::new(), Group::new());
        let mut running = Running { store, health, workers, relays, applied: Vec::new() };
        if role.has(Role::Worker) {
            running.applied = applied;
        }
        for task in tasks.into_iter().filter(|task| role.has(task.part)) {
            let group = if task.part == Role::Relay { &mut running.relays } else { &mut running.workers };
            running.health.send_modify(|health| drop(health.0.insert(task.name.clone(), State::Running)));
            let (health, on_failure, stop) = (running.health.clone(), on_failure.clone(), group.stop.clone());
            group.tasks.spawn(supervise(task, stop, health, on_failure));
        }
        running
    }

    /// Runs until SIGTERM or Ctrl-C, and then stops as [`Running::stop`] does.
    ///
    /// # Errors
    /// What stopping met, or that the system does not let it listen for signals.
    ///
    /// # Cancel safety
    /// May be dropped at any time: the tasks end where they are, and nothing is lost.
    pub async fn run(self) -> Result<Signal> {
        let running = self.start();
        let signal = shutdown::requested().await;
        let stopped = running.stop().await;
        let signal =
            signal.map_err(|error| Error::with_source(ErrorKind::Backend("listen for signals".into()), error))?;
        stopped.map(|()| signal)
    }
}

/// Tasks that stop together.
struct Group {
    tasks: JoinSet<()>,
    stop: CancellationToken,
}

impl Group {
    fn new() -> Self {
        Self { tasks: JoinSet::new(), stop: CancellationToken::new() }
    }

    async fn stop(&mut self) {
        self.stop.cancel();
        // None of them panics: each is supervised.
        while self.tasks.join_next().await.is_some() {}
    }
}

/// An [`App`] that has been started. Dropped, it ends its tasks where they are.
pub struct Running {
    store: Arc<dyn EventStore>,
    health: watch::Sender<Health>,
    workers: Group,
    relays: Group,
    applied: Vec<watch::Receiver<Position>>,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("health", &*self.health.borrow()).finish_non_exhaustive()
    }
}

impl Running {
    /// How the tasks are, as it changes.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// Waits until everything of this process has applied the log up to a position.
    pub async fn has_applied(&mut self, position: Position) {
        for applied in &mut self.applied {
            // Its sender lives in a task that is started again for ever.
            drop(applied.wait_for(|applied| *applied >= position).await);
        }
    }

    /// Stops in order: who applies events finishes what it is at, then the relays send what that has led to, then the log is closed.
    ///
    /// The read models stay open: nothing is under way in them any more, and others may still ask them. Whoever asks last
    /// [closes](ReadModel::close) them, or drops the last handle.
    ///
    /// # Errors
    /// What closing met.
    pub async fn stop(mut self) -> Result<()> {
        self.workers.stop().await;
        self.relays.stop().await;
        self.store.close().await
    }
}

/// How tasks are, by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health(BTreeMap<String, State>);

impl Health {
    /// Whether all of them run.
    pub fn is_good(&self) -> bool {
        self.0.values().all(|state| *state == State::Running)
    }

    /// Each of them.
    pub fn tasks(&self) -> impl Iterator<Item = (&str, &State)> {
        self.0.iter().map(|(name, state)| (name.as_str(), state))
    }
}

/// How a task is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// It runs.
    Running,
    /// It has failed, and is started again in a while.
    Failed {
        /// How often in a row.
        times: u32,
        /// The last time.
        error: String,
    },
    /// It was told to stop, and has.
    Stopped,
}

/// Starts a task again and again, until it is told to stop.
async fn supervise(task: Task, stop: CancellationToken, health: watch::Sender<Health>, on_failure: OnFailure) {
    let set = |state| health.send_modify(|health| drop(health.0.insert(task.name.clone(), state)));
    let (mut times, mut waits) = (0, delays(FIRST_WAIT, LONGEST_WAIT));
    loop {
        let began = Instant::now();
        let ended = AssertUnwindSafe((task.run)(stop.clone())).catch_unwind().await;
        let error = match ended {
            Ok(Ok(())) => break set(State::Stopped),
            Ok(Err(error)) => error,
            Err(panic) => Error::new(ErrorKind::Backend(format!("{} panicked: {}", task.name, message(&*panic)))),
        };
        if began.elapsed() >= WELL {
            (times, waits) = (0, delays(FIRST_WAIT, LONGEST_WAIT));
        }
        times += 1;
        on_failure(&task.name, &error);
        set(State::Failed { times, error: crate::worker::parking::reason(&error) });
        let wait = tokio::time::sleep(waits.next().unwrap_or(LONGEST_WAIT));
        if stop.run_until_cancelled(wait).await.is_none() {
            break;
        }
        set(State::Running);
    }
}

fn message(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("for a reason that is no text")
}
