//! Process managers: they follow events, send commands and keep deadlines.
//!
//! A process follows one thing through several aggregates, such as an order from its payment to its parcel. Each process has its own
//! stream, named by the kind of process and a key that you choose. A pure function decides, from the process's state, which commands and
//! deadlines an event leads to. The decision is recorded in that stream as one event, a *step*: the new state, the commands to send, the
//! deadlines to keep. Only then does the process manager send the commands, each under an idempotency key derived from the event. So after
//! a crash in between, or a repeated delivery of the event, there is still one step, and each command still takes effect once.

pub(crate) mod instance;
pub(crate) mod manager;

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::aggregate::SnapshotPolicy;
use crate::command::{CommandError, Context};
use crate::error::{Error, Result};
use crate::event::{Envelope, Event};
use crate::id::AggregateId;
use crate::shape::Shape;
use crate::store::log::query::Filter;

pub use manager::ProcessManager;

/// A kind of process: the events it follows, and the commands and deadlines that they lead to.
///
/// [`on_event`](Self::on_event), [`on_deadline`](Self::on_deadline) and [`on_rejected`](Self::on_rejected) decide. They are pure: they do no
/// I/O and know no time except the event's own. They change the state in place and collect commands and deadlines in [`Effects`]. All of it
/// is recorded as one step before any command is sent.
///
/// # Examples
/// ```
/// use std::time::Duration;
///
/// use retell::prelude::*;
///
/// #[derive(Event)]
/// enum OrderEvent {
///     #[event("order.created")]
///     Created,
///     #[event("order.paid")]
///     Paid,
/// }
///
/// /// Confirms an order when it is paid, and cancels it if it is not paid within an hour.
/// struct Payment;
///
/// #[async_trait]
/// impl Process for Payment {
///     const NAME: &'static str = "payment";
///     type Event = OrderEvent;
///     type State = ();
///     type Command = String;
///
///     fn key(&self, event: &Envelope<OrderEvent>) -> Option<AggregateId> {
///         Some(event.stream.aggregate_id().clone())
///     }
///
///     fn on_event(&self, (): &mut (), event: &Envelope<OrderEvent>, effects: &mut Effects<String>) {
///         match event.event {
///             OrderEvent::Created => effects.set_deadline("unpaid", event.recorded_at + Duration::from_secs(3_600)),
///             OrderEvent::Paid => effects.cancel_deadline("unpaid").send("confirm".into()),
///         };
///     }
///
///     fn on_deadline(&self, (): &mut (), _: &str, effects: &mut Effects<String>) {
///         effects.send("cancel".into());
///     }
///
///     // Usually `self.orders.execute_with(order, command, context).await?`, with a repository of orders.
///     async fn execute(&self, order: &AggregateId, command: String, _: Context) -> Result<(), CommandFailure> {
///         println!("{command} {order}");
///         Ok(())
///     }
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let store = MemoryStore::new();
/// let events = [OrderEvent::Created, OrderEvent::Paid];
/// store.append_events(("order", "17"), ExpectedVersion::NoStream, events).await?;
/// App::new(store, MemoryReadModel::new()).process(Payment).catch_up().await?; // prints "confirm 17"
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
#[async_trait]
pub trait Process: Send + Sync + 'static {
    /// The name of the checkpoint, and the aggregate type of the processes' streams. It never changes.
    const NAME: &'static str;

    /// Decides when the state and the pending deadlines of one process are saved as a snapshot, so that a manager that does not have the
    /// process in memory reads few of its steps. The default saves every 100 steps, and the last one.
    const SNAPSHOTS: SnapshotPolicy = SnapshotPolicy::Every(100);

    /// The events that the process follows: those of one aggregate, or a union of several.
    type Event: Event;

    /// The state of one process; `()` if the events say enough. `Default` is the state before the first event.
    ///
    /// A step that changes the state records it as JSON, so a field that is added later needs a default. A manager refuses to start
    /// with [`ErrorKind::StateChanged`](crate::ErrorKind::StateChanged) after any other change.
    type State: Default + Clone + PartialEq + Serialize + DeserializeOwned + Shape + Send + Sync + 'static;

    /// The commands that a process sends to other aggregates. They are recorded as JSON permanently: add variants, and fields with defaults,
    /// but never change existing ones.
    type Command: Serialize + DeserializeOwned + Clone + Send + Sync + 'static;

    /// Returns the key of the process that `event` belongs to, or `None` if it concerns no process. Each event with a key adds a step to the
    /// stream of its process.
    fn key(&self, event: &Envelope<Self::Event>) -> Option<AggregateId>;

    /// Decides what `event` leads to: changes `state`, and adds commands and deadlines to `effects`.
    fn on_event(&self, state: &mut Self::State, event: &Envelope<Self::Event>, effects: &mut Effects<Self::Command>);

    /// Decides what follows after a deadline has passed. It is never called for a deadline that was canceled or set again. The default does
    /// nothing.
    fn on_deadline(&self, _state: &mut Self::State, _deadline: &str, _effects: &mut Effects<Self::Command>) {}

    /// Decides what follows after the domain has refused a command. The default does nothing; the refusal is recorded in any case.
    fn on_rejected(
        &self,
        _state: &mut Self::State,
        _command: &Self::Command,
        _reason: &str,
        _effects: &mut Effects<Self::Command>,
    ) {
    }

    /// Sends `command` of the process `key` to its aggregate, under `context`, which holds the idempotency key. With a
    /// [`Repository`](crate::Repository), this is `self.orders.execute_with(id, command, context).await?`.
    ///
    /// The commands of a batch share the [limit](crate::WorkerOptions::with_longest_call) of a call, 20 seconds by default. A call that takes
    /// longer is dropped and counts as a failure. So does a panic.
    ///
    /// # Errors
    /// [`CommandFailure::Rejected`] is recorded, and [`on_rejected`](Self::on_rejected) decides what follows. After [`CommandFailure::Failed`], the
    /// event or the deadline is retried later, and parked if the retries fail. The idempotency keys keep commands that were sent before from
    /// taking effect twice.
    async fn execute(&self, key: &AggregateId, command: Self::Command, context: Context) -> Result<(), CommandFailure>;

    /// Returns the filter for the events that the process receives, as a projection's [`filter`](crate::Projection::filter) does.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a filter that no event can pass.
    fn filter(&self) -> Result<Filter> {
        Filter::of::<Self::Event>()
    }
}

