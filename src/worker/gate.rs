//! Decides from the positions of a frame how the worker treats it.

use crate::id::Position;

/// The gate's decision about a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// All of its events are applied: drop it.
    Known,
    /// It continues the log, or overlaps: apply what is new.
    Next,
    /// Events before it are missing: read them from the store.
    Gap,
}

/// Judges a frame of a worker that has applied everything up to `seen`.
pub(super) fn admit(seen: Position, first: Position, last: Position) -> Admission {
    if last <= seen {
        Admission::Known
    } else if first <= seen.next() {
        Admission::Next
    } else {
        Admission::Gap
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_admits_exactly_what_continues_the_log() {
        let admit = |seen, first, last| admit(Position::new(seen), Position::new(first), Position::new(last));
        assert_eq!(admit(0, 1, 1), Admission::Next);
        assert_eq!(admit(0, 2, 2), Admission::Gap);
        assert_eq!(admit(5, 1, 5), Admission::Known);
        assert_eq!(admit(5, 3, 6), Admission::Next);
        assert_eq!(admit(5, 6, 9), Admission::Next);
        assert_eq!(admit(5, 7, 9), Admission::Gap);
    }
}
