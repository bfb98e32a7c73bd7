//! Runs the relays, workers and process managers of a program as tasks with one owner.
//!
//! An [`App`] describes the tasks. Nothing runs before [`start`](App::start), [`run`](App::run) or [`catch_up`](App::catch_up), and the
//! order of the builder calls does not matter.
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
//!     // A long-running program calls `app.run()` instead, which returns after SIGTERM or Ctrl-C.
//!     running.stop().await
//! }
//! ```

mod answer;
mod carrier;
mod check;
mod health;
mod look;
mod part;
mod probe;
mod running;
mod tasks;
mod waiting;
mod watch;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::try_join_all;

use crate::app::carrier::Carrier;
use crate::app::check::problems;
use crate::app::part::Part;
use crate::app::waiting::ReadCheckpoint;
use crate::app::watch::OnFailure;
use crate::broker::{Announcer, Broker, DeadLetters};
use crate::error::{Error, ErrorKind, Result};
use crate::id::ProjectionName;
use crate::notice::{Listener, Notice, listen};
use crate::operate::observer::{Observer, ObserverOptions};
use crate::process::Process;
use crate::process::manager::ProcessManager;
use crate::projection::Projection;
use crate::reaction::{Reaction, StartFrom};
use crate::shutdown::{self, Signal};
use crate::store::log::event_store::EventStore;
use crate::store::log::relay::RelayStore;
use crate::store::model::deadlines::DeadlineStore;
use crate::store::model::read_model::ReadModel;
use crate::store::model::views::ViewStore;
use crate::view::View;
use crate::worker::Worker;
use crate::worker::caught_up::CaughtUp;

pub use answer::{Answer, Cause, Problem};
pub use health::{Health, HealthOptions, State};
pub use probe::Probe;
pub use running::Running;

/// Selects the tasks of an app that this process runs. Other processes with the same store and broker run the rest.
///
/// # Examples
/// ```
/// use retell::{App, MemoryReadModel, MemoryStore, ReadModel, Role};
///
/// /// Gives an app the role that the program's first argument names.
/// fn with_role<M: ReadModel + Clone>(app: App<M>, argument: Option<&str>) -> App<M> {
///     app.with_role(match argument {
///         Some("api") => Role::Api,
///         Some("relay") => Role::Relay,
///         Some("worker") => Role::Worker,
///         _ => Role::All,
///     })
/// }
///
/// let app = with_role(App::new(MemoryStore::new(), MemoryReadModel::new()), std::env::args().nth(1).as_deref());
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// Runs everything.
    #[default]
    All,
    /// Executes commands and runs none of the tasks.
    Api,
    /// Runs the relays, which publish the log to the broker.
    Relay,
    /// Runs projections, views, reactions and process managers.
    Worker,
}

impl Role {
    fn has(self, part: Self) -> bool {
        self == Self::All || self == part
    }
}

/// Describes a program: its log, its read models, and the tasks that it runs besides commands. See the [module](self) for an example.
///
/// The order of the builder calls does not matter: a broker or a role that is set last also applies to projections that were added before.
pub struct App<M> {
    store: Arc<dyn EventStore>,
    relays: Arc<dyn RelayStore>,
    models: M,
    carrier: Carrier,
    role: Role,
    health: HealthOptions,
    on_failure: OnFailure,
    parts: Vec<Box<dyn Part>>,
    grace: Duration,
    listeners: Vec<Arc<Listener>>,
    observer: Option<Observer>,
}

/// The time that tasks have to stop, as most supervisors give it to a process.
const GRACE: Duration = Duration::from_secs(30);

impl<M> std::fmt::Debug for App<M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let parts: Vec<_> = self.parts.iter().map(|part| part.name()).collect();
        f.debug_struct("App").field("role", &self.role).field("parts", &parts).finish_non_exhaustive()
    }
}

impl<M: ReadModel + Clone> App<M> {
    /// Creates an app on `store` and `models` that runs everything.
    pub fn new(store: impl EventStore + RelayStore, models: M) -> Self {
        let store = Arc::new(store);
        Self::over(store.clone(), store, models)
    }

