//! Compares the seals of a log with its events.

use std::collections::VecDeque;

use crate::error::Result;
use crate::id::Position;
use crate::operate::verify::found::Found;
use crate::store::log::fault::{Fault, FaultId};
use crate::store::log::inspect::Inspect;
use crate::store::log::seal::{Seal, SealDigest, Sealer};
use crate::store::log::stored_row::StoredRow;

/// The most seals that are read at once.
const PAGE_SEALS: usize = 256;

/// The seals that the verification has reached.
pub(super) struct Seals {
    /// The seals that are read and not compared, in log order.
    waiting: VecDeque<Seal>,
    /// The digest of the first of them, once the verification is in its range.
    open: Option<Sealer>,
    /// The end of the last seal that was read, and its digest if it is known.
    before: (Position, Option<SealDigest>),
    is_read: bool,
    /// Whether the store keeps seals.
    pub(super) are_kept: bool,
    /// The range of the compared seals.
    pub(super) compared: Option<(Position, Position)>,
    /// The number of compared seals.
    pub(super) count: u64,
}

impl Seals {
    pub(super) fn after(position: Position) -> Self {
        let digest = (position == Position::ZERO).then_some(SealDigest::NONE);
        Self {
            waiting: VecDeque::new(),
            open: None,
            before: (position, digest),
            is_read: false,
            are_kept: true,
            compared: None,
            count: 0,
        }
    }

    /// Reads the seals up to `position`.
    pub(super) async fn read_to(
        &mut self,
        log: &(impl Inspect + ?Sized),
        position: Position,
        found: &mut Found,
    ) -> Result<()> {
        while !self.is_read && self.waiting.back().is_none_or(|last| last.last < position) {
            let Some(seals) = log.seals(self.before.0, PAGE_SEALS).await? else {
                (self.are_kept, self.is_read) = (false, true);
                return Ok(());
            };
            self.is_read = seals.len() < PAGE_SEALS;
            for seal in seals {
                self.link(seal, found);
            }
        }
        Ok(())
    }

    /// Adds a seal after comparing it with the one before.
    fn link(&mut self, seal: Seal, found: &mut Found) {
        let (end, digest) = self.before;
        self.before = (seal.last.max(end), Some(seal.digest));
        if digest.is_none() && seal.first <= end {
            // The verification begins in the middle of this seal.
            return;
        }
        // A verification that begins in the middle of the log does not know the seal before.
        if digest.is_some() && seal.first != end.next() {
            let detail = format!("the seal before ends at {end}, this one begins at {}", seal.first);
            found.add(Fault::new(FaultId::SealGap, detail).with_positions(seal.first, seal.last));
        } else if digest.is_some_and(|digest| digest != seal.previous) {
            let detail = "the seal is not over the digest of the one before";
            found.add(Fault::new(FaultId::SealChain, detail).with_positions(seal.first, seal.last));
        }
        self.waiting.push_back(seal);
    }

    /// Adds an event to its seal, and compares the seals before it.
    pub(super) fn add(&mut self, position: Position, event: &StoredRow, found: &mut Found) {
        self.compare_before(position, found);
        let Some(seal) = self.waiting.front().filter(|seal| seal.first <= position) else { return };
        let begin = || Sealer::begin(seal.previous, seal.first, seal.last);
        self.open.get_or_insert_with(begin).add(position, event);
    }

    /// Returns the position after which a later verification continues, so that it sees the open seal whole.
    pub(super) fn resumes_after(&self, through: Position) -> Position {
        let open = self.waiting.front().filter(|seal| seal.first <= through && seal.last > through);
        open.map_or(through, |seal| Position::new(seal.first.get() - 1))
    }

    /// Compares the seals up to the end of the log.
    pub(super) fn end(&mut self, head: Position, found: &mut Found) {
        self.compare_before(head.next(), found);
        for seal in self.waiting.drain(..) {
            let detail = format!("the log ends at {head}, the seal at {}", seal.last);
            found.add(Fault::new(FaultId::SealAhead, detail).with_positions(seal.first, seal.last));
        }
    }

    fn compare_before(&mut self, position: Position, found: &mut Found) {
        while self.waiting.front().is_some_and(|seal| seal.last < position) {
            let Some(seal) = self.waiting.pop_front() else { return };
            let sealer = self.open.take().unwrap_or_else(|| Sealer::begin(seal.previous, seal.first, seal.last));
            if sealer.end() != seal.digest {
                let detail = "the events are not those that were sealed";
                found.add(Fault::new(FaultId::SealMismatch, detail).with_positions(seal.first, seal.last));
            }
            let first = self.compared.map_or(seal.first, |(first, _)| first);
            self.compared = Some((first, seal.last));
            self.count += 1;
        }
    }
}
