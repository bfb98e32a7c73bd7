//! Runs a kind of process: a worker for the events, and beside it a watch over the deadlines.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::Utc;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::backoff::{delays, retry_transient};
use crate::broker::{Broker, DeadLetters};
use crate::command::{CommandError, Context};
use crate::error::{BoxError, Error, ErrorKind, Result};
use crate::event::Envelope;
use crate::id::{AggregateId, CorrelationId, Position, ProjectionName, StreamId, Version};
use crate::process::instance::{Decision, Instance, Pending, Step, Trigger};
use crate::process::{NotExecuted, Process};
use crate::projection::Projection;
use crate::repository::Repository;
use crate::store::log::append::Outcome;
use crate::store::log::event_store::EventStore;
use crate::store::log::query::Filter;
use crate::store::log::reader::EventReaderExt;
use crate::store::model::deadlines::{Deadline, DeadlineChange, DeadlineStore};
use crate::worker::Worker;
use crate::worker::caught_up::CaughtUp;
use crate::worker::options::WorkerOptions;
use crate::worker::parking::reason;

/// Processes that are dealt with at the same time: their appends share commits.
const AT_ONCE: usize = 128;

/// Events of a batch: about two turns of `AT_ONCE`, so that its transaction is not open for long, and few wait at its end for the slowest.
const BATCH_EVENTS: usize = 250;

/// Deadlines that are looked up at once.
const DUE_AT_ONCE: usize = 256;

/// The first wait before deadlines that could not be read are read again.
const FIRST_WAIT: Duration = Duration::from_millis(5);

/// The longest wait of a deadline that cannot be dealt with, in seconds.
const LONGEST_WAIT: u32 = 300;

/// Follows the log for one kind of process. As many of it as you like, in one program or many: each event and each deadline leads to one step.
///
/// It takes events in log order. An event that fails for good parks its aggregate, as with any projection, and later events of other
/// aggregates go on: also those of the same process.
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
    /// Steps are written to `store`, where the events come from; deadlines and the checkpoint to `models`. On SQLite these lie in a file of
    /// their own, not in the log's: a transaction on them is open while steps are appended.
    ///
    /// In transactions of up to 250 events, since their commands are sent meanwhile; deadlines are looked for every second.
    pub fn new(process: P, store: impl EventStore, models: M) -> Self {
        let store: Arc<dyn EventStore> = Arc::new(store);
        let instances = Repository::over(store.clone());
        let steps = Arc::new(Steps { process, instances, store: store.clone() });
        let following = Following { steps: steps.clone(), models: models.clone() };
        let worker = Worker::new(following, store, models.clone()).with_options(options());
        Self { steps, models, worker, look: Duration::from_secs(1) }
    }

    /// Takes the fast path over a broker as well.
    pub fn with_broker(mut self, broker: impl Broker) -> Self {
        self.worker = self.worker.with_broker(broker);
        self
    }

    /// Has a copy of the failing event of each aggregate that is given up.
    pub fn with_dead_letters(mut self, dead_letters: impl DeadLetters) -> Self {
        self.worker = self.worker.with_dead_letters(dead_letters);
        self
    }

    /// Other settings for following the log.
    pub fn with_options(mut self, options: WorkerOptions) -> Self {
        self.worker = self.worker.with_options(options);
        self
    }

    /// How often to look for deadlines that have passed.
    pub fn with_look(mut self, look: Duration) -> Self {
        self.look = look;
        self
    }

    /// The position up to which every event has led to its step, and the commands of that are sent.
    pub fn applied(&self) -> watch::Receiver<Position> {
        self.worker.applied()
    }

    /// Follows the log and watches the deadlines until told to stop; finishes what is under way first.
    ///
    /// # Errors
    /// As [`Worker::run`].
    ///
    /// # Cancel safety
    /// May be dropped at any time: what was under way is taken up where it was.
    pub async fn run(&self, stop: CancellationToken) -> Result<()> {
        let name = ProjectionName::new(P::NAME)?;
        // A part that fails stops the other one.
        let ended = stop.child_token();
        let follow = async {
            let done = self.worker.run(ended.clone()).await;
            ended.cancel();
            done
        };
        let watch = async {
            let done = self.watch(&name, &ended).await;
            ended.cancel();
            done
        };
        let (followed, watched) = futures::join!(follow, watch);
        followed.and(watched)
    }

    /// Takes the step of every event that is in the log now, sends the commands of these steps, and then handles the deadlines that have passed.
    /// Returns how far it is and what is parked, as [`Worker::catch_up`].
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

    /// Handles the deadlines that have passed as of this call. One that cannot be dealt with is postponed, and so not read again.
    async fn handle_deadlines(&self) -> Result<()> {
        let (name, now, never) = (ProjectionName::new(P::NAME)?, Utc::now(), CancellationToken::new());
        loop {
            let look = || self.models.due_deadlines(&name, now, DUE_AT_ONCE);
            let due = retry_transient(&never, delays(FIRST_WAIT, self.look), look).await?;
            let is_last = due.len() < DUE_AT_ONCE;
            stream::iter(due).for_each_concurrent(AT_ONCE, |deadline| self.pass(&name, deadline)).await;
            if is_last {
                return Ok(());
            }
        }
    }

    async fn watch(&self, name: &ProjectionName, stop: &CancellationToken) -> Result<()> {
        while !stop.is_cancelled() {
            let full = match self.models.due_deadlines(name, Utc::now(), DUE_AT_ONCE).await {
                Ok(due) => {
                    let full = due.len() == DUE_AT_ONCE;
                    stream::iter(due).for_each_concurrent(AT_ONCE, |deadline| self.pass(name, deadline)).await;
                    full
                }
                Err(error) if error.is_transient() => false,
                Err(error) => return Err(error),
            };
            if !full {
                stop.run_until_cancelled(tokio::time::sleep(self.look)).await;
            }
        }
        Ok(())
    }

    /// A deadline that cannot be dealt with comes again. Where not even that can be written, it is still there.
    async fn pass(&self, name: &ProjectionName, deadline: Deadline) {
        let passed = async {
            let mut changes = self.steps.pass(&deadline).await?;
            changes.push(DeadlineChange::End(deadline.id));
            self.models.settle_deadlines(name, &changes).await
        };
        if let Err(error) = passed.await {
            let wait = Duration::from_secs(LONGEST_WAIT.min(1 << deadline.attempts.min(16)).into());
            drop(self.models.postpone_deadline(name, deadline.id, Utc::now() + wait, &reason(&error)).await);
        }
    }
}