    /// Creates an app whose store is chosen at run time. `store` and `relays` are handles of the same store.
    pub fn over(store: Arc<dyn EventStore>, relays: Arc<dyn RelayStore>, models: M) -> Self {
        let on_failure: OnFailure = Arc::new(|_, _| {});
        let (carrier, role, health, parts) = (Carrier::Store, Role::All, HealthOptions::new(), Vec::new());
        let (grace, listeners) = (GRACE, Vec::new());
        Self { store, relays, models, carrier, role, health, on_failure, parts, grace, listeners, observer: None }
    }

    /// Runs only the tasks of `role` in this process.
    pub fn with_role(mut self, role: Role) -> Self {
        self.role = role;
        self
    }

    /// Calls `on_failure` with the name and error of each task that fails, before the task restarts. Use it for logging.
    pub fn with_on_failure(mut self, on_failure: impl Fn(&str, &Error) + Send + Sync + 'static) -> Self {
        self.on_failure = Arc::new(on_failure);
        self
    }

    /// Calls `on_notice` with each [notice](crate::notice) of this process while the app runs, also with those of other apps: the events that
    /// [`tracing`] gets under the target `retell::notice`. The call must not block.
    pub fn on_notice(mut self, on_notice: impl Fn(&Notice) + Send + Sync + 'static) -> Self {
        self.listeners.push(Arc::new(on_notice));
        self
    }

    /// Sets when a task counts as stuck or behind.
    pub fn with_health(mut self, options: HealthOptions) -> Self {
        self.health = options;
        self
    }

    /// Gives the tasks `grace` to end when the app [stops](Running::stop) (30 seconds by default, as most supervisors do). Then they are dropped
    /// with their transactions. A worker may have a shorter one of its own, see [`WorkerOptions::with_grace`](crate::WorkerOptions::with_grace).
    pub fn with_grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Reads the state of the log and of the read models at an interval, and sets the [gauges](crate::metrics) about them. In a program of
    /// several processes, one that always runs is enough.
    ///
    /// # Examples
    /// ```
    /// use retell::operate::ObserverOptions;
    /// use retell::prelude::*;
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let app = App::new(MemoryStore::new(), MemoryReadModel::new()).with_observer(ObserverOptions::new());
    /// app.start().stop().await?;
    /// # Ok::<(), BoxError>(())
    /// # }).unwrap();
    /// ```
    pub fn with_observer(mut self, options: ObserverOptions) -> Self
    where
        M: ViewStore + DeadlineStore,
    {
        self.observer = Some(Observer::over(self.store.clone(), self.relays.clone(), self.models.clone(), options));
        self
    }

    /// Delivers events through `broker`, which runs within this process.
    pub fn with_broker(mut self, broker: impl Broker) -> Self {
        self.carrier = Carrier::Local(Arc::new(broker));
        self
    }

    /// Delivers events through `broker`, which outlives this process, such as RabbitMQ. One relay serves the projections and another the
    /// external consumers; each continues where the last relay under `name` stopped. The broker's dead letters receive a copy of the failing
    /// event of each aggregate that is given up.
    pub fn with_shared_broker<B: Broker + Announcer + DeadLetters + Clone>(
        mut self,
        broker: B,
        name: impl Into<String>,
    ) -> Self {
        let (announcer, dead_letters) = (Arc::new(broker.clone()), Arc::new(broker.clone()));
        self.carrier = Carrier::Shared { broker: Arc::new(broker), announcer, dead_letters, name: name.into() };
        self
    }

    /// Adds a projection that applies events in log order.
    pub fn projection<P: Projection<Tx = M::Tx>>(self, projection: P) -> Self {
        let worker = Worker::new(projection, self.store.clone(), self.models.clone());
        self.worker(worker)
    }

    /// Adds a worker with its own options. It uses the app's broker, if there is one.
    pub fn worker<P: Projection<Tx = M::Tx>>(mut self, worker: Worker<P, M>) -> Self {
        self.parts.push(Box::new(worker));
        self
    }

    /// Adds a view that applies events in log order.
    pub fn view<V: View>(self, view: V) -> Self
    where
        M: ViewStore,
    {
        let worker = Worker::view(view, self.store.clone(), self.models.clone());
        self.worker(worker)
    }

