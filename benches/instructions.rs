//! Runs one step of an event's path a given number of times, so that `instructions.sh` can count its instructions. `cargo bench -p
//! retell-benches` runs each step once as a check.
//!
//! - `decode`, `decode_compact`: from stored bytes to an event.
//! - `replay`, `replay_compact`: decode and apply to the state; hand-written: `replay_by_hand`.
//! - `encode`, `encode_compact`: from an event to the bytes that an append writes.
//! - `frame`: 100 events into a frame, as a relay does; counted per event.
//! - `unframe`: a frame into its events, as a worker does with new events; counted per event.
//! - `gate`: parses the head of a frame, all that a worker reads of a frame it already knows.
#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

mod support;

use std::env;
use std::hint::black_box;

use chrono::DateTime;
use retell::broker::frame::{Frame, ReceivedFrame};
use retell::event::{NewEvent, RecordedEvent};
use retell::{Aggregate, Event, Position, StreamId, Version};

use support::by_hand::State;
use support::order::{CompactEvent, CompactOrder, Order, OrderEvent, Stored};

/// Number of distinct events, which are used in turn.
const EVENTS: u64 = 300;

/// Events per frame.
const FRAMED: usize = 100;

type Part = fn(u64);

const PARTS: [(&str, Part); 10] = [
    ("decode", decode::<OrderEvent>),
    ("decode_compact", decode::<CompactEvent>),
    ("replay_by_hand", replay_by_hand),
    ("replay", replay::<Order>),
    ("replay_compact", replay::<CompactOrder>),
    ("encode", encode::<OrderEvent>),
    ("encode_compact", encode::<CompactEvent>),
    ("frame", frame),
    ("unframe", unframe),
    ("gate", gate),
];

fn main() {
    let arguments: Vec<_> = env::args().skip(1).filter(|argument| argument != "--bench").collect();
    match arguments.as_slice() {
        [only] if only == "--parts" => PARTS.iter().for_each(|(name, _)| println!("{name}")),
        [name, times] => {
            let (_, part) = PARTS.iter().find(|(known, _)| known == name).expect("the name of a part");
            part(times.parse().unwrap());
        }
        _ => PARTS.iter().for_each(|(_, part)| part(EVENTS)),
    }
}

/// Events of both codecs.
trait Numbered: Event {
    fn numbered(number: u64) -> Self;
}

impl Numbered for OrderEvent {
    fn numbered(number: u64) -> Self {
        Self::numbered(number)
    }
}

impl Numbered for CompactEvent {
    fn numbered(number: u64) -> Self {
        Self::numbered(number)
    }
}

fn stored<E: Numbered>() -> Vec<Stored> {
    (0..EVENTS).map(|number| Stored::encode(&E::numbered(number))).collect()
}

fn in_turn<T>(items: &[T], times: u64) -> impl Iterator<Item = &T> {
    items.iter().cycle().take(usize::try_from(times).unwrap())
}

fn decode<E: Numbered>(times: u64) {
    for event in in_turn(&stored::<E>(), times) {
        black_box(E::decode(black_box(event.borrow())).unwrap());
    }
}

fn replay_by_hand(times: u64) {
    let mut state = State::default();
    for event in in_turn(&stored::<OrderEvent>(), times) {
        state.fold(black_box(&event.event_type), &event.payload).unwrap();
    }
    black_box(state);
}

fn replay<A: Aggregate<Event: Numbered>>(times: u64) {
    let mut state = A::default();
    for event in in_turn(&stored::<A::Event>(), times) {
        state.apply(A::Event::decode(black_box(event.borrow())).unwrap());
    }
    black_box(state);
}

fn encode<E: Numbered>(times: u64) {
    let events: Vec<_> = (0..EVENTS).map(E::numbered).collect();
    for event in in_turn(&events, times) {
        black_box(NewEvent::new(black_box(event)).unwrap());
    }
}

fn recorded() -> Vec<RecordedEvent> {
    let recorded = (1..=FRAMED as u64).map(|number| {
        RecordedEvent::new(
            Position::new(number),
            StreamId::parse("order", &number.to_string()).unwrap(),
            Version::new(1),
            DateTime::from_timestamp(1_700_000_000, 0).unwrap(),
            NewEvent::new(&OrderEvent::numbered(number)).unwrap(),
        )
    });
    recorded.collect()
}

fn framed() -> Frame {
    Frame::split(&recorded(), FRAMED, usize::MAX).unwrap().remove(0)
}

fn frame(times: u64) {
    let events = recorded();
    for _ in 0..times / FRAMED as u64 {
        black_box(Frame::split(black_box(&events), FRAMED, usize::MAX).unwrap());
    }
}

fn unframe(times: u64) {
    let frame = framed();
    for _ in 0..times / FRAMED as u64 {
        black_box(ReceivedFrame::parse(black_box(frame.body().clone())).unwrap().events().unwrap());
    }
}

fn gate(times: u64) {
    let frame = framed();
    for _ in 0..times {
        let received = ReceivedFrame::parse(black_box(frame.body().clone())).unwrap();
        assert!(black_box(received.last()) <= Position::new(FRAMED as u64), "it is known");
    }
}
