//! Names and numbers that cross a border: streams, versions, positions, ids.
//!
//! Everything here is parsed once, at the edge; a value that exists is valid.

mod define;

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::id::define::{name, number, uuid_id};

/// Longest aggregate type, aggregate id or event type, in bytes of UTF-8. A routing key of AMQP 0.9.1 ends there too.
pub const MAX_NAME_BYTES: usize = 255;

/// A name that no store accepts: empty, longer than [`MAX_NAME_BYTES`], or with a NUL character in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {problem}")]
pub struct InvalidName {
    what: &'static str,
    problem: String,
}

impl From<Infallible> for InvalidName {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

pub(crate) fn parse_name(what: &'static str, text: &str) -> Result<Arc<str>, InvalidName> {
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
    /// The stored name of a projection: its checkpoint's key and its queue's name.
    ProjectionName,
    "projection name"
);
name!(
    /// The caller's name for one append: a retry under the same key returns the first outcome.
    IdempotencyKey,
    "idempotency key"
);
name!(
    /// The key of a view's row, such as a customer's id.
    ViewKey,
    "view key"
);
name!(
    /// The scope a value is unique in, such as `user.email`.
    ClaimScope,
    "claim scope"
);
name!(
    /// A value that one stream at a time may hold within its scope. Compared byte by byte.
    ClaimValue,
    "claimed value"
);

impl AggregateId {
    /// Creates an id: UUID version 7, so that ids created one after another sort and are stored next to each other.
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
///
/// A pair of anything that names the two parts converts into it: `("order", "17")`, `("order", uuid)`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StreamId {
    aggregate_type: AggregateType,
    aggregate_id: AggregateId,
}

impl StreamId {
    /// Creates the id of one aggregate's stream.
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

    /// Returns the kind of aggregate.
    pub fn aggregate_type(&self) -> &AggregateType {
        &self.aggregate_type
    }

    /// Returns the aggregate's id within its kind.
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
    /// The 1-based place of an event in its stream; as a stream's version, how many events it has.
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
    /// Counts the builds of a view's rows, from 1: each generation has rows of its own.
    Generation
);
number!(
    /// Counts the holders of a lease. An earlier holder has a smaller fence, and its writes are refused.
    Fence
);

/// The version that an append requires its stream to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExpectedVersion {
    /// Any version; the stream may have no events.
    Any,
    /// A stream without events.
    NoStream,
    /// A stream with at least one event.
    Exists,
    /// Exactly this version; `Exact(Version::ZERO)` means the same as `NoStream`.
    Exact(Version),
}

impl ExpectedVersion {
    /// Returns whether a stream at `actual` satisfies the requirement.
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
    /// Identifies one event, globally and permanently.
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
    use std::collections::HashMap;

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
    fn names_are_parsed_by_every_way_in() {
        let id = AggregateId::new("ada").unwrap();
        assert_eq!("ada".parse::<AggregateId>().unwrap(), id);
        assert_eq!(serde_json::from_str::<AggregateId>("\"ada\"").unwrap(), id);
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"ada\"");
        let refused = serde_json::from_str::<AggregateId>("\"\"").unwrap_err();
        assert!(refused.to_string().starts_with("aggregate id is empty"), "{refused}");
        assert_eq!(HashMap::from([(id, 1)]).get("ada"), Some(&1));
    }

    #[test]
    fn a_pair_names_a_stream() {
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
