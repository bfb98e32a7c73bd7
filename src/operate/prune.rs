//! Deletes rows that nothing needs any more, from tables that only grow.

pub(super) mod pruned;

use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};

use crate::error::{ErrorKind, Result};
use crate::event::part_id;
use crate::id::mark::Mark;
use crate::id::{EventId, Position, ProjectionName};
use crate::operate::prune::pruned::{Holder, PruneOptions, PruneTarget, Pruned, PrunedPart};
use crate::operate::report::MAX_PROCESSORS;
use crate::store::log::inspect::Inspect;
use crate::store::log::keys::after_processes;
use crate::store::log::query::{Filter, Query};
use crate::store::log::reader::{EventReader, EventReaderExt};
use crate::store::model::interventions::{Action, AuditEntry, By};
use crate::store::model::pruning::{InboxPruning, ReactionStart};
use crate::store::model::read_model::ReadModel;

/// The smallest age of idempotency keys that [`prune`] accepts: a day.
pub const MIN_KEY_AGE: Duration = Duration::from_hours(24);

/// The rows of one transaction.
const BATCH: usize = 5_000;

/// The events that are read at once.
const PAGE: usize = 1_000;

/// Deletes old rows, and records it. At most [`PruneOptions::limit`] rows in a call, in short transactions: the call may be stopped at any time, and
/// repeated.
///
/// | target | what is deleted | what stays |
/// |---|---|---|
/// | [`Keys`](PruneTarget::Keys) | the keys of appends that are older than the age. **A retry that comes later appends again**, so the age must be longer than any retry | keys of processes, and keys after the place of a reaction that is behind or has parked an aggregate: it may append under a key |
/// | [`Inbox`](PruneTarget::Inbox) | the rows of handled events. The reaction then starts after them, so it handles none of them again, whatever its checkpoint | rows after its checkpoint, or after the first event of a parked aggregate |
/// | [`Commits`](PruneTarget::Commits) | rows that only the sequencer reads, once | the commits without a position |
///
/// An event is old if it and every event before it were recorded before the age.
///
/// A [retired](super::retire) reaction holds no keys back. If an operator resumes it, it may append again for an event that it was handling when
/// it was retired. Its inbox keeps its rows as any other, so that it handles no event again.
///
/// # Examples
/// ```
/// use std::time::Duration;
///
/// use retell::operate::{self, PruneOptions, PruneTarget};
/// use retell::prelude::*;
/// use retell::store::By;
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let log = MemoryStore::new();
/// let month = PruneOptions::older_than(Duration::from_hours(30 * 24));
/// let by = By::new("ada", "weekly");
/// let pruned = operate::prune(&log, &log.read_model(), PruneTarget::Keys, &month, &by).await?;
/// assert!(pruned.rows() == 0 && pruned.is_complete);
///
/// let hour = PruneOptions::older_than(Duration::from_hours(1));
/// let refused = operate::prune(&log, &log.read_model(), PruneTarget::Keys, &hour, &by).await;
/// assert!(matches!(refused.unwrap_err().kind(), retell::ErrorKind::Unsafe(_)));
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
///
/// # Errors
/// - [`ErrorKind::Unsafe`] if keys are to go before [`MIN_KEY_AGE`], or if a reaction needs rows again since the call began
/// - [`ErrorKind::Invalid`] if the store does not have such rows, or cannot tell which reactions need them
/// - otherwise a [write error](crate::Error#write-errors)
///
/// # Cancel safety
/// A dropped call may have deleted rows. The record is never missing: of keys and commits it is written first, and may count rows that a stopped
/// call has kept.
pub async fn prune<L, M>(log: &L, models: &M, target: PruneTarget, options: &PruneOptions, by: &By) -> Result<Pruned>
where
    L: Inspect + ?Sized,
    M: ReadModel + ?Sized,
{
    by.check()?;
    run(log, models, target, options, Some(by)).await
}

/// Returns what [`prune`] would delete, and changes nothing.
///
/// # Errors
/// The errors of [`prune`].
pub async fn prunable<L, M>(log: &L, models: &M, target: PruneTarget, options: &PruneOptions) -> Result<Pruned>
where
    L: Inspect + ?Sized,
    M: ReadModel + ?Sized,
{
    run(log, models, target, options, None).await
}