#[async_trait]
impl<P: Process> Process for Arc<P> {
    const NAME: &'static str = P::NAME;
    const SNAPSHOTS: SnapshotPolicy = P::SNAPSHOTS;
    type Event = P::Event;
    type State = P::State;
    type Command = P::Command;

    fn key(&self, event: &Envelope<P::Event>) -> Option<AggregateId> {
        (**self).key(event)
    }

    fn on_event(&self, state: &mut P::State, event: &Envelope<P::Event>, effects: &mut Effects<P::Command>) {
        (**self).on_event(state, event, effects);
    }

    fn on_deadline(&self, state: &mut P::State, deadline: &str, effects: &mut Effects<P::Command>) {
        (**self).on_deadline(state, deadline, effects);
    }

    fn on_rejected(&self, state: &mut P::State, command: &P::Command, reason: &str, effects: &mut Effects<P::Command>) {
        (**self).on_rejected(state, command, reason, effects);
    }

    async fn execute(&self, key: &AggregateId, command: P::Command, context: Context) -> Result<(), CommandFailure> {
        (**self).execute(key, command, context).await
    }

    fn filter(&self) -> Result<Filter> {
        (**self).filter()
    }
}

/// Collects the commands and deadlines that an event, a passed deadline or a refused command leads to. See [`Process`] for an example.
#[derive(Debug)]
pub struct Effects<C> {
    key: AggregateId,
    pub(crate) commands: Vec<C>,
    pub(crate) deadlines: Vec<(String, Option<DateTime<Utc>>)>,
    /// Whether the process ends.
    pub(crate) is_last: bool,
}

impl<C> Effects<C> {
    pub(crate) fn new(key: AggregateId) -> Self {
        Self { key, commands: Vec::new(), deadlines: Vec::new(), is_last: false }
    }

    /// Returns the key of the deciding process.
    pub fn key(&self) -> &AggregateId {
        &self.key
    }

    /// Adds a command. Commands are sent in the order in which they were added.
    pub fn send(&mut self, command: C) -> &mut Self {
        self.commands.push(command);
        self
    }

    /// Sets a deadline, and replaces a pending deadline of the same name. It passes once, at `at` or up to a few seconds later, while a
    /// process manager runs. Compute `at` from the event's [`recorded_at`](Envelope::recorded_at) to keep the decision pure.
    pub fn set_deadline(&mut self, deadline: impl Into<String>, at: DateTime<Utc>) -> &mut Self {
        self.deadlines.push((deadline.into(), Some(at)));
        self
    }

    /// Cancels the deadline called `deadline`, if it is pending.
    pub fn cancel_deadline(&mut self, deadline: impl Into<String>) -> &mut Self {
        self.deadlines.push((deadline.into(), None));
        self
    }

    /// Ends the process after this step. Its commands are still sent, and all of its deadlines are canceled, including those that this step
    /// sets.
    ///
    /// The end is final. The process ignores every later event of its key, even one that would have started it: a late or repeated event must
    /// not begin it again. Choose a new [key](Process::key) for another run, such as the order's id followed by the number of the attempt. If a
    /// command of the last step is refused, the refusal is recorded and [`on_rejected`](Process::on_rejected) is not called.
    ///
    /// An ignored event adds no step, and costs one read of the snapshot that the end leaves, however long the history of the process is.
    pub fn end(&mut self) -> &mut Self {
        self.is_last = true;
        self
    }
}

/// The reason why a command of a process had no effect.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CommandFailure {
    /// The domain refused the command, for this reason.
    #[error("refused: {0}")]
    Rejected(String),
    /// Any other error.
    #[error(transparent)]
    Failed(#[from] Error),
}

impl<E: std::fmt::Display> From<CommandError<E>> for CommandFailure {
    fn from(error: CommandError<E>) -> Self {
        match error {
            CommandError::Rejected(reason) => Self::Rejected(reason.to_string()),
            CommandError::Taken { scope, value, by } => Self::Rejected(format!("{scope} {value} is taken by {by}")),
            CommandError::Conflict(error)
            | CommandError::Transient(error)
            | CommandError::BehindDeploy(error)
            | CommandError::Corrupt(error)
            | CommandError::Failed(error) => Self::Failed(error),
        }
    }
}