    /// Adds a reaction that handles events in log order. `start` says where it starts when it runs for the first time. To set
    /// [a rate](Worker::with_rate), create its worker and pass it to [`worker`](Self::worker).
    pub fn reaction<R: Reaction<Tx = M::Tx>>(self, reaction: R, start: StartFrom) -> Self
    where
        M: ReadModel,
    {
        let worker = Worker::reaction(reaction, start, self.store.clone(), self.models.clone());
        self.worker(worker)
    }

    /// Adds a process manager for `process`.
    pub fn process<P: Process>(mut self, process: P) -> Self
    where
        M: DeadlineStore,
    {
        let manager = ProcessManager::new(process, self.store.clone(), self.models.clone());
        self.parts.push(Box::new(manager));
        self
    }

    /// Applies the events that are now in the log to every part of this app, then returns. For programs that do not keep running, and for
    /// tests. It reads the store without the broker and ignores the role. The log stays open.
    ///
    /// Returns how far each part is and what it has parked, under its name; see [`Worker::catch_up`].
    ///
    /// # Errors
    /// Returns the first error that ends a worker; see [`Worker::run`].
    ///
    /// # Cancel safety
    /// May be dropped at any time: an open batch is committed whole or not at all.
    pub async fn catch_up(&self) -> Result<BTreeMap<String, CaughtUp>> {
        self.check()?;
        self.listeners.iter().for_each(listen);
        let head = self.store.head().await?;
        let parts = self.parts.iter().map(async |part| -> Result<_> {
            let caught_up = part.catch_up_to(head).await?;
            Ok((part.name().to_owned(), caught_up))
        });
        Ok(try_join_all(parts).await?.into_iter().collect())
    }

    /// Checks that the projections, views, reactions and processes of the app fit together: each has a name of its own, which is not that of a
    /// relay, and no two of them have different types for events with one stored name, unless both types name their aggregate by
    /// `#[event(aggregate = "..")]`. [`run`](Self::run) and [`catch_up`](Self::catch_up) check this first.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] with the first problem.
    pub fn check(&self) -> Result<()> {
        self.problems().into_values().next().map_or(Ok(()), Err)
    }

    /// Returns the problem of each part that cannot run, under its name.
    fn problems(&self) -> BTreeMap<String, Error> {
        problems(&self.parts, self.carrier.task_names())
    }

    /// Starts the tasks of the app's role.
    ///
    /// Parts that do not fit together do not run: they fail with the error of [`check`](Self::check), which [`Running::health`] shows.
    pub fn start(self) -> Running {
        let problems = self.problems();
        let Self { store, relays, models, carrier, role, health, on_failure, parts, grace, listeners, observer } = self;
        let checkpoint: ReadCheckpoint = Arc::new(move |projection| {
            let models = models.clone();
            async move { Ok(models.mark(&ProjectionName::new(projection)?).await?.position) }.boxed()
        });
        let mut running = Running::new(store.clone(), checkpoint, health, on_failure, grace).with_listeners(listeners);
        let mut views = Vec::new();
        for part in parts {
            let part = part.with_carrier(&carrier);
            views.extend(part.live().map(|live| (part.name().to_owned(), live)));
            if let Some(problem) = problems.get(part.name()).filter(|_| role.has(Role::Worker)) {
                running.refuse(&part, problem);
                continue;
            }
            if role.has(Role::Worker) { running.run(&part) } else { running.track_remote(&*part) }
        }
        if role.has(Role::Relay) {
            for (name, relay) in carrier.relays(&store, &relays) {
                running.relay(name, relay);
            }
        }
        running.watch(views);
        if let Some(observer) = observer {
            running.observe(observer);
        }
        running
    }

    /// Runs the app until SIGTERM or Ctrl-C, then stops it as [`Running::stop`] does. A second Ctrl-C ends the process at once.
    ///
    /// # Errors
    /// The errors of [`Running::stop`], or [`ErrorKind::Backend`] if the system refuses to deliver signals.
    ///
    /// # Cancel safety
    /// May be dropped at any time: the tasks are aborted, and no event is lost.
    pub async fn run(self) -> Result<Signal> {
        self.check()?;
        let running = self.start();
        let signal = shutdown::requested().await;
        let stopped = running.stop().await;
        let signal =
            signal.map_err(|error| Error::with_source(ErrorKind::Backend("listen for signals".into()), error))?;
        stopped.map(|()| signal)
    }
}
