//! The search: visits every reachable state breadth first and checks that the end stays reachable from each of them.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt::Debug;
use std::hash::{BuildHasherDefault, Hash, Hasher};

pub(crate) trait Model {
    type State: Copy + Eq + Hash + Debug;

    fn start(&self) -> Self::State;
    fn steps(&self, state: &Self::State, steps: &mut Vec<Step<Self::State>>);
    /// Returns the invariant that `state` violates, if any.
    fn violation(&self, state: &Self::State) -> Option<&'static str>;
    /// Returns whether all work is done.
    fn done(&self, state: &Self::State) -> bool;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A step that happens eventually if it stays possible.
    Regular,
    /// A crash, a loss or a wrong clock: may or may not happen.
    Fault,
}
pub(crate) use Kind::{Fault, Regular};

/// One atomic step of one process. Steps of other processes can run between any two of them.
#[derive(Debug)]
pub(crate) struct Step<S> {
    pub(crate) what: &'static str,
    pub(crate) kind: Kind,
    pub(crate) to: Result<S, &'static str>,
}

impl<S> Step<S> {
    pub(crate) fn new(kind: Kind, what: &'static str, to: S) -> Self {
        Self { what, kind, to: Ok(to) }
    }
}

const STUCK: &str = "the work is never done";

/// Explores all states. Returns their number, or the shortest path to a state that is wrong.
///
/// A state from which regular steps alone cannot reach the end is wrong too. Reachability from every state is stronger than one schedule
/// that ends: whatever regular steps come first, the end stays reachable, so only a run that forever ignores a possible step can miss it.
pub(crate) fn explore<M: Model>(model: &M) -> Result<usize, String> {
    let mut search = Search::<M::State>::default();
    search.add(model.start(), None);
    let mut steps = Vec::new();
    let mut at = 0;
    while let Some(&state) = search.states.get(at) {
        model.steps(&state, &mut steps);
        for Step { what, kind, to } in steps.drain(..) {
            let to = to.map_err(|violation| search.story(violation, at, Some(what)))?;
            let (next, new) = search.add(to, Some((at, what)));
            if let Some(violation) = model.violation(&to).filter(|_| new) {
                return Err(search.story(violation, next, None));
            }
            if kind == Regular {
                search.regular.push((at, next));
            }
        }
        at += 1;
    }
    let stuck = search.stuck(|state| model.done(state));
    stuck.map_or(Ok(search.states.len()), |state| Err(search.story(STUCK, state, None)))
}

struct Search<S> {
    states: Vec<S>,
    /// For each state, the state and step it was first reached from.
    came: Vec<Option<(usize, &'static str)>>,
    known: HashMap<S, usize, BuildHasherDefault<Quick>>,
    /// Regular steps as pairs of states.
    regular: Vec<(usize, usize)>,
}

impl<S> Default for Search<S> {
    fn default() -> Self {
        Self { states: vec![], came: vec![], known: HashMap::default(), regular: vec![] }
    }
}

impl<S: Copy + Eq + Hash + Debug> Search<S> {
    fn add(&mut self, state: S, came: Option<(usize, &'static str)>) -> (usize, bool) {
        match self.known.entry(state) {
            Entry::Occupied(known) => (*known.get(), false),
            Entry::Vacant(free) => {
                free.insert(self.states.len());
                self.states.push(state);
                self.came.push(came);
                (self.states.len() - 1, true)
            }
        }
    }

    /// Returns the nearest state from which no regular steps lead to the end, searching backward from the end.
    fn stuck(&mut self, done: impl Fn(&S) -> bool) -> Option<usize> {
        self.regular.sort_unstable_by_key(|&(_, to)| to);
        let mut good: Vec<bool> = self.states.iter().map(done).collect();
        let mut open: Vec<usize> = (0..good.len()).filter(|&state| good[state]).collect();
        while let Some(state) = open.pop() {
            let first = self.regular.partition_point(|&(_, to)| to < state);
            for &(from, _) in self.regular[first..].iter().take_while(|&&(_, to)| to == state) {
                if !std::mem::replace(&mut good[from], true) {
                    open.push(from);
                }
            }
        }
        good.iter().position(|good| !good)
    }

    fn story(&self, violation: &str, mut at: usize, last: Option<&str>) -> String {
        let state = &self.states[at];
        let mut steps: Vec<&str> = last.into_iter().collect();
        while let Some((from, what)) = self.came[at] {
            steps.push(what);
            at = from;
        }
        steps.reverse();
        format!("{violation}, after {} steps:\n- {}\n{state:?}", steps.len(), steps.join("\n- "))
    }
}

/// A fast hasher: states are many and small, and collisions are not adversarial.
#[derive(Default)]
struct Quick(u64);

impl Hasher for Quick {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, byte: u8) {
        self.write_u64(u64::from(byte));
    }

    /// Hashes the discriminant of an enum.
    fn write_isize(&mut self, variant: isize) {
        self.write_u64(variant.cast_unsigned() as u64);
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    fn finish(&self) -> u64 {
        self.0 ^ self.0 >> 32
    }
}

pub(crate) fn assert_kept<M: Model>(model: &M) {
    let states = explore(model).unwrap_or_else(|story| panic!("{story}"));
    println!("{states} states");
    assert!(states > 1_000, "only {states} states");
}

pub(crate) fn assert_broken<M: Model>(model: &M, expected: &str) {
    let story = explore(model).expect_err("the search finds the fault");
    println!("{story}");
    assert!(story.starts_with(expected), "{story}");
}

pub(crate) fn assert_stuck<M: Model>(model: &M) {
    assert_broken(model, STUCK);
}

/// A message with events `first` to `last` of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Frame {
    pub(crate) first: u8,
    pub(crate) last: u8,
}

impl Frame {
    /// Returns all frames of one or two events of a log with `head` events.
    pub(crate) fn all(head: u8) -> impl Iterator<Item = Self> {
        (1..=head).flat_map(move |first| (first..=head.min(first + 1)).map(move |last| Self { first, last }))
    }

    /// Returns the frame's bit in a set of frames.
    pub(crate) fn bit(self) -> u8 {
        let place = if self.first == self.last { self.first - 1 } else { self.first + 3 };
        1 << place
    }
}

/// Returns the bit of `position` in a set of positions.
pub(crate) fn bit(position: u8) -> u8 {
    1 << (position - 1)
}

pub(crate) fn has(set: u8, position: u8) -> bool {
    set & bit(position) != 0
}
