//! Runs a kind of process: one worker for its events and one watcher for its deadlines.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::Utc;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use tokio::sync::watch;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::backoff::{delays, retry_transient};
use crate::broker::{Broker, DeadLetters};
use crate::command::{CommandError, Context};
use crate::error::{BoxError, Error, ErrorKind, Examined, Result, reason};
use crate::event::Envelope;
use crate::grace::within_grace;
use crate::id::{AggregateId, CorrelationId, EventType, Position, ProjectionName, StreamId, Version};
use crate::panics::catch_in;
use crate::process::instance::{Decision, Instance, Pending, STEPPED, Step, Trigger};
use crate::process::{CommandFailure, Process};
use crate::projection::Projection;
use crate::repository::Repository;
use crate::repository::options::RepositoryOptions;
use crate::shape::types::Type;
use crate::status::{Reporter, Status, Wait};
use crate::store::log::append::Outcome;
use crate::store::log::event_store::EventStore;
use crate::store::log::query::Filter;
use crate::store::log::reader::EventReaderExt;
use crate::store::model::deadlines::{Deadline, DeadlineChange, DeadlineStore};
use crate::store::model::processors::ProcessorKind;
use crate::worker::Worker;
use crate::worker::caught_up::CaughtUp;
use crate::worker::options::WorkerOptions;

/// Maximum number of processes handled concurrently: their appends share commits.
const MAX_CONCURRENT: usize = 128;

/// Events per batch: about two rounds of `MAX_CONCURRENT`, so that the transaction stays short and few processes wait for the slowest.
const BATCH_EVENTS: usize = 250;

/// Deadlines read per query.
const DUE_PER_QUERY: usize = 256;

/// First delay before a failed read of deadlines is retried.
const FIRST_DELAY: Duration = Duration::from_millis(5);

/// Longest delay, in seconds, before a deadline whose step failed is retried.
const MAX_DELAY_SECS: u32 = 300;

/// Steps that are examined when a manager starts.
const EXAMINED_STEPS: usize = 100;

/// Runs the steps of one kind of process: follows the log and watches deadlines. Any number of managers may run, in one program or in many:
/// each event and each deadline leads to one step.
///
/// Events are handled in log order. An event that keeps failing parks its aggregate, as with any projection, and later events of other
/// aggregates continue, including those of the same process.
///
/// See [`Process`] for an example of a process. An [`App`](crate::App) starts its managers and restarts those that fail.
///
/// # Examples
/// ```
/// use std::time::Duration;
///
/// use retell::prelude::*;
///
/// /// Takes the steps of `process` until `stop` is cancelled, and looks for passed deadlines ten times a second.
/// async fn follow(process: impl Process, store: MemoryStore, stop: CancellationToken) -> retell::Result<()> {
///     let manager = ProcessManager::new(process, store, MemoryReadModel::new());
///     manager.with_look(Duration::from_millis(100)).run(stop).await
/// }
/// ```
pub struct ProcessManager<P: Process, M: DeadlineStore> {
    steps: Arc<Steps<P>>,
    models: M,
    worker: Worker<Following<P, M>, M>,
    look: Duration,
}

impl<P: Process, M: DeadlineStore> std::fmt::Debug for ProcessManager<P, M> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProcessManager").field("process", &P::NAME).finish_non_exhaustive()
    }
}

impl<P: Process, M: DeadlineStore + Clone> ProcessManager<P, M> {
    /// Creates a manager that reads events from `store` and appends steps to it, and keeps deadlines and its checkpoint in `models`. On
    /// SQLite, `models` must be in a separate file from the log: a transaction on it is open while steps are appended.
    ///
    /// By default a transaction covers up to 250 events, since their commands are sent while it is open, and deadlines are checked every
    /// second.
    pub fn new(process: P, store: impl EventStore, models: M) -> Self {
        let store: Arc<dyn EventStore> = Arc::new(store);
        let instances = Repository::over(store.clone()).with_options(RepositoryOptions::new().with_older_snapshots(0));
        let steps = Arc::new(Steps { process, instances, store: store.clone() });
        let following = Following { steps: steps.clone(), models: models.clone() };
        let worker = Worker::new(following, store, models.clone()).with_options(options());
        Self { steps, models, worker, look: Duration::from_secs(1) }
    }

    /// Also receives events from `broker`, the fast path.
    pub fn with_broker(mut self, broker: impl Broker) -> Self {
        self.worker = self.worker.with_broker(broker);
        self
    }

    /// Sends a dead letter for each aggregate that is given up: a copy of the event that fails.
    pub fn with_dead_letters(mut self, dead_letters: impl DeadLetters) -> Self {
        self.worker = self.worker.with_dead_letters(dead_letters);
        self
    }

