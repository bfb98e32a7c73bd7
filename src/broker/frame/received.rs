//! Reads a frame.

use std::fmt;

use bytes::Bytes;
use chrono::DateTime;
use uuid::Uuid;

use crate::broker::frame::format::{COMPRESSED, Head, PLAIN, WireEvent};
#[cfg(feature = "zstd")]
use crate::broker::zip;
use crate::codec::Codec;
use crate::error::{BoxError, Error, ErrorKind, Result};
use crate::event::{Metadata, NewEvent, RecordedEvent};
use crate::id::mark::Mark;
use crate::id::{AggregateId, AggregateType, EventType, Position, StreamId, Version};

/// A received frame whose head is parsed: enough to decide whether its events are needed.
#[derive(Clone)]
pub struct ReceivedFrame {
    first: Position,
    count: u64,
    after: Option<Uuid>,
    format: u8,
    events: Bytes,
}

/// Shows the size of the payload only, so that no payload gets into a log.
impl fmt::Debug for ReceivedFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceivedFrame")
            .field("first", &self.first)
            .field("count", &self.count)
            .field("format", &self.format)
            .field("events", &format_args!("{} bytes", self.events.len()))
            .finish_non_exhaustive()
    }
}

impl ReceivedFrame {
    /// Parses the head of a message.
    ///
    /// # Errors
    /// [`ErrorKind::BadFrame`] if `body` is not a frame, or has a format that this release does not support.
    pub fn parse(mut body: Bytes) -> Result<Self> {
        if let Some(format) = body.first().filter(|format| ![PLAIN, COMPRESSED].contains(format)) {
            return Err(bad(format!("unknown format {format}, supported are {PLAIN} and {COMPRESSED}")));
        }
        let (head, rest): (Head, _) = postcard::take_from_bytes(&body).map_err(|e| bad(e.to_string()))?;
        if head.count == 0 || head.first == 0 {
            return Err(bad(format!("{} events from position {}", head.count, head.first)));
        }
        let events = body.split_off(body.len() - rest.len());
        Ok(Self { first: Position::new(head.first), count: head.count, after: head.after, format: head.format, events })
    }

    /// Returns the position of the first event.
    pub fn first(&self) -> Position {
        self.first
    }

    /// Returns the place that the frame follows. Its event is unknown if the publisher did not know it.
    pub fn after(&self) -> Mark {
        Mark::from(Position::new(self.first.get() - 1)).with_event_id(self.after.map(Into::into))
    }

    /// Returns the position of the last event.
    pub fn last(&self) -> Position {
        self.first.plus(self.count - 1)
    }

    /// Decodes the events. Their payloads share the buffer of the message, or the buffer that the message was expanded into.
    ///
    /// # Errors
    /// [`ErrorKind::BadFrame`] if the events do not match the head, expand to more than 64 MiB, or are compressed and the feature `zstd` is
    /// not enabled.
    pub fn events(&self) -> Result<Vec<RecordedEvent>> {
        let body = self.expanded()?;
        let mut rest = &body[..];
        let mut events = Vec::new();
        for place in 0..self.count {
            let (wire, later): (WireEvent<'_>, _) =
                postcard::take_from_bytes(rest).map_err(|error| bad(error.to_string()))?;
            let event = recorded_event(&body, self.first.plus(place), &wire).map_err(|error| bad(error.to_string()))?;
            events.push(event);
            rest = later;
        }
        if rest.is_empty() { Ok(events) } else { Err(bad(format!("{} bytes left over", rest.len()))) }
    }

    fn expanded(&self) -> Result<Bytes> {
        if self.format == PLAIN {
            return Ok(self.events.clone());
        }
        #[cfg(feature = "zstd")]
        let expanded = zip::expand(&self.events).map(Bytes::from).map_err(|error| bad(error.to_string()));
        #[cfg(not(feature = "zstd"))]
        let expanded =
            Err(bad("the frame is compressed, and this program was built without the feature `zstd`".into()));
        expanded
    }
}

/// Builds an event whose payload is a slice of `body`.
fn recorded_event(body: &Bytes, position: Position, wire: &WireEvent<'_>) -> Result<RecordedEvent, BoxError> {
    Ok(RecordedEvent {
        position,
        stream: StreamId::new(AggregateType::new(wire.aggregate_type)?, AggregateId::new(wire.aggregate_id)?),
        version: Version::new(wire.version),
        recorded_at: DateTime::from_timestamp_micros(wire.recorded_at_micros).ok_or("time out of range")?,
        event: NewEvent {
            id: wire.id.into(),
            event_type: EventType::new(wire.event_type)?,
            schema_version: wire.schema_version,
            codec: Codec::from_number(wire.codec).ok_or("unknown codec")?,
            payload: body.slice_ref(wire.payload),
            metadata: Metadata::from_parts(
                wire.correlation_id.map(Into::into),
                wire.causation_id.map(Into::into),
                wire.metadata.as_deref(),
            )?,
            declared: None,
        },
    })
}

fn bad(problem: String) -> Error {
    Error::new(ErrorKind::BadFrame(problem))
}
