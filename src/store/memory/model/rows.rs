//! The rows of views in memory.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::id::{Generation, ProjectionName, ViewKey};
use crate::store::memory::model::layered::Layered;
use crate::store::model::views::{Changes, ViewId, ViewPage, ViewRow};

/// The rows of all generations of all views.
#[derive(Debug, Default)]
pub(crate) struct Generations {
    pub(crate) rows: BTreeMap<ViewId, Rows>,
    pub(crate) live: BTreeMap<ProjectionName, Generation>,
}

/// The rows of one generation by key, and the index of their fields: field, value, key.
///
/// A clone is cheap for any number of rows, and later changes do not affect it. A transaction changes a clone, so readers see the rows of
/// one commit.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rows {
    pub(crate) by_key: Layered<String, Arc<ViewRow>>,
    pub(crate) entries: Layered<(String, String, String), ()>,
}

impl Generations {
    /// Returns the generation that readers see.
    pub(crate) fn live(&self, view: &ProjectionName) -> Generation {
        self.live.get(view).copied().unwrap_or(ViewId::FIRST)
    }

    /// Returns the rows of one generation.
    pub(crate) fn of(&self, view: &ViewId) -> Rows {
        self.rows.get(view).cloned().unwrap_or_default()
    }
}

impl Rows {
    pub(crate) fn save(&mut self, changes: &Changes<'_>) {
        let key = |row: &ViewRow| row.key.as_str().to_owned();
        let kept = changes.kept.iter().map(|row| (key(row), Some(Arc::new((*row).clone()))));
        let removed = changes.removed.iter().map(|row| (key(row), None));
        self.by_key.change(kept.chain(removed).collect());
        let lost = changes.lost.iter().map(|entry| (entry, None));
        let won = changes.won.iter().map(|entry| (entry, Some(())));
        let entry = |(field, value, key): (&str, &str, &ViewKey)| (field.into(), value.into(), key.as_str().into());
        self.entries.change(lost.chain(won).map(|(&lost_or_won, there)| (entry(lost_or_won), there)).collect());
    }

    pub(crate) fn page(&self, page: &ViewPage) -> Vec<ViewRow> {
        let after = page.after_key().to_owned();
        let Some((field, value)) = &page.of else {
            return self.by_key.after(after).take(page.limit).map(|(_, row)| ViewRow::clone(row)).collect();
        };
        let entries = self.entries.after((field.clone(), value.clone(), after));
        let keys = entries.take_while(|((f, v, _), ())| (f, v) == (field, value)).map(|((.., key), ())| key);
        keys.filter_map(|key| self.by_key.get(key)).take(page.limit).map(|row| ViewRow::clone(row)).collect()
    }
}