    /// Replaces the settings of the worker that follows the log.
    pub fn with_options(mut self, options: WorkerOptions) -> Self {
        self.worker = self.worker.with_options(options);
        self
    }

    /// Checks for deadlines that have passed every `look`.
    pub fn with_look(mut self, look: Duration) -> Self {
        self.look = look;
        self
    }

    pub(crate) fn filter(&self) -> Result<Filter> {
        self.worker.filter()
    }

    /// Watches the position up to which every event has led to its step and the commands of those steps are sent.
    pub fn applied(&self) -> watch::Receiver<Position> {
        self.worker.applied()
    }

    /// Watches whether the manager runs, what it waits for and the last error that it saw.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.worker.status()
    }

    pub(crate) fn reporter(&self) -> &Reporter {
        self.worker.reporter()
    }

    /// Returns the number of snapshots of processes that could not be written or read so far. Such a failure costs time, never data.
    pub fn snapshot_failures(&self) -> u64 {
        self.steps.instances.snapshot_failures()
    }

    /// Follows the log and watches the deadlines until `stop` is cancelled; finishes work in progress first.
    ///
    /// # Errors
    /// As [`Worker::run`].
    ///
    /// # Cancel safety
    /// May be dropped at any time: the next run resumes unfinished work.
    pub async fn run(&self, stop: CancellationToken) -> Result<()> {
        let name = ProjectionName::new(P::NAME)?;
        // If either half fails, stop the other.
        let ended = stop.child_token();
        let follow = async {
            let done = self.worker.run(ended.clone()).await;
            ended.cancel();
            done
        };
        let watch = async {
            let grace = self.worker.grace();
            let done = within_grace(&ended, grace, self.watch(&name, &ended)).await.unwrap_or_else(|| {
                let what =
                    format!("the deadlines of process {name} did not stop within {grace:?}: their steps were dropped");
                Err(ErrorKind::TimedOut(what).into())
            });
            ended.cancel();
            done
        };
        let (followed, watched) = futures::join!(follow, watch);
        let ended = followed.and(watched);
        self.worker.reporter().ended(ended.as_ref().err());
        ended
    }

    /// Takes the step of every event now in the log, sends the commands of these steps, and then handles the deadlines that have passed.
    /// Returns the position reached and the parked aggregates, as [`Worker::catch_up`].
    ///
    /// # Errors
    /// As [`Worker::run`].
    ///
    /// # Cancel safety
    /// As [`run`](Self::run).
    pub async fn catch_up(&self) -> Result<CaughtUp> {
        let caught_up = self.worker.catch_up().await?;
        self.handle_deadlines().await?;
        Ok(caught_up)
    }

    /// Catches up to a position of the log, as [`catch_up`](Self::catch_up).
    pub(crate) async fn catch_up_to(&self, to: Position, stop: CancellationToken) -> Result<CaughtUp> {
        let caught_up = self.worker.catch_up_to(to, stop).await?;
        self.handle_deadlines().await?;
        Ok(caught_up)
    }

    /// Handles the deadlines that have passed at the time of this call. A deadline whose step fails is postponed, so it is not read again.
    async fn handle_deadlines(&self) -> Result<()> {
        let (name, now, never) = (ProjectionName::new(P::NAME)?, Utc::now(), CancellationToken::new());
        loop {
            let look = || self.models.due_deadlines(&name, now, DUE_PER_QUERY);
            let delays = delays(FIRST_DELAY, self.look)
                .with_limit(Some(self.worker.catch_up_limit()))
                .reporting(self.worker.reporter(), Wait::Deadlines);
            let due = retry_transient(&never, delays, look).await?;
            let is_last = due.len() < DUE_PER_QUERY;
            stream::iter(due).for_each_concurrent(MAX_CONCURRENT, |deadline| self.pass(&name, deadline)).await;
            if is_last {
                return Ok(());
            }
        }
    }

    async fn watch(&self, name: &ProjectionName, stop: &CancellationToken) -> Result<()> {
        let pulse = self.worker.reporter().pulse();
        while !stop.is_cancelled() {
            pulse.turn();
            let look = async {
                // Deadlines pass when the process is resumed.
                let is_paused = self.models.paused(name).await?.is_some();
                let limit = if is_paused { 0 } else { DUE_PER_QUERY };
                self.models.due_deadlines(name, Utc::now(), limit).await
            };
            let full = match look.await {
                Ok(due) => {
                    self.worker.reporter().done(Wait::Deadlines);
                    let full = due.len() == DUE_PER_QUERY;
                    let passed = stream::iter(due).for_each_concurrent(MAX_CONCURRENT, async |deadline| {
                        self.pass(name, deadline).await;
                        pulse.turn();
                    });
                    passed.await;
                    full
                }
                Err(error) if error.is_outage() => {
                    self.worker.reporter().waits_after(Wait::Deadlines, reason(&error));
                    false
                }
                Err(error) => return Err(error),
            };
            if !full {
                let _rest = pulse.rest();
                stop.run_until_cancelled(tokio::time::sleep(self.look)).await;
            }
        }
        Ok(())
    }

    /// Handles one deadline, and postpones it if its step fails. If even the postponement cannot be written, the deadline is still due.
    async fn pass(&self, name: &ProjectionName, deadline: Deadline) {
        let passed = async {
            let limit = self.worker.longest_call();
            let step = timeout(limit, self.steps.pass(&deadline)).await.unwrap_or_else(|_| {
                Err(ErrorKind::TimedOut(format!("the step did not end within {limit:?} and was dropped")).into())
            });
            let mut changes = step?;
            changes.push(DeadlineChange::End(deadline.id));
            self.models.settle_deadlines(name, &changes).await
        };
        if let Err(error) = passed.await {
            self.worker.reporter().saw(&error);
            let wait = Duration::from_secs(MAX_DELAY_SECS.min(1 << deadline.attempts.min(16)).into());
            drop(self.models.postpone_deadline(name, deadline.id, Utc::now() + wait, &reason(&error)).await);
        }
    }
}

