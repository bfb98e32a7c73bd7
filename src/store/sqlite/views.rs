//! Views in a SQLite file. A transaction has the whole file for itself, so rows need no locks; and since the database is in the process, a
//! prepared statement for each row is faster than one for all of them.

use async_trait::async_trait;
use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::error::Result;
use crate::id::{Generation, ProjectionName, ViewKey};
use crate::store::sqlite::SqliteReadModel;
use crate::store::sqlite::connection::{Failure, from_sql, position_from_sql, to_sql};
use crate::store::views::{Changes, Entry, stored_key};
use crate::store::{ViewId, ViewPage, ViewRow, ViewStore};

#[async_trait]
impl ViewStore for SqliteReadModel {
    async fn load(&self, tx: &mut Connection, view: &ViewId, keys: &[ViewKey]) -> Result<Vec<ViewRow>> {
        load(tx, view, keys).map_err(|failure| failure.to("read a view's rows"))
    }

    async fn save(&self, tx: &mut Connection, view: &ViewId, before: &[ViewRow], after: &[ViewRow]) -> Result<()> {
        save(tx, view, &Changes::between(before, after)).map_err(|failure| failure.to("write a view's rows"))
    }

    async fn go_live(&self, tx: &mut Connection, view: &ViewId) -> Result<()> {
        go_live(tx, view).map_err(|failure| failure.to("switch a view's generation"))
    }

    async fn live(&self, view: &ProjectionName) -> Result<Generation> {
        let view = view.clone();
        self.readers
            .run("read a view's generation", move |db| {
                let live = db.prepare_cached(LIVE)?.query_row([view.as_str()], |row| row.get(0)).optional()?;
                live.map_or(Ok(ViewId::FIRST), |live| from_sql(live, "generation").map(Generation::new))
            })
            .await
    }

    async fn rows(&self, view: &ProjectionName, keys: &[ViewKey]) -> Result<Vec<ViewRow>> {
        let (view, keys) = (view.clone(), keys.to_vec());
        self.readers
            .run("read a view's rows", move |db| {
                // One snapshot for all of them.
                let tx = db.transaction()?;
                let mut find = tx.prepare_cached(FIND)?;
                let mut found = Vec::with_capacity(keys.len());
                for key in keys {
                    let mut rows = find.query((view.as_str(), key.as_str()))?;
                    if let Some(row) = rows.next()? {
                        found.push(parse(row, key)?);
                    }
                }
                Ok(found)
            })
            .await
    }

    async fn page(&self, view: &ProjectionName, page: &ViewPage) -> Result<Vec<ViewRow>> {
        let (view, page) = (view.clone(), page.clone());
        let limit = i64::try_from(page.limit).unwrap_or(i64::MAX);
        self.readers
            .run("read a page of a view", move |db| match &page.of {
                None => collect(db, PAGE, params![view.as_str(), page.after_key(), limit]),
                Some((field, value)) => {
                    collect(db, PAGE_OF, params![view.as_str(), page.after_key(), limit, field, value])
                }
            })
            .await
    }
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

/// Columns: state, fields, position.
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

fn go_live(db: &Connection, view: &ViewId) -> Result<(), Failure> {
    db.prepare_cached(GO_LIVE)?.execute((view.view().as_str(), to_sql(view.generation().get())))?;
    Ok(())
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

const GO_LIVE: &str = "
    INSERT INTO retell_view_generations (view, live) VALUES (?1, ?2)
    ON CONFLICT (view) DO UPDATE SET live = excluded.live";

const FIND: &str = "
    SELECT state, fields, position FROM retell_views
    WHERE view = ?1 AND key = ?2 AND state IS NOT NULL
        AND generation = coalesce((SELECT live FROM retell_view_generations WHERE view = ?1), 1)";

/// Binds: view, key to begin after, limit.
const PAGE: &str = "
    SELECT state, fields, position, key FROM retell_views
    WHERE view = ?1 AND key > ?2 AND state IS NOT NULL
        AND generation = coalesce((SELECT live FROM retell_view_generations WHERE view = ?1), 1)
    ORDER BY key LIMIT ?3";

/// Binds: view, key to begin after, limit, field, value.
const PAGE_OF: &str = "
    SELECT v.state, v.fields, v.position, v.key
    FROM retell_view_fields AS f
    JOIN retell_views AS v ON v.view = f.view AND v.generation = f.generation AND v.key = f.key
    WHERE f.view = ?1 AND f.key > ?2 AND f.field = ?4 AND f.value = ?5 AND v.state IS NOT NULL
        AND f.generation = coalesce((SELECT live FROM retell_view_generations WHERE view = ?1), 1)
    ORDER BY f.key LIMIT ?3";
