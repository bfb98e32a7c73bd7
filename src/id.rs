//! Names and numbers that cross a border: streams, versions, positions, ids.
//!
//! Everything here is parsed once, at the edge; a value that exists is valid.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Longest aggregate type, aggregate id or event type, in bytes of UTF-8. A routing key of AMQP 0.9.1 ends there too.
pub const MAX_NAME_BYTES: usize = 255;

/// A name that no store accepts: empty, longer than [`MAX_NAME_BYTES`], or with a NUL character in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {problem}")]
pub struct InvalidName {
    what: &'static str,
    problem: String,
}

fn parse_name(what: &'static str, text: &str) -> Result<Arc<str>, InvalidName> {
    let problem = if text.is_empty() {
        "is empty".to_owned()
    } else if text.len() > MAX_NAME_BYTES {
        format!("has {} bytes, at most {MAX_NAME_BYTES} are allowed", text.len())
    } else if text.contains('\0') {
        // PostgreSQL cannot store it; refused everywhere, so that no store accepts what another refuses.
        "contains a NUL character".to_owned()
    } else {
        return Ok(Arc::from(text));
    };
    Err(InvalidName { what, problem })
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $type(Arc<str>);

        impl $type {
            /// Parses a name of 1 to [`MAX_NAME_BYTES`] bytes without NUL characters.
            ///
            /// # Errors
            /// [`InvalidName`] says which of the three rules is broken.
            pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidName> {
                parse_name($what, text.as_ref()).map(Self)
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl TryFrom<&str> for $type {
            type Error = InvalidName;
            fn try_from(text: &str) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $type {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl TryFrom<&String> for $type {
            type Error = InvalidName;
            fn try_from(text: &String) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl From<&$type> for $type {
            fn from(name: &$type) -> Self {
                name.clone()
            }
        }
    };
}

name!(
    /// The stored name of a kind of aggregate, such as `order`.
    AggregateType,
    "aggregate type"
);
name!(
    /// Which aggregate of its type: any text, or a generated UUID v7.
    AggregateId,
    "aggregate id"
);
name!(
    /// The stored name of a kind of event, such as `order.created`.
    EventType,
    "event type"
);
name!(
    /// The stored name of a projection: its checkpoint's key and its queue's name.
    ProjectionName,
    "projection name"
);
name!(
    /// Names one append, chosen by the caller: a retry under the same key returns the first outcome.
    IdempotencyKey,
    "idempotency key"
);
name!(
    /// The key of a view's row: whatever the view says, such as a customer's id.
    ViewKey,
    "view key"
);
name!(
    /// What a value must be unique among, such as `user.email`.
    ClaimScope,
    "claim scope"
);
name!(
    /// A value that one stream at a time may hold within its scope. Compared byte by byte.
    ClaimValue,
    "claimed value"
);

/// A relay's name is text in its port, and keeps the rules of all names all the same.
pub(crate) fn check_relay_name(name: &str) -> Result<(), InvalidName> {
    parse_name("relay name", name).map(drop)
}

/// A lease's name likewise.
pub(crate) fn check_lease_name(name: &str) -> Result<(), InvalidName> {
    parse_name("lease name", name).map(drop)
}

impl AggregateId {
    /// A new id: UUID version 7, so that ids made one after another sort and are stored next to each other.
    pub fn generate() -> Self {
        Self::from(Uuid::now_v7())
    }
}

impl From<Uuid> for AggregateId {
    fn from(id: Uuid) -> Self {
        Self(Arc::from(id.hyphenated().encode_lower(&mut Uuid::encode_buffer()) as &str))
    }
}

/// One aggregate's sequence of events: aggregate type and aggregate id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId {
    aggregate_type: AggregateType,
    aggregate_id: AggregateId,
}

impl StreamId {
    /// The stream of one aggregate.
    pub fn new(aggregate_type: AggregateType, aggregate_id: AggregateId) -> Self {
        Self { aggregate_type, aggregate_id }
    }

    /// Parses both parts.
    ///
    /// # Errors
    /// [`InvalidName`] for the first part that is empty, too long or contains NUL.
    pub fn parse(aggregate_type: &str, aggregate_id: &str) -> Result<Self, InvalidName> {
        Ok(Self::new(AggregateType::new(aggregate_type)?, AggregateId::new(aggregate_id)?))
    }

    /// The kind of aggregate.
    pub fn aggregate_type(&self) -> &AggregateType {
        &self.aggregate_type
    }

    /// Which aggregate of its kind.
    pub fn aggregate_id(&self) -> &AggregateId {
        &self.aggregate_id
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.aggregate_type, self.aggregate_id)
    }
}

macro_rules! number {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $type(u64);

        impl $type {
            /// Before the first.
            pub const ZERO: Self = Self(0);

            /// Wraps a number.
            pub const fn new(number: u64) -> Self {
                Self(number)
            }

            /// The number.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The one after this.
            #[must_use]
            pub const fn next(self) -> Self {
                self.plus(1)
            }

            /// The one `count` after this.
            #[must_use]
            pub const fn plus(self, count: u64) -> Self {
                Self(self.0.saturating_add(count))
            }

            /// How many lie between `earlier` and this; zero if `earlier` is not earlier.
            pub const fn since(self, earlier: Self) -> u64 {
                self.0.saturating_sub(earlier.0)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

number!(
    /// The 1-based place of an event in its stream; as a stream's version, how many events it has.
    Version
);
number!(
    /// The 1-based place of an event in the log. Positions are contiguous and in commit order.
    Position
);
number!(
    /// Names what one append made durable. Greater for a later append, with gaps; only the store it comes from can say its position.
    CommitId
);
number!(
    /// Counts the times a view was built anew beside itself, from 1.
    Generation
);
number!(
    /// Counts the holders of a lease. Whoever had it earlier has a smaller one, and what is written with it is refused.
    Fence
);

/// What an append demands of its stream's present version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpectedVersion {
    /// Anything, also a stream without events.
    Any,
    /// A stream without events.
    NoStream,
    /// A stream with at least one event.
    Exists,
    /// Exactly this version; `Exact(Version::ZERO)` means the same as `NoStream`.
    Exact(Version),
}

impl ExpectedVersion {
    /// Whether a stream at `actual` meets the demand.
    pub fn allows(self, actual: Version) -> bool {
        match self {
            Self::Any => true,
            Self::NoStream => actual == Version::ZERO,
            Self::Exists => actual > Version::ZERO,
            Self::Exact(version) => actual == version,
        }
    }
}

impl fmt::Display for ExpectedVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("any version"),
            Self::NoStream => f.write_str("no events"),
            Self::Exists => f.write_str("at least one event"),
            Self::Exact(version) => write!(f, "version {version}"),
        }
    }
}

macro_rules! uuid_id {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $type(Uuid);

        impl $type {
            /// A new id: UUID version 7, ordered by the time it was made.
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            /// The id as a UUID.
            pub const fn as_uuid(&self) -> &Uuid {
                &self.0
            }
        }

        impl From<Uuid> for $type {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }
    };
}

