//! The names, numbers and ids of the library: streams, versions, positions, events.
//!
//! Each type checks its value when it is created, so every value that exists is valid.

mod define;
pub(crate) mod mark;

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::id::define::{name, number, uuid_id};

/// The maximum length of a name, in bytes of UTF-8. A routing key of AMQP 0.9.1 has the same limit.
pub const MAX_NAME_BYTES: usize = 255;

/// The error for a name that no store accepts: it is empty, longer than [`MAX_NAME_BYTES`], or contains a NUL character.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} {problem}")]
pub struct InvalidName {
    kind: &'static str,
    problem: String,
}

impl From<Infallible> for InvalidName {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

pub(crate) fn parse_name(kind: &'static str, text: &str) -> Result<Arc<str>, InvalidName> {
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
    Err(InvalidName { kind, problem })
}

name!(
    /// The stored name of a kind of aggregate, such as `order`.
    AggregateType,
    "aggregate type"
);
name!(
    /// The id of an aggregate within its type: any text, or a generated UUID v7.
    AggregateId,
    "aggregate id"
);
name!(
    /// The stored name of a kind of event, such as `order.created`.
    EventType,
    "event type"
);
name!(
    /// The stored name of a projection: the key of its checkpoint and the name of its queue.
    ProjectionName,
    "projection name"
);
name!(
    /// The caller's name for one append. A retry under the same key returns the first outcome.
    IdempotencyKey,
    "idempotency key"
);
name!(
    /// The key of a view's row, such as a customer's id.
    ViewKey,
    "view key"
);
name!(
    /// The scope that a value is unique in, such as `user.email`.
    ClaimScope,
    "claim scope"
);
name!(
    /// A value that only one stream at a time may hold within its scope. Values are compared byte by byte.
    ClaimValue,
    "claimed value"
);

impl AggregateId {
    /// Creates an id from a new UUID version 7. Ids sort by the time of their creation, so stores keep new ids next to each other.
    pub fn generate() -> Self {
        Self::from(Uuid::now_v7())
    }
}

impl From<Uuid> for AggregateId {
    fn from(id: Uuid) -> Self {
        Self(Arc::from(id.hyphenated().encode_lower(&mut Uuid::encode_buffer()) as &str))
    }
}

/// Identifies the event stream of one aggregate by aggregate type and aggregate id.
///
/// A pair converts into a stream id if its two values convert into the two parts, such as `("order", "17")` or `("order", uuid)`.
///
/// # Examples
/// ```
/// use retell::StreamId;
///
/// let stream = StreamId::parse("order", "17")?;
/// assert_eq!(stream, StreamId::try_from(("order", "17"))?);
/// assert_eq!(stream.to_string(), "order/17");
/// # Ok::<(), retell::InvalidName>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StreamId {
    aggregate_type: AggregateType,
    aggregate_id: AggregateId,
}

impl StreamId {
    /// Creates the id of an aggregate's stream.
    pub fn new(aggregate_type: AggregateType, aggregate_id: AggregateId) -> Self {
        Self { aggregate_type, aggregate_id }
    }

    /// Creates a stream id from two strings.
    ///
    /// # Errors
    /// Returns [`InvalidName`] for the first part that is empty, too long, or contains a NUL character.
    pub fn parse(aggregate_type: &str, aggregate_id: &str) -> Result<Self, InvalidName> {
        Ok(Self::new(AggregateType::new(aggregate_type)?, AggregateId::new(aggregate_id)?))
    }

    /// Returns the aggregate type.
    pub fn aggregate_type(&self) -> &AggregateType {
        &self.aggregate_type
    }

    /// Returns the id of the aggregate within its type.
    pub fn aggregate_id(&self) -> &AggregateId {
        &self.aggregate_id
    }
}

impl From<&StreamId> for StreamId {
    fn from(stream: &StreamId) -> Self {
        stream.clone()
    }
}

impl<T, I> TryFrom<(T, I)> for StreamId
where
    T: TryInto<AggregateType>,
    I: TryInto<AggregateId>,
    InvalidName: From<T::Error> + From<I::Error>,
{
    type Error = InvalidName;

    fn try_from((aggregate_type, aggregate_id): (T, I)) -> Result<Self, InvalidName> {
        Ok(Self::new(aggregate_type.try_into()?, aggregate_id.try_into()?))
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.aggregate_type, self.aggregate_id)
    }
}

