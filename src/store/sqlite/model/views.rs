//! Views in a SQLite file. A transaction locks the whole file, so rows need no locks. The database is in the process, so a prepared statement for
//! each row is faster than one statement for all rows.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::error::Result;
use crate::id::{Generation, ProjectionName, ViewKey};
use crate::store::model::checkpoint::ProjectionState;
use crate::store::model::interventions::{AuditEntry, By};
use crate::store::model::views::{
    Changes, Entry, GenerationStatus, Switch, ViewId, ViewPage, ViewRow, ViewStore, still_live, stored_key,
};
use crate::store::sqlite::audit::insert_audit;
use crate::store::sqlite::convert::{from_sql, position_from_sql, to_sql};
use crate::store::sqlite::error::Failure;
use crate::store::sqlite::model::checkpoint::checkpoint;
use crate::store::sqlite::model::read_model::SqliteReadModel;
use crate::store::sqlite::transaction::OpenTransaction;

#[async_trait]
impl ViewStore for SqliteReadModel {
    async fn load_rows(&self, tx: &mut Connection, view: &ViewId, keys: &[ViewKey]) -> Result<Vec<ViewRow>> {
        load(tx, view, keys).map_err(|failure| failure.to("read a view's rows"))
    }

    async fn save_rows(&self, tx: &mut Connection, view: &ViewId, before: &[ViewRow], after: &[ViewRow]) -> Result<()> {
        save(tx, view, &Changes::between(before, after)).map_err(|failure| failure.to("write a view's rows"))
    }

    async fn clear_rows(&self, tx: &mut Connection, view: &ViewId) -> Result<()> {
        let cleared = delete_rows(tx, view, usize::MAX);
        cleared.map(drop).map_err(|failure| failure.to("delete a view's rows"))
    }

    async fn promote(&self, view: &ViewId, when: Switch) -> Result<Generation> {
        self.promote_by(view, when, &By::program("no reason given")).await
    }

    async fn promote_by(&self, view: &ViewId, when: Switch, by: &By) -> Result<Generation> {
        by.check()?;
        let (view, by) = (view.clone(), by.clone());
        self.writer
            .run("switch a view's generation", move |db| {
                let open = OpenTransaction::begin(db)?;
                let live = ViewId::new(view.view().as_str(), live(open.db, view.view())?)?;
                let standing = |view: &ViewId| {
                    let found = checkpoint(open.db, view.projection())?;
                    Ok::<_, Failure>(GenerationStatus { position: found.mark.position, state: found.state })
                };
                when.check(&view, standing(&view)?, standing(&live)?)?;
                open.db.prepare_cached(PROMOTE)?.execute((view.view().as_str(), to_sql(view.generation().get())))?;
                if live != view {
                    let entry = AuditEntry::switch(view.view(), live.generation(), view.generation(), &by);
                    insert_audit(open.db, &entry)?;
                }
                open.commit()?;
                Ok(live.generation())
            })
            .await
    }

    async fn delete_generation(&self, view: &ViewId, rows: usize) -> Result<bool> {
        self.delete_generation_by(view, rows, &By::program("no reason given")).await
    }

    async fn delete_generation_by(&self, view: &ViewId, rows: usize, by: &By) -> Result<bool> {
        by.check()?;
        let (view, by) = (view.clone(), by.clone());
        self.writer
            .run("delete a view's generation", move |db| {
                let open = OpenTransaction::begin(db)?;
                if live(open.db, view.view())? == view.generation() {
                    return Err(still_live(&view).into());
                }
                let projection = view.projection().as_str();
                if checkpoint(open.db, view.projection())?.state != ProjectionState::Deleting {
                    insert_audit(open.db, &AuditEntry::delete_generation(view.projection(), &by))?;
                }
                open.db.prepare_cached(MARK_DELETING)?.execute([projection])?;
                let is_gone = delete_rows(open.db, &view, rows)?;
                if is_gone {
                    for delete in [DELETE_PROGRESS, DELETE_PARKED, DELETE_PROCESSORS, DELETE_CHECKPOINT] {
                        open.db.prepare_cached(delete)?.execute([projection])?;
                    }
                }
                open.commit()?;
                Ok(is_gone)
            })
            .await
    }

    async fn live_generation(&self, view: &ProjectionName) -> Result<Generation> {
        let view = view.clone();
        self.readers.run("read a view's generation", move |db| live(db, &view)).await
    }

