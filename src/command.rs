//! The context, the outcome and the errors of a command.

use std::fmt;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, fmt_chain};
use crate::event::{Envelope, Metadata};
use crate::id::{ClaimScope, ClaimValue, CorrelationId, EventId, IdempotencyKey, StreamId, Version};
use crate::store::log::append::{Appended, Outcome};
use crate::store::log::token::Token;

/// The context of a command: its origin and its idempotency key.
///
/// # Examples
/// ```
/// use retell::{Context, IdempotencyKey};
///
/// let context = Context::new().with_source("web shop").with_key(IdempotencyKey::new("request-4711")?);
/// # Ok::<(), retell::InvalidName>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Context {
    pub(crate) metadata: Metadata,
    pub(crate) key: Option<IdempotencyKey>,
    /// Whether the library has derived the key from the command, so that no other command can have it.
    pub(crate) is_key_derived: bool,
}

impl Context {
    /// Creates the context of a request from outside. The command's events share a new correlation id.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates the context of a command that `event` led to. The command's events inherit the correlation id and name `event` as their cause.
    pub fn caused_by<E>(event: &Envelope<E>) -> Self {
        let correlation = event.metadata.correlation_id.unwrap_or(event.id.into());
        Self { metadata: Metadata::new().with_correlation(correlation).with_causation(event.id), ..Self::default() }
    }

    /// Sets the correlation id of a chain that began elsewhere.
    pub fn with_correlation(mut self, id: CorrelationId) -> Self {
        self.metadata = self.metadata.with_correlation(id);
        self
    }

    /// Sets the id of the event that led to the command.
    pub fn with_causation(mut self, id: EventId) -> Self {
        self.metadata = self.metadata.with_causation(id);
        self
    }

    /// Sets the sender of the command, such as a service's name.
    pub fn with_source(mut self, source: impl Into<Arc<str>>) -> Self {
        self.metadata = self.metadata.with_source(source);
        self
    }

    /// Adds an entry to the metadata of the command's events.
    pub fn with_entry(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata = self.metadata.with_entry(name, value);
        self
    }

    pub(crate) fn correlation_id(&self) -> Option<CorrelationId> {
        self.metadata.correlation_id
    }

    /// Sets the idempotency key. A command that is executed again under the same key writes nothing and returns the first outcome.
    ///
    /// Another command under the key is refused with [`ErrorKind::KeyReused`]. To tell the two apart, the repository decides the command
    /// again on the state before the first call, where the same command leads to the same events. A retry is refused too if its handler
    /// decides by anything else than the state and the command, such as a random id.
    pub fn with_key(mut self, key: IdempotencyKey) -> Self {
        (self.key, self.is_key_derived) = (Some(key), false);
        self
    }

    /// Sets an idempotency key that is derived from the command itself.
    pub(crate) fn with_derived_key(mut self, key: IdempotencyKey) -> Self {
        (self.key, self.is_key_derived) = (Some(key), true);
        self
    }
}

/// The outcome of a command.
///
/// # Examples
/// ```
/// use retell::{Executed, store::Outcome};
///
/// /// Returns the status and the entity tag of an HTTP answer to a command.
/// fn answer(executed: &Executed) -> (u16, String) {
///     let status = match executed.outcome {
///         Outcome::Written => 201,
///         Outcome::Repeated => 200,
///     };
///     (status, format!("\"{}\"", executed.version))
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Executed {
    /// The aggregate's version after the command.
    pub version: Version,
    /// Whether this call or an earlier call under the same key wrote the events.
    pub outcome: Outcome,
    /// The id of the last event that this call wrote, if any: the cause of the commands that follow from it.
    pub last_event: Option<EventId>,
    /// Identifies the events, for [`wait_for`](crate::app::Running::wait_for).
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
    pub(crate) fn from_appended(appended: &Appended) -> Self {
        let version = appended.versions.first().copied().unwrap_or_default();
        let last_event = Some(appended.last_event).filter(|_| appended.outcome == Outcome::Written);
        Self { version, outcome: appended.outcome, last_event, token: appended.token() }
    }

    pub(crate) fn unchanged(version: Version) -> Self {
        Self { version, outcome: Outcome::Written, last_event: None, token: Token::default() }
    }
}

/// The error of a command, by how a caller can react.
///
/// It implements [`std::error::Error`] for every `E` that implements `Display` and `Debug`, so `?` converts it into a `Box<dyn Error>` even
/// if the domain's own error is plain text. `{}` displays the error alone, and `{:#}` the error followed by its causes. A rejection displays `E` as its message but does not expose the source of `E`: match on
/// [`Rejected`](Self::Rejected) to reach it.
///
/// # Examples
/// ```
/// use std::fmt::Display;
///
/// use retell::CommandError;
///
/// fn answer<E: Display>(error: &CommandError<E>) -> String {
///     match error {
///         CommandError::Rejected(reason) => format!("refused: {reason}"),
///         CommandError::Taken { value, .. } => format!("{value} is taken"),
///         CommandError::Conflict(_) | CommandError::Transient(_) => "try again later".to_owned(),
///         error => format!("internal error: {error:#}"),
///     }
/// }
///
/// assert_eq!(answer(&CommandError::Rejected("the account is closed")), "refused: the account is closed");
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum CommandError<E> {
    /// The domain refused the command.
    Rejected(E),
    /// Other writers changed the aggregate during every attempt. Nothing was written; the same command may succeed later.
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
    /// The store failed for a reason that may pass. Retry under the same idempotency key: without a key, a caller cannot know whether the
    /// events were written.
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
            Self::Conflict(error) => fmt_chain(f, &Conflicted(error), Some(error)),
            Self::Taken { scope, value, by } => write!(f, "{scope} {value} is taken by {by}"),
            Self::Transient(error) | Self::Corrupt(error) | Self::Failed(error) => error.fmt(f),
        }
    }
}

/// The message of [`CommandError::Conflict`].
struct Conflicted<'e>(&'e Error);

impl fmt::Display for Conflicted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.kind() {
            ErrorKind::Conflict { stream, .. } => write!(f, "the command on {stream} ")?,
            _ => f.write_str("the command ")?,
        }
        f.write_str("conflicted with other writers on every attempt; retry later")
    }
}

impl<E: fmt::Display + fmt::Debug> std::error::Error for CommandError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Rejected(_) | Self::Taken { .. } => None,
            Self::Conflict(error) => Some(error),
            // The message is the error itself, so its cause comes next.
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
    fn plain_text_rejection_converts_into_a_boxed_error() {
        let refuse = || -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
            Err(CommandError::Rejected("open the account first"))?;
            Ok(())
        };
        assert_eq!(refuse().unwrap_err().to_string(), "open the account first");
    }

    #[test]
    fn store_error_is_not_repeated_as_its_own_source() {
        let error = Error::with_source(ErrorKind::Transient("append".into()), "connection lost");
        let error = std::error::Error::source(&CommandError::<&str>::from(error)).map(ToString::to_string);
        assert_eq!(error.as_deref(), Some("connection lost"));
    }
}
