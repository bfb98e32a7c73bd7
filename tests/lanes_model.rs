//! Every interleaving of appends and sequencers on PostgreSQL, in the small: does any of them skip or reorder an event?
//!
//! The steps are those of `migrations/postgres/functions`; why they suffice is said in the decision record on lanes. Each rule of the
//! protocol is also broken on purpose, to show that the search would see it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashSet;

const LANES: usize = 2;
const SEQUENCERS: usize = 2;
const MOST_APPENDS: usize = 4;

/// What an append or a sequencer does in one go. Everybody else's steps come between any two of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    TakeLane,
    /// Of an append: look at the stream's version. Of a sequencer: look at marks, commits and the log's end.
    Snapshot,
    DrawNumber,
    Insert,
    /// Commit, or roll back.
    End,
    /// Also the answer to the caller, where it is the last step.
    ReleaseLane,
    TryLock,
    /// Give positions and move the marks.
    Commit,
    Unlock,
}
use Step::{Commit, DrawNumber, End, Insert, ReleaseLane, Snapshot, TakeLane, TryLock, Unlock};

/// Who appends what, and in which steps.
#[derive(Debug, Clone, Copy)]
struct Protocol {
    /// The appends: which process makes it, and to which stream. Those of one process follow each other.
    appends: &'static [(usize, u8)],
    append: &'static [Step],
    sequence: &'static [Step],
    /// How many numbers a process takes from the sequence at once.
    cache: u8,
    log: Log,
}

/// Whether a unique constraint refuses a second position for a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Log {
    Unguarded,
    Unique,
}

const THREE_PROCESSES: &[(usize, u8)] = &[(0, 0), (1, 0), (2, 1)];
const TWO_PROCESSES_TWICE: &[(usize, u8)] = &[(0, 0), (0, 1), (1, 0), (1, 0)];

