//! Views in memory.

use async_trait::async_trait;

use crate::error::Result;
use crate::id::{Generation, ProjectionName, ViewKey};
use crate::store::memory::audit::add;
use crate::store::memory::model::MemoryReadModel;
use crate::store::memory::model::rows::Rows;
use crate::store::model::interventions::{AuditEntry, By};
use crate::store::model::views::{Changes, GenerationStatus, Switch, ViewId, ViewPage, ViewRow, ViewStore, still_live};

impl<T> MemoryReadModel<T> {
    /// Returns the committed rows of `generation`, or of the live one if it is `None`.
    fn committed_rows(&self, view: &ProjectionName, generation: Option<Generation>) -> Result<Rows> {
        let tables = &self.read().tables;
        let generation = generation.unwrap_or_else(|| tables.views.live(view));
        Ok(tables.views.of(&ViewId::new(view.as_str(), generation)?))
    }
}

#[async_trait]
impl<T: Clone + Send + Sync + 'static> ViewStore for MemoryReadModel<T> {
    async fn load_rows(&self, _: &mut T, view: &ViewId, keys: &[ViewKey]) -> Result<Vec<ViewRow>> {
        let staged = self.transactions.staged("load_rows", |staged| staged.rows.get(view).cloned())?;
        let rows = staged.unwrap_or_else(|| self.read().tables.views.of(view));
        let row = |key: &ViewKey| rows.by_key.get(key.as_str()).map(|row| ViewRow::clone(row));
        Ok(keys.iter().map(|key| row(key).unwrap_or_else(|| ViewRow::empty(key.clone()))).collect())
    }

    async fn save_rows(&self, _: &mut T, view: &ViewId, before: &[ViewRow], after: &[ViewRow]) -> Result<()> {
        self.transactions.staged("save_rows", |staged| {
            let rows = staged.rows.entry(view.clone()).or_insert_with(|| self.read().tables.views.of(view));
            rows.save(&Changes::between(before, after));
        })
    }

    async fn clear_rows(&self, _: &mut T, view: &ViewId) -> Result<()> {
        self.transactions.staged("clear_rows", |staged| drop(staged.rows.insert(view.clone(), Rows::default())))
    }

    async fn promote(&self, view: &ViewId, when: Switch) -> Result<Generation> {
        self.promote_by(view, when, &By::program("no reason given")).await
    }

    async fn promote_by(&self, view: &ViewId, when: Switch, by: &By) -> Result<Generation> {
        by.check()?;
        let _transaction = self.transactions.begin("promote").await?;
        let tables = &mut self.write().tables;
        let live = ViewId::new(view.view().as_str(), tables.views.live(view.view()))?;
        let standing = |view: &ViewId| {
            let position = tables.checkpoint(view.projection()).position;
            GenerationStatus { position, ..GenerationStatus::default() }
        };
        when.check(view, standing(view), standing(&live))?;
        tables.views.live.insert(view.view().clone(), view.generation());
        if live != *view {
            add(&mut tables.audit, AuditEntry::switch(view.view(), live.generation(), view.generation(), by));
        }
        Ok(live.generation())
    }

    /// Deletes the whole generation at once, because that costs no more than deleting one row.
    async fn delete_generation(&self, view: &ViewId, rows: usize) -> Result<bool> {
        self.delete_generation_by(view, rows, &By::program("no reason given")).await
    }

    async fn delete_generation_by(&self, view: &ViewId, _: usize, by: &By) -> Result<bool> {
        by.check()?;
        let _transaction = self.transactions.begin("delete_generation").await?;
        let tables = &mut self.write().tables;
        if tables.views.live(view.view()) == view.generation() {
            return Err(still_live(view));
        }
        tables.views.rows.remove(view);
        tables.forget(view.projection());
        add(&mut tables.audit, AuditEntry::delete_generation(view.projection(), by));
        Ok(true)
    }

    async fn live_generation(&self, view: &ProjectionName) -> Result<Generation> {
        Ok(self.read().tables.views.live(view))
    }

    async fn rows(
        &self,
        view: &ProjectionName,
        generation: Option<Generation>,
        keys: &[ViewKey],
    ) -> Result<Vec<ViewRow>> {
        let rows = self.committed_rows(view, generation)?;
        let found = keys.iter().filter_map(|key| rows.by_key.get(key.as_str()));
        Ok(found.map(|row| ViewRow::clone(row)).collect())
    }

    async fn page(
        &self,
        view: &ProjectionName,
        generation: Option<Generation>,
        page: &ViewPage,
    ) -> Result<Vec<ViewRow>> {
        Ok(self.committed_rows(view, generation)?.page(page))
    }
}
