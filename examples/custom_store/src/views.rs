//! Views: rows, the index entries of their fields, and the generation that readers see.

use redb::WriteTransaction;
use retell::id::Generation;
use retell::store::driver::{self, Changes, Checkpoint, GenerationStatus};
use retell::store::{Fields, ProjectionState, Switch, ViewId, ViewPage, ViewRow, ViewStore};
use retell::{BoxError, Position, ProjectionName, Result, ViewKey, async_trait};

use crate::file::{classify, corrupt};
use crate::model::{RedbReadModel, checkpoint, forget, set_checkpoint};
use crate::rows::{Readable, Rows, Saved, key, number, rows};

/// `view`, view, generation, key -> state, fields, position. `entry`, view, generation, field, value, key -> nothing.
/// `live`, view -> the generation that readers see.
type Row = (Option<String>, Fields, Position);

#[async_trait]
impl ViewStore for RedbReadModel {
    async fn load_rows(&self, tx: &mut WriteTransaction, view: &ViewId, keys: &[ViewKey]) -> Result<Vec<ViewRow>> {
        let load = || {
            let (rows, prefix) = (rows(tx)?, of_generation("view", view.view(), view.generation()));
            let row = |key: &ViewKey| Ok(find(&rows, &prefix, key)?.unwrap_or_else(|| ViewRow::empty(key.clone())));
            keys.iter().map(row).collect::<Result<_, BoxError>>()
        };
        load().map_err(|error| classify("read a view's rows", error))
    }

    async fn save_rows(
        &self,
        tx: &mut WriteTransaction,
        view: &ViewId,
        before: &[ViewRow],
        after: &[ViewRow],
    ) -> Result<()> {
        save(tx, view, &Changes::between(before, after)).map_err(|error| classify("write a view's rows", error))
    }

    async fn clear_rows(&self, tx: &mut WriteTransaction, view: &ViewId) -> Result<()> {
        clear(tx, view, usize::MAX).map(drop).map_err(|error| classify("delete a view's rows", error))
    }

    async fn promote(&self, view: &ViewId, when: Switch) -> Result<Generation> {
        let view = view.clone();
        let promote = move |tx: &mut WriteTransaction| {
            let mut rows = rows(tx)?;
            let live = ViewId::new(view.view().as_str(), live(&rows, view.view())?)?;
            let standing = |view: &ViewId| {
                let checkpoint = checkpoint(&rows, view.projection())?;
                Ok::<_, BoxError>(GenerationStatus::new(checkpoint.mark.position, checkpoint.state))
            };
            when.check(&view, standing(&view)?, standing(&live)?)?;
            rows.put(&key!("live", view.view()), &view.generation())?;
            Ok(live.generation())
        };
        self.file.write("promote a view's generation", promote).await
    }

    async fn delete_generation(&self, view: &ViewId, limit: usize) -> Result<bool> {
        let view = view.clone();
        let delete = move |tx: &mut WriteTransaction| {
            if live(&rows(tx)?, view.view())? == view.generation() {
                return Err(driver::still_live(&view).into());
            }
            // From now on, no worker can continue from the generation's checkpoint.
            let deleting = Checkpoint::default().with_state(ProjectionState::Deleting);
            set_checkpoint(tx, view.projection(), deleting)?;
            let is_gone = clear(tx, &view, limit)?;
            if is_gone {
                rows(tx)?.clear(&key!("processor", view.projection()), usize::MAX)?;
                forget(tx, view.projection())?;
            }
            Ok(is_gone)
        };
        self.file.write("delete a view's generation", delete).await
    }

    async fn live_generation(&self, view: &ProjectionName) -> Result<Generation> {
        let view = view.clone();
        self.file.read("read a view's generation", move |rows| live(rows, &view)).await
    }

    async fn rows(
        &self,
        view: &ProjectionName,
        generation: Option<Generation>,
        keys: &[ViewKey],
    ) -> Result<Vec<ViewRow>> {
        let (view, keys) = (view.clone(), keys.to_vec());
        let read = move |rows: &Saved| {
            let prefix = of_generation("view", &view, generation.map_or_else(|| live(rows, &view), Ok)?);
            keys.iter().filter_map(|key| find(rows, &prefix, key).transpose()).collect()
        };
        self.file.read("read a view's rows", read).await
    }

    async fn page(
        &self,
        view: &ProjectionName,
        generation: Option<Generation>,
        page: &ViewPage,
    ) -> Result<Vec<ViewRow>> {
        let (view, page) = (view.clone(), page.clone());
        let read = move |rows: &Saved| {
            let generation = generation.map_or_else(|| live(rows, &view), Ok)?;
            let (prefix, after) =
                (of_generation("view", &view, generation), page.after.as_ref().map_or("", ViewKey::as_str));
            if let Some((field, value)) = &page.of {
                let entries = key!(of_generation("entry", &view, generation), field, value);
                let found = rows.below::<()>(&entries, after)?.map(|entry| find(rows, &prefix, &parse_key(&entry?.0)?));
                return found.filter_map(Result::transpose).take(page.limit).collect();
            }
            let found =
                rows.below(&prefix, after)?.map(|row| row.and_then(|(key, row)| Ok(parse(parse_key(&key)?, row))));
            found.take(page.limit).collect()
        };
        self.file.read("read a page of a view", read).await
    }
}

/// Returns the common prefix of the keys of a generation's rows.
fn of_generation(row: &str, view: &ProjectionName, generation: Generation) -> String {
    key!(row, view, number(generation.get()))
}

/// Returns the generation that readers see.
fn live(rows: &Rows<impl Readable>, view: &ProjectionName) -> Result<Generation, BoxError> {
    Ok(rows.get(&key!("live", view))?.unwrap_or(ViewId::FIRST))
}

fn find(rows: &Rows<impl Readable>, prefix: &str, key: &ViewKey) -> Result<Option<ViewRow>, BoxError> {
    Ok(rows.get(&key!(prefix, key))?.map(|row| parse(key.clone(), row)))
}

fn parse(key: ViewKey, (state, fields, position): Row) -> ViewRow {
    ViewRow::new(key, state, fields, position)
}

fn parse_key(text: &str) -> Result<ViewKey> {
    ViewKey::new(text).map_err(|problem| corrupt("key of a view", problem))
}

/// Writes the changes of rows and of their index entries.
fn save(tx: &WriteTransaction, view: &ViewId, changes: &Changes<'_>) -> Result<(), BoxError> {
    let mut rows = rows(tx)?;
    let [prefix, entries] = ["view", "entry"].map(|row| of_generation(row, view.view(), view.generation()));
    for ViewRow { key, state, fields, position, .. } in &changes.kept {
        rows.put(&key!(prefix, key), &(state, fields, position))?;
    }
    for row in &changes.removed {
        rows.remove::<Row>(&key!(prefix, row.key))?;
    }
    for (field, value, key) in &changes.lost {
        rows.remove::<()>(&key!(entries, field, value, key))?;
    }
    changes.won.iter().try_for_each(|(field, value, key)| rows.put(&key!(entries, field, value, key), &()))
}

/// Removes at most `limit` rows and at most `limit` index entries. Returns whether none is left.
fn clear(tx: &WriteTransaction, view: &ViewId, limit: usize) -> Result<bool, BoxError> {
    let mut rows = rows(tx)?;
    let [prefix, entries] = ["view", "entry"].map(|row| of_generation(row, view.view(), view.generation()));
    Ok(rows.clear(&prefix, limit)? && rows.clear(&entries, limit)?)
}
