//! One program, or its part of one: store, broker, relays, workers and process managers as tasks with one owner.
//!
//! An [`App`] is a description. Nothing runs before [`start`](App::start), [`run`](App::run) or [`catch_up`](App::catch_up), and the order
//! in which an app is described has no meaning.
//!
//! ```
//! use std::time::Duration;
//!
//! use retell::prelude::*;
//!
//! #[derive(Event)]
//! #[event("shoe.sold")]
//! struct Sold {
//!     customer: String,
//!     cents: u64,
//! }
//!
//! struct Spent;
//!
//! impl View for Spent {
//!     const NAME: &'static str = "spent";
//!     type Event = Sold;
//!     type State = u64;
//!
//!     fn key(&self, sold: &Envelope<Sold>) -> Option<String> {
//!         Some(sold.event.customer.clone())
//!     }
//!
//!     fn apply(&self, spent: &mut u64, sold: Envelope<Sold>) {
//!         *spent += sold.event.cents;
//!     }
//! }
//!
//! #[tokio::main]
//! async fn main() -> retell::Result<()> {
//!     let (log, models) = (MemoryStore::new(), SqliteReadModel::in_memory().await?);
//!     let views = Views::new(&Spent, models.clone());
//!     let running = App::new(log.clone(), models).view(Spent).with_broker(MemoryBroker::new()).start();
//!
//!     let sold = NewEvent::new(&Sold { customer: "ada".into(), cents: 500 })?;
//!     let appended = log.append(Append::new(StreamId::parse("shoe", "1")?, ExpectedVersion::Any, vec![sold])).await?;
//!     running.wait_for(&appended, Duration::from_secs(10)).await?;
//!     assert_eq!(views.get("ada").await?, Some(500));
//!
//!     // A program that only serves calls `app.run()`, which returns after SIGTERM or Ctrl-C.
//!     running.stop().await
//! }
//! ```

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, join_all, try_join_all};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff::delays;
use crate::broker::{Announcer, Broker, DeadLetters};
use crate::error::{Error, ErrorKind, Result};
use crate::id::{Position, ProjectionName};
use crate::process::Process;
use crate::process::manager::ProcessManager;
use crate::projection::Projection;
use crate::reaction::{Reaction, StartFrom};
use crate::relay::Relay;
use crate::shutdown::{self, Signal};
use crate::store::log::event_store::EventStore;
use crate::store::log::relay::RelayStore;
use crate::store::log::token::Token;
use crate::store::model::deadlines::DeadlineStore;
use crate::store::model::read_model::ReadModel;
use crate::store::model::views::ViewStore;
use crate::view::View;
use crate::worker::Worker;

/// The waits before a failed task is started again.
const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(30);

/// The waits between looks at a checkpoint that another process moves.
const FIRST_LOOK: Duration = Duration::from_millis(1);
const LONGEST_LOOK: Duration = Duration::from_millis(50);

/// A task that ran this long restarts with a fresh back-off.
const HEALTHY_AFTER: Duration = Duration::from_mins(1);

/// The part of an app that a process runs. Other processes, on the same store and broker, run the rest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
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

/// The description of a program: its log, its read models, and everything it runs besides commands.
///
/// The order of the calls has no meaning: a broker or a role given last counts for every projection given before.
pub struct App<M> {
    store: Arc<dyn EventStore>,
    relays: Arc<dyn RelayStore>,
    models: M,
    carrier: Carrier,
    role: Role,
    on_failure: OnFailure,
    parts: Vec<Box<dyn Part>>,
}

type OnFailure = Arc<dyn Fn(&str, &Error) + Send + Sync>;

/// The way of events from the log to the parts.
enum Carrier {
    /// The parts read the store.
    Store,
    /// A broker within this process.
    Local(Arc<dyn Broker>),
    /// A broker that outlives this process, and the name of the relays that serve it.
    Shared { broker: Arc<dyn Broker>, announcer: Arc<dyn Announcer>, dead_letters: Arc<dyn DeadLetters>, name: String },
}

