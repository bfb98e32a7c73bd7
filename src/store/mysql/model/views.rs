//! Views in MySQL and MariaDB: each statement reads or writes as many rows as fit into a packet.

use async_trait::async_trait;
use sqlx::mysql::MySqlRow;
use sqlx::{MySql, MySqlConnection, QueryBuilder, Row as _};

use crate::error::Result;
use crate::id::{Generation, Position, ProjectionName, ViewKey};
use crate::store::model::checkpoint::ProjectionState;
use crate::store::model::checkpoint_row::Checkpoint;
use crate::store::model::interventions::{AuditEntry, By};
use crate::store::model::views::{
    Changes, Entry, GenerationStatus, Switch, ViewId, ViewPage, ViewRow, ViewStore, still_live, stored_key,
};
use crate::store::mysql::audit::insert_audit;
use crate::store::mysql::convert::text;
use crate::store::mysql::error::classify;
use crate::store::mysql::model::checkpoint::lock_checkpoint;
use crate::store::mysql::model::progress::{ROWS, padded};
use crate::store::mysql::model::read_model::MySqlReadModel;
use crate::store::server::convert::{from_sql, limit_to_sql, to_sql};
use crate::store::server::lease::Lease;

/// The most bytes of states and fields in one statement, unless a single row is larger. Padding at most doubles them, which stays below the 16 MiB
/// of `max_allowed_packet`, MariaDB's default.
const MAX_STATEMENT_BYTES: usize = 4 * 1024 * 1024;

#[async_trait]
impl ViewStore for MySqlReadModel {
    async fn load_rows(&self, tx: &mut MySqlConnection, view: &ViewId, keys: &[ViewKey]) -> Result<Vec<ViewRow>> {
        let failed = |error| classify(error, "read a view's rows");
        if is_shared(tx, view).await.map_err(failed)? {
            // All rows are locked before the first is read, so the locks are taken in key order.
            for chunk in keys.chunks(ROWS) {
                lock_rows(tx, view, chunk).await.map_err(failed)?;
            }
        }
        let mut loaded: Vec<ViewRow> = keys.iter().cloned().map(ViewRow::empty).collect();
        for chunk in keys.chunks(ROWS) {
            for row in among(LOAD, view, chunk).build().fetch_all(&mut *tx).await.map_err(failed)? {
                let row = parse(&row)?;
                if let Ok(place) = loaded.binary_search_by(|loaded| loaded.key.cmp(&row.key)) {
                    loaded[place] = row;
                }
            }
        }
        Ok(loaded)
    }

    async fn save_rows(
        &self,
        tx: &mut MySqlConnection,
        view: &ViewId,
        before: &[ViewRow],
        after: &[ViewRow],
    ) -> Result<()> {
        let changes = Changes::between(before, after);
        save(tx, view, &changes).await.map_err(|error| classify(error, "write a view's rows"))
    }

    async fn clear_rows(&self, tx: &mut MySqlConnection, view: &ViewId) -> Result<()> {
        let cleared = delete_rows(tx, view, usize::MAX).await;
        cleared.map(drop).map_err(|error| classify(error, "delete a view's rows"))
    }

    async fn promote(&self, view: &ViewId, when: Switch) -> Result<Generation> {
        self.promote_by(view, when, &By::program("no reason given")).await
    }

    async fn promote_by(&self, view: &ViewId, when: Switch, by: &By) -> Result<Generation> {
        by.check()?;
        let mut lease =
            self.connections.lease().await.map_err(|error| classify(error, "switch a view's generation"))?;
        let promoted = promote_on(&mut lease, view, when, by);
        let promoted = self.connections.call("switch a view's generation", promoted).await;
        lease.finish(promoted)
    }

    async fn delete_generation(&self, view: &ViewId, rows: usize) -> Result<bool> {
        self.delete_generation_by(view, rows, &By::program("no reason given")).await
    }

    async fn delete_generation_by(&self, view: &ViewId, rows: usize, by: &By) -> Result<bool> {
        by.check()?;
        let mut lease =
            self.connections.lease().await.map_err(|error| classify(error, "delete a view's generation"))?;
        let deleted = delete_on(&mut lease, view, rows, by);
        let deleted = self.connections.call("delete a view's generation", deleted).await;
        lease.finish(deleted)
    }

