//! Errors, classified by how a caller can react.

use std::convert::Infallible;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use crate::id::{
    ClaimScope, ClaimValue, EventId, EventType, ExpectedVersion, Fence, IdempotencyKey, InvalidName, Place, Position,
    ProjectionName, StreamId, Version,
};

/// Characters that are stored of an error.
const REASON_CHARS: usize = 1_000;

/// A result of this library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The boxed error that handlers return, and that an [`Error`] keeps as its cause.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The error type of this library. Its [`kind`](Error::kind) tells callers how to react; its [`source`](std::error::Error::source) is the cause.
///
/// `{}` displays the error alone, and `{:#}` the error followed by its causes, for logs. [`chain`](Self::chain) iterates over them.
///
/// # Examples
/// ```
/// use retell::{Error, ErrorKind};
///
/// fn advice(error: &Error) -> &'static str {
///     match error.kind() {
///         ErrorKind::Conflict { .. } => "load the aggregate and decide again",
///         _ if error.is_transient() => "retry later",
///         _ => "report the error",
///     }
/// }
///
/// assert_eq!(advice(&Error::new(ErrorKind::Transient("append".into()))), "retry later");
/// ```
///
/// # Read errors
/// Every call that reads a store can fail with [`Transient`](ErrorKind::Transient) if the database is busy or the connection is lost,
/// [`Closed`](ErrorKind::Closed) after the store was closed, [`Corrupt`](ErrorKind::Corrupt) for a damaged row,
/// [`FileReplaced`](ErrorKind::FileReplaced) if a SQLite file is not at its path any more, and [`Backend`](ErrorKind::Backend) for any
/// other failure of the database.
///
/// # Write errors
/// Every call that writes to a store can fail with a read error, with [`ReadOnly`](ErrorKind::ReadOnly) if the store may only be
/// read, and with [`Full`](ErrorKind::Full) if its disk or quota is full.
#[derive(Debug, Clone)]
pub struct Error {
    kind: Box<ErrorKind>,
    source: Option<Arc<dyn std::error::Error + Send + Sync>>,
}