impl Carrier {
    fn broker(&self) -> Option<Arc<dyn Broker>> {
        match self {
            Self::Store => None,
            Self::Local(broker) | Self::Shared { broker, .. } => Some(broker.clone()),
        }
    }

    fn dead_letters(&self) -> Option<Arc<dyn DeadLetters>> {
        match self {
            Self::Shared { dead_letters, .. } => Some(dead_letters.clone()),
            Self::Store | Self::Local(_) => None,
        }
    }
}

/// A projection, view, reaction or process, with what runs it.
trait Part: Send + Sync {
    fn name(&self) -> &str;

    fn applied(&self) -> watch::Receiver<Position>;

    fn run(&self, stop: CancellationToken) -> BoxFuture<'_, Result<()>>;

    fn carried_by(self: Box<Self>, carrier: &Carrier) -> Arc<dyn Part>;
}

/// Both runners have the same methods, but no trait in common.
macro_rules! part {
    ($runner:ty, $name:expr, where $($bounds:tt)*) => {
        impl<P, M> Part for $runner
        where
            $($bounds)*
        {
            fn name(&self) -> &str {
                $name(self)
            }

            fn applied(&self) -> watch::Receiver<Position> {
                self.applied()
            }

            fn run(&self, stop: CancellationToken) -> BoxFuture<'_, Result<()>> {
                self.run(stop).boxed()
            }

            fn carried_by(self: Box<Self>, carrier: &Carrier) -> Arc<dyn Part> {
                let mut runner = *self;
                if let Some(broker) = carrier.broker() {
                    runner = runner.with_broker(broker);
                }
                if let Some(dead_letters) = carrier.dead_letters() {
                    runner = runner.with_dead_letters(dead_letters);
                }
                Arc::new(runner)
            }
        }
    };
}

part!(Worker<P, M>, Self::name, where P: Projection, M: ReadModel<Tx = P::Tx>);
part!(ProcessManager<P, M>, |_| P::NAME, where P: Process, M: DeadlineStore + Clone);

/// Something that runs until it is told to stop, and can be started again.
struct Task {
    name: String,
    run: Arc<dyn Fn(CancellationToken) -> BoxFuture<'static, Result<()>> + Send + Sync>,
}

impl Task {
    fn part(part: Arc<dyn Part>) -> Self {
        let name = part.name().to_owned();
        let run = move |stop| {
            let part = part.clone();
            async move { part.run(stop).await }.boxed()
        };
        Self { name, run: Arc::new(run) }
    }

    fn relay(name: &str, relay: Relay) -> Self {
        let relay = Arc::new(relay);
        let run = move |stop| {
            let relay = relay.clone();
            async move { relay.run(stop).await }.boxed()
        };
        Self { name: name.to_owned(), run: Arc::new(run) }
    }
}

impl<M> std::fmt::Debug for App<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts: Vec<_> = self.parts.iter().map(|part| part.name()).collect();
        f.debug_struct("App").field("role", &self.role).field("parts", &parts).finish_non_exhaustive()
    }
}

impl<M: ReadModel + Clone> App<M> {
    /// Describes a program that runs everything, on a log and read models.
    pub fn new(store: impl EventStore + RelayStore, models: M) -> Self {
        let store = Arc::new(store);
        Self::over(store.clone(), store, models)
    }

    /// Describes a program whose store is chosen at run time: two handles of the same store.
    pub fn over(store: Arc<dyn EventStore>, relays: Arc<dyn RelayStore>, models: M) -> Self {
        let on_failure: OnFailure = Arc::new(|_, _| {});
        Self { store, relays, models, carrier: Carrier::Store, role: Role::All, on_failure, parts: Vec::new() }
    }

    /// Runs only the part of `role` in this process.
    pub fn with_role(mut self, role: Role) -> Self {
        self.role = role;
        self
    }

    /// Calls `hear` with the name and error of each task that fails, before the task is started again: for logging.
    pub fn with_on_failure(mut self, hear: impl Fn(&str, &Error) + Send + Sync + 'static) -> Self {
        self.on_failure = Arc::new(hear);
        self
    }

