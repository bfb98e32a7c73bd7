//! The wire format for projection workers: one message carries a contiguous run of the log.
//!
//! A body is the format's number (one byte), the first position and the count (unsigned LEB128), and then the events, each in
//! [postcard](https://postcard.jamesmunns.com/wire-format). Payloads travel as they stand in the store; nothing here parses one.
//! Since positions are contiguous, a worker sees from the first position alone whether anything is missing before a frame.

use bytes::Bytes;
use chrono::DateTime;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::codec::Codec;
use crate::error::{BoxError, Error, ErrorKind, Result};
use crate::event::{Metadata, NewEvent, RecordedEvent};
use crate::id::{AggregateId, AggregateType, EventType, Position, StreamId, Version};

/// The number of this format; the first byte of every frame.
const FORMAT: u8 = 1;

/// An encoded run of the log, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The position of its first event.
    pub first: Position,
    /// The position of its last event.
    pub last: Position,
    /// What is sent.
    pub body: Bytes,
}

#[derive(Serialize, Deserialize)]
struct Head {
    format: u8,
    first: u64,
    count: u64,
}

#[derive(Serialize, Deserialize)]
struct WireEvent<'a> {
    id: Uuid,
    aggregate_type: &'a str,
    aggregate_id: &'a str,
    version: u64,
    event_type: &'a str,
    schema_version: u32,
    codec: u8,
    recorded_at_micros: i64,
    correlation_id: Option<Uuid>,
    causation_id: Option<Uuid>,
    metadata: Option<String>,
    #[serde(with = "serde_bytes", borrow)]
    payload: &'a [u8],
}

impl Frame {
    /// Splits a contiguous run of the log into frames of at most `max_events` events and about `max_bytes` bytes of payload. An event
    /// larger than that gets a frame of its own.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the positions are not contiguous, [`ErrorKind::Unencodable`] for metadata that does not fit.
    pub fn split(events: &[RecordedEvent], max_events: usize, max_bytes: usize) -> Result<Vec<Self>> {
        let mut frames = Vec::new();
        let mut rest = events;
        while !rest.is_empty() {
            let (mut count, mut bytes) = (0, 0);
            while count < rest.len().min(max_events.max(1))
                && (count == 0 || bytes + payload(&rest[count]) <= max_bytes)
            {
                bytes += payload(&rest[count]);
                count += 1;
            }
            let (run, later) = rest.split_at(count);
            frames.push(Self::encode(run, bytes)?);
            rest = later;
        }
        Ok(frames)
    }

    fn encode(run: &[RecordedEvent], payload_bytes: usize) -> Result<Self> {
        let (Some(first), Some(last)) = (run.first(), run.last()) else {
            return Err(ErrorKind::Invalid("a frame without events".into()).into());
        };
        let count = run.len() as u64;
        let head = Head { format: FORMAT, first: first.position.get(), count };
        let mut body = Vec::with_capacity(payload_bytes + run.len() * 160);
        encode_part(&head, &mut body)?;
        for (event, place) in run.iter().zip(0..) {
            if event.position != first.position.plus(place) {
                let problem =
                    format!("position {} in a frame where {} is due", event.position, first.position.plus(place));
                return Err(ErrorKind::Invalid(problem).into());
            }
            encode_event(event, &mut body)?;
        }
        Ok(Self { first: first.position, last: last.position, body: body.into() })
    }
}

fn payload(event: &RecordedEvent) -> usize {
    event.event.payload.len()
}

fn encode_event(recorded: &RecordedEvent, body: &mut Vec<u8>) -> Result<()> {
    let RecordedEvent { stream, version, recorded_at, event, .. } = recorded;
    let metadata = event.metadata.to_json().map_err(unencodable)?;
    let wire = WireEvent {
        id: *event.id.as_uuid(),
        aggregate_type: stream.aggregate_type().as_str(),
        aggregate_id: stream.aggregate_id().as_str(),
        version: version.get(),
        event_type: event.event_type.as_str(),
        schema_version: event.schema_version,
        codec: event.codec.number(),
        recorded_at_micros: recorded_at.timestamp_micros(),
        correlation_id: event.metadata.correlation_id.map(|id| *id.as_uuid()),
        causation_id: event.metadata.causation_id.map(|id| *id.as_uuid()),
        metadata,
        payload: &event.payload,
    };
    encode_part(&wire, body)
}

fn encode_part<T: Serialize>(part: &T, body: &mut Vec<u8>) -> Result<()> {
    Codec::Compact.encode(part, body).map_err(unencodable)
}

fn unencodable(source: BoxError) -> Error {
    Error::with_source(ErrorKind::Unencodable("a frame".into()), source)
}

/// A frame whose head has been read: enough to decide whether its events are wanted.
#[derive(Debug, Clone)]
pub struct ReceivedFrame {
    first: Position,
    count: u64,
    body: Bytes,
    events_at: usize,
}