/// The kind of an [`Error`], for callers to branch on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The stream is not at the version the append expected. Nothing was written.
    #[error("append to {stream} conflicted: expected {expected}, found version {actual}; reload and retry")]
    Conflict {
        /// The first stream of the append that is not at its expected version.
        stream: StreamId,
        /// The version that the append required.
        expected: ExpectedVersion,
        /// The version of the stream.
        actual: Version,
    },
    /// An event with this id is already in the log. Nothing was written.
    #[error("event {0} is already in the log")]
    DuplicateEvent(EventId),
    /// The idempotency key was already used for another request: another command, other events, or other streams. Nothing was written. A new
    /// request needs a new key; a retry needs the bytes of its request, see [`Context::with_request`](crate::Context::with_request).
    #[error("idempotency key {0} was already used for another request; use a new key")]
    KeyReused(IdempotencyKey),
    /// Another stream holds a value that the append reserves. Nothing was written.
    #[error("{scope} {value} is taken by {by}")]
    Taken {
        /// The scope that the value is unique in.
        scope: ClaimScope,
        /// The first such value, ordered by scope and value.
        value: ClaimValue,
        /// The stream that holds the value.
        by: StreamId,
    },
    /// The input is invalid, and a retry cannot succeed. Nothing was written.
    #[error("invalid input: {0}")]
    Invalid(String),
    /// An operator's change would break a promise: the text says which part still needs what it would delete. Nothing was changed.
    #[error("refused: {0}")]
    Unsafe(String),
    /// The target of an import is not an empty log. Nothing was written.
    #[error("the log is not empty: it has {0}; import into a new log")]
    NotEmpty(&'static str),
    /// The input of an import is not a whole export: it is cut or changed, or this release cannot read it. Nothing was written.
    #[error("the export cannot be imported: {0}")]
    BadExport(String),
    /// An event or a snapshot exceeds the store's size limit. Nothing was written.
    #[error("{what} has {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// A description of the item that is too large.
        what: String,
        /// Its size in bytes.
        bytes: usize,
        /// The largest size that the store accepts.
        limit: usize,
    },
    /// A stored event has a type that the reader does not know.
    #[error("{stream} version {version}: unknown event type {event_type}")]
    UnknownEventType {
        /// The stream of the event.
        stream: StreamId,
        /// The version of the event.
        version: Version,
        /// The unknown type.
        event_type: EventType,
    },
    /// A stored event has a schema version that the reader does not know. Most likely, a newer release wrote it.
    #[error("{stream} version {version}: {event_type} has schema version {found}, but this release knows 1 to {known}")]
    UnknownSchema {
        /// The stream of the event.
        stream: StreamId,
        /// The version of the event.
        version: Version,
        /// The type of the event.
        event_type: EventType,
        /// The schema version in the store.
        found: u32,
        /// The newest schema version the reader knows.
        known: u32,
    },
    /// A stored event is not exactly one event of the Rust type, because its name is retired or because an upcaster splits it.
    #[error("{stream} version {version}: {event_type} is not exactly one event of this type: read it by `decode_all`")]
    NotOneEvent {
        /// The stream of the event.
        stream: StreamId,
        /// The version of the event.
        version: Version,
        /// The type of the event.
        event_type: EventType,
    },
    /// A newer release has written an event, and this one does not know its type or its schema version. Another process of the newer release can
    /// handle it, so an HTTP layer answers 503. The cause names the event.
    #[error("this process is behind a deploy: a newer release has written an event {0} that it does not know")]
    BehindDeploy(EventType),
    /// The wire shape of an event has changed without a new version, and the log holds events that could not be read any more. Nothing was written.
    /// Each text names an event, the broken rule, and what to do.
    #[error("events in the log could not be read any more:\n{}", .0.join("\n"))]
    ShapeChanged(Vec<String>),
    /// A stored event's payload does not match its type and schema version.
    #[error("{stream} version {version}: cannot decode the payload of {event_type}")]
    Undecodable {
        /// The stream of the event.
        stream: StreamId,
        /// The version of the event.
        version: Version,
        /// The type of the event.
        event_type: EventType,
    },
    /// An event or a state cannot be encoded. Nothing was written.
    #[error("cannot encode {0}")]
    Unencodable(String),
    /// The store's own data is damaged.
    #[error("the store is corrupt: {0}")]
    Corrupt(String),
    /// The store was written by a newer release of this library.
    #[error("the store has schema {found}, but this release supports up to {known}: upgrade retell")]
    NewerStore {
        /// The newest migration in the store.
        found: u32,
        /// The newest migration in this release.
        known: u32,
    },
    /// The store was opened without migration, and its schema is not that of this release.
    #[error("{}", not_migrated(*.found, *.known))]
    NotMigrated {
        /// The newest migration in the store; zero if there is no store.
        found: u32,
        /// The newest migration in this release.
        known: u32,
    },
    /// The store is read-only.
    #[error("the store is read-only")]
    ReadOnly,
    /// The store's disk or quota is full. Nothing was written.
    #[error("the store's disk or quota is full")]
    Full,
    /// The file of a SQLite store, or one of the two files next to it, was deleted, moved or replaced while the store had it open. The
    /// outcome of an append is unknown: it may be in the file that was open, and is not in the file at the path. Every later call fails in the
    /// same way, until the file is back.
    #[error(
        "the file {} was deleted, moved or replaced while the store had it open; stop every program that uses it, put the right file in \
         place, and open the store again",
        .0.display()
    )]
    FileReplaced(PathBuf),
    /// The call failed for a reason that may pass: the database is busy or locked, or the connection is lost. The outcome of an append is
    /// unknown.
    #[error("temporarily unable to {0}")]
    Transient(String),
    /// The store or the broker was closed.
    #[error("{0} is closed")]
    Closed(&'static str),
    /// A wait exceeded its timeout.
    #[error("timed out: {0}")]
    TimedOut(String),
    /// A projection did not apply the awaited events within the timeout. It may still apply them.
    #[error("timed out: projection {projection} has applied the log up to position {applied}, not yet up to {wanted}")]
    Behind {
        /// The projection.
        projection: ProjectionName,
        /// The position up to which it has applied the log.
        applied: Position,
        /// The position of the awaited events.
        wanted: Position,
    },
    /// The broker's setup would break a guarantee, or an exchange or a queue exists with other arguments.
    #[error("unsafe set-up of the broker: {0}")]
    Topology(String),
    /// The message is not a frame of this library.
    #[error("not a frame: {0}")]
    BadFrame(String),
    /// A projection failed on an event. The projection's own error is the cause.
    #[error("projection {projection} failed at position {position} on {event_type}")]
    Projection {
        /// The projection.
        projection: ProjectionName,
        /// The position of the event, or of the first event of a batch.
        position: Position,
        /// The type of that event.
        event_type: EventType,
    },
    /// No projection, view, reaction or process called `projection` has ever run on this read model, and this process runs none. The name is
    /// misspelt, or the read model is another one.
    #[error("no projection called {projection} has run on this read model; {}", names(.known))]
    UnknownProjection {
        /// The unknown name.
        projection: ProjectionName,
        /// The names that have run.
        known: Vec<ProjectionName>,
    },
    /// No relay called `relay` has ever run on this log, and this process has created none. The name is misspelt, or the log is another one.
    #[error("no relay called {relay} has run on this log; {}", names(.known))]
    UnknownRelay {
        /// The unknown name.
        relay: String,
        /// The names that have run.
        known: Vec<String>,
    },
    /// Another worker moved the projection's checkpoint, or changed its parked aggregates (`expected` and `actual` are equal then). This
    /// worker's batch was rolled back.
    #[error("projection {projection}: the checkpoint is at {actual}, not at {expected}")]
    CheckpointMoved {
        /// The projection.
        projection: ProjectionName,
        /// The checkpoint that this worker knows.
        expected: Position,
        /// The checkpoint now.
        actual: Position,
    },
    /// Another release of this projection has registered which events it reads, or such a registration was removed. Nothing was written. The
    /// worker reads the registered processors again and continues.
    #[error("the registered processors of projection {0} have changed")]
    ProcessorsChanged(ProjectionName),
    /// An operator has paused or retired the projection. Nothing was written. Its workers wait until it is resumed.
    #[error(
        "projection {projection} is {} by {who}: {reason}; {}",
        if *.retired { "retired" } else { "paused" },
        if *.retired { "`retell resume` ends it" } else { "resume it first" }
    )]
    Paused {
        /// The projection.
        projection: ProjectionName,
        /// When the pause began.
        since: DateTime<Utc>,
        /// The operator.
        who: String,
        /// The operator's reason.
        reason: String,
        /// Whether the pause is meant to be final.
        retired: bool,
    },
    /// The aggregate is not parked from the version that an operator wants to skip. Nothing was written.
    #[error(
        "projection {projection}: {stream} is not parked from version {version}{}; look at its parked aggregates again",
        parked_from(*.parked)
    )]
    NotParked {
        /// The projection.
        projection: ProjectionName,
        /// The stream of the aggregate.
        stream: StreamId,
        /// The version that the operator wants to skip.
        version: Version,
        /// The version that the aggregate is parked from; `None` if it is not parked.
        parked: Option<Version>,
    },
    /// The log does not have an event that `what` remembers. The log was restored from an older backup, a replica was promoted before it had
    /// every event, or `what` belongs to another log. Nothing was written. A retry of the same call fails in the same way.
    #[error(
        "{what} remembers {}{place}, but the log {}: the log has another history, because of a restored backup, a failover that lost \
         events, or another database; {remedy}",
        event_at(*.remembered),
        found_instead(*.found)
    )]
    HistoryChanged {
        /// The remembering part, such as `the cached state of order/17` or `projection sales`.
        what: String,
        /// The place that it remembers.
        place: Place,
        /// The id of the event that was at the place, if it is known.
        remembered: Option<EventId>,
        /// The id of the event that is at the place now, if there is one and it is known.
        found: Option<EventId>,
        /// The call or the step that makes `what` fit the log again.
        remedy: &'static str,
    },
    /// The states that a view or a process has stored do not fit the state of this program. A field was added without a default, or renamed, or
    /// a type was changed. Nothing was written. If stored states do not decode, the error of the first one is the cause.
    #[error("{what}: {found}; {remedy}")]
    StateChanged {
        /// The view or the process.
        what: String,
        /// The difference that was found.
        found: String,
        /// The step that makes program and states fit again.
        remedy: &'static str,
    },
    /// A generation of a view is behind the live generation, which readers see. Nothing was changed.
    #[error(
        "projection {projection}: the checkpoint {checkpoint} is behind {live}, the checkpoint of the live generation"
    )]
    BehindLive {
        /// The projection that writes the generation.
        projection: ProjectionName,
        /// The checkpoint of that generation; zero if it does not exist.
        checkpoint: Position,
        /// The checkpoint of the live generation.
        live: Position,
    },
    /// Another relay has taken over since this relay acquired its lease. Nothing was written.
    #[error("relay {relay}: fence {fence} is stale, the position was moved under fence {newest}")]
    Fenced {
        /// The name that the relays share.
        relay: String,
        /// The fence of this relay's lease.
        fence: Fence,
        /// The fence of the newer lease.
        newest: Fence,
    },
    /// The program's own code panicked: it decides a command, or applies an event to an aggregate. Nothing was written. The text of the panic is
    /// the cause. A panic anywhere else has the kind of that place, such as [`Projection`](Self::Projection) or
    /// [`Undecodable`](Self::Undecodable).
    #[error("cannot {0}")]
    Panicked(String),
    /// The database server, its settings or the rights of the database user would break a promise or make calls fail. Opening found these
    /// problems, all of them at once. Nothing was changed.
    #[error("the database server cannot be used: {}", list(.0))]
    UnfitServer(Vec<ServerProblem>),
    /// Any other failure of the backend. The source has the details.
    #[error("cannot {0}")]
    Backend(String),
}

