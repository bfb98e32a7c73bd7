//! The context, the outcome and the errors of a command.

use std::any::type_name;
use std::fmt;
use std::sync::Arc;

use tracing::Span;

use crate::error::{Error, ErrorKind, fmt_chain};
use crate::event::{Envelope, Metadata};
use crate::id::{ClaimScope, ClaimValue, CorrelationId, EventId, IdempotencyKey, StreamId, Version};
use crate::store::log::append::{Appended, Outcome};
use crate::store::log::fingerprint::Fingerprint;
use crate::store::log::token::Token;
use crate::trace;
use crate::trace::context::TraceContext;

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
    pub(crate) request: Request,
    /// The trace of the event that led to the command.
    cause: Option<TraceContext>,
}

/// The idempotency key of a command, and the fingerprint that a store keeps with it.
pub(crate) struct Keyed {
    pub(crate) key: IdempotencyKey,
    pub(crate) fingerprint: Fingerprint,
}

/// The properties that tell the command from other commands under its key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Request {
    /// The type of the command, and the events that it leads to.
    #[default]
    Decided,
    /// The type of the command, and the bytes that the caller has given. The field holds their hash.
    Given(Fingerprint),
    /// Nothing: the library has derived the key from the command, so no other command can have it.
    Derived,
}

impl Context {
    /// Creates the context of a request from outside. The command's events share a new correlation id.
    pub fn new() -> Self {
        Self::default()
    }

    /// Creates the context of a command that `event` led to. The command's events inherit the correlation id and the trace, and name `event` as
    /// their cause.
    pub fn caused_by<E>(event: &Envelope<E>) -> Self {
        let correlation = event.metadata.chain(event.id);
        let metadata = Metadata::new().with_correlation(correlation).with_causation(event.id);
        Self { metadata, cause: event.metadata.trace_context(), ..Self::default() }
    }