uuid_id!(
    /// Names one event, for ever and everywhere.
    EventId
);
uuid_id!(
    /// Shared by all events that one outside request led to.
    CorrelationId
);

impl From<EventId> for CorrelationId {
    fn from(id: EventId) -> Self {
        Self(id.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_refused_by_rule() {
        assert_eq!(AggregateId::new("").unwrap_err().to_string(), "aggregate id is empty");
        assert_eq!(EventType::new("a\0b").unwrap_err().to_string(), "event type contains a NUL character");
        assert_eq!(
            AggregateType::new("x".repeat(256)).unwrap_err().to_string(),
            "aggregate type has 256 bytes, at most 255 are allowed"
        );
        assert_eq!(AggregateId::new("ü".repeat(127)).unwrap().as_str().len(), 254);
        assert_eq!(StreamId::parse("order", "").unwrap_err().to_string(), "aggregate id is empty");
    }

    #[test]
    fn expected_versions_allow_what_they_say() {
        let cases = [
            (ExpectedVersion::Any, [true, true, true]),
            (ExpectedVersion::NoStream, [true, false, false]),
            (ExpectedVersion::Exists, [false, true, true]),
            (ExpectedVersion::Exact(Version::new(1)), [false, true, false]),
        ];
        for (expected, allowed) in cases {
            for (actual, allowed) in (0..).map(Version::new).zip(allowed) {
                assert_eq!(expected.allows(actual), allowed, "{expected} at {actual}");
            }
        }
    }
}