/// As the library does it. The unique constraint is left out: the rules must do without.
const FAITHFUL: Protocol = Protocol {
    appends: TWO_PROCESSES_TWICE,
    append: &[TakeLane, Snapshot, DrawNumber, Insert, End, ReleaseLane],
    sequence: &[TryLock, Snapshot, Commit, Unlock],
    cache: 1,
    log: Log::Unguarded,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
enum Fate {
    #[default]
    Open,
    Committed,
    RolledBack,
}

/// Zero stands for "none yet" in every number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Append {
    at: usize,
    lane: usize,
    seen: u8,
    number: u8,
    version: u8,
    fate: Fate,
    position: u8,
    /// The appends that were acknowledged before this one was called, as a set of bits.
    after: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
struct Sequencer {
    at: usize,
    /// The commits past the marks, as a set of bits, and the log's end: what its snapshot shows.
    fresh: u8,
    head: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct State {
    appends: [Append; MOST_APPENDS],
    sequencers: [Sequencer; SEQUENCERS],
    lane_held: [bool; LANES],
    sequencing: bool,
    drawn: u8,
    /// Of each process: the next number and the last one of those it has taken from the sequence.
    cached: [(u8, u8); MOST_APPENDS],
    marks: [u8; LANES],
}

type Next = Result<State, &'static str>;

impl State {
    fn next(&self, protocol: &Protocol) -> Vec<Next> {
        let mut next = Vec::new();
        for append in 0..protocol.appends.len() {
            next.extend(self.append(protocol, append));
        }
        for sequencer in 0..SEQUENCERS {
            next.extend(self.sequence(protocol, sequencer));
        }
        next
    }

    fn append(&self, protocol: &Protocol, index: usize) -> Vec<Next> {
        let (process, stream) = protocol.appends[index];
        let done = |other: usize| self.appends[other].at == protocol.append.len();
        let earlier_is_open = (0..index).any(|other| protocol.appends[other].0 == process && !done(other));
        let Some(step) = protocol.append.get(self.appends[index].at).filter(|_| !earlier_is_open) else {
            return vec![];
        };
        let mut next = *self;
        let append = &mut next.appends[index];
        if append.at == 0 {
            append.after = bits(|other| done(other) && self.appends[other].fate == Fate::Committed);
        }
        append.at += 1;
        match step {
            TakeLane => {
                let free = (0..LANES).filter(|&lane| !self.lane_held[lane]);
                let take = |lane| {
                    let mut next = next;
                    next.lane_held[lane] = true;
                    next.appends[index].lane = lane;
                    Ok(next)
                };
                return free.map(take).collect();
            }
            Snapshot => append.seen = self.committed(protocol, stream).map(|other| other.version).max().unwrap_or(0),
            DrawNumber => {
                let (mut number, mut last) = self.cached[process];
                if number == last {
                    (number, last) = (next.drawn, next.drawn + protocol.cache);
                    next.drawn = last;
                }
                append.number = number + 1;
                next.cached[process] = (number + 1, last);
            }
            Insert => {
                append.version = append.seen + 1;
                let version = append.version;
                let mut rivals = (0..protocol.appends.len()).filter(|&other| other != index);
                let fate = rivals.find_map(|other| {
                    let rival = &self.appends[other];
                    let same = protocol.appends[other].1 == stream && rival.version == version;
                    (same && rival.fate != Fate::RolledBack).then_some(rival.fate)
                });
                match fate {
                    // The server lets it wait for the end of the other transaction.
                    Some(Fate::Open) => return vec![],
                    Some(_) => next.appends[index].fate = Fate::RolledBack,
                    None => {}
                }
            }
            End if append.fate == Fate::Open => {
                append.fate = Fate::RolledBack;
                let mut committed = next;
                committed.appends[index].fate = Fate::Committed;
                return vec![Ok(next), Ok(committed)];
            }
            End => {}
            ReleaseLane => next.lane_held[append.lane] = false,
            TryLock | Commit | Unlock => unreachable!("a step of the sequencer"),
        }
        vec![Ok(next)]
    }

    fn sequence(&self, protocol: &Protocol, index: usize) -> Option<Next> {
        let mut next = *self;
        let sequencer = &mut next.sequencers[index];
        let step = protocol.sequence[sequencer.at];
        sequencer.at = (sequencer.at + 1) % protocol.sequence.len();
        match step {
            TryLock if self.sequencing => return None,
            TryLock => next.sequencing = true,
            Unlock => next.sequencing = false,
            Snapshot => {
                sequencer.head = self.head();
                sequencer.fresh = bits(|index| {
                    let append = &self.appends[index];
                    append.fate == Fate::Committed && append.number > self.marks[append.lane]
                });
            }
            Commit => {
                let Sequencer { fresh, head, .. } = std::mem::take(sequencer);
                next.sequencers[index].at = self.sequencers[index].at + 1;
                next.sequencers[index].at %= protocol.sequence.len();
                return Some(next.place(protocol, fresh, head));
            }
            _ => unreachable!("a step of the appends"),
        }
        Some(Ok(next))
    }

    /// The end of a sequencer's transaction: its commits become part of the log, in number order, and the marks move.
    fn place(mut self, protocol: &Protocol, fresh: u8, head: u8) -> Next {
        let mut fresh: Vec<usize> = (0..MOST_APPENDS).filter(|index| fresh & 1 << index != 0).collect();
        fresh.sort_by_key(|&index| self.appends[index].number);
        if fresh.iter().any(|&index| self.appends[index].position != 0) {
            return if protocol.log == Log::Unique { Ok(self) } else { Err("a commit was placed twice") };
        }
        // The quickest reader has read all there is in every state: if none has missed anything, no slower one has.
        let read = self.head();
        for (index, position) in fresh.into_iter().zip(head + 1..) {
            if position <= read {
                return Err("a reader has passed the position");
            }
            let append = &mut self.appends[index];
            append.position = position;
            self.marks[append.lane] = append.number;
        }
        Ok(self)
    }

    fn head(&self) -> u8 {
        self.appends.iter().map(|append| append.position).max().unwrap_or(0)
    }

    fn committed(&self, protocol: &Protocol, stream: u8) -> impl Iterator<Item = &Append> {
        let of_stream = move |(append, (_, other)): (_, &(usize, u8))| (*other == stream).then_some(append);
        let appends = self.appends.iter().zip(protocol.appends).filter_map(of_stream);
        appends.filter(|append| append.fate == Fate::Committed)
    }

    /// What must hold in every state.
    fn violation(&self, protocol: &Protocol) -> Option<&'static str> {
        let mut positions: Vec<u8> =
            self.appends.iter().map(|a| a.position).filter(|&position| position != 0).collect();
        positions.sort_unstable();
        if !positions.iter().copied().eq(1..=self.head()) {
            return Some("positions are unique and contiguous");
        }
        for (append, (_, stream)) in self.appends.iter().zip(protocol.appends) {
            if append.fate == Fate::Committed && append.position == 0 && append.number <= self.marks[append.lane] {
                return Some("a commit below its lane's mark has a position");
            }
            let stands_before = |other: &Append| other.position != 0 && other.position < append.position;
            let mut before = self.appends.iter().enumerate().filter(|(index, _)| append.after & 1 << index != 0);
            let mut older = self.committed(protocol, *stream).filter(|other| other.version < append.version);
            if append.position != 0 && !before.all(|(_, other)| stands_before(other)) {
                return Some("what was acknowledged before stands before");
            }
            if append.position != 0 && !older.all(stands_before) {
                return Some("versions of a stream stand in their order");
            }
        }
        None
    }
}

fn bits(member: impl Fn(usize) -> bool) -> u8 {
    (0..MOST_APPENDS).filter(|&index| member(index)).fold(0, |set, index| set | 1 << index)
}

/// All reachable states, breadth first: their number, or what is violated after how few steps.
fn explore(protocol: Protocol) -> Result<usize, String> {
    let mut states = vec![(State::default(), 0)];
    let mut known = HashSet::from([State::default()]);
    let mut at = 0;
    while let Some(&(state, steps)) = states.get(at) {
        let broken = |violation| format!("{violation}, {} steps from the start\n{state:#?}", steps + 1);
        for next in state.next(&protocol) {
            let mut next = next.map_err(broken)?;
            // Which of the sequencers is where makes no difference.
            next.sequencers.sort_unstable();
            if let Some(violation) = next.violation(&protocol) {
                return Err(broken(violation));
            }
            if known.insert(next) {
                states.push((next, steps + 1));
            }
        }
        at += 1;
    }
    Ok(states.len())
}

fn assert_kept(protocol: Protocol) {
    let states = explore(protocol).unwrap_or_else(|violation| panic!("{violation}"));
    println!("{states} states");
    assert!(states > 10_000, "only {states} states");
}

fn assert_broken(protocol: Protocol, expected: &str) {
    let violation = explore(protocol).expect_err("the search finds the fault");
    println!("{}", violation.lines().next().unwrap());
    assert!(violation.starts_with(expected), "{violation}");
}

#[test]
fn the_protocol_holds_in_every_state() {
    assert_kept(FAITHFUL);
    assert_kept(Protocol { appends: THREE_PROCESSES, ..FAITHFUL });
}

/// As where the server's default isolation is `repeatable read`: the snapshot is the transaction's first.
#[test]
fn the_protocol_holds_with_snapshots_before_the_locks_and_the_unique_constraint() {
    assert_kept(Protocol {
        append: &[Snapshot, TakeLane, DrawNumber, Insert, End, ReleaseLane],
        sequence: &[Snapshot, TryLock, Commit, Unlock],
        log: Log::Unique,
        appends: &[(0, 0), (0, 1), (1, 0)],
        ..FAITHFUL
    });
}

#[test]
fn a_number_drawn_before_the_version_check_is_found() {
    let append = &[TakeLane, DrawNumber, Snapshot, Insert, End, ReleaseLane];
    assert_broken(Protocol { append, ..FAITHFUL }, "versions of a stream stand in their order");
}

#[test]
fn a_lane_released_before_the_commit_is_found() {
    let append = &[TakeLane, Snapshot, DrawNumber, Insert, ReleaseLane, End];
    assert_broken(Protocol { append, ..FAITHFUL }, "a commit below its lane's mark has a position");
}

#[test]
fn sequencers_without_a_lock_are_found() {
    assert_broken(Protocol { sequence: &[Snapshot, Commit], ..FAITHFUL }, "a commit was placed twice");
}

#[test]
fn a_sequencer_that_looks_before_it_locks_is_found() {
    assert_broken(Protocol { sequence: &[Snapshot, TryLock, Commit, Unlock], ..FAITHFUL }, "a commit was placed twice");
}

#[test]
fn a_cached_sequence_is_found() {
    let own_streams = &[(0, 0), (0, 1), (1, 2)];
    assert_broken(
        Protocol { cache: 2, appends: own_streams, ..FAITHFUL },
        "what was acknowledged before stands before",
    );
    assert_broken(Protocol { cache: 2, ..FAITHFUL }, "versions of a stream stand in their order");
}