number!(
    /// The 1-based place of an event in its stream. The version of a stream is the number of its events.
    Version
);
number!(
    /// The 1-based place of an event in the log. Positions are contiguous and in commit order.
    Position
);
number!(
    /// Identifies one commit. Increases with gaps; [`position_of`](crate::EventReader::position_of) turns it into a log position.
    CommitId
);
number!(
    /// Numbers the builds of a view's rows, from 1. Each generation has its own rows.
    Generation
);
number!(
    /// Numbers the holders of a lease. An earlier holder has a smaller fence, and the store refuses its writes.
    Fence
);

/// The place of an event: in the log or in its stream.
///
/// # Examples
/// ```
/// use retell::{Place, Position, StreamId, Version};
///
/// assert_eq!(Place::Log(Position::new(7)).to_string(), "position 7");
/// assert_eq!(Place::Stream(StreamId::parse("order", "17")?, Version::new(3)).to_string(), "order/17 version 3");
/// # Ok::<(), retell::InvalidName>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A position of the log.
    Log(Position),
    /// A version of a stream.
    Stream(StreamId, Version),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log(position) => write!(f, "position {position}"),
            Self::Stream(stream, version) => write!(f, "{stream} version {version}"),
        }
    }
}

/// The version that an append requires a stream to have.
///
/// # Examples
/// ```
/// use retell::prelude::*;
///
/// #[derive(Event)]
/// #[event("shoe.sold")]
/// struct Sold {
///     cents: u64,
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let log = MemoryStore::new();
/// let read = Version::ZERO;
/// log.append_events(("shoe", "1"), ExpectedVersion::Exact(read), [Sold { cents: 500 }]).await?;
///
/// // A second writer has read the same version, so its append conflicts and writes nothing.
/// let second = log.append_events(("shoe", "1"), ExpectedVersion::Exact(read), [Sold { cents: 450 }]).await;
/// assert!(second.is_err_and(|error| error.is_conflict()));
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExpectedVersion {
    /// Any version, even a stream without events.
    Any,
    /// A stream without events.
    NoStream,
    /// A stream with at least one event.
    Exists,
    /// Exactly this version; `Exact(Version::ZERO)` means the same as `NoStream`.
    Exact(Version),
}

impl ExpectedVersion {
    /// Returns whether a stream at version `actual` satisfies the requirement.
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

uuid_id!(
    /// The id of one event, globally unique and permanent.
    EventId
);
uuid_id!(
    /// The id that all events of one outside request share.
    CorrelationId
);

impl From<EventId> for CorrelationId {
    fn from(id: EventId) -> Self {
        Self(id.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn each_naming_rule_has_its_own_message() {
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
    fn every_conversion_into_a_name_is_checked() {
        let id = AggregateId::new("ada").unwrap();
        assert_eq!("ada".parse::<AggregateId>().unwrap(), id);
        assert_eq!(serde_json::from_str::<AggregateId>("\"ada\"").unwrap(), id);
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"ada\"");
        let refused = serde_json::from_str::<AggregateId>("\"\"").unwrap_err();
        assert!(refused.to_string().starts_with("aggregate id is empty"), "{refused}");
        assert_eq!(HashMap::from([(id, 1)]).get("ada"), Some(&1));
    }

    #[test]
    fn pair_of_names_converts_into_a_stream_id() {
        let uuid = Uuid::now_v7();
        let kind = AggregateType::new("order").unwrap();
        let stream = StreamId::parse("order", &uuid.to_string()).unwrap();
        assert_eq!(StreamId::try_from(("order", uuid)).unwrap(), stream);
        assert_eq!(StreamId::try_from((kind, format!("{uuid}"))).unwrap(), stream);
        assert_eq!(StreamId::try_from(("order", "")).unwrap_err().to_string(), "aggregate id is empty");
        let json = serde_json::to_string(&stream).unwrap();
        assert_eq!(serde_json::from_str::<StreamId>(&json).unwrap(), stream);
    }

    #[test]
    fn numbers_and_expected_versions_convert_and_serialize() {
        assert_eq!("7".parse::<Version>().unwrap(), Version::from(7));
        assert_eq!(u64::from(Position::new(7)), 7);
        assert_eq!(serde_json::to_string(&ExpectedVersion::NoStream).unwrap(), "\"no_stream\"");
        assert_eq!(serde_json::to_string(&ExpectedVersion::Exact(Version::new(3))).unwrap(), r#"{"exact":3}"#);
    }

    #[test]
    fn each_expected_version_allows_only_matching_versions() {
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
