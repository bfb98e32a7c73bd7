//! Two generations, row by row.

use std::cmp::Ordering;
use std::collections::VecDeque;

use serde_json::Value;

use crate::error::Result;
use crate::id::{Generation, Position, ViewKey};
use crate::rebuild::job::Job;
use crate::store::model::views::{ViewId, ViewPage, ViewRow, ViewStore};
use crate::view::View;

/// Rows that are read at once.
const PAGE_ROWS: usize = 1_000;

/// How the generation that is built differs from the one that readers see.
///
/// States are compared as JSON, whatever the order of their fields, and so is what rows are found by. While events come, rows are left out
/// that have one beyond the smaller of the two checkpoints: what one generation has and the other does not yet have is no difference.
/// A row that such an event has taken away counts as one.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Diff {
    /// The generation that readers see.
    pub live: Generation,
    /// How many keys are the same in both.
    pub same: u64,
    /// How many keys differ.
    pub different: u64,
    /// How many keys were left out.
    pub unsettled: u64,
    /// The first of those that differ, in the order of their keys.
    pub differences: Vec<Difference>,
}

/// A key whose rows differ.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Difference {
    /// Which key.
    pub key: ViewKey,
    /// What readers see; `None` if there is nothing.
    pub live: Option<ViewRow>,
    /// What was built; `None` if there is nothing.
    pub built: Option<ViewRow>,
}

impl Diff {
    pub(super) async fn of<V: View, M: ViewStore + Clone>(job: &Job<V, M>, limit: usize) -> Result<Self> {
        let (live, built) = (job.live().await?, job.id()?);
        let settled = {
            let live = job.models.checkpoint(live.projection()).await?;
            live.min(job.models.checkpoint(built.projection()).await?)
        };
        let mut diff = Self { live: live.generation(), same: 0, different: 0, unsettled: 0, differences: Vec::new() };
        let (mut live, mut built) = (Rows::of(live), Rows::of(built));
        while let Some(difference) = next(&job.models, &mut live, &mut built).await? {
            diff.count(difference, settled, limit);
        }
        Ok(diff)
    }

    fn count(&mut self, difference: Difference, settled: Position, limit: usize) {
        let mut rows = difference.live.iter().chain(&difference.built);
        if rows.any(|row| row.position > settled) {
            self.unsettled += 1;
        } else if difference.is_none() {
            self.same += 1;
        } else {
            self.different += 1;
            if self.differences.len() < limit {
                self.differences.push(difference);
            }
        }
    }
}

impl Difference {
    fn is_none(&self) -> bool {
        let (Some(live), Some(built)) = (&self.live, &self.built) else { return false };
        live.fields == built.fields && (live.state == built.state || json(live) == json(built))
    }
}

fn json(row: &ViewRow) -> Option<Value> {
    serde_json::from_str(row.state.as_deref()?).ok()
}

/// The rows of the next key.
async fn next(models: &impl ViewStore, live: &mut Rows, built: &mut Rows) -> Result<Option<Difference>> {
    live.fill(models).await?;
    built.fill(models).await?;
    let order = match (live.page.front(), built.page.front()) {
        (None, None) => return Ok(None),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (Some(live), Some(built)) => live.key.cmp(&built.key),
    };
    let live = live.page.pop_front_if(|_| order.is_le());
    let built = built.page.pop_front_if(|_| order.is_ge());
    let key = live.as_ref().or(built.as_ref()).map(|row| row.key.clone());
    Ok(key.map(|key| Difference { key, live, built }))
}

/// A generation's rows, a page at a time.
struct Rows {
    id: ViewId,
    page: VecDeque<ViewRow>,
    after: Option<ViewKey>,
    is_at_end: bool,
}

impl Rows {
    fn of(id: ViewId) -> Self {
        Self { id, page: VecDeque::new(), after: None, is_at_end: false }
    }

    async fn fill(&mut self, models: &impl ViewStore) -> Result<()> {
        if self.page.is_empty() && !self.is_at_end {
            let page = ViewPage { of: None, after: self.after.take(), limit: PAGE_ROWS };
            let rows = models.page(self.id.view(), Some(self.id.generation()), &page).await?;
            self.is_at_end = rows.len() < PAGE_ROWS;
            self.after = rows.last().map(|row| row.key.clone());
            self.page = rows.into();
        }
        Ok(())
    }
}