    async fn rows(
        &self,
        view: &ProjectionName,
        generation: Option<Generation>,
        keys: &[ViewKey],
    ) -> Result<Vec<ViewRow>> {
        let (view, keys, generation) = (view.clone(), keys.to_vec(), generation.map(|number| to_sql(number.get())));
        self.readers
            .run("read a view's rows", move |db| {
                // One snapshot for all rows.
                let tx = db.transaction()?;
                let mut find = tx.prepare_cached(FIND)?;
                let mut found = Vec::with_capacity(keys.len());
                for key in keys {
                    let mut rows = find.query((view.as_str(), key.as_str(), generation))?;
                    if let Some(row) = rows.next()? {
                        found.push(parse(row, key)?);
                    }
                }
                Ok(found)
            })
            .await
    }

    async fn page(
        &self,
        view: &ProjectionName,
        generation: Option<Generation>,
        page: &ViewPage,
    ) -> Result<Vec<ViewRow>> {
        let (view, page) = (view.clone(), page.clone());
        let (limit, generation) = (count_to_sql(page.limit), generation.map(|number| to_sql(number.get())));
        self.readers
            .run("read a page of a view", move |db| match &page.of {
                None => collect(db, PAGE, params![view.as_str(), page.after_key(), limit, generation]),
                Some((field, value)) => {
                    collect(db, PAGE_OF, params![view.as_str(), page.after_key(), limit, generation, field, value])
                }
            })
            .await
    }
}

fn live(db: &Connection, view: &ProjectionName) -> Result<Generation, Failure> {
    let live = db.prepare_cached(LIVE)?.query_row([view.as_str()], |row| row.get(0)).optional()?;
    live.map_or(Ok(ViewId::FIRST), |live| from_sql(live, "generation").map(Generation::new))
}

fn count_to_sql(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

fn load(db: &Connection, view: &ViewId, keys: &[ViewKey]) -> Result<Vec<ViewRow>, Failure> {
    let generation = to_sql(view.generation().get());
    let mut load = db.prepare_cached(LOAD)?;
    let row = |key: &ViewKey| {
        let mut rows = load.query((view.view().as_str(), generation, key.as_str()))?;
        rows.next()?.map_or_else(|| Ok(ViewRow::empty(key.clone())), |row| parse(row, key.clone()))
    };
    keys.iter().map(row).collect()
}

/// Parses the columns state, fields and position.
fn parse(row: &Row<'_>, key: ViewKey) -> Result<ViewRow, Failure> {
    let fields = row.get_ref(1)?.as_str_or_null().map_err(rusqlite::Error::from)?;
    let (state, position) = (row.get(0)?, position_from_sql(row.get(2)?)?);
    Ok(ViewRow::stored(key, state, fields, position)?)
}

fn collect(db: &Connection, statement: &str, binds: impl rusqlite::Params) -> Result<Vec<ViewRow>, Failure> {
    let mut statement = db.prepare_cached(statement)?;
    let mut rows = statement.query(binds)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let key = stored_key(row.get_ref(3)?.as_str().map_err(rusqlite::Error::from)?)?;
        found.push(parse(row, key)?);
    }
    Ok(found)
}

fn save(db: &Connection, view: &ViewId, changes: &Changes<'_>) -> Result<(), Failure> {
    let (name, generation) = (view.view().as_str(), to_sql(view.generation().get()));
    let entries = |statement, entries: &[Entry<'_>]| -> Result<(), Failure> {
        let mut statement = db.prepare_cached(statement)?;
        for (field, value, key) in entries {
            statement.execute((name, generation, field, value, key.as_str()))?;
        }
        Ok(())
    };
    let mut write = db.prepare_cached(WRITE)?;
    for row in &changes.kept {
        let position = to_sql(row.position.get());
        write.execute((name, generation, row.key.as_str(), &row.state, row.fields.to_json(), position))?;
    }
    let mut remove = db.prepare_cached(REMOVE)?;
    for row in &changes.removed {
        remove.execute((name, generation, row.key.as_str()))?;
    }
    entries(REMOVE_FIELD, &changes.lost)?;
    entries(WRITE_FIELD, &changes.won)
}

