//! Process managers: events in, commands out, and deadlines in between.
//!
//! A process follows one thing through several aggregates, such as an order from its payment to its parcel. Each has a stream of its own,
//! named by the process and a key of yours. What an event leads to is decided by a pure function of the process's state, and recorded in
//! that stream as one event, a *step*: how the state changes, which commands are to be sent, which deadlines to be kept. Only then are the
//! commands sent, each under an idempotency key that follows from the event. So whatever dies in between, and however often the event
//! comes: one step, and each command once in effect.

pub(crate) mod instance;
pub(crate) mod manager;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::command::{CommandError, Context};
use crate::error::{Error, Result};
use crate::event::{Envelope, Event};
use crate::id::AggregateId;
use crate::store::log::query::Filter;

pub use manager::ProcessManager;

/// What a kind of process does.
#[async_trait]
pub trait Process: Send + Sync + 'static {
    /// Names its streams, as an aggregate's type does, and its checkpoint. Never changes.
    const NAME: &'static str;

    /// What it follows: a union of events.
    type Event: Event;

    /// What one process knows. `Default` is before its first event.
    type State: Default + Clone + Send + Sync + 'static;

    /// How that changes. Kept in the process's stream as JSON for ever: add variants and defaults, change none.
    type Change: Serialize + DeserializeOwned + Clone + Send + Sync + 'static;

    /// What it has others do. Kept as a [`Change`](Self::Change) is.
    type Command: Serialize + DeserializeOwned + Clone + Send + Sync + 'static;

    /// The process that an event belongs to; `None` if it matters to none. Each event with a key leaves a step in that process's stream.
    fn key(&self, event: &Envelope<Self::Event>) -> Option<AggregateId>;

    /// Moves a state past a change. Cannot fail: it has happened.
    fn apply(state: &mut Self::State, change: Self::Change);

    /// Decides what an event leads to. Pure: no clock but the event's own, no input or output.
    fn on_event(&self, state: &Self::State, event: &Envelope<Self::Event>, then: &mut Then<Self>);

    /// Decides what it leads to that a deadline has passed. One that was cancelled, or set anew, never comes here.
    fn on_deadline(&self, state: &Self::State, deadline: &str, then: &mut Then<Self>);

    /// Decides what it leads to that a command was refused by the domain.
    fn on_rejected(&self, state: &Self::State, command: &Self::Command, reason: &str, then: &mut Then<Self>);

    /// Sends a command of one process to its aggregate, with the context given: it holds the idempotency key. With a
    /// [`Repository`](crate::Repository) that is `self.orders.execute_with(id, command, context).await?`.
    ///
    /// # Errors
    /// [`NotExecuted::Rejected`] is recorded, and [`on_rejected`](Self::on_rejected) decides what follows. After [`NotExecuted::Failed`] the
    /// event, or the deadline, is tried again later, and then parked; commands that were sent before are known by their keys.
    async fn execute(&self, key: &AggregateId, command: Self::Command, context: Context) -> Result<(), NotExecuted>;

    /// The events it gets, as a projection's [`filter`](crate::Projection::filter).
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a filter that cannot be.
    fn filter(&self) -> Result<Filter> {
        Filter::of::<Self::Event>()
    }
}

/// What an event, a passed deadline or a refused command leads to.
#[derive(Debug)]
pub struct Then<P: Process + ?Sized> {
    key: AggregateId,
    pub(crate) changes: Vec<P::Change>,
    pub(crate) commands: Vec<P::Command>,
    pub(crate) deadlines: Vec<(String, Option<DateTime<Utc>>)>,
}

impl<P: Process + ?Sized> Then<P> {
    pub(crate) fn nothing(key: AggregateId) -> Self {
        Self { key, changes: Vec::new(), commands: Vec::new(), deadlines: Vec::new() }
    }

    /// Which process this is about.
    pub fn key(&self) -> &AggregateId {
        &self.key
    }

    /// Changes what the process knows.
    pub fn change(&mut self, change: P::Change) -> &mut Self {
        self.changes.push(change);
        self
    }

    /// Sends a command, after those before it.
    pub fn send(&mut self, command: P::Command) -> &mut Self {
        self.commands.push(command);
        self
    }

    /// Sets a deadline, instead of the one of that name if there is one. It comes when the time has passed, once: some seconds late at most,
    /// unless nobody runs the process then. Counted from the event's [`recorded_at`](Envelope::recorded_at), a decision stays pure.
    pub fn remind(&mut self, deadline: impl Into<String>, at: DateTime<Utc>) -> &mut Self {
        self.deadlines.push((deadline.into(), Some(at)));
        self
    }

    /// Forgets a deadline, if there is one of that name.
    pub fn cancel(&mut self, deadline: impl Into<String>) -> &mut Self {
        self.deadlines.push((deadline.into(), None));
        self
    }
}

/// Why a command of a process has had no effect.
#[derive(Debug, thiserror::Error)]
pub enum NotExecuted {
    /// The domain refused, for this reason.
    #[error("refused: {0}")]
    Rejected(String),
    /// Anything else.
    #[error(transparent)]
    Failed(#[from] Error),
}

impl<E: std::fmt::Display> From<CommandError<E>> for NotExecuted {
    fn from(error: CommandError<E>) -> Self {
        match error {
            CommandError::Rejected(reason) => Self::Rejected(reason.to_string()),
            CommandError::Taken { scope, value, by } => Self::Rejected(format!("{scope} {value} is taken by {by}")),
            CommandError::Conflict(error)
            | CommandError::Transient(error)
            | CommandError::Corrupt(error)
            | CommandError::Failed(error) => Self::Failed(error),
        }
    }
}