    /// Creates the context of a command that follows from something recorded before, with what is known of that.
    pub(crate) fn following(
        correlation: Option<CorrelationId>,
        causation: Option<EventId>,
        cause: Option<TraceContext>,
    ) -> Self {
        let metadata = Metadata { correlation_id: correlation, causation_id: causation, ..Metadata::default() };
        Self { metadata, cause, ..Self::default() }
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

    /// Sets the trace context of the command's events, such as that of an HTTP request. It wins over that of the current trace.
    ///
    /// # Examples
    /// ```
    /// use retell::{Context, trace::TraceContext};
    ///
    /// let header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    /// let context = Context::new().with_trace_context(&TraceContext::parse(header, None)?);
    /// # Ok::<(), retell::trace::InvalidTraceContext>(())
    /// ```
    pub fn with_trace_context(mut self, context: &TraceContext) -> Self {
        self.metadata = self.metadata.with_trace_context(context);
        self
    }

    /// Returns the trace that the command continues.
    pub(crate) fn cause(&self) -> Option<&TraceContext> {
        self.cause.as_ref()
    }

    /// Puts the span of the command into its trace, and writes that into the metadata.
    pub(crate) fn stamp(&mut self, span: &Span) {
        trace::stamp(span, self.cause.as_ref(), &mut self.metadata.extra);
    }

    pub(crate) fn correlation_id(&self) -> Option<CorrelationId> {
        self.metadata.correlation_id
    }

    pub(crate) fn causation_id(&self) -> Option<EventId> {
        self.metadata.causation_id
    }

    /// Sets the idempotency key. A command that is executed again under the same key writes nothing and returns the first outcome.
    ///
    /// Another command under the key is refused with [`ErrorKind::KeyReused`]: a command of another type always, and a command of the same
    /// type if it differs. Give the bytes of the request to [`with_request`](Self::with_request) wherever you have them: then the comparison is
    /// exact.
    ///
    /// Without them, the repository compares events. It decides the command again on the state before the first call, where the same command
    /// leads to the same events, and leaves out what two decisions do not agree on, such as a random id or the current time. A refusal takes
    /// about a second, because the command is decided once more after a second, for handlers that stamp whole seconds. A retry is still
    /// refused if its handler
    /// - stamps a coarser time, such as a date that has changed since,
    /// - refuses the command because time has passed,
    /// - or decides otherwise since a new release.
    ///
    /// Two commands of one type that lead to the same events count as one. So do two commands whose events are stored in the compact codec and
    /// differ between two decisions.
    pub fn with_key(mut self, key: IdempotencyKey) -> Self {
        self.key = Some(key);
        if self.request == Request::Derived {
            self.request = Request::Decided;
        }
        self
    }

    /// Sets the bytes of the request that led to the command, such as the body of an HTTP request. Only their hash is kept.
    ///
    /// They tell whether a second command under the [key](Self::with_key) is a retry: one of the same type with the same bytes gets the first
    /// outcome, whatever its handler would decide now. Any other is refused with [`ErrorKind::KeyReused`]. The type counts by its name without the path
    /// of its module, so a retry across a release that renames it is refused.
    ///
    /// # Examples
    /// ```
    /// use retell::{Context, IdempotencyKey};
    ///
    /// # fn context(header: &str, body: &[u8]) -> Result<Context, retell::InvalidName> {
    /// let context = Context::new().with_key(IdempotencyKey::new(header)?).with_request(body);
    /// # Ok(context)
    /// # }
    /// ```
    pub fn with_request(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.request = Request::Given(Fingerprint::of_request("", bytes.as_ref()));
        self
    }

    /// Sets an idempotency key that is derived from the command itself.
    pub(crate) fn with_derived_key(mut self, key: IdempotencyKey) -> Self {
        (self.key, self.request) = (Some(key), Request::Derived);
        self
    }

    /// Returns the key, and the fingerprint of a command of type `C` under it.
    pub(crate) fn keyed<C>(&self) -> Option<Keyed> {
        let key = self.key.clone()?;
        let fingerprint = match &self.request {
            Request::Decided => Fingerprint::of_kind(&short_name(type_name::<C>())),
            Request::Given(bytes) => Fingerprint::of_request(&short_name(type_name::<C>()), bytes.as_bytes()),
            Request::Derived => Fingerprint::of_derived_key(),
        };
        Some(Keyed { key, fingerprint })
    }
}

/// Returns the name of a type without the paths of modules, which change more often than the name.
fn short_name(name: &str) -> String {
    let mut short = String::with_capacity(name.len());
    for part in name.split_inclusive(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')) {
        short.push_str(part.rsplit("::").next().unwrap_or(part));
    }
    short
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
    /// A newer release has written an event of the aggregate, and this process does not know it: see [`ErrorKind::BehindDeploy`]. Nothing was
    /// written. A process of the newer release can execute the command, so an HTTP layer answers 503.
    BehindDeploy(Error),
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
            Self::Transient(error) | Self::BehindDeploy(error) | Self::Corrupt(error) | Self::Failed(error) => {
                error.fmt(f)
            }
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
            Self::Transient(error) | Self::BehindDeploy(error) | Self::Corrupt(error) | Self::Failed(error) => {
                error.source()
            }
        }
    }
}

impl<E> CommandError<E> {
    /// Returns the name of the variant.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Rejected(_) => "Rejected",
            Self::Conflict(_) => "Conflict",
            Self::Taken { .. } => "Taken",
            Self::Transient(_) => "Transient",
            Self::BehindDeploy(_) => "BehindDeploy",
            Self::Corrupt(_) => "Corrupt",
            Self::Failed(_) => "Failed",
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
        } else if error.is_behind_deploy() {
            Self::BehindDeploy(error)
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
    fn name_of_a_command_has_no_paths() {
        let names = ["shop::orders::Place", "alloc::vec::Vec<shop::a::Item>", "(a::B, &c::d::E<'_>)", "[u8; 3]", "u64"];
        let short = ["Place", "Vec<Item>", "(B, &E<'_>)", "[u8; 3]", "u64"];
        assert_eq!(names.map(short_name), short);
    }

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
