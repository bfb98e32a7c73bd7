//! The changes that operators make to a projection, and their records.

use crate::error::Result;
use crate::id::{ProjectionName, StreamId};
use crate::store::memory::audit::add;
use crate::store::memory::model::committed::Tables;
use crate::store::model::checkpoint::ProjectionState;
use crate::store::model::interventions::{AuditEntry, By, Intervention, check_pausable};
use crate::store::model::parking::Parked;
use crate::store::model::skipped::Skipped;

impl Tables {
    pub(crate) fn intervene(
        &mut self,
        projection: &ProjectionName,
        intervention: &Intervention,
        by: &By,
    ) -> Result<bool> {
        let is_changed = self.change(projection, intervention, by)?;
        if is_changed {
            if intervention.counts() {
                self.count_change(projection);
            }
            add(&mut self.audit, AuditEntry::new(intervention.action(), intervention.target(projection), by));
        }
        Ok(is_changed)
    }

    fn change(&mut self, projection: &ProjectionName, intervention: &Intervention, by: &By) -> Result<bool> {
        Ok(match intervention {
            Intervention::Pause | Intervention::Retire => {
                let is_inline = self.inline.contains(projection);
                check_pausable(projection, if is_inline { ProjectionState::Inline } else { ProjectionState::Running })?;
                let begun = intervention.pause_after(self.pauses.get(projection), by);
                let is_new = begun.is_some();
                self.pauses.extend(begun.map(|pause| (projection.clone(), pause)));
                is_new
            }
            Intervention::Resume => self.pauses.remove(projection).is_some(),
            Intervention::RetryParked(stream) => self.revive(projection, stream),
            Intervention::SkipParked { stream, version, event_id } => {
                let parked = self.parked(projection, stream).cloned();
                let skipped = Skipped::of(projection, (stream, *version, *event_id), parked, by)?;
                let is_new = !skipped.is_last_of(&self.skipped(projection, Some(stream), usize::MAX));
                if is_new {
                    self.skipped.push(skipped);
                }
                self.revive(projection, stream);
                is_new
            }
            Intervention::WithdrawSkip { stream, version } => {
                let rows = self.skipped(projection, Some(stream), usize::MAX);
                let last = rows.into_iter().rev().find(|row| row.version == *version);
                let withdrawn = last.and_then(|last| last.withdraw(projection, by));
                let is_changed = withdrawn.is_some();
                self.skipped.extend(withdrawn);
                is_changed
            }
            Intervention::ForgetProcessor(processor) => {
                let own = self.processors.entry(projection.clone()).or_default();
                let before = own.len();
                own.retain(|known| known.filter != processor.filter);
                own.len() < before
            }
        })
    }

    fn parked(&self, projection: &ProjectionName, stream: &StreamId) -> Option<&Parked> {
        self.parking.get(projection)?.parked.iter().find(|parked| parked.stream == *stream)
    }

    /// Makes a parked aggregate due. Returns whether it is parked.
    pub(crate) fn revive(&mut self, projection: &ProjectionName, stream: &StreamId) -> bool {
        let mut parked = self.parking.get_mut(projection).into_iter().flat_map(|parking| &mut parking.parked);
        parked.find(|parked| parked.stream == *stream).map(Parked::revive).is_some()
    }

    pub(crate) fn skipped(&self, projection: &ProjectionName, stream: Option<&StreamId>, limit: usize) -> Vec<Skipped> {
        let name = Skipped::shared_name(projection);
        let own = self.skipped.iter().filter(|row| Skipped::shared_name(&row.projection) == name);
        own.filter(|row| stream.is_none_or(|stream| row.stream == *stream)).take(limit).cloned().collect()
    }
}