    /// Sends events over a broker within this process.
    pub fn with_broker(mut self, broker: impl Broker) -> Self {
        self.carrier = Carrier::Local(Arc::new(broker));
        self
    }

    /// Sends events over a broker that outlives this process, such as RabbitMQ. One relay serves the projections and another one external
    /// consumers; each continues where the last relay under `name` stopped. Aggregates that are given up go to the dead letters.
    pub fn with_shared_broker<B: Broker + Announcer + DeadLetters + Clone>(
        mut self,
        broker: B,
        name: impl Into<String>,
    ) -> Self {
        let (announcer, dead_letters) = (Arc::new(broker.clone()), Arc::new(broker.clone()));
        self.carrier = Carrier::Shared { broker: Arc::new(broker), announcer, dead_letters, name: name.into() };
        self
    }

    /// Adds a projection, in log order.
    pub fn projection<P: Projection<Tx = M::Tx>>(self, projection: P) -> Self {
        let worker = Worker::new(projection, self.store.clone(), self.models.clone());
        self.worker(worker)
    }

    /// Adds a worker with options of its own. It gets the app's broker, if there is one.
    pub fn worker<P: Projection<Tx = M::Tx>>(mut self, worker: Worker<P, M>) -> Self {
        self.parts.push(Box::new(worker));
        self
    }

    /// Adds a view, in log order.
    pub fn view<V: View>(self, view: V) -> Self
    where
        M: ViewStore,
    {
        let worker = Worker::view(view, self.store.clone(), self.models.clone());
        self.worker(worker)
    }

    /// Adds a reaction, in log order. To set [a rate](Worker::with_rate), make its worker and pass it to [`worker`](Self::worker).
    pub fn reaction<R: Reaction<Tx = M::Tx>>(self, reaction: R, start: StartFrom) -> Self
    where
        M: ReadModel,
    {
        let worker = Worker::reaction(reaction, start, self.store.clone(), self.models.clone());
        self.worker(worker)
    }

    /// Adds a kind of process.
    pub fn process<P: Process>(mut self, process: P) -> Self
    where
        M: DeadlineStore,
    {
        let manager = ProcessManager::new(process, self.store.clone(), self.models.clone());
        self.parts.push(Box::new(manager));
        self
    }

    /// Applies the events that are in the log now to everything this app describes, and returns: for a program that does not keep running,
    /// and for tests. Reads the store only and ignores the role. The log stays open.
    ///
    /// # Errors
    /// The first error that ends a worker; see [`Worker::run`].
    ///
    /// # Cancel safety
    /// May be dropped at any time: an open batch is committed whole or not at all.
    pub async fn catch_up(&self) -> Result<()> {
        let head = self.store.head().await?;
        try_join_all(self.parts.iter().map(|part| run_up_to(&**part, head))).await.map(drop)
    }

    /// Starts the tasks of this role.
    pub fn start(self) -> Running {
        let Self { store, relays, models, carrier, role, on_failure, parts } = self;
        let mut running = Running {
            store,
            checkpoint: Arc::new(move |projection| {
                let models = models.clone();
                async move { models.checkpoint(&ProjectionName::new(projection)?).await }.boxed()
            }),
            health: watch::Sender::new(Health::default()),
            on_failure,
            workers: Group::new(),
            relays: Group::new(),
            progress: Vec::new(),
        };
        for part in parts {
            let part = part.carried_by(&carrier);
            let applied = role.has(Role::Worker).then(|| part.applied());
            running.progress.push(Progress { name: part.name().to_owned(), applied });
            if role.has(Role::Worker) {
                running.spawn(Role::Worker, Task::part(part));
            }
        }
        if role.has(Role::Relay) {
            for (name, relay) in carrier.relays(&running.store, &relays) {
                running.spawn(Role::Relay, Task::relay(name, relay));
            }
        }
        running
    }

