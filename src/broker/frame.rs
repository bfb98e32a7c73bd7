//! The wire format for projection workers: one message carries a contiguous run of the log.
//!
//! A body consists of the format number (one byte), the first position and the count (unsigned LEB128), the id of the event before the first
//! one (a byte 0, or a byte 1, the length 16 and the id), and the events, each in
//! [postcard](https://postcard.jamesmunns.com/wire-format). Payloads are copied from the store without being parsed. Format 1 holds the
//! events uncompressed. Format 2 holds them compressed with zstd; they expand to at most 64 MiB. The head is never compressed, so a worker
//! that already knows the events of a frame does not expand them. Positions are contiguous, so the first position alone tells a worker
//! whether events are missing before a frame. The id before it tells the worker whether the frame continues the history that it knows.

mod format;
pub(crate) mod received;

use std::fmt;

use bytes::Bytes;
use serde::Serialize;

#[cfg(feature = "zstd")]
use crate::broker::frame::format::COMPRESSED;
use crate::broker::frame::format::{Head, PLAIN, WireEvent};
#[cfg(feature = "zstd")]
use crate::broker::zip;
use crate::codec::Codec;
use crate::error::{BoxError, Error, ErrorKind, Result};
use crate::event::RecordedEvent;
use crate::id::Position;
use crate::id::mark::Mark;

pub use received::ReceivedFrame;

/// An encoded run of the log, ready to be sent.
///
/// ```
/// use retell::broker::frame::{Frame, ReceivedFrame};
/// use retell::testing::store::{event, stream};
/// use retell::{DateTime, Position, RecordedEvent, Version};
///
/// let recorded = |position| {
///     let version = Version::new(position);
///     RecordedEvent::new(Position::new(position), stream("1"), version, DateTime::UNIX_EPOCH, event("{}"))
/// };
/// let run = [recorded(1), recorded(2), recorded(3)];
/// let frames = Frame::split(&run, 2, 64 * 1024)?;
/// assert_eq!(frames.len(), 2);
///
/// let received = ReceivedFrame::parse(frames[0].body().clone())?;
/// assert_eq!((received.first(), received.last()), (Position::new(1), Position::new(2)));
/// assert_eq!(received.events()?, run[..2]);
/// # Ok::<(), retell::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    first: Position,
    last: Position,
    body: Bytes,
}

/// Shows the size of the payload only, so that no payload gets into a log.
impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frame")
            .field("first", &self.first)
            .field("last", &self.last)
            .field("body", &format_args!("{} bytes", self.body.len()))
            .finish()
    }
}

impl Frame {
    /// Splits a contiguous run of the log into frames of at most `max_events` events and about `max_bytes` bytes of payload. An event
    /// larger than `max_bytes` gets its own frame.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the positions are not contiguous, [`ErrorKind::Unencodable`] if the metadata of an event cannot be
    /// encoded.
    pub fn split(events: &[RecordedEvent], max_events: usize, max_bytes: usize) -> Result<Vec<Self>> {
        Self::split_after(Mark::START, events, max_events, max_bytes)
    }

    /// Splits as [`split`](Self::split) a run that follows the place `after`. Each frame carries the id of the event before it, so that a worker
    /// applies it only after this event. A worker reads a frame whose event before it is unknown from the store.
    ///
    /// # Errors
    /// As [`split`](Self::split).
    pub fn split_after(
        mut after: Mark,
        events: &[RecordedEvent],
        max_events: usize,
        max_bytes: usize,
    ) -> Result<Vec<Self>> {
        let mut frames = Vec::new();
        let mut rest = events;
        while !rest.is_empty() {
            let (mut count, mut bytes) = (0, 0);
            while count < rest.len().min(max_events.max(1))
                && (count == 0 || bytes + rest[count].payload_bytes() <= max_bytes)
            {
                bytes += rest[count].payload_bytes();
                count += 1;
            }
            let (run, later) = rest.split_at(count);
            frames.push(Self::encode(after, run, bytes)?);
            after = run.last().map_or(after, RecordedEvent::mark);
            rest = later;
        }
        Ok(frames)
    }

    /// Creates a frame with a body that nothing checks, at one position: to test a broker, which carries any bytes.
    #[cfg(feature = "testing")]
    #[cfg_attr(docsrs, doc(cfg(feature = "testing")))]
    pub fn unchecked(position: Position, body: impl Into<Bytes>) -> Self {
        Self { first: position, last: position, body: body.into() }
    }

    /// Returns the position of the first event.
    pub fn first(&self) -> Position {
        self.first
    }

    /// Returns the position of the last event.
    pub fn last(&self) -> Position {
        self.last
    }

