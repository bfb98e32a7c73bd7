//! Errors, classified by how a caller can react.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use crate::id::{
    ClaimScope, ClaimValue, EventId, EventType, ExpectedVersion, Fence, IdempotencyKey, InvalidName, Position,
    ProjectionName, StreamId, Version,
};

/// A result of this library.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Any error, as handlers return it and as causes are kept.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The error of every call of this library: its [`kind`](Error::kind), and its cause as [`source`](std::error::Error::source).
///
/// # Read errors
/// Every call that reads a store can fail with [`Transient`](ErrorKind::Transient) if the database is busy or the connection is lost,
/// [`Closed`](ErrorKind::Closed) after the store was closed, [`Corrupt`](ErrorKind::Corrupt) for a damaged row, and
/// [`Backend`](ErrorKind::Backend) for any other failure of the database.
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
    #[error("conflict on {stream}: expected {expected}, found version {actual}")]
    Conflict {
        /// The stream of the first expectation that failed.
        stream: StreamId,
        /// The version that the append required.
        expected: ExpectedVersion,
        /// The version of the stream.
        actual: Version,
    },
    /// An event with this id is already in the log. Nothing was written.
    #[error("event {0} is already in the log")]
    DuplicateEvent(EventId),
    /// The key was used before, for an append to other streams. Nothing was written.
    #[error("idempotency key {0} was used for an append to other streams")]
    KeyReused(IdempotencyKey),
    /// Another stream holds a value that the append wants to reserve. Nothing was written.
    #[error("{scope} {value} is taken by {by}")]
    Taken {
        /// The scope that the value is unique in.
        scope: ClaimScope,
        /// The first such value, in the order of scope and value.
        value: ClaimValue,
        /// The stream that holds the value.
        by: StreamId,
    },
    /// Input that no retry makes acceptable. Nothing was written.
    #[error("invalid input: {0}")]
    Invalid(String),
    /// An event or a snapshot is larger than the store takes. Nothing was written.
    #[error("{what} has {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// The name of the thing that is too large.
        what: String,
        /// Its size in bytes.
        bytes: usize,
        /// The largest size that the store accepts.
        limit: usize,
    },
    /// A stored event is of a type the reader does not know.
    #[error("{stream} version {version}: unknown event type {event_type}")]
    UnknownEventType {
        /// The stream of the event.
        stream: StreamId,
        /// The version of the event.
        version: Version,
        /// The unknown type.
        event_type: EventType,
    },
    /// A stored event has a schema version the reader does not know, most likely written by a newer release.
    #[error("{stream} version {version}: {event_type} has schema version {found}, known are 1 to {known}")]
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
    /// A stored event's payload is not what its type and schema version say.
    #[error("{stream} version {version}: cannot decode the payload of {event_type}")]
    Undecodable {
        /// The stream of the event.
        stream: StreamId,
        /// The version of the event.
        version: Version,
        /// The type of the event.
        event_type: EventType,
    },
    /// An event or a state refused to be encoded. Nothing was written.
    #[error("cannot encode {0}")]
    Unencodable(String),
    /// The store's own data is damaged.
    #[error("the store is corrupt: {0}")]
    Corrupt(String),
    /// The store was written by a newer release of this library.
    #[error("the store has schema {found}, this release knows up to {known}")]
    NewerStore {
        /// The newest migration in the store.
        found: u32,
        /// The newest migration in this release.
        known: u32,
    },
    /// The store may only be read.
    #[error("the store is read-only")]
    ReadOnly,
    /// The store's disk or quota is full. Nothing was written.
    #[error("the store is full")]
    Full,
    /// A call that may succeed when retried: busy, locked, connection lost. The outcome of an append is unknown.
    #[error("temporarily unable to {0}")]
    Transient(String),
    /// The store or the broker was closed.
    #[error("{0} is closed")]
    Closed(&'static str),
    /// A wait took longer than its timeout.
    #[error("timed out: {0}")]
    TimedOut(String),
    /// A projection had not applied the awaited events at the end of the timeout. It may still do so.
    #[error("timed out: projection {projection} has applied the log up to position {applied}, not yet up to {wanted}")]
    Behind {
        /// The projection.
        projection: ProjectionName,
        /// The position up to which it has applied the log.
        applied: Position,
        /// The position of the awaited events.
        wanted: Position,
    },
    /// The set-up of the broker would break a promise, or an exchange or queue exists with other arguments.
    #[error("unsafe set-up of the broker: {0}")]
    Topology(String),
    /// A message that is not a frame of this library.
    #[error("not a frame: {0}")]
    BadFrame(String),
    /// A projection failed on an event, with its own error as the cause.
    #[error("projection {projection} failed at position {position} on {event_type}")]
    Projection {
        /// The projection.
        projection: ProjectionName,
        /// The position of the event, or of the first one of a batch.
        position: Position,
        /// The type of that event.
        event_type: EventType,
    },
    /// Another worker moved the projection's checkpoint, or changed its parking: then both positions are the same. This worker's batch was
    /// rolled back.
    #[error("projection {projection}: the checkpoint is at {actual}, not at {expected}")]
    CheckpointMoved {
        /// The projection.
        projection: ProjectionName,
        /// The checkpoint that this worker knows.
        expected: Position,
        /// The checkpoint now.
        actual: Position,
    },
    /// A projection has applied more than the log holds: its read model belongs to another log, or the log was restored from before.
    #[error("projection {projection}: the checkpoint {checkpoint} lies beyond the log's head {head}")]
    CheckpointAhead {
        /// The projection.
        projection: ProjectionName,
        /// The checkpoint of the projection.
        checkpoint: Position,
        /// The last position of the log.
        head: Position,
    },
    /// A generation of a view is behind the one that readers see. Nothing was changed.
    #[error("projection {projection}: the checkpoint {checkpoint} is behind {live}, that of what readers see")]
    BehindLive {
        /// The projection that writes the generation.
        projection: ProjectionName,
        /// The checkpoint of that generation; zero if it does not exist.
        checkpoint: Position,
        /// The checkpoint of the live generation.
        live: Position,
    },
    /// Another relay has taken over since this one had its lease. Nothing was written.
    #[error("relay {relay}: fence {fence} is out of date, the position was moved under {newest}")]
    Fenced {
        /// The name of the relays.
        relay: String,
        /// The fence of this relay's lease.
        fence: Fence,
        /// The fence of the newer lease.
        newest: Fence,
    },
    /// Any other failure of the backend; the source says which.
    #[error("cannot {0}")]
    Backend(String),
}

impl Error {
    /// Creates an error without a cause.
    pub fn new(kind: ErrorKind) -> Self {
        Self { kind: Box::new(kind), source: None }
    }

    /// Creates an error with its cause.
    pub fn with_source(kind: ErrorKind, source: impl Into<BoxError>) -> Self {
        Self { kind: Box::new(kind), source: Some(source.into().into()) }
    }

    /// Returns the kind.
    pub fn kind(&self) -> &ErrorKind {
        &self.kind
    }

    /// Returns whether another writer was faster: load again, decide again, append again.
    pub fn is_conflict(&self) -> bool {
        matches!(*self.kind, ErrorKind::Conflict { .. })
    }

    /// Returns whether another stream holds a value that the append reserves.
    pub fn is_taken(&self) -> bool {
        matches!(*self.kind, ErrorKind::Taken { .. })
    }

    /// Returns whether the same call may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(*self.kind, ErrorKind::Transient(_) | ErrorKind::TimedOut(_) | ErrorKind::Behind { .. })
    }

    /// Returns whether stored data cannot be read: only a repair or a newer release helps.
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

/// Returns an error and its causes, outermost first.
pub(crate) fn chain<'e>(
    error: &'e (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'e (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.kind, f)
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
