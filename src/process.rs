//! Process managers: events in, commands out, and deadlines in between.
//!
//! A process follows one thing through several aggregates, such as an order from its payment to its parcel. Each process has a stream of
//! its own, named by the kind of process and a key that you choose. A pure function of the process's state decides what an event leads to.
//! The decision is recorded in that stream as one event, a *step*: the new state, the commands to send, the deadlines to keep. Only then
//! are the commands sent, each under an idempotency key that follows from the event. So a crash in between, or an event that is delivered
//! again, still leads to one step and to one effect of each command.

pub(crate) mod instance;
pub(crate) mod manager;

use std::sync::Arc;

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

/// A kind of process: which events it follows, and the commands and deadlines that they lead to.
///
/// [`on_event`](Self::on_event), [`on_deadline`](Self::on_deadline) and [`on_rejected`](Self::on_rejected) decide. They are pure: they use
/// no clock but the event's own and no I/O. They change the state in place and collect what is to happen in [`Effects`]; all of it is
/// recorded as one step before any command is sent.
#[async_trait]
pub trait Process: Send + Sync + 'static {
    /// The name of its checkpoint, and of its streams as an aggregate's type is. Never changes.
    const NAME: &'static str;

    /// The events it follows: those of one aggregate, or a union of several.
    type Event: Event;

    /// What one process remembers; `()` if the events say enough. `Default` is the state before its first event.
    ///
    /// A step that changes it records it as JSON. So a field that is added later needs a default.
    type State: Default + Clone + PartialEq + Serialize + DeserializeOwned + Send + Sync + 'static;

    /// What it has other aggregates do. Recorded as JSON permanently: add variants and defaults, change none.
    type Command: Serialize + DeserializeOwned + Clone + Send + Sync + 'static;

    /// Returns the process that an event belongs to; `None` if it concerns none. Each event with a key leaves a step in that process's
    /// stream.
    fn key(&self, event: &Envelope<Self::Event>) -> Option<AggregateId>;

    /// Decides what an event leads to.
    fn on_event(&self, state: &mut Self::State, event: &Envelope<Self::Event>, effects: &mut Effects<Self::Command>);

    /// Decides what follows after a deadline has passed. A deadline that was canceled or set again never gets here. By default nothing
    /// follows.
    fn on_deadline(&self, _state: &mut Self::State, _deadline: &str, _effects: &mut Effects<Self::Command>) {}

    /// Decides what follows after the domain has refused a command. By default nothing follows; the refusal is recorded in any case.
    fn on_rejected(
        &self,
        _state: &mut Self::State,
        _command: &Self::Command,
        _reason: &str,
        _effects: &mut Effects<Self::Command>,
    ) {
    }

    /// Sends a command of one process to its aggregate, under `context`, which holds the idempotency key. With a
    /// [`Repository`](crate::Repository) that is `self.orders.execute_with(id, command, context).await?`.
    ///
    /// # Errors
    /// [`NotExecuted::Rejected`] is recorded, and [`on_rejected`](Self::on_rejected) decides what follows. After [`NotExecuted::Failed`] the
    /// event or the deadline is tried again later, and then parked; the keys prevent a second effect of commands that were sent before.
    async fn execute(&self, key: &AggregateId, command: Self::Command, context: Context) -> Result<(), NotExecuted>;

    /// Returns the events it gets, as a projection's [`filter`](crate::Projection::filter).
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

    async fn execute(&self, key: &AggregateId, command: P::Command, context: Context) -> Result<(), NotExecuted> {
        (**self).execute(key, command, context).await
    }

    fn filter(&self) -> Result<Filter> {
        (**self).filter()
    }
}

/// What an event, a passed deadline or a refused command leads to.
#[derive(Debug)]
pub struct Effects<C> {
    key: AggregateId,
    pub(crate) commands: Vec<C>,
    pub(crate) deadlines: Vec<(String, Option<DateTime<Utc>>)>,
}

impl<C> Effects<C> {
    pub(crate) fn none(key: AggregateId) -> Self {
        Self { key, commands: Vec::new(), deadlines: Vec::new() }
    }

    /// Returns the key of the process that decides.
    pub fn key(&self) -> &AggregateId {
        &self.key
    }

    /// Sends a command, after those sent before it.
    pub fn send(&mut self, command: C) -> &mut Self {
        self.commands.push(command);
        self
    }

    /// Sets a deadline; it replaces a pending one of the same name. It passes once, at `at` or up to a few seconds later, while a manager
    /// runs. Counted from the event's [`recorded_at`](Envelope::recorded_at), a decision stays pure.
    pub fn set_deadline(&mut self, deadline: impl Into<String>, at: DateTime<Utc>) -> &mut Self {
        self.deadlines.push((deadline.into(), Some(at)));
        self
    }

    /// Cancels the deadline of this name, if one is pending.
    pub fn cancel_deadline(&mut self, deadline: impl Into<String>) -> &mut Self {
        self.deadlines.push((deadline.into(), None));
        self
    }
}

/// Why a command of a process has had no effect.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
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