fn options() -> WorkerOptions {
    WorkerOptions::new().with_batch_events(BATCH_EVENTS)
}

/// The events, as a projection that writes nothing but deadlines.
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

    async fn apply(&self, tx: &mut M::Tx, event: Envelope<P::Event>) -> Result<(), BoxError> {
        self.apply_batch(tx, vec![event]).await
    }

    /// Those of one process in order, and those of several at the same time.
    async fn apply_batch(&self, tx: &mut M::Tx, events: Vec<Envelope<P::Event>>) -> Result<(), BoxError> {
        let mut by_key: HashMap<AggregateId, Vec<Envelope<P::Event>>> = HashMap::new();
        for event in events {
            if let Some(key) = self.steps.process.key(&event) {
                by_key.entry(key).or_default().push(event);
            }
        }
        let followed = by_key.into_iter().map(|(key, events)| self.steps.follow(key, events));
        let changes: Vec<_> = stream::iter(followed).buffer_unordered(AT_ONCE).try_concat().await?;
        if changes.is_empty() {
            return Ok(());
        }
        Ok(self.models.change_deadlines(tx, &ProjectionName::new(P::NAME)?, &changes).await?)
    }
}

/// Takes steps: decides, records, and has the commands executed.
struct Steps<P: Process> {
    process: P,
    instances: Repository<Instance<P>>,
    store: Arc<dyn EventStore>,
}

/// The request that a step belongs to.
#[derive(Clone, Copy)]
struct Of<'c> {
    context: &'c Context,
    correlation_id: Option<CorrelationId>,
}

impl<P: Process> Steps<P> {
    /// Events of one process, one after the other.
    async fn follow(&self, key: AggregateId, events: Vec<Envelope<P::Event>>) -> Result<Vec<DeadlineChange>> {
        let mut changes = Vec::new();
        for event in events {
            let context = Context::caused_by(&event);
            let of = Of { context: &context, correlation_id: context.correlation_id() };
            changes.extend(self.step(of, Decision::on_event(&self.process, &key, &event)).await?);
        }
        Ok(changes)
    }

    /// A deadline that has passed.
    async fn pass(&self, deadline: &Deadline) -> Result<Vec<DeadlineChange>> {
        let context = deadline.correlation_id.map_or_else(Context::new, |id| Context::new().with_correlation(id));
        let of = Of { context: &context, correlation_id: deadline.correlation_id };
        let passed = Pending { name: deadline.name.clone(), id: deadline.id, at: deadline.at };
        self.step(of, Decision::on_passed(&self.process, &deadline.key, &passed)).await
    }

    /// Records the step, unless it is recorded, and then carries it out. Its deadlines are the caller's.
    fn step<'s>(&'s self, of: Of<'s>, decision: Decision<'s, P>) -> BoxFuture<'s, Result<Vec<DeadlineChange>>> {
        async move {
            let (key, trigger) = (decision.key, decision.trigger());
            let context = of.context.clone().with_key(trigger.key::<P>()?);
            let executed = self.instances.execute_with(key.clone(), &decision, context).await.map_err(failed)?;
            let repeated = executed.outcome == Outcome::Repeated;
            let step = if repeated { Some(self.recorded(key, executed.version).await?) } else { decision.into_step() };
            let Some(Step { commands, set, ended, .. }) = step else { return Ok(Vec::new()) };
            let mut changes: Vec<_> = ended.into_iter().map(|ended| DeadlineChange::End(ended.id)).collect();
            changes.extend(set.into_iter().map(|Pending { name, id, at }| {
                let correlation_id = of.correlation_id;
                DeadlineChange::Set(Deadline { id, key: key.clone(), name, at, correlation_id, attempts: 0 })
            }));
            for (place, command) in commands.into_iter().enumerate() {
                changes.extend(self.send(of, key, trigger.command(place), command, repeated).await?);
            }
            Ok(changes)
        }
        .boxed()
    }

    /// Sends a command. That it was refused is a step as well, recorded before anything follows from it: once it is, the command is not sent
    /// again, although it might be accepted now.
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
            // What it led to then is recorded.
            String::new()
        } else {
            let context = of.context.clone().with_key(sent.key::<P>()?);
            match self.process.execute(key, command.clone(), context).await {
                Ok(()) => return Ok(Vec::new()),
                Err(NotExecuted::Failed(error)) => return Err(error),
                Err(NotExecuted::Rejected(reason)) => reason,
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
        | CommandError::Corrupt(error)
        | CommandError::Failed(error) => error,
    }
}