fn options() -> WorkerOptions {
    WorkerOptions::new().with_batch_events(BATCH_EVENTS)
}

/// The projection that follows the events and writes only deadlines.
struct Following<P: Process, M> {
    steps: Arc<Steps<P>>,
    models: M,
}

#[async_trait]
impl<P: Process, M: DeadlineStore> Projection for Following<P, M> {
    const NAME: &'static str = P::NAME;
    type Event = P::Event;
    type Tx = M::Tx;

    fn filter(&self) -> Result<Filter> {
        self.steps.process.filter()
    }

    fn kind(&self) -> ProcessorKind {
        ProcessorKind::Process
    }

    fn state(&self) -> Option<Type> {
        Some(Type::of::<P::State>())
    }

    /// Checks that the newest steps of this kind of process decode.
    async fn check(&self) -> Result<()> {
        let (stepped, mut examined) = (EventType::new(STEPPED.name)?, Examined::default());
        let newest = self.steps.store.newest(&stepped, EXAMINED_STEPS).await?;
        for step in newest.iter().filter(|step| step.stream.aggregate_type().as_str() == P::NAME) {
            examined.add(step.decode::<Step<P>>().map(drop));
        }
        let remedy = "give new fields of its state and its commands a default, and do not change existing ones";
        examined.check(|| format!("process {}", P::NAME), remedy)
    }

    async fn apply(&self, tx: &mut M::Tx, event: Envelope<P::Event>) -> Result<(), BoxError> {
        self.apply_batch(tx, vec![event]).await
    }

    /// Handles the events of one process in order, and several processes concurrently.
    async fn apply_batch(&self, tx: &mut M::Tx, events: Vec<Envelope<P::Event>>) -> Result<(), BoxError> {
        let mut by_key: HashMap<AggregateId, Vec<Envelope<P::Event>>> = HashMap::new();
        for event in events {
            if let Some(key) = self.steps.process.key(&event) {
                by_key.entry(key).or_default().push(event);
            }
        }
        let followed = by_key.into_iter().map(|(key, events)| self.steps.follow(key, events));
        let changes: Vec<_> = stream::iter(followed).buffer_unordered(MAX_CONCURRENT).try_concat().await?;
        if changes.is_empty() {
            return Ok(());
        }
        Ok(self.models.change_deadlines(tx, &ProjectionName::new(P::NAME)?, &changes).await?)
    }
}

/// Takes steps: decides, records the decision, and executes its commands.
struct Steps<P: Process> {
    process: P,
    instances: Repository<Instance<P>>,
    store: Arc<dyn EventStore>,
}

/// Context of the request that a step belongs to.
#[derive(Clone, Copy)]
struct Of<'c> {
    context: &'c Context,
    correlation_id: Option<CorrelationId>,
}

impl<P: Process> Steps<P> {
    /// Handles the events of one process in order.
    async fn follow(&self, key: AggregateId, events: Vec<Envelope<P::Event>>) -> Result<Vec<DeadlineChange>> {
        let mut changes = Vec::new();
        for event in events {
            let context = Context::caused_by(&event);
            let of = Of { context: &context, correlation_id: context.correlation_id() };
            changes.extend(self.step(of, Decision::on_event(&self.process, &key, &event)).await?);
        }
        Ok(changes)
    }

