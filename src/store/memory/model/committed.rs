//! The committed state of a read model in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use uuid::Uuid;

use crate::error::Result;
use crate::id::mark::Mark;
use crate::id::{EventId, ProjectionName, StreamId};
use crate::store::memory::model::rows::Generations;
use crate::store::memory::model::transaction::Staged;
use crate::store::model::checkpoint::ProjectionStatus;
use crate::store::model::deadlines::{Deadline, DeadlineChange, parts};
use crate::store::model::interventions::{AuditEntry, Pause};
use crate::store::model::parking::{Parking, ParkingChange, Step};
use crate::store::model::processors::RegisteredProcessor;
use crate::store::model::progress::{Row, in_aggregate_order};
use crate::store::model::skipped::Skipped;
use crate::store::size::{RowCount, TableSize};

/// The committed state. One lock guards all of it, so readers see the value and the tables of the same commit.
#[derive(Debug, Default)]
pub(crate) struct Committed<T> {
    pub(crate) value: Arc<T>,
    pub(crate) tables: Tables,
}

/// The state of projections, views, reactions and process managers in a model, apart from the value.
#[derive(Debug, Default)]
pub(crate) struct Tables {
    pub(crate) checkpoints: HashMap<ProjectionName, Mark>,
    pub(crate) parking: HashMap<ProjectionName, Parking>,
    /// The registered releases of each projection, the newest last.
    pub(crate) processors: HashMap<ProjectionName, Vec<RegisteredProcessor>>,
    /// The projections that operators have paused.
    pub(crate) pauses: HashMap<ProjectionName, Pause>,
    /// The events that operators have skipped, and the withdrawals, the oldest first.
    pub(crate) skipped: Vec<Skipped>,
    /// The records of interventions, the oldest first.
    pub(crate) audit: Vec<AuditEntry>,
    /// The projections whose checkpoints appends have moved last, and no worker.
    pub(crate) inline: HashSet<ProjectionName>,
    /// The progress rows of the projections with per-aggregate order.
    pub(crate) progress: HashMap<ProjectionName, HashMap<StreamId, Row>>,
    /// The inboxes of all reactions.
    pub(crate) handled: HashSet<(ProjectionName, EventId)>,
    /// The place after which each reaction starts.
    pub(crate) starts: HashMap<ProjectionName, Mark>,
    pub(crate) views: Generations,
    /// The deadlines of each process manager.
    pub(crate) deadlines: HashMap<ProjectionName, BTreeMap<Uuid, Deadline>>,
}

impl<T> Committed<T> {
    pub(crate) fn commit(&mut self, value: T, staged: Staged) {
        self.value = Arc::new(value);
        self.tables.commit(staged);
    }
}

impl Tables {
    /// Refuses a step that does not start at the checkpoint of its projection.
    pub(crate) fn check(&self, step: &Step) -> Result<()> {
        if self.progress.contains_key(&step.projection) {
            return Err(in_aggregate_order(&step.projection));
        }
        let actual = self.checkpoint(&step.projection);
        let begins_here = step.from.is_at(actual) && self.changes(&step.projection) == step.changes;
        if begins_here { Ok(()) } else { Err(step.moved(actual.position)) }
    }

    pub(crate) fn changes(&self, projection: &ProjectionName) -> u64 {
        self.parking.get(projection).map_or(0, |parking| parking.changes)
    }

    /// Refuses a transaction that does not name the count of changes, if the projection is paused.
    pub(crate) fn refuse_if_paused(&self, projection: &ProjectionName) -> Result<()> {
        self.pauses.get(projection).map_or(Ok(()), |pause| Err(pause.clone().refuse(projection)))
    }

    /// Counts a change of the registered processors, or of an operator.
    pub(crate) fn count_change(&mut self, projection: &ProjectionName) {
        self.checkpoints.entry(projection.clone()).or_default();
        self.parking.entry(projection.clone()).or_default().changes += 1;
    }

    pub(crate) fn checkpoint(&self, projection: &ProjectionName) -> Mark {
        self.checkpoints.get(projection).copied().unwrap_or_default()
    }

