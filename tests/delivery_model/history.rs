//! A log whose history is replaced: by a shorter one that grows again, alone or together with what was stored elsewhere, or not at all while
//! read models go back.
//!
//! Everything that remembers a place in the log takes its steps in any order, before and after the replacement: caches and snapshots, relays,
//! workers in log order and with order per aggregate. The claims:
//! - no state mixes two histories;
//! - nothing is skipped in silence: the log's events up to a stored place are applied, or the log does not have the event at that place, so
//!   that its owner is refused until an operator resets it;
//! - the end stays reachable.

pub(crate) mod cache;
pub(crate) mod log_order;
pub(crate) mod per_aggregate;
pub(crate) mod relay;

use crate::search::{Fault, Regular, Step};

/// The number of events of a complete log.
pub(crate) const EVENTS: u8 = 3;

/// An event of an aggregate. The era distinguishes events that got the same position in two histories; zero is no event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Event {
    era: u8,
    aggregate: u8,
}

/// A position, and the event there. The default is the place before the first event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Mark {
    position: u8,
    event: Event,
}

/// A set of events with their positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Events(u32);

impl Events {
    fn bit(Mark { position, event }: Mark) -> u32 {
        1 << (((position - 1) * 2 + event.era - 1) * 2 + event.aggregate)
    }

    fn has(self, mark: Mark) -> bool {
        self.0 & Self::bit(mark) != 0
    }

    fn with(self, mark: Mark) -> Self {
        Self(self.0 | Self::bit(mark))
    }

    fn of(marks: impl Iterator<Item = Mark>) -> Self {
        marks.fold(Self::default(), Self::with)
    }

    fn add(&mut self, more: Self) -> Result<(), &'static str> {
        if self.0 & more.0 != 0 {
            return Err("an event was applied twice");
        }
        self.0 |= more.0;
        Ok(())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Log([Event; EVENTS as usize]);

impl Log {
    fn head(self) -> u8 {
        u8::try_from(self.0.iter().filter(|event| event.era > 0).count()).unwrap()
    }

    fn mark(self, position: u8) -> Mark {
        if position == 0 { Mark::default() } else { Mark { position, event: self.0[usize::from(position) - 1] } }
    }

    /// Returns whether the log has the event at a place.
    fn has(self, mark: Mark) -> bool {
        self.mark(mark.position) == mark
    }

    fn marks(self, after: u8, to: u8) -> impl Iterator<Item = Mark> {
        (after + 1..=to).map(move |position| self.mark(position))
    }

    fn events(self, after: u8, to: u8) -> Events {
        Events::of(self.marks(after, to))
    }

    /// Returns the places of an aggregate's events, in order.
    fn stream(self, aggregate: u8) -> impl Iterator<Item = Mark> {
        self.marks(0, self.head()).filter(move |mark| mark.event.aggregate == aggregate)
    }

    fn version(self, mark: Mark) -> u8 {
        let before = self.marks(0, mark.position).filter(|other| other.event.aggregate == mark.event.aggregate);
        u8::try_from(before.count()).unwrap()
    }
}

/// The log, and the one that it replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct History {
    log: Log,
    lost: Log,
    is_replaced: bool,
}

impl History {
    fn push(mut self, aggregate: u8) -> Self {
        let era = 1 + u8::from(self.is_replaced);
        self.log.0[usize::from(self.log.head())] = Event { era, aggregate };
        self
    }

    fn cut(self, head: u8) -> Self {
        let mut log = self.log;
        log.0[usize::from(head)..].fill(Event::default());
        Self { log, lost: self.log, is_replaced: true }
    }

    fn is_full(self) -> bool {
        self.log.head() == EVENTS
    }

    /// Returns whether a state has an event that the log has lost, and one that the log got afterward.
    fn is_mixed(self, applied: Events) -> bool {
        let lost = self.lost.marks(0, self.lost.head()).any(|mark| !self.log.has(mark) && applied.has(mark));
        let newer = self.log.marks(0, self.log.head()).any(|mark| mark.event.era == 2 && applied.has(mark));
        lost && newer
    }

    /// Adds the steps of the log itself: it grows, and is replaced once. `with` returns the state for another history.
    fn steps<S>(self, aggregates: u8, steps: &mut Vec<Step<S>>, with: impl Fn(Self) -> S) {
        if !self.is_full() {
            for aggregate in 0..aggregates {
                steps.push(Step::new(Regular, "an event is appended", with(self.push(aggregate))));
            }
        }
        if !self.is_replaced {
            for head in 0..self.log.head() {
                steps.push(Step::new(Fault, "the log loses its tail", with(self.cut(head))));
            }
        }
    }
}

const MIXED: &str = "a state mixes two histories";
const SILENT: &str = "the log and the state differ in silence";