    /// Takes the step of a deadline that has passed.
    async fn pass(&self, deadline: &Deadline) -> Result<Vec<DeadlineChange>> {
        let Deadline { correlation_id, causation_id, trace, .. } = deadline;
        let context = Context::following(*correlation_id, *causation_id, trace.clone());
        let of = Of { context: &context, correlation_id: deadline.correlation_id };
        let passed = Pending { name: deadline.name.clone(), id: deadline.id, at: deadline.at };
        self.step(of, Decision::on_passed(&self.process, &deadline.key, &passed)).await
    }

    /// Records the step unless it is already recorded, and then executes its commands. Returns the deadline changes for the caller to
    /// write.
    fn step<'s>(&'s self, of: Of<'s>, decision: Decision<'s, P>) -> BoxFuture<'s, Result<Vec<DeadlineChange>>> {
        async move {
            let (key, trigger) = (decision.key, decision.trigger());
            let context = of.context.clone().with_derived_key(trigger.key::<P>()?);
            let executed = self.instances.execute_with(key.clone(), &decision, context).await.map_err(failed)?;
            let repeated = executed.outcome == Outcome::Repeated;
            let step = if repeated {
                Some(self.recorded(key, executed.version).await?)
            } else {
                decision.into_step().map(Step::into_stored).transpose()?
            };
            let Some(Step { commands, set, ended, is_last, .. }) = step else { return Ok(Vec::new()) };
            let mut changes: Vec<_> = ended.into_iter().map(|ended| DeadlineChange::End(ended.id)).collect();
            changes.extend(set.into_iter().map(|Pending { name, id, at }| {
                let (correlation_id, causation_id) = (of.correlation_id, of.context.causation_id());
                let trace = of.context.cause().cloned();
                let key = key.clone();
                DeadlineChange::Set(Deadline { id, key, name, at, correlation_id, causation_id, trace, attempts: 0 })
            }));
            for (place, command) in commands.into_iter().enumerate() {
                changes.extend(self.send(of, key, trigger.command(place), command, repeated).await?);
            }
            if is_last {
                // From here on, an event of the process reads this snapshot and no step.
                self.instances.save_snapshot(key).await?;
            }
            Ok(changes)
        }
        .boxed()
    }

    /// Sends a command. A rejection is a step too and is recorded before it has consequences: once recorded, the command is not sent again,
    /// even if it would be accepted now.
    async fn send(
        &self,
        of: Of<'_>,
        key: &AggregateId,
        sent: Trigger,
        command: P::Command,
        repeated: bool,
    ) -> Result<Vec<DeadlineChange>> {
        let known = repeated && self.store.find_by_key(&sent.rejected().key::<P>()?).await?.is_some();
        let reason = if known {
            // The step that followed the rejection is already recorded.
            String::new()
        } else {
            let context = of.context.clone().with_derived_key(sent.key::<P>()?);
            let executed = catch_in(async { self.process.execute(key, command.clone(), context).await }).await;
            let executed = executed.unwrap_or_else(|panicked| {
                let what = format!("execute a command of process {}/{key}", P::NAME);
                Err(Error::with_source(ErrorKind::Panicked(what), panicked).into())
            });
            match executed {
                Ok(()) => return Ok(Vec::new()),
                Err(CommandFailure::Failed(error)) => return Err(error),
                Err(CommandFailure::Rejected(reason)) => reason,
            }
        };
        self.step(of, Decision::on_rejected(&self.process, key, sent, &command, &reason)).await
    }

    async fn recorded(&self, key: &AggregateId, version: Version) -> Result<Step<P>> {
        let stream = StreamId::new(crate::id::AggregateType::new(P::NAME)?, key.clone());
        let before = Version::new(version.get().saturating_sub(1));
        let found = self.store.read_stream(&stream, before, 1).await?;
        let Some(recorded) = found.first() else {
            return Err(ErrorKind::Corrupt(format!("{stream} has no version {version}")).into());
        };
        Ok(recorded.decode::<Step<P>>()?.event)
    }
}

fn failed(error: CommandError<Infallible>) -> Error {
    match error {
        CommandError::Rejected(never) => match never {},
        CommandError::Taken { scope, value, by } => ErrorKind::Taken { scope, value, by }.into(),
        CommandError::Conflict(error)
        | CommandError::Transient(error)
        | CommandError::BehindDeploy(error)
        | CommandError::Corrupt(error)
        | CommandError::Failed(error) => error,
    }
}