/// Deletes at most `at_most` rows of a generation and as many of its fields. Returns whether none are left.
fn delete_rows(db: &Connection, view: &ViewId, at_most: usize) -> Result<bool, Failure> {
    let (name, generation) = (view.view().as_str(), to_sql(view.generation().get()));
    let delete = |statement| {
        Ok::<_, Failure>(db.prepare_cached(statement)?.execute((name, generation, count_to_sql(at_most)))?)
    };
    Ok(delete(DELETE_GENERATION)? < at_most && delete(DELETE_GENERATION_FIELDS)? < at_most)
}

const LOAD: &str = "
    SELECT state, fields, position FROM retell_views WHERE view = ?1 AND generation = ?2 AND key = ?3";

/// Binds: view, generation, key, state, fields, position.
const WRITE: &str = "
    INSERT INTO retell_views (view, generation, key, state, fields, position) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
    ON CONFLICT (view, generation, key) DO UPDATE
    SET state = excluded.state, fields = excluded.fields, position = excluded.position";

const REMOVE: &str = "DELETE FROM retell_views WHERE view = ?1 AND generation = ?2 AND key = ?3";

/// Binds: view, generation, field, value, key.
const WRITE_FIELD: &str = "
    INSERT INTO retell_view_fields (view, generation, field, value, key) VALUES (?1, ?2, ?3, ?4, ?5)
    ON CONFLICT DO NOTHING";

/// Binds: view, generation, field, value, key.
const REMOVE_FIELD: &str = "
    DELETE FROM retell_view_fields WHERE view = ?1 AND generation = ?2 AND field = ?3 AND value = ?4 AND key = ?5";

const LIVE: &str = "SELECT live FROM retell_view_generations WHERE view = ?1";

const PROMOTE: &str = "
    INSERT INTO retell_view_generations (view, live) VALUES (?1, ?2)
    ON CONFLICT (view) DO UPDATE SET live = excluded.live";

const MARK_DELETING: &str = "
    INSERT INTO retell_checkpoints (projection, position, state) VALUES (?1, 0, 'deleting')
    ON CONFLICT (projection) DO UPDATE SET position = excluded.position, event_id = NULL, state = excluded.state";

/// Binds: view, generation, limit.
const DELETE_GENERATION: &str = "
    DELETE FROM retell_views
    WHERE view = ?1 AND generation = ?2
        AND key IN (SELECT key FROM retell_views WHERE view = ?1 AND generation = ?2 LIMIT ?3)";

/// Binds: view, generation, limit.
const DELETE_GENERATION_FIELDS: &str = "
    DELETE FROM retell_view_fields
    WHERE view = ?1 AND generation = ?2
        AND (field, value, key) IN (
            SELECT field, value, key FROM retell_view_fields WHERE view = ?1 AND generation = ?2 LIMIT ?3)";

const DELETE_CHECKPOINT: &str = "DELETE FROM retell_checkpoints WHERE projection = ?1";

const DELETE_PARKED: &str = "DELETE FROM retell_parked WHERE projection = ?1";

const DELETE_PROCESSORS: &str = "DELETE FROM retell_processors WHERE projection = ?1";

const DELETE_PROGRESS: &str = "DELETE FROM retell_progress WHERE projection = ?1";

/// Binds: view, key, generation or NULL.
const FIND: &str = "
    SELECT state, fields, position FROM retell_views
    WHERE view = ?1 AND key = ?2 AND state IS NOT NULL
        AND generation = coalesce(?3, (SELECT live FROM retell_view_generations WHERE view = ?1), 1)";

/// Binds: view, key to start after, limit, generation or NULL.
const PAGE: &str = "
    SELECT state, fields, position, key FROM retell_views
    WHERE view = ?1 AND key > ?2 AND state IS NOT NULL
        AND generation = coalesce(?4, (SELECT live FROM retell_view_generations WHERE view = ?1), 1)
    ORDER BY key LIMIT ?3";

/// Binds: view, key to start after, limit, generation or NULL, field, value.
const PAGE_OF: &str = "
    SELECT v.state, v.fields, v.position, v.key
    FROM retell_view_fields AS f
    JOIN retell_views AS v ON v.view = f.view AND v.generation = f.generation AND v.key = f.key
    WHERE f.view = ?1 AND f.key > ?2 AND f.field = ?5 AND f.value = ?6 AND v.state IS NOT NULL
        AND f.generation = coalesce(?4, (SELECT live FROM retell_view_generations WHERE view = ?1), 1)
    ORDER BY f.key LIMIT ?3";