    async fn live_generation(&self, view: &ProjectionName) -> Result<Generation> {
        let query = sqlx::query_as(LIVE).bind(view.as_str().as_bytes());
        let live: Option<(i64,)> =
            self.connections.optional(query).await.map_err(|error| classify(error, "read a view's generation"))?;
        live.map_or(Ok(ViewId::FIRST), |(live,)| from_sql(live, "generation").map(Generation::new))
    }

    async fn rows(
        &self,
        view: &ProjectionName,
        generation: Option<Generation>,
        keys: &[ViewKey],
    ) -> Result<Vec<ViewRow>> {
        let failed = |error| classify(error, "read a view's rows");
        let read = || async {
            let mut lease = self.connections.lease().await.map_err(failed)?;
            // One snapshot for all statements.
            sqlx::raw_sql(SNAPSHOT).execute(&mut *lease).await.map_err(failed)?;
            let mut found = Vec::with_capacity(keys.len());
            for chunk in keys.chunks(ROWS) {
                let mut query = QueryBuilder::new(FIND);
                query
                    .push_bind(view.as_str().as_bytes())
                    .push(IS_OF)
                    .push_bind(generation.map(|number| to_sql(number.get())));
                query.push(OR_LIVE).push_bind(view.as_str().as_bytes()).push(OR_FIRST);
                push_keys(&mut query, chunk);
                found.extend(query.build().fetch_all(&mut *lease).await.map_err(failed)?);
            }
            let ended = sqlx::raw_sql("COMMIT").execute(&mut *lease).await;
            lease.end(ended).map_err(failed)?;
            found.iter().map(parse).collect()
        };
        self.connections.repeat("read a view's rows", read).await
    }

    async fn page(
        &self,
        view: &ProjectionName,
        generation: Option<Generation>,
        page: &ViewPage,
    ) -> Result<Vec<ViewRow>> {
        let failed = |error| classify(error, "read a page of a view");
        let (view, after) = (view.as_str().as_bytes(), page.after_key().as_bytes());
        let (limit, generation) = (limit_to_sql(page.limit), generation.map(|number| to_sql(number.get())));
        let query = match &page.of {
            None => sqlx::query(PAGE).bind(view).bind(generation).bind(view).bind(after).bind(limit),
            Some((field, value)) => {
                let query = sqlx::query(PAGE_OF)
                    .bind(view)
                    .bind(generation)
                    .bind(view)
                    .bind(field.as_bytes())
                    .bind(value.as_bytes());
                query.bind(after).bind(limit)
            }
        };
        self.connections.rows(query).await.map_err(failed)?.iter().map(parse).collect()
    }
}

async fn promote_on(lease: &mut Lease<MySql>, view: &ViewId, when: Switch, by: &By) -> Result<Generation> {
    let failed = |error| classify(error, "switch a view's generation");
    let mut tx = lease.begin().await.map_err(failed)?;
    let live = check_promotion(&mut tx, view, when).await??;
    let query = sqlx::query(PROMOTE).bind(to_sql(view.generation().get())).bind(view.view().as_str().as_bytes());
    query.execute(&mut *tx).await.map_err(failed)?;
    if live != view.generation() {
        let entry = AuditEntry::switch(view.view(), live, view.generation(), by);
        insert_audit(&mut tx, &entry).await.map_err(failed)?;
    }
    tx.commit().await.map_err(failed)?;
    Ok(live)
}

async fn delete_on(lease: &mut Lease<MySql>, view: &ViewId, rows: usize, by: &By) -> Result<bool> {
    let failed = |error| classify(error, "delete a view's generation");
    let projection = view.projection().as_str().as_bytes();
    let mut tx = lease.begin().await.map_err(failed)?;
    // Locks in the same order as `promote`, so the two cannot deadlock: first the checkpoint, then the live generation.
    let before = lock_checkpoint(&mut tx, view.projection()).await?;
    if lock_live(&mut tx, view.view()).await? == view.generation() {
        return Err(still_live(view));
    }
    if before.state != ProjectionState::Deleting {
        let entry = AuditEntry::delete_generation(view.projection(), by);
        insert_audit(&mut tx, &entry).await.map_err(failed)?;
    }
    sqlx::query(MARK_DELETING).bind(projection).execute(&mut *tx).await.map_err(failed)?;
    let is_gone = delete_rows(&mut tx, view, rows).await.map_err(failed)?;
    if is_gone {
        for delete in [DELETE_PROGRESS, DELETE_PARKED, DELETE_PROCESSORS, DELETE_CHECKPOINT] {
            sqlx::query(delete).bind(projection).execute(&mut *tx).await.map_err(failed)?;
        }
    }
    tx.commit().await.map_err(failed)?;
    Ok(is_gone)
}

