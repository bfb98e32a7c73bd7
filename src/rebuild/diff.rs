//! Compares two generations row by row.

use std::cmp::Ordering;
use std::collections::VecDeque;

use serde_json::Value;

use crate::error::Result;
use crate::id::{Generation, Position, ViewKey};
use crate::rebuild::job::Job;
use crate::store::model::views::{ViewId, ViewPage, ViewRow, ViewStore};
use crate::view::View;

/// Rows per page.
const PAGE_ROWS: usize = 1_000;

/// The differences between the built generation and the live one.
///
/// States are compared as JSON regardless of field order, and so are the fields that rows are found by. Rows with an event beyond the
/// smaller of the two checkpoints are left out, since one generation may not have that event yet. A row that such an event has deleted
/// counts as a difference.
///
/// # Examples
/// ```
/// use retell::rebuild::Diff;
///
/// /// Decides whether a deployment may switch to the new generation, and logs the rows that differ.
/// fn may_switch(diff: &Diff) -> bool {
///     for difference in &diff.differences {
///         println!("{}: live {:?}, built {:?}", difference.key, difference.live, difference.built);
///     }
///     diff.different == 0
/// }
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Diff {
    /// The live generation.
    pub live: Generation,
    /// Number of keys whose rows are equal.
    pub same: u64,
    /// Number of keys whose rows differ.
    pub different: u64,
    /// Number of keys that were left out.
    pub unsettled: u64,
    /// The first differences, in key order.
    pub differences: Vec<Difference>,
}

/// A key whose rows differ.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Difference {
    /// The key.
    pub key: ViewKey,
    /// The row that readers see, if any.
    pub live: Option<ViewRow>,
    /// The row that was built, if any.
    pub built: Option<ViewRow>,
}

impl Diff {
    pub(super) async fn of<V: View, M: ViewStore + Clone>(job: &Job<V, M>, limit: usize) -> Result<Self> {
        let (live, built) = (job.live().await?, job.id()?);
        let settled = {
            let live = job.models.mark(live.projection()).await?.position;
            live.min(job.models.mark(built.projection()).await?.position)
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

/// Returns the rows of the next key, or `None` at the end.
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

/// Reads a generation's rows page by page.
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