impl ReceivedFrame {
    /// Reads the head of a message.
    ///
    /// # Errors
    /// [`ErrorKind::BadFrame`] if it is not a frame of a format this release knows.
    pub fn parse(body: Bytes) -> Result<Self> {
        let (head, rest): (Head, _) = postcard::take_from_bytes(&body).map_err(|e| bad(e.to_string()))?;
        if head.format != FORMAT {
            return Err(bad(format!("format {}, known is {FORMAT}", head.format)));
        }
        if head.count == 0 || head.first == 0 {
            return Err(bad(format!("{} events from position {}", head.count, head.first)));
        }
        let events_at = body.len() - rest.len();
        Ok(Self { first: Position::new(head.first), count: head.count, body, events_at })
    }

    /// The position of its first event.
    pub fn first(&self) -> Position {
        self.first
    }

    /// The position of its last event.
    pub fn last(&self) -> Position {
        self.first.plus(self.count - 1)
    }

    /// Reads the events. Their payloads stay in the message's buffer.
    ///
    /// # Errors
    /// [`ErrorKind::BadFrame`] if they are not what the head says.
    pub fn events(&self) -> Result<Vec<RecordedEvent>> {
        let mut rest = &self.body[self.events_at..];
        let mut events = Vec::new();
        for place in 0..self.count {
            let (wire, later): (WireEvent<'_>, _) =
                postcard::take_from_bytes(rest).map_err(|error| bad(error.to_string()))?;
            let event = self.event(self.first.plus(place), &wire).map_err(|error| bad(error.to_string()))?;
            events.push(event);
            rest = later;
        }
        if rest.is_empty() { Ok(events) } else { Err(bad(format!("{} bytes left over", rest.len()))) }
    }

    fn event(&self, position: Position, wire: &WireEvent<'_>) -> Result<RecordedEvent, BoxError> {
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
                payload: self.body.slice_ref(wire.payload),
                metadata: Metadata::from_parts(
                    wire.correlation_id.map(Into::into),
                    wire.causation_id.map(Into::into),
                    wire.metadata.as_deref(),
                )?,
            },
        })
    }
}

fn bad(problem: String) -> Error {
    Error::new(ErrorKind::BadFrame(problem))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::EventId;

    fn event(position: u64, payload: usize) -> RecordedEvent {
        let metadata = Metadata {
            correlation_id: Some(EventId::generate().into()),
            causation_id: None,
            source: Some("shop".into()),
            extra: [("traceparent".to_owned(), "00-1".to_owned())].into(),
        };
        RecordedEvent {
            position: Position::new(position),
            stream: StreamId::parse("order", "ü 1").unwrap(),
            version: Version::new(position),
            recorded_at: DateTime::from_timestamp_micros(1_700_000_000_123_456).unwrap(),
            event: NewEvent {
                id: EventId::generate(),
                event_type: EventType::new("order.created").unwrap(),
                schema_version: 3,
                codec: Codec::Compact,
                payload: vec![7; payload].into(),
                metadata,
            },
        }
    }

    #[test]
    fn frames_carry_every_field_and_split_by_count_and_bytes() {
        let events: Vec<_> = (5..12).map(|position| event(position, 100)).collect();
        for (max_events, max_bytes, frames) in [(3, 10_000, 3), (100, 250, 4), (100, 1, 7), (100, 10_000, 1), (0, 0, 7)]
        {
            let split = Frame::split(&events, max_events, max_bytes).unwrap();
            assert_eq!(split.len(), frames, "at most {max_events} events and {max_bytes} bytes");
            let mut received = Vec::new();
            for frame in split {
                let back = ReceivedFrame::parse(frame.body).unwrap();
                assert_eq!((back.first(), back.last()), (frame.first, frame.last));
                received.extend(back.events().unwrap());
            }
            assert_eq!(received, events);
        }
    }

    #[test]
    fn a_run_with_a_hole_is_refused() {
        let error = Frame::split(&[event(1, 1), event(3, 1)], 10, 1000).unwrap_err();
        assert_eq!(error.to_string(), "invalid input: position 3 in a frame where 2 is due");
    }

    #[test]
    fn junk_and_every_truncation_is_a_bad_frame() {
        let body = Frame::split(&[event(1, 30), event(2, 30)], 10, 1000).unwrap().remove(0).body;
        let parse = |body: Bytes| ReceivedFrame::parse(body).and_then(|frame| frame.events());
        for end in 0..body.len() {
            assert!(matches!(parse(body.slice(..end)).unwrap_err().kind(), ErrorKind::BadFrame(_)), "cut at {end}");
        }
        let longer = [&body[..], b"x"].concat();
        assert_eq!(parse(longer.into()).unwrap_err().to_string(), "not a frame: 1 bytes left over");
        assert_eq!(
            parse(Bytes::from_static(b"{\"a\":1}")).unwrap_err().to_string(),
            "not a frame: format 123, known is 1"
        );
        let counts_too_many = [FORMAT, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1];
        assert!(parse(Bytes::copy_from_slice(&counts_too_many)).is_err());
    }
}