/// A problem of a database server that opening a store or a read model found, and its remedy.
///
/// # Examples
/// ```
/// use retell::{Error, ErrorKind};
///
/// /// Prints each problem of an unfit server on its own line.
/// fn explain(error: &Error) {
///     if let ErrorKind::UnfitServer(problems) = error.kind() {
///         for found in problems {
///             println!("{}\n    {}", found.problem, found.remedy);
///         }
///     }
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerProblem {
    /// The state of the server that cannot be used.
    pub problem: String,
    /// The change that solves it: SQL to run, or a setting.
    pub remedy: String,
}

impl ServerProblem {
    /// Creates a problem, for authors of stores.
    pub fn new(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { problem: problem.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for ServerProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.problem, self.remedy)
    }
}

fn names(known: &[impl fmt::Display]) -> String {
    if known.is_empty() {
        return "none has".to_owned();
    }
    let names: Vec<_> = known.iter().map(ToString::to_string).collect();
    format!("these have: {}", names.join(", "))
}

fn not_migrated(found: u32, known: u32) -> String {
    if found == 0 {
        return "there is no log and no read model: check the place, or create them with `retell migrate`".to_owned();
    }
    format!(
        "the store has schema {found}, which is not that of this release ({known}): start a program of this release"
    )
}