async fn run<L, M>(log: &L, models: &M, target: PruneTarget, options: &PruneOptions, by: Option<&By>) -> Result<Pruned>
where
    L: Inspect + ?Sized,
    M: ReadModel + ?Sized,
{
    let now = Utc::now().trunc_subsecs(6);
    // A longer age than the calendar has leaves everything.
    let age = chrono::TimeDelta::from_std(options.age).ok();
    let before = age.and_then(|age| now.checked_sub_signed(age)).unwrap_or(DateTime::<Utc>::MIN_UTC);
    let mut pruning = Pruning { log, models, options, by, before, left: options.limit, is_complete: true };
    let parts = match target {
        PruneTarget::Keys if options.age < MIN_KEY_AGE => {
            let problem = "keys that are younger than a day stay, because a retry under a deleted key appends again";
            return Err(ErrorKind::Unsafe(problem.into()).into());
        }
        PruneTarget::Keys => vec![pruning.keys().await?],
        PruneTarget::Inbox => pruning.inboxes().await?,
        PruneTarget::Commits => vec![pruning.commits().await?],
    };
    Ok(Pruned { target, before, parts, is_complete: pruning.is_complete })
}

/// One call.
struct Pruning<'p, L: ?Sized, M: ?Sized> {
    log: &'p L,
    models: &'p M,
    options: &'p PruneOptions,
    /// `None` if nothing is deleted.
    by: Option<&'p By>,
    before: DateTime<Utc>,
    /// The rows that this call may still delete.
    left: u64,
    is_complete: bool,
}