    /// Runs until SIGTERM or Ctrl-C, and then stops as [`Running::stop`] does.
    ///
    /// # Errors
    /// Returns the error of closing the log, or [`ErrorKind::Backend`] if the system does not deliver signals.
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

impl Carrier {
    fn relays(&self, log: &Arc<dyn EventStore>, positions: &Arc<dyn RelayStore>) -> Vec<(&'static str, Relay)> {
        match self {
            Self::Store => Vec::new(),
            Self::Local(broker) => vec![("relay", Relay::new(log.clone(), broker.clone()))],
            Self::Shared { broker, announcer, name, .. } => {
                let frames = Relay::new(log.clone(), broker.clone()).with_checkpoint(positions.clone(), name.clone());
                let single = Relay::announcing(log.clone(), announcer.clone());
                let single = single.with_checkpoint(positions.clone(), format!("{name} announcements"));
                vec![("relay", frames), ("announcing relay", single)]
            }
        }
    }
}

/// Runs a part until it has applied the log up to `head`.
async fn run_up_to(part: &dyn Part, head: Position) -> Result<()> {
    let (stop, mut applied) = (CancellationToken::new(), part.applied());
    let reached = async {
        // Its sender is in the part, which is borrowed meanwhile.
        drop(applied.wait_for(|applied| *applied >= head).await);
        stop.cancel();
    };
    let run = part.run(stop.clone());
    tokio::pin!(run);
    tokio::select! {
        ended = &mut run => return ended,
        () = reached => {}
    }
    run.await
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
    checkpoint: Checkpoint,
    health: watch::Sender<Health>,
    on_failure: OnFailure,
    workers: Group,
    relays: Group,
    progress: Vec<Progress>,
}

/// Reads how far a projection of that name is, whichever process runs it.
type Checkpoint = Arc<dyn Fn(String) -> BoxFuture<'static, Result<Position>> + Send + Sync>;

/// How far a part of the app is.
struct Progress {
    name: String,
    /// As it moves; `None` if another process runs the part.
    applied: Option<watch::Receiver<Position>>,
}

impl Progress {
    /// Whether this is the part of that name, in whatever generation.
    fn is_of(&self, name: &str) -> bool {
        self.name.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('@'))
    }

    async fn applied(&self, checkpoint: &Checkpoint) -> Result<Position> {
        match &self.applied {
            Some(applied) => Ok(*applied.borrow()),
            None => checkpoint(self.name.clone()).await,
        }
    }

    async fn reach(&self, position: Position, checkpoint: &Checkpoint) -> Result<()> {
        if let Some(applied) = &self.applied {
            // Its sender is in a task that is started again until the app stops.
            drop(applied.clone().wait_for(|applied| *applied >= position).await);
            return Ok(());
        }
        let mut delays = delays(FIRST_LOOK, LONGEST_LOOK);
        while checkpoint(self.name.clone()).await? < position {
            tokio::time::sleep(delays.next_delay()).await;
        }
        Ok(())
    }
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("health", &*self.health.borrow()).finish_non_exhaustive()
    }
}

impl Running {
    fn spawn(&mut self, part: Role, task: Task) {
        let group = if part == Role::Relay { &mut self.relays } else { &mut self.workers };
        self.health.send_modify(|health| drop(health.0.insert(task.name.clone(), State::Running)));
        let (health, on_failure, stop) = (self.health.clone(), self.on_failure.clone(), group.stop.clone());
        group.tasks.spawn(supervise(task, stop, health, on_failure));
    }

    /// Returns how the tasks are, as it changes.
    pub fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// Waits until everything that the app describes has applied a command's events: read your own writes. A part that another process
    /// runs is asked through its checkpoint, so this works in every role.
    ///
    /// A part that has parked the events' aggregate counts as past them.
    ///
    /// # Errors
    /// [`ErrorKind::Behind`] after `timeout`, with the part that is behind and how far it is; otherwise a read error.
    ///
    /// # Cancel safety
    /// May be dropped at any time: it changes nothing.
    pub async fn wait_for(&self, events: impl Into<Token>, timeout: Duration) -> Result<()> {
        self.wait(self.progress.iter().collect(), Goal::Events(events.into()), timeout).await
    }