fn list(problems: &[ServerProblem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl Error {
    /// Creates an error without a cause.
    pub fn new(kind: ErrorKind) -> Self {
        Self { kind: Box::new(kind), source: None }
    }

    /// Creates an error with `source` as its cause.
    pub fn with_source(kind: ErrorKind, source: impl Into<BoxError>) -> Self {
        Self { kind: Box::new(kind), source: Some(source.into().into()) }
    }

    /// Returns the kind, for callers to branch on.
    pub fn kind(&self) -> &ErrorKind {
        &self.kind
    }

    /// Returns this error and its causes, outermost first. `{:#}` displays them as one text.
    ///
    /// # Examples
    /// ```
    /// use retell::{Error, ErrorKind};
    ///
    /// let error = Error::with_source(ErrorKind::Transient("append".into()), "connection reset by peer");
    /// assert_eq!(error.to_string(), "temporarily unable to append");
    /// assert_eq!(format!("{error:#}"), "temporarily unable to append: connection reset by peer");
    /// assert_eq!(error.chain().count(), 2);
    /// ```
    pub fn chain(&self) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
        chain(self)
    }

    /// Returns whether another writer changed the stream first. Load the aggregate, decide and append again.
    pub fn is_conflict(&self) -> bool {
        matches!(*self.kind, ErrorKind::Conflict { .. })
    }

    /// Returns whether the log does not have an event that the caller remembers: see [`ErrorKind::HistoryChanged`].
    pub fn is_history_changed(&self) -> bool {
        matches!(*self.kind, ErrorKind::HistoryChanged { .. })
    }

    /// Returns whether a newer release has written an event that this one does not know: see [`ErrorKind::BehindDeploy`]. It counts, too, if the
    /// code of a projection or a process has passed such an error on.
    pub fn is_behind_deploy(&self) -> bool {
        self.chain().any(|cause| {
            cause.downcast_ref::<Self>().is_some_and(|error| matches!(*error.kind, ErrorKind::BehindDeploy(_)))
        })
    }

    /// Returns whether an operator has paused or retired the projection: see [`ErrorKind::Paused`].
    pub fn is_paused(&self) -> bool {
        matches!(*self.kind, ErrorKind::Paused { .. })
    }

    /// Returns whether another stream holds a value that the append reserves.
    pub fn is_taken(&self) -> bool {
        matches!(*self.kind, ErrorKind::Taken { .. })
    }

    /// Returns whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(*self.kind, ErrorKind::Transient(_) | ErrorKind::TimedOut(_) | ErrorKind::Behind { .. })
    }

    /// Returns whether the store cannot work at the moment, whatever the call: it is unreachable or busy, its disk is full, or it is read-only.
    pub(crate) fn is_outage(&self) -> bool {
        self.is_transient() || matches!(*self.kind, ErrorKind::Full | ErrorKind::ReadOnly)
    }

    /// Returns whether stored data cannot be read. Only a repair or a newer release helps.
    pub fn is_corrupt(&self) -> bool {
        matches!(
            *self.kind,
            ErrorKind::UnknownEventType { .. }
                | ErrorKind::UnknownSchema { .. }
                | ErrorKind::Undecodable { .. }
                | ErrorKind::Corrupt(_)
                | ErrorKind::NewerStore { .. }
        )
    }
}

