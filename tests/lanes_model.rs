//! Model check of the PostgreSQL log: explores every interleaving of a few appends and sequencers and checks that no event is skipped or
//! reordered.
//!
//! The steps mirror `migrations/postgres/functions`; the decision record on lanes explains why they suffice. Negative tests break each rule
//! of the protocol and check that the search finds the violation.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashSet;

const LANES: usize = 2;
const SEQUENCERS: usize = 2;
const MOST_APPENDS: usize = 4;

/// One atomic step of an append or a sequencer. Steps of other processes can run between any two of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    TakeLane,
    /// An append reads the stream's version; a sequencer reads marks, commits and the end of the log.
    Snapshot,
    DrawNumber,
    Insert,
    /// Commits or rolls back.
    End,
    /// Also acknowledges the append to the caller if it is the last step.
    ReleaseLane,
    TryLock,
    /// Assigns positions and advances the marks.
    Commit,
    Unlock,
}
use Step::{Commit, DrawNumber, End, Insert, ReleaseLane, Snapshot, TakeLane, TryLock, Unlock};

/// The appends to run, and the order of the steps.
#[derive(Debug, Clone, Copy)]
struct Protocol {
    /// The process and the stream of each append. Appends of one process run one after the other.
    appends: &'static [(usize, u8)],
    append: &'static [Step],
    sequence: &'static [Step],
    /// Number of values a process takes from the sequence at a time (`CACHE`).
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

/// The protocol of the library, without the unique constraint: the other rules must suffice.
const CORRECT: Protocol = Protocol {
    appends: TWO_PROCESSES_TWICE,
    append: &[TakeLane, Snapshot, DrawNumber, Insert, End, ReleaseLane],
    sequence: &[TryLock, Snapshot, Commit, Unlock],
    cache: 1,
    log: Log::Unguarded,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
enum Outcome {
    #[default]
    Open,
    Committed,
    RolledBack,
}

/// In every number, zero means "none yet".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
struct Append {
    at: usize,
    lane: usize,
    seen: u8,
    number: u8,
    version: u8,
    outcome: Outcome,
    position: u8,
    /// Bit set of the appends that were acknowledged before this one was called.
    after: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
struct Sequencer {
    at: usize,
    /// Its snapshot: the commits past the marks, as a bit set, and the end of the log.
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
    /// For each process, the next and the last of the numbers it has taken from the sequence.
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
            append.after = bits(|other| done(other) && self.appends[other].outcome == Outcome::Committed);
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
                let outcome = rivals.find_map(|other| {
                    let rival = &self.appends[other];
                    let same = protocol.appends[other].1 == stream && rival.version == version;
                    (same && rival.outcome != Outcome::RolledBack).then_some(rival.outcome)
                });
                match outcome {
                    // The server blocks the insert until the other transaction ends.
                    Some(Outcome::Open) => return vec![],
                    Some(_) => next.appends[index].outcome = Outcome::RolledBack,
                    None => {}
                }
            }
            End if append.outcome == Outcome::Open => {
                append.outcome = Outcome::RolledBack;
                let mut committed = next;
                committed.appends[index].outcome = Outcome::Committed;
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
                    append.outcome == Outcome::Committed && append.number > self.marks[append.lane]
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

    /// Commits a sequencer's transaction: appends its commits to the log in number order and advances the marks.
    fn place(mut self, protocol: &Protocol, fresh: u8, head: u8) -> Next {
        let mut fresh: Vec<usize> = (0..MOST_APPENDS).filter(|index| fresh & 1 << index != 0).collect();
        fresh.sort_by_key(|&index| self.appends[index].number);
        if fresh.iter().any(|&index| self.appends[index].position != 0) {
            return if protocol.log == Log::Unique { Ok(self) } else { Err("a commit was sequenced twice") };
        }
        // Models the fastest reader, which has read everything in every state: if it misses nothing, no slower reader does.
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
        appends.filter(|append| append.outcome == Outcome::Committed)
    }

    /// Returns the invariant that this state violates, if any.
    fn violation(&self, protocol: &Protocol) -> Option<&'static str> {
        let mut positions: Vec<u8> =
            self.appends.iter().map(|a| a.position).filter(|&position| position != 0).collect();
        positions.sort_unstable();
        if !positions.iter().copied().eq(1..=self.head()) {
            return Some("positions are unique and contiguous");
        }
        for (append, (_, stream)) in self.appends.iter().zip(protocol.appends) {
            if append.outcome == Outcome::Committed && append.position == 0 && append.number <= self.marks[append.lane]
            {
                return Some("a commit below its lane's mark has a position");
            }
            let precedes = |other: &Append| other.position != 0 && other.position < append.position;
            let mut before = self.appends.iter().enumerate().filter(|(index, _)| append.after & 1 << index != 0);
            let mut older = self.committed(protocol, *stream).filter(|other| other.version < append.version);
            if append.position != 0 && !before.all(|(_, other)| precedes(other)) {
                return Some("an acknowledged append precedes later ones");
            }
            if append.position != 0 && !older.all(precedes) {
                return Some("versions of a stream are in log order");
            }
        }
        None
    }
}

fn bits(member: impl Fn(usize) -> bool) -> u8 {
    (0..MOST_APPENDS).filter(|&index| member(index)).fold(0, |set, index| set | 1 << index)
}

/// Explores all reachable states breadth first. Returns their number, or the violation and the number of steps to it.
fn explore(protocol: Protocol) -> Result<usize, String> {
    let mut states = vec![(State::default(), 0)];
    let mut known = HashSet::from([State::default()]);
    let mut at = 0;
    while let Some(&(state, steps)) = states.get(at) {
        let broken = |violation| format!("{violation}, {} steps from the start\n{state:#?}", steps + 1);
        for next in state.next(&protocol) {
            let mut next = next.map_err(broken)?;
            // Sequencers are interchangeable: sorting them merges equivalent states.
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
    assert_kept(CORRECT);
    assert_kept(Protocol { appends: THREE_PROCESSES, ..CORRECT });
}

/// With a default isolation of `repeatable read`, the snapshot is the first step of the transaction.
#[test]
fn early_snapshots_are_safe_with_the_unique_constraint() {
    assert_kept(Protocol {
        append: &[Snapshot, TakeLane, DrawNumber, Insert, End, ReleaseLane],
        sequence: &[Snapshot, TryLock, Commit, Unlock],
        log: Log::Unique,
        appends: &[(0, 0), (0, 1), (1, 0)],
        ..CORRECT
    });
}

#[test]
fn a_number_drawn_before_the_version_check_is_found() {
    let append = &[TakeLane, DrawNumber, Snapshot, Insert, End, ReleaseLane];
    assert_broken(Protocol { append, ..CORRECT }, "versions of a stream are in log order");
}

#[test]
fn a_lane_released_before_the_commit_is_found() {
    let append = &[TakeLane, Snapshot, DrawNumber, Insert, ReleaseLane, End];
    assert_broken(Protocol { append, ..CORRECT }, "a commit below its lane's mark has a position");
}

#[test]
fn sequencers_without_a_lock_are_found() {
    assert_broken(Protocol { sequence: &[Snapshot, Commit], ..CORRECT }, "a commit was sequenced twice");
}

#[test]
fn a_sequencer_that_reads_before_it_locks_is_found() {
    assert_broken(
        Protocol { sequence: &[Snapshot, TryLock, Commit, Unlock], ..CORRECT },
        "a commit was sequenced twice",
    );
}

#[test]
fn a_cached_sequence_is_found() {
    let own_streams = &[(0, 0), (0, 1), (1, 2)];
    assert_broken(Protocol { cache: 2, appends: own_streams, ..CORRECT }, "an acknowledged append precedes later ones");
    assert_broken(Protocol { cache: 2, ..CORRECT }, "versions of a stream are in log order");
}
