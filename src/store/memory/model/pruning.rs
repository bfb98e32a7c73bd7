//! Deletes rows of inboxes in memory.

use crate::error::Result;
use crate::store::memory::audit::add;
use crate::store::memory::model::committed::Tables;
use crate::store::model::pruning::{InboxPruning, ReactionStart};

impl Tables {
    /// Returns the first `limit` reactions by name.
    pub(crate) fn reactions(&self, limit: usize) -> Vec<ReactionStart> {
        let mut starts: Vec<_> =
            self.starts.iter().map(|(reaction, start)| ReactionStart::new(reaction.clone(), *start)).collect();
        starts.sort_unstable_by(|one, other| one.reaction.cmp(&other.reaction));
        starts.truncate(limit);
        starts
    }

    pub(crate) fn prune_inbox(&mut self, pruning: &InboxPruning) -> Result<u64> {
        let reaction = &pruning.reaction;
        let start = self.starts.get(reaction).copied().unwrap_or_default();
        let parked = self.parking.get(reaction).into_iter().flat_map(|parking| &parking.parked);
        let first_parked = parked.map(|parked| parked.from_position).min();
        pruning.check(self.checkpoint(reaction).position.max(start.position), first_parked)?;
        let deleted = pruning.events.iter().filter(|event| self.handled.remove(&(reaction.clone(), **event)));
        let rows = deleted.count() as u64;
        if start.position < pruning.through.position {
            self.starts.insert(reaction.clone(), pruning.through);
        }
        if rows > 0 {
            add(&mut self.audit, pruning.entry(rows));
        }
        Ok(rows)
    }
}