/// Counts stored states that do not decode, before a part of the program starts to change them.
///
/// A few unreadable states are damage, and fail their own events. If most of them do not decode, the type of the state has changed.
#[derive(Debug, Default)]
pub(crate) struct Examined {
    states: usize,
    unreadable: usize,
    first: Option<Error>,
}

impl Examined {
    pub(crate) fn add(&mut self, decoded: Result<()>) {
        self.states += 1;
        if let Err(error) = decoded {
            self.unreadable += 1;
            self.first.get_or_insert(error);
        }
    }

    /// Returns [`ErrorKind::StateChanged`] if most states are unreadable.
    pub(crate) fn check(self, what: impl FnOnce() -> String, remedy: &'static str) -> Result<()> {
        let Self { states, unreadable, first } = self;
        match first {
            Some(first) if unreadable * 2 > states => {
                let found = format!(
                    "{unreadable} of the {states} stored states that were examined do not decode as the state of this program"
                );
                let kind = ErrorKind::StateChanged { what: what(), found, remedy };
                Err(Error::with_source(kind, first))
            }
            _ => Ok(()),
        }
    }
}

fn parked_from(version: Option<Version>) -> String {
    version.map_or_else(String::new, |version| format!(" but from version {version}"))
}

fn event_at(id: Option<EventId>) -> String {
    id.map_or_else(String::new, |id| format!("event {id} at "))
}

fn found_instead(id: Option<EventId>) -> String {
    id.map_or_else(|| "does not have it".to_owned(), |id| format!("has event {id} there"))
}

/// Returns `error` and its causes, outermost first.
pub(crate) fn chain<'e>(
    error: &'e (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'e (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

/// Returns an error and its causes as one text that every database takes.
pub(crate) fn reason(error: &Error) -> String {
    format!("{error:#}").replace('\0', "\u{fffd}").chars().take(REASON_CHARS).collect()
}

/// Writes `message`, and with `{:#}` the chain of causes that begins with `source`.
///
/// A cause is left out if the text before it already ends with it: many errors repeat their cause in their own message.
pub(crate) fn fmt_chain(
    f: &mut fmt::Formatter<'_>,
    message: &dyn fmt::Display,
    source: Option<&(dyn std::error::Error + 'static)>,
) -> fmt::Result {
    if !f.alternate() {
        return write!(f, "{message}");
    }
    let mut before = message.to_string();
    f.write_str(&before)?;
    for cause in source.into_iter().flat_map(chain) {
        let text = cause.to_string();
        if !before.ends_with(&text) {
            write!(f, ": {text}")?;
            before = text;
        }
    }
    Ok(())
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt_chain(f, &self.kind, std::error::Error::source(self))
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl From<ErrorKind> for Error {
    fn from(kind: ErrorKind) -> Self {
        Self::new(kind)
    }
}

impl From<InvalidName> for Error {
    fn from(error: InvalidName) -> Self {
        Self::new(ErrorKind::Invalid(error.to_string()))
    }
}

impl From<Infallible> for Error {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn changed_history_names_holder_place_events_and_remedy() {
        let id = |number| Some(EventId::from(Uuid::from_u128(number)));
        let changed = |found| ErrorKind::HistoryChanged {
            what: "projection sales".into(),
            place: Place::Log(Position::new(7)),
            remembered: id(1),
            found,
            remedy: "rebuild it",
        };
        assert_eq!(
            changed(id(2)).to_string(),
            "projection sales remembers event 00000000-0000-0000-0000-000000000001 at position 7, but the log has event \
             00000000-0000-0000-0000-000000000002 there: the log has another history, because of a restored backup, a failover that lost \
             events, or another database; rebuild it"
        );
        assert!(changed(None).to_string().contains("at position 7, but the log does not have it: "));
        assert!(!Error::new(changed(None)).is_transient());
    }

    #[test]
    fn a_reason_is_text_of_bounded_length_that_every_database_takes() {
        let error = Error::with_source(ErrorKind::Backend("x\0y".into()), "ü".repeat(5_000));
        let reason = reason(&error);
        assert_eq!(reason.chars().count(), REASON_CHARS);
        assert!(reason.starts_with("cannot x\u{fffd}y: üü"), "{reason}");
    }
}