    /// Returns the bytes to send.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    fn encode(after: Mark, run: &[RecordedEvent], payload_bytes: usize) -> Result<Self> {
        let (Some(first), Some(last)) = (run.first(), run.last()) else {
            return Err(ErrorKind::Invalid("a frame needs at least one event".into()).into());
        };
        let count = run.len() as u64;
        let follows = after.position.next() == first.position;
        let after = after.event_id.filter(|_| follows).map(|id| *id.as_uuid());
        let head = Head { format: PLAIN, first: first.position.get(), count, after };
        let mut body = Vec::with_capacity(payload_bytes + run.len() * 160);
        encode_part(&head, &mut body)?;
        for (event, place) in run.iter().zip(0..) {
            if event.position != first.position.plus(place) {
                let problem =
                    format!("a frame expects position {}, found {}", first.position.plus(place), event.position);
                return Err(ErrorKind::Invalid(problem).into());
            }
            encode_event(event, &mut body)?;
        }
        Ok(Self { first: first.position, last: last.position, body: body.into() })
    }

    /// Compresses the events with zstd if the body has more than `over` bytes and gets smaller. Compressing a frame twice has no effect.
    ///
    /// A worker needs the feature `zstd` to read a compressed frame. A worker without it rejects the frame and reads the store instead.
    ///
    /// # Errors
    /// [`ErrorKind::Unencodable`] if zstd is out of memory.
    #[cfg(feature = "zstd")]
    #[cfg_attr(docsrs, doc(cfg(feature = "zstd")))]
    pub fn compressed(self, over: usize) -> Result<Self> {
        let (head, events) =
            postcard::take_from_bytes::<Head>(&self.body).map_err(|error| unencodable(error.into()))?;
        // A frame that receivers would refuse to expand must not be compressed.
        if head.format != PLAIN || self.body.len() <= over || events.len() > zip::MAX_EXPANDED {
            return Ok(self);
        }
        let mut body = Vec::with_capacity(self.body.len() / 2);
        encode_part(&Head { format: COMPRESSED, ..head }, &mut body)?;
        body.extend(zip::compress(events).map_err(unencodable)?);
        if body.len() < self.body.len() { Ok(Self { body: body.into(), ..self }) } else { Ok(self) }
    }
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

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;
    use crate::broker::frame::format::COMPRESSED;
    use crate::event::{Metadata, NewEvent};
    use crate::id::{EventId, EventType, StreamId, Version};

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
                declared: None,
            },
        }
    }

    #[test]
    fn frames_keep_every_field_and_split_by_count_and_bytes() {
        let events: Vec<_> = (5..12).map(|position| event(position, 100)).collect();
        for (max_events, max_bytes, frames) in [(3, 10_000, 3), (100, 250, 4), (100, 1, 7), (100, 10_000, 1), (0, 0, 7)]
        {
            let split = Frame::split(&events, max_events, max_bytes).unwrap();
            assert_eq!(split.len(), frames, "at most {max_events} events and {max_bytes} bytes");
            let mut received = Vec::new();
            for frame in split {
                let back = ReceivedFrame::parse(frame.body.clone()).unwrap();
                assert_eq!((back.first(), back.last()), (frame.first, frame.last));
                received.extend(back.events().unwrap());
            }
            assert_eq!(received, events);
        }
    }

    #[test]
    fn a_run_with_a_gap_is_refused() {
        let error = Frame::split(&[event(1, 1), event(3, 1)], 10, 1000).unwrap_err();
        assert_eq!(error.to_string(), "invalid input: a frame expects position 2, found 3");
    }

    #[test]
    fn garbage_and_every_truncation_is_a_bad_frame() {
        let body = Frame::split(&[event(1, 30), event(2, 30)], 10, 1000).unwrap().remove(0).body;
        let parse = |body: Bytes| ReceivedFrame::parse(body).and_then(|frame| frame.events());
        for end in 0..body.len() {
            assert!(matches!(parse(body.slice(..end)).unwrap_err().kind(), ErrorKind::BadFrame(_)), "cut at {end}");
        }
        let longer = [&body[..], b"x"].concat();
        assert_eq!(parse(longer.into()).unwrap_err().to_string(), "not a frame: 1 bytes left over");
        assert_eq!(
            parse(Bytes::from_static(b"{\"a\":1}")).unwrap_err().to_string(),
            "not a frame: unknown format 123, supported are 1 and 2"
        );
        let counts_too_many = [PLAIN, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0];
        assert!(parse(Bytes::copy_from_slice(&counts_too_many)).is_err());
    }
    #[cfg(feature = "zstd")]
    mod compressed {
        use super::*;

        /// Returns a body in format 2 with any bytes as its events.
        fn body(count: u64, events: &[u8]) -> Bytes {
            let mut body = Vec::new();
            encode_part(&Head { format: COMPRESSED, first: 1, count, after: None }, &mut body).unwrap();
            body.extend(zip::compress(events).unwrap());
            body.into()
        }

        fn events(body: Bytes) -> Result<Vec<RecordedEvent>> {
            ReceivedFrame::parse(body).and_then(|frame| frame.events())
        }

        #[test]
        fn compressed_frame_is_smaller_and_decodes_the_same() {
            let sent: Vec<_> = (5..105).map(|position| event(position, 1000)).collect();
            let plain = Frame::split(&sent, 100, 1 << 20).unwrap().remove(0);
            let compressed = plain.clone().compressed(1000).unwrap();
            assert!(compressed.body.len() < plain.body.len() / 5, "{} bytes", compressed.body.len());
            assert_eq!((compressed.first, compressed.last), (plain.first, plain.last));
            assert_eq!(compressed.clone().compressed(0).unwrap(), compressed, "compressing twice changes nothing");
            let received = ReceivedFrame::parse(compressed.body).unwrap();
            assert_eq!((received.first(), received.last()), (plain.first, plain.last));
            assert_eq!(received.events().unwrap(), sent);
        }

        #[test]
        fn small_or_incompressible_frame_stays_plain() {
            let frame = |payload| {
                let mut event = event(1, 0);
                event.event.payload = payload;
                Frame::split(&[event], 1, 1).unwrap().remove(0)
            };
            let small = frame(vec![7; 500].into());
            assert_eq!(small.clone().compressed(small.body.len()).unwrap(), small);
            let mut noise = 1u64;
            let noise: Vec<u8> = std::iter::repeat_with(|| {
                noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                noise.to_be_bytes()[0]
            })
            .take(10_000)
            .collect();
            let noise = frame(noise.into());
            assert_eq!(noise.clone().compressed(0).unwrap(), noise);
        }

        #[test]
        fn frame_too_large_to_expand_is_never_compressed() {
            let large = Frame::split(&[event(1, zip::MAX_EXPANDED)], 1, 1).unwrap().remove(0);
            assert!(large.clone().compressed(0).unwrap() == large);
            let largest = Frame::split(&[event(1, zip::MAX_EXPANDED - 1000)], 1, 1).unwrap().remove(0);
            let compressed = largest.clone().compressed(0).unwrap();
            assert!(compressed.body.len() < largest.body.len() / 100);
            assert_eq!(events(compressed.body).unwrap()[0].payload_bytes(), zip::MAX_EXPANDED - 1000);
        }

        #[test]
        fn garbage_and_every_truncation_is_a_bad_frame() {
            let plain = Frame::split(&[event(1, 300), event(2, 300)], 10, 1000).unwrap().remove(0).body;
            let head = 4;
            let whole = body(2, &plain[head..]);
            assert_eq!(events(whole.clone()).unwrap().len(), 2);
            for end in 0..whole.len() {
                let error = events(whole.slice(..end)).unwrap_err();
                assert!(matches!(error.kind(), ErrorKind::BadFrame(_)), "cut at {end}: {error}");
            }
            for bad in [
                [&whole[..], b"x"].concat().into(),
                body(2, &plain[head + 1..]),
                body(3, &plain[head..]),
                body(1, &plain[head..]),
                Bytes::from([&[COMPRESSED, 1, 2, 0][..], &plain[head..]].concat()),
            ] {
                assert!(matches!(events(bad).unwrap_err().kind(), ErrorKind::BadFrame(_)));
            }
            for place in head..whole.len() {
                let mut damaged = whole.to_vec();
                damaged[place] ^= 0x55;
                if let Err(error) = events(damaged.into()) {
                    assert!(matches!(error.kind(), ErrorKind::BadFrame(_)), "damaged at {place}: {error}");
                }
            }
        }

        #[test]
        fn decompression_bomb_is_refused() {
            let bomb = body(1, &vec![0; zip::MAX_EXPANDED + 1]);
            assert!(bomb.len() < 10_000, "{} bytes", bomb.len());
            let error = events(bomb).unwrap_err();
            assert_eq!(error.to_string(), "not a frame: the content expands to more than 67108864 bytes");
        }
    }

    #[cfg(not(feature = "zstd"))]
    #[test]
    fn compressed_frame_is_refused_without_the_feature() {
        let frame = ReceivedFrame::parse(Bytes::from_static(&[COMPRESSED, 1, 1, 0])).unwrap();
        let problem = "the frame is compressed, and this program was built without the feature `zstd`";
        assert_eq!(frame.events().unwrap_err().to_string(), format!("not a frame: {problem}"));
    }
}