/// Returns the live generation, or the error of a promotion that `when` does not allow. Locks the live generation and both checkpoints until
/// the transaction ends.
async fn check_promotion(tx: &mut MySqlConnection, view: &ViewId, when: Switch) -> Result<Result<Generation>> {
    let standing = |found: Checkpoint| GenerationStatus { position: found.mark.position, state: found.state };
    let built = standing(lock_checkpoint(tx, view.projection()).await?);
    let live = ViewId::new(view.view().as_str(), lock_live(tx, view.view()).await?)?;
    let live_at = standing(lock_checkpoint(tx, live.projection()).await?);
    Ok(when.check(view, built, live_at).map(|()| live.generation()))
}

/// Returns the live generation and locks it until the transaction ends.
async fn lock_live(tx: &mut MySqlConnection, view: &ProjectionName) -> Result<Generation> {
    let failed = |error| classify(error, "read a view's generation");
    sqlx::query(LOCK_LIVE).bind(view.as_str().as_bytes()).execute(&mut *tx).await.map_err(failed)?;
    let live = sqlx::query_scalar(LIVE).bind(view.as_str().as_bytes()).fetch_one(&mut *tx).await.map_err(failed)?;
    from_sql(live, "generation").map(Generation::new)
}

/// Deletes at most `at_most` rows of a generation and as many of its fields. Returns whether none are left.
async fn delete_rows(tx: &mut MySqlConnection, view: &ViewId, at_most: usize) -> Result<bool, sqlx::Error> {
    let (name, generation) = (view.view().as_str().as_bytes(), to_sql(view.generation().get()));
    let limit = limit_to_sql(at_most);
    for statement in [DELETE_GENERATION, DELETE_GENERATION_FIELDS] {
        let query = sqlx::query(statement).bind(name).bind(generation).bind(limit);
        if to_sql(query.execute(&mut *tx).await?.rows_affected()) >= limit {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns whether workers share the projection.
async fn is_shared(tx: &mut MySqlConnection, view: &ViewId) -> Result<bool, sqlx::Error> {
    let query = sqlx::query_scalar(IS_SHARED).bind(view.projection().as_str().as_bytes());
    Ok(query.fetch_optional(tx).await?.unwrap_or(false))
}

/// Inserts the missing rows and locks all of them, in key order.
async fn lock_rows(tx: &mut MySqlConnection, view: &ViewId, keys: &[ViewKey]) -> Result<(), sqlx::Error> {
    let mut query = QueryBuilder::new(INSERT_EMPTY);
    query.push_values(padded(keys.iter()), |mut row, key| {
        row.push_bind(view.view().as_str().as_bytes()).push_bind(to_sql(view.generation().get()));
        row.push_bind(key.as_str().as_bytes()).push_bind(0_i64);
    });
    query.push(LOCKED);
    query.build().execute(tx).await.map(drop)
}

async fn save(tx: &mut MySqlConnection, view: &ViewId, changes: &Changes<'_>) -> Result<(), sqlx::Error> {
    let mut kept = &changes.kept[..];
    while !kept.is_empty() {
        let (now, later) = kept.split_at(statement_rows(kept));
        write(tx, view, now).await?;
        kept = later;
    }
    if !changes.removed.is_empty() {
        let statement = if is_shared(tx, view).await? { EMPTY } else { REMOVE };
        let keys: Vec<_> = changes.removed.iter().map(|row| row.key.clone()).collect();
        for chunk in keys.chunks(ROWS) {
            among(statement, view, chunk).build().execute(&mut *tx).await?;
        }
    }
    for chunk in changes.lost.chunks(ROWS) {
        remove_fields(tx, view, chunk).await?;
    }
    for chunk in changes.won.chunks(ROWS) {
        write_fields(tx, view, chunk).await?;
    }
    Ok(())
}

/// Returns the number of rows in the next statement.
fn statement_rows(rows: &[&ViewRow]) -> usize {
    let mut bytes = 0;
    let fit = rows.iter().take_while(|row| {
        bytes += row.state.as_ref().map_or(0, String::len);
        bytes += row.fields.iter().map(|(field, value)| field.len() + value.len()).sum::<usize>();
        bytes <= MAX_STATEMENT_BYTES
    });
    fit.take(ROWS).count().max(1)
}

async fn write(tx: &mut MySqlConnection, view: &ViewId, rows: &[&ViewRow]) -> Result<(), sqlx::Error> {
    let mut query = QueryBuilder::new(WRITE);
    query.push_values(padded(rows.iter()), |mut values, row| {
        values.push_bind(view.view().as_str().as_bytes()).push_bind(to_sql(view.generation().get()));
        values.push_bind(row.key.as_str().as_bytes()).push_bind(row.state.as_deref().map(str::as_bytes));
        values.push_bind(row.fields.to_json().map(String::into_bytes)).push_bind(to_sql(row.position.get()));
    });
    query.push(CHANGED);
    query.build().execute(tx).await.map(drop)
}

async fn write_fields(tx: &mut MySqlConnection, view: &ViewId, entries: &[Entry<'_>]) -> Result<(), sqlx::Error> {
    let mut query = QueryBuilder::new(WRITE_FIELDS);
    query.push_values(padded(entries.iter()), |mut values, (field, value, key)| {
        values.push_bind(view.view().as_str().as_bytes()).push_bind(to_sql(view.generation().get()));
        values.push_bind(field.as_bytes()).push_bind(value.as_bytes()).push_bind(key.as_str().as_bytes());
    });
    query.push(IGNORE_EXISTING);
    query.build().execute(tx).await.map(drop)
}

async fn remove_fields(tx: &mut MySqlConnection, view: &ViewId, entries: &[Entry<'_>]) -> Result<(), sqlx::Error> {
    let mut query = QueryBuilder::new(REMOVE_FIELDS);
    query.push_bind(view.view().as_str().as_bytes()).push(OF_GENERATION).push_bind(to_sql(view.generation().get()));
    query.push(AMONG_FIELDS);
    query.push_tuples(padded(entries.iter()), |mut values, (field, value, key)| {
        values.push_bind(field.as_bytes()).push_bind(value.as_bytes()).push_bind(key.as_str().as_bytes());
    });
    query.build().execute(tx).await.map(drop)
}

/// Returns a query of `statement` for the rows of a generation that have one of `keys`.
fn among<'q>(statement: &'static str, view: &'q ViewId, keys: &'q [ViewKey]) -> QueryBuilder<MySql> {
    let mut query = QueryBuilder::new(statement);
    query.push_bind(view.view().as_str().as_bytes()).push(OF_GENERATION).push_bind(to_sql(view.generation().get()));
    push_keys(&mut query, keys);
    query
}

fn push_keys(query: &mut QueryBuilder<MySql>, keys: &[ViewKey]) {
    query.push(AMONG);
    let mut binds = query.separated(", ");
    for key in padded(keys.iter()) {
        binds.push_bind(key.as_str().as_bytes().to_vec());
    }
    query.push(")");
}

/// Parses the columns state, fields, position and key.
fn parse(row: &MySqlRow) -> Result<ViewRow> {
    let failed = |error| classify(error, "read a view's row");
    let column = |place: usize| -> Result<Option<&str>, sqlx::Error> {
        row.try_get::<Option<&[u8]>, _>(place)?.map(text).transpose()
    };
    let key = stored_key(column(3).map_err(failed)?.unwrap_or_default())?;
    let position = from_sql(row.try_get(2).map_err(failed)?, "position").map(Position::new)?;
    let state = column(0).map_err(failed)?.map(str::to_owned);
    ViewRow::stored(key, state, column(1).map_err(failed)?, position)
}

const IS_SHARED: &str = "SELECT per_aggregate FROM retell_checkpoints WHERE projection = ?";

/// Binds for each row: view, generation, key, position. With order per aggregate each missing row is inserted empty, because a missing row
/// cannot be locked.
const INSERT_EMPTY: &str = "INSERT INTO retell_views (view, generation, `key`, position) ";

/// Takes an exclusive lock even if the row exists: two transactions with shared locks would deadlock.
const LOCKED: &str = " ON DUPLICATE KEY UPDATE position = retell_views.position";

/// In a transaction that has locked the rows, they do not change after this read.
const LOAD: &str = "SELECT state, fields, position, `key` FROM retell_views WHERE view = ";

const OF_GENERATION: &str = " AND generation = ";

const AMONG: &str = " AND `key` IN (";

/// Binds for each row: view, generation, key, state, fields, position.
const WRITE: &str = "INSERT INTO retell_views (view, generation, `key`, state, fields, position) ";

const CHANGED: &str =
    " ON DUPLICATE KEY UPDATE state = VALUES(state), fields = VALUES(fields), position = VALUES(position)";

/// Deletes rows, if the projection is in log order.
const REMOVE: &str = "DELETE FROM retell_views WHERE view = ";

/// Empties rows, because with order per aggregate other workers may wait for their locks.
const EMPTY: &str = "UPDATE retell_views SET state = NULL, fields = NULL, position = 0 WHERE view = ";

/// Binds for each row: view, generation, field, value, key.
const WRITE_FIELDS: &str = "INSERT INTO retell_view_fields (view, generation, field, value, `key`) ";

const IGNORE_EXISTING: &str = " ON DUPLICATE KEY UPDATE field = retell_view_fields.field";

const REMOVE_FIELDS: &str = "DELETE FROM retell_view_fields WHERE view = ";

const AMONG_FIELDS: &str = " AND (field, value, `key`) IN ";

const LIVE: &str = "SELECT live FROM retell_view_generations WHERE view = ?";

/// Takes an exclusive lock even if the row exists.
const LOCK_LIVE: &str = "INSERT INTO retell_view_generations (view, live) VALUES (?, 1) ON DUPLICATE KEY UPDATE live = retell_view_generations.live";

const PROMOTE: &str = "UPDATE retell_view_generations SET live = ? WHERE view = ?";

const MARK_DELETING: &str =
    "UPDATE retell_checkpoints SET position = 0, event_id = NULL, state = 'deleting' WHERE projection = ?";

const DELETE_GENERATION: &str = "DELETE FROM retell_views WHERE view = ? AND generation = ? LIMIT ?";

const DELETE_GENERATION_FIELDS: &str = "DELETE FROM retell_view_fields WHERE view = ? AND generation = ? LIMIT ?";

const DELETE_CHECKPOINT: &str = "DELETE FROM retell_checkpoints WHERE projection = ?";

const DELETE_PARKED: &str = "DELETE FROM retell_parked WHERE projection = ?";

const DELETE_PROCESSORS: &str = "DELETE FROM retell_processors WHERE projection = ?";

const DELETE_PROGRESS: &str = "DELETE FROM retell_progress WHERE projection = ?";

const SNAPSHOT: &str = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; START TRANSACTION READ ONLY";

const FIND: &str = "SELECT state, fields, position, `key` FROM retell_views WHERE state IS NOT NULL AND view = ";

const IS_OF: &str = " AND generation = COALESCE(";

const OR_LIVE: &str = ", (SELECT live FROM retell_view_generations WHERE view = ";

const OR_FIRST: &str = "), 1)";

/// Binds: view, generation or NULL, view, key to start after, limit.
const PAGE: &str = "
    SELECT state, fields, position, `key` FROM retell_views
    WHERE view = ? AND generation = COALESCE(?, (SELECT live FROM retell_view_generations WHERE view = ?), 1)
        AND `key` > ? AND state IS NOT NULL
    ORDER BY `key` LIMIT ?";

/// Binds: view, generation or NULL, view, field, value, key to start after, limit.
const PAGE_OF: &str = "
    SELECT v.state, v.fields, v.position, v.`key`
    FROM retell_view_fields AS f
    JOIN retell_views AS v ON v.view = f.view AND v.generation = f.generation AND v.`key` = f.`key`
    WHERE f.view = ? AND f.generation = COALESCE(?, (SELECT live FROM retell_view_generations WHERE view = ?), 1)
        AND f.field = ? AND f.value = ? AND f.`key` > ? AND v.state IS NOT NULL
    ORDER BY f.`key` LIMIT ?";
