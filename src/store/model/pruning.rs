//! The rows of inboxes that a read model deletes for an operator, and the rule by which it refuses.

use crate::error::{ErrorKind, Result};
use crate::id::mark::Mark;
use crate::id::{EventId, Position, ProjectionName};
use crate::store::model::interventions::{Action, AuditEntry, By};

/// The place after which a reaction starts.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReactionStart {
    /// The reaction.
    pub reaction: ProjectionName,
    /// It handles no event up to this place, even if its checkpoint is set back.
    pub begins_after: Mark,
}

impl ReactionStart {
    /// Creates the start of `reaction`.
    pub fn new(reaction: ProjectionName, begins_after: Mark) -> Self {
        Self { reaction, begins_after }
    }
}

/// The rows of an inbox that [`ReadModel::prune_inbox`](crate::ReadModel::prune_inbox) deletes.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct InboxPruning {
    /// The reaction.
    pub reaction: ProjectionName,
    /// The place that the reaction starts after from now on. No event of `events` is after it.
    pub through: Mark,
    /// The events whose rows are deleted.
    pub events: Vec<EventId>,
    /// The operator, for the record.
    pub by: By,
}

impl InboxPruning {
    /// Creates the deletion of the rows of `events`, which are at `through` or before.
    pub fn new(reaction: ProjectionName, through: Mark, events: Vec<EventId>, by: By) -> Self {
        Self { reaction, through, events, by }
    }

    /// Checks that the reaction has handled every event up to [`through`](Self::through): its checkpoint is there or later, and no aggregate is
    /// parked from an earlier event. A read model calls this in the transaction that deletes the rows, while it holds the checkpoint.
    ///
    /// # Errors
    /// [`ErrorKind::Unsafe`] if the reaction still needs the rows.
    pub fn check(&self, checkpoint: Position, first_parked: Option<Position>) -> Result<()> {
        let (reaction, through) = (&self.reaction, self.through.position);
        let problem = match first_parked.filter(|parked| *parked <= through) {
            _ if checkpoint < through => format!("its checkpoint is at {checkpoint}"),
            Some(parked) => format!("it has parked an aggregate from position {parked}"),
            None => return Ok(()),
        };
        let problem = format!("the inbox of {reaction} is needed before position {through}: {problem}");
        Err(ErrorKind::Unsafe(problem).into())
    }

    /// Returns the record of `rows` deleted rows.
    pub fn entry(&self, rows: u64) -> AuditEntry {
        let target = format!("{} {}", self.reaction, self.through.position);
        AuditEntry::new(Action::PruneInbox, target, &self.by).with_count(rows)
    }
}
