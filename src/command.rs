//! The context a command is executed in, and its outcome.

use std::fmt;
use std::sync::Arc;

use crate::error::{Error, ErrorKind};
use crate::event::{Envelope, Metadata};
use crate::id::{ClaimScope, ClaimValue, CorrelationId, EventId, IdempotencyKey, StreamId, Version};
use crate::store::log::append::{Appended, Outcome};
use crate::store::log::token::Token;

/// The context of a command: its origin and its idempotency key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Context {
    pub(crate) metadata: Metadata,
    pub(crate) key: Option<IdempotencyKey>,
}

impl Context {
    /// Creates the context of a request from outside: its events get a correlation id of their own.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates the context of a command that `event` led to: its events take over the correlation id and name `event` as their cause.
    pub fn caused_by<E>(event: &Envelope<E>) -> Self {
        let correlation = event.metadata.correlation_id.unwrap_or(event.id.into());
        Self { metadata: Metadata::new().with_correlation(correlation).with_causation(event.id), key: None }
    }

    /// Sets the correlation id of a chain that began elsewhere.
    pub fn with_correlation(mut self, id: CorrelationId) -> Self {
        self.metadata = self.metadata.with_correlation(id);
        self
    }

    /// Sets the event that led to the command, by its id.
    pub fn with_causation(mut self, id: EventId) -> Self {
        self.metadata = self.metadata.with_causation(id);
        self
    }

    /// Sets the sender of the command, such as a service's name.
    pub fn with_source(mut self, source: impl Into<Arc<str>>) -> Self {
        self.metadata = self.metadata.with_source(source);
        self
    }

    /// Adds an entry to the events' metadata.
    pub fn with_entry(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata = self.metadata.with_entry(name, value);
        self
    }

    pub(crate) fn correlation_id(&self) -> Option<CorrelationId> {
        self.metadata.correlation_id
    }

    /// Sets the idempotency key: executed again under the same key, the command writes nothing and returns the first outcome.
    pub fn with_key(mut self, key: IdempotencyKey) -> Self {
        self.key = Some(key);
        self
    }
}

/// The outcome of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Executed {
    /// The aggregate's version after it.
    pub version: Version,
    /// Whether this call wrote the events, or an earlier one under the same key.
    pub outcome: Outcome,
    /// The last event this call wrote, as the cause of what follows from it.
    pub last_event: Option<EventId>,
    /// Identifies the events to [`wait_for`](crate::app::Running::wait_for) in a read model.
    pub token: Token,
}

impl From<&Executed> for Token {
    fn from(executed: &Executed) -> Self {
        executed.token
    }
}

impl From<Executed> for Token {
    fn from(executed: Executed) -> Self {
        executed.token
    }
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
///
/// This is a [`std::error::Error`] for every `E` that can be printed, so `?` puts it into a `Box<dyn Error>` even if the domain's own
/// error is plain text. It shows `E` as its message. It cannot pass on a source that `E` may have: match on
/// [`Rejected`](Self::Rejected) to get at it.
#[derive(Debug)]
#[non_exhaustive]
pub enum CommandError<E> {
    /// The domain refused.
    Rejected(E),
    /// Other writers changed the aggregate before each attempt. Nothing was written; the same command may succeed later.
    Conflict(Error),
    /// Another aggregate holds a value that an event of this command reserves.
    Taken {
        /// The scope that the value is unique in.
        scope: ClaimScope,
        /// The value.
        value: ClaimValue,
        /// The stream that holds it.
        by: StreamId,
    },
    /// May succeed when tried again. Without an idempotency key it is not known whether the events were written.
    Transient(Error),
    /// The aggregate's events cannot be read.
    Corrupt(Error),
    /// Any other error of the store.
    Failed(Error),
}

impl<E: fmt::Display> fmt::Display for CommandError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rejected(reason) => reason.fmt(f),
            Self::Conflict(_) => f.write_str("gave up after repeated conflicts"),
            Self::Taken { scope, value, by } => write!(f, "{scope} {value} is taken by {by}"),
            Self::Transient(error) | Self::Corrupt(error) | Self::Failed(error) => error.fmt(f),
        }
    }
}

impl<E: fmt::Display + fmt::Debug> std::error::Error for CommandError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Rejected(_) | Self::Taken { .. } => None,
            Self::Conflict(error) => Some(error),
            // Shown as the message already.
            Self::Transient(error) | Self::Corrupt(error) | Self::Failed(error) => error.source(),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_from_the_domain_goes_into_a_box() {
        let refuse = || -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
            Err(CommandError::Rejected("open the account first"))?;
            Ok(())
        };
        assert_eq!(refuse().unwrap_err().to_string(), "open the account first");
    }

    #[test]
    fn the_message_of_the_store_is_not_repeated_as_its_source() {
        let error = Error::with_source(ErrorKind::Transient("append".into()), "connection lost");
        let error = std::error::Error::source(&CommandError::<&str>::from(error)).map(ToString::to_string);
        assert_eq!(error.as_deref(), Some("connection lost"));
    }
}