    /// Waits until one projection, view, reaction or process has applied a command's events. Takes its name, such as `Spent::NAME`.
    ///
    /// # Errors
    /// As [`wait_for`](Self::wait_for), and [`ErrorKind::Invalid`] if the app describes nothing of that name.
    ///
    /// # Cancel safety
    /// May be dropped at any time: it changes nothing.
    pub async fn wait_for_one(&self, name: &str, events: impl Into<Token>, timeout: Duration) -> Result<()> {
        let parts: Vec<_> = self.progress.iter().filter(|part| part.is_of(name)).collect();
        if parts.is_empty() {
            return Err(ErrorKind::Invalid(format!("the app has no projection {name}")).into());
        }
        self.wait(parts, Goal::Events(events.into()), timeout).await
    }

    /// Waits until everything that the app describes has applied all events that are in the log now.
    ///
    /// # Errors
    /// As [`wait_for`](Self::wait_for).
    ///
    /// # Cancel safety
    /// May be dropped at any time: it changes nothing.
    pub async fn wait_for_all(&self, timeout: Duration) -> Result<()> {
        let head = self.store.head().await?;
        self.wait(self.progress.iter().collect(), Goal::Position(head), timeout).await
    }

    async fn wait(&self, parts: Vec<&Progress>, goal: Goal, timeout: Duration) -> Result<()> {
        let end = Instant::now() + timeout;
        let position = match goal {
            Goal::Position(position) => position,
            Goal::Events(token) => self.position_of(token, end).await?,
        };
        let reached = try_join_all(parts.iter().map(|part| part.reach(position, &self.checkpoint)));
        if let Ok(reached) = tokio::time::timeout_at(end, reached).await {
            return reached.map(drop);
        }
        for part in parts {
            let applied = part.applied(&self.checkpoint).await?;
            if applied < position {
                let projection = ProjectionName::new(&part.name)?;
                return Err(ErrorKind::Behind { projection, applied, wanted: position }.into());
            }
        }
        Ok(())
    }

    /// The position of a commit: a store that gives out positions after the commit may not know it at once.
    async fn position_of(&self, token: Token, end: Instant) -> Result<Position> {
        let mut delays = delays(FIRST_LOOK, LONGEST_LOOK);
        loop {
            if let Some(position) = self.store.position_of(token.commit()).await? {
                return Ok(position);
            }
            if Instant::now() >= end {
                return Err(
                    ErrorKind::TimedOut(format!("waiting for the position of commit {}", token.commit())).into()
                );
            }
            tokio::time::sleep_until(end.min(Instant::now() + delays.next_delay())).await;
        }
    }

    /// Waits until everything that this process runs has applied the log up to a position.
    pub async fn has_applied(&self, position: Position) {
        let here = self.progress.iter().filter(|part| part.applied.is_some());
        join_all(here.map(|part| part.reach(position, &self.checkpoint))).await;
    }

    /// Stops workers first, then relays, then closes the log. Each finishes the batch it is working on.
    ///
    /// The read models stay open for readers. Their last user [closes](ReadModel::close) them, or drops the last handle.
    ///
    /// # Errors
    /// Returns the error of closing the log.
    pub async fn stop(mut self) -> Result<()> {
        self.workers.stop().await;
        self.relays.stop().await;
        self.store.close().await
    }
}

/// What to wait for.
enum Goal {
    Events(Token),
    Position(Position),
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

/// The state of a task.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// It runs.
    Running,
    /// It has failed, and is started again after a wait.
    Failed {
        /// Failures in a row.
        times: u32,
        /// The last failure.
        error: String,
    },
    /// It was told to stop, and has.
    Stopped,
}

/// Runs a task, and starts it again after each failure, until it is told to stop.
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
        if began.elapsed() >= HEALTHY_AFTER {
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