    /// Returns the names of all projections that have run, sorted.
    pub(crate) fn names(&self) -> Vec<ProjectionName> {
        let names: BTreeSet<_> =
            self.checkpoints.keys().chain(self.progress.keys()).chain(self.starts.keys()).collect();
        names.into_iter().cloned().collect()
    }

    /// Returns the first `limit` projections by name that have a checkpoint.
    pub(crate) fn projections(&self, limit: usize) -> Vec<ProjectionStatus> {
        let names: BTreeSet<_> = self.checkpoints.keys().chain(self.progress.keys()).collect();
        let status = |name: &ProjectionName| {
            ProjectionStatus::new(name.clone(), self.checkpoint(name))
                .with_per_aggregate(self.progress.contains_key(name))
        };
        names.into_iter().take(limit).map(status).collect()
    }

    /// Returns the number of rows of each table.
    pub(crate) fn sizes(&self) -> Vec<TableSize> {
        let parked = self.parking.values().map(|parking| parking.parked.len()).sum();
        let tables = [
            ("audit", self.audit.len()),
            ("checkpoints", self.checkpoints.len()),
            ("deadlines", self.deadlines.values().map(BTreeMap::len).sum()),
            ("inbox", self.handled.len()),
            ("parked", parked),
            ("processors", self.processors.values().map(Vec::len).sum()),
            ("progress", self.progress.values().map(HashMap::len).sum()),
            ("reactions", self.starts.len()),
            ("skipped", self.skipped.len()),
            ("views", self.views.rows.len()),
        ];
        tables.map(|(table, rows)| TableSize::new(table, rows as u64, RowCount::Exact, None)).into()
    }

    /// Deletes every trace of a projection.
    pub(crate) fn forget(&mut self, projection: &ProjectionName) {
        self.checkpoints.remove(projection);
        self.parking.remove(projection);
        self.processors.remove(projection);
        self.pauses.remove(projection);
        self.progress.remove(projection);
    }

    /// Moves a projection to `to` and forgets its parked aggregates and its progress.
    pub(crate) fn reset(&mut self, projection: &ProjectionName, to: Mark) {
        self.checkpoints.insert(projection.clone(), to);
        let parking = self.parking.entry(projection.clone()).or_default();
        (parking.changes, parking.parked) = (parking.changes + 1, Vec::new());
        if let Some(rows) = self.progress.get_mut(projection) {
            rows.clear();
        }
        if let Some(start) = self.starts.get_mut(projection).filter(|_| to != Mark::START) {
            *start = to;
        }
    }

    /// Moves the checkpoint and changes the parked aggregates as `step` says.
    pub(crate) fn take(&mut self, step: Step) {
        let changes = step.changes_after();
        self.park(&step.projection, step.parking).changes = changes;
        self.inline.remove(&step.projection);
        self.checkpoints.insert(step.projection, step.to);
    }

    pub(crate) fn park(&mut self, projection: &ProjectionName, changes: Vec<ParkingChange>) -> &mut Parking {
        let parking = self.parking.entry(projection.clone()).or_default();
        for change in changes {
            let stream = change.stream().clone();
            parking.parked.retain(|parked| parked.stream != stream);
            if let ParkingChange::Park(parked) = change {
                parking.parked.push(parked);
            }
        }
        parking.parked.sort_by_key(|parked| parked.from_position);
        parking
    }

    fn commit(&mut self, staged: Staged) {
        self.views.rows.extend(staged.rows);
        self.handled.extend(staged.handled);
        for (process, changes) in staged.deadlines {
            self.change_deadlines(&process, &changes);
        }
    }

    pub(crate) fn change_deadlines(&mut self, process: &ProjectionName, changes: &[DeadlineChange]) {
        let (set, ended) = parts(changes);
        let own = self.deadlines.entry(process.clone()).or_default();
        for deadline in set {
            own.entry(deadline.id).or_insert_with(|| deadline.clone());
        }
        for id in ended {
            own.remove(&id);
        }
    }
}