impl<L: Inspect + ?Sized, M: ReadModel + ?Sized> Pruning<'_, L, M> {
    /// Returns whether the call continues. If not, it is not complete.
    fn continues(&mut self) -> bool {
        let continues = self.left > 0 && !self.options.stop.is_cancelled();
        self.is_complete &= continues;
        continues
    }

    fn batch(&self, most: usize) -> usize {
        usize::try_from(self.left).unwrap_or(most).min(most)
    }

    async fn record(&self, action: Action, target: String, rows: u64) -> Result<()> {
        match self.by {
            Some(by) if rows > 0 => self.models.record(&AuditEntry::new(action, target, by).with_count(rows)).await,
            _ => Ok(()),
        }
    }

    /// Finds the ranges of keys that may go, records them, and deletes them. Keys are found in the order of their bytes: an index by age would cost
    /// every append.
    async fn keys(&mut self) -> Result<PrunedPart> {
        let (through, held_by) = self.end_of_keys().await?;
        let (mut after, mut ranges, mut rows) = (String::new(), Vec::new(), 0);
        while self.continues() {
            let Some(page) = self.log.keys(&after, BATCH).await? else {
                let problem = "this store does not list its idempotency keys";
                return Err(ErrorKind::Invalid(problem.into()).into());
            };
            let may_go = page
                .iter()
                .filter(|row| !row.is_of_process() && row.position.is_some_and(|position| position <= through));
            let found: Vec<_> = may_go.take(self.batch(BATCH)).collect();
            let Some(last) = page.last() else { break };
            // If the limit cuts the page, the range ends with its last key.
            let last = found.last().filter(|_| found.len() as u64 == self.left).copied().unwrap_or(last);
            if !found.is_empty() {
                ranges.push((after, last.key.clone()));
            }
            (rows, self.left) = (rows + found.len() as u64, self.left - found.len() as u64);
            after = after_processes(&last.key);
        }
        if self.by.is_some() {
            self.record(Action::PruneKeys, format!("keys {through}"), rows).await?;
            rows = 0;
            for (after, last) in &ranges {
                if self.options.stop.is_cancelled() {
                    self.is_complete = false;
                    break;
                }
                rows += self.log.delete_keys(after, last, through).await?;
            }
        }
        Ok(PrunedPart { reaction: None, rows, through: Some(through), held_by })
    }

    /// Returns the last position whose keys may go.
    async fn end_of_keys(&self) -> Result<(Position, Option<Holder>)> {
        let old = last_before(self.log, self.before).await?;
        let mut held_by: Option<Holder> = None;
        for start in self.reactions().await? {
            // It is meant to append nothing again.
            if self.models.paused(&start.reaction).await?.is_some_and(|pause| pause.retired) {
                continue;
            }
            let holder = self.needs_after(&start).await?;
            let first = held_by.as_ref().map_or(old, |holder| holder.position);
            if holder.position < first {
                held_by = Some(holder);
            }
        }
        Ok((held_by.as_ref().map_or(old, |holder| holder.position), held_by))
    }

    async fn reactions(&self) -> Result<Vec<ReactionStart>> {
        let problem = match self.models.reactions(MAX_PROCESSORS + 1).await? {
            Some(starts) if starts.len() <= MAX_PROCESSORS => return Ok(starts),
            Some(_) => "there are too many reactions",
            None => "this read model does not list its reactions",
        };
        Err(ErrorKind::Invalid(problem.into()).into())
    }

    /// Returns the place after which a reaction needs its inbox, and may append.
    async fn needs_after(&self, start: &ReactionStart) -> Result<Holder> {
        let reaction = &start.reaction;
        let checkpoint = self.models.mark(reaction).await?.position.max(start.begins_after.position);
        let parked = self.models.parked(reaction, None, 1).await?;
        let parked = parked.first().map(|parked| Position::new(parked.from_position.get().saturating_sub(1)));
        let position = parked.map_or(checkpoint, |parked| parked.min(checkpoint));
        Ok(Holder { reaction: reaction.clone(), position, is_parked: parked.is_some_and(|parked| parked < checkpoint) })
    }

    async fn inboxes(&mut self) -> Result<Vec<PrunedPart>> {
        let mut parts = Vec::new();
        for start in self.reactions().await? {
            if !self.continues() {
                break;
            }
            parts.push(self.inbox(&start).await?);
        }
        Ok(parts)
    }

    /// Follows the log from the start of a reaction, and deletes the rows of its events. So there is no need for an index by age, and what is
    /// deleted is exactly what the new start stands for.
    async fn inbox(&mut self, start: &ReactionStart) -> Result<PrunedPart> {
        let holder = self.needs_after(start).await?;
        let (mut at, mut rows, mut is_held, all) = (start.begins_after, 0, false, Filter::all());
        while self.continues() {
            let (mut through, mut events) = (at, Vec::new());
            let mut is_last = false;
            while !is_last && events.len() < self.batch(BATCH) {
                let page = self.log.read_all(through, self.batch(PAGE), &all).await?;
                is_last = page.events.is_empty();
                for event in page.events {
                    is_held = event.recorded_at < self.before && event.position > holder.position;
                    is_last = event.recorded_at >= self.before || is_held;
                    if is_last {
                        break;
                    }
                    through = event.mark();
                    events.push(event.event.id);
                }
            }
            self.left = self.left.saturating_sub(events.len() as u64);
            if !events.is_empty() {
                rows += self.rows_of(&start.reaction, through, events).await?;
                at = through;
            }
            if is_last {
                break;
            }
        }
        let held_by = is_held.then_some(holder);
        Ok(PrunedPart { reaction: Some(start.reaction.clone()), rows, through: Some(at.position), held_by })
    }

    /// Deletes or counts the rows of events and of their parts.
    async fn rows_of(&self, reaction: &ProjectionName, through: Mark, events: Vec<EventId>) -> Result<u64> {
        let (mut rows, mut part, mut ids) = (0, 0, events.clone());
        loop {
            let found = match self.by {
                Some(by) => {
                    let pruning = InboxPruning::new(reaction.clone(), through, ids, by.clone());
                    self.models.prune_inbox(&pruning).await?
                }
                None => self.models.count_handled(reaction, &ids).await?,
            };
            if found == 0 {
                return Ok(rows);
            }
            (rows, part) = (rows + found, part + 1);
            ids = events.iter().map(|event| part_id(*event, part)).collect();
        }
    }

    async fn commits(&mut self) -> Result<PrunedPart> {
        let limit = usize::try_from(self.left).unwrap_or(usize::MAX);
        let Some(found) = self.log.old_commits(self.before, limit).await? else {
            let problem = "this store keeps no rows of commits that have positions: there is nothing to prune";
            return Err(ErrorKind::Invalid(problem.into()).into());
        };
        let mut rows = found;
        if self.by.is_some() {
            self.record(Action::PruneCommits, "commits".into(), found).await?;
            rows = 0;
            while rows < found && self.continues() {
                let deleted = self.log.delete_old_commits(self.before, self.batch(BATCH)).await?;
                (rows, self.left) = (rows + deleted, self.left.saturating_sub(deleted));
                if deleted == 0 {
                    break;
                }
            }
        }
        self.is_complete = rows >= found && found < self.options.limit;
        Ok(PrunedPart { reaction: None, rows, through: None, held_by: None })
    }
}

/// Returns the last position before the first event that was recorded after `time`.
async fn last_before<L: EventReader + ?Sized>(log: &L, time: DateTime<Utc>) -> Result<Position> {
    let later = log.read(Query::recorded_after(time).with_limit(1)).await?;
    match later.events.first() {
        Some(first) => Ok(Position::new(first.position.get().saturating_sub(1))),
        None => log.head().await,
    }
}
