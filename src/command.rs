//! What goes with a command, and what comes back.

use std::sync::Arc;

use crate::error::{Error, ErrorKind};
use crate::event::{Envelope, Metadata};
use crate::id::{ClaimScope, ClaimValue, CorrelationId, EventId, IdempotencyKey, StreamId, Version};
use crate::store::{Appended, Outcome, Token};

/// What goes with a command: where it came from, and its idempotency key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Context {
    pub(crate) metadata: Metadata,
    pub(crate) key: Option<IdempotencyKey>,
}

impl Context {
    /// A request from outside: its events get a correlation id of their own.
    pub fn new() -> Self {
        Self::default()
    }

    /// A command that an event led to: its events carry on the event's correlation id and name it as their cause.
    pub fn caused_by<E>(event: &Envelope<E>) -> Self {
        let metadata = Metadata {
            correlation_id: event.metadata.correlation_id.or(Some(event.id.into())),
            causation_id: Some(event.id),
            ..Metadata::default()
        };
        Self { metadata, key: None }
    }

    /// Part of a chain that began elsewhere.
    pub fn with_correlation(mut self, id: CorrelationId) -> Self {
        self.metadata.correlation_id = Some(id);
        self
    }

    /// The event that led to the command, where only its id is at hand.
    pub fn with_causation(mut self, id: EventId) -> Self {
        self.metadata.causation_id = Some(id);
        self
    }

    /// Who sends the command, such as a service's name.
    pub fn with_source(mut self, source: impl Into<Arc<str>>) -> Self {
        self.metadata.source = Some(source.into());
        self
    }

    /// Something else to keep with the events.
    pub fn with_entry(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.extra.insert(name.into(), value.into());
        self
    }

    pub(crate) fn correlation_id(&self) -> Option<CorrelationId> {
        self.metadata.correlation_id
    }

    /// Names the command: executed again under the same key it writes nothing and returns the first outcome.
    pub fn with_key(mut self, key: IdempotencyKey) -> Self {
        self.key = Some(key);
        self
    }
}

/// What a command did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Executed {
    /// The aggregate's version after it.
    pub version: Version,
    /// Whether this call wrote the events, or an earlier one under the same key.
    pub outcome: Outcome,
    /// The last event this call wrote, as the cause of what follows from it.
    pub last_event: Option<EventId>,
    /// Waits for read models: see [`wait_for`](crate::projection::wait_for).
    pub token: Token,
}

impl Executed {
    pub(crate) fn by(appended: &Appended, last_event: Option<EventId>) -> Self {
        let version = appended.versions.first().copied().unwrap_or_default();
        let last_event = last_event.filter(|_| appended.outcome == Outcome::Written);
        Self { version, outcome: appended.outcome, last_event, token: appended.token() }
    }

    pub(crate) fn nothing(version: Version) -> Self {
        Self { version, outcome: Outcome::Written, last_event: None, token: Token::default() }
    }
}

/// Why a command did nothing.
#[derive(Debug, thiserror::Error)]
pub enum CommandError<E> {
    /// The domain refused.
    #[error(transparent)]
    Rejected(E),
    /// Others changed the aggregate, again and again.
    #[error("gave up after repeated conflicts")]
    Conflict(#[source] Error),
    /// Another aggregate holds a value that an event of this command reserves.
    #[error("{scope} {value} is taken by {by}")]
    Taken {
        /// What the value must be unique among.
        scope: ClaimScope,
        /// The value.
        value: ClaimValue,
        /// Who holds it.
        by: StreamId,
    },
    /// May succeed when tried again. Without an idempotency key it is not known whether the events were written.
    #[error(transparent)]
    Transient(Error),
    /// The aggregate's events cannot be read.
    #[error(transparent)]
    Corrupt(Error),
    /// Anything else the store refused.
    #[error(transparent)]
    Failed(Error),
}

impl<E> From<Error> for CommandError<E> {
    fn from(error: Error) -> Self {
        if let ErrorKind::Taken { scope, value, by } = error.kind() {
            Self::Taken { scope: scope.clone(), value: value.clone(), by: by.clone() }
        } else if error.is_conflict() {
            Self::Conflict(error)
        } else if error.is_transient() {
            Self::Transient(error)
        } else if error.is_corrupt() {
            Self::Corrupt(error)
        } else {
            Self::Failed(error)
        }
    }
}
