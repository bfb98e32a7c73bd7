//! Views in PostgreSQL: one statement reads the rows of a batch and one writes them.

use async_trait::async_trait;
use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{PgConnection, Postgres, Row as _};

use crate::error::{ErrorKind, Result};
use crate::id::{Generation, Position, ProjectionName, ViewKey};
use crate::store::model::checkpoint::ProjectionState;
use crate::store::model::interventions::{AuditEntry, By};
use crate::store::model::views::{
    Changes, Entry, GenerationStatus, Switch, ViewId, ViewPage, ViewRow, ViewStore, still_live, stored_key,
};
use crate::store::postgres::audit::insert_audit;
use crate::store::postgres::error::classify;
use crate::store::postgres::model::read_model::PostgresReadModel;
use crate::store::server::convert::{from_sql, limit_to_sql, to_sql};
use crate::store::server::lease::Lease;

#[async_trait]
impl ViewStore for PostgresReadModel {
    async fn load_rows(&self, tx: &mut PgConnection, view: &ViewId, keys: &[ViewKey]) -> Result<Vec<ViewRow>> {
        let texts: Vec<&str> = keys.iter().map(ViewKey::as_str).collect();
        let load = self.view_query(LOAD, view).bind(texts).bind(view.projection().as_str());
        let found = load.fetch_all(tx).await.map_err(|error| classify(error, "read a view's rows"))?;
        if found.len() != keys.len() {
            return Err(ErrorKind::Transient("lock a view's rows: another process is deleting them".into()).into());
        }
        keys.iter().zip(&found).map(|(key, row)| parse(row, key.clone())).collect()
    }

    async fn save_rows(
        &self,
        tx: &mut PgConnection,
        view: &ViewId,
        before: &[ViewRow],
        after: &[ViewRow],
    ) -> Result<()> {
        let changes = Changes::between(before, after);
        self.write(tx, view, &changes, WRITE, WRITE_FIELDS)
            .await
            .map_err(|error| classify(error, "write a view's rows"))
    }

    async fn insert_rows(&self, tx: &mut PgConnection, view: &ViewId, rows: &[ViewRow]) -> Result<()> {
        let before: Vec<_> = rows.iter().map(|row| ViewRow::empty(row.key.clone())).collect();
        let changes = Changes::between(&before, rows);
        self.write(tx, view, &changes, ADD, ADD_FIELDS).await.map_err(|error| classify(error, "write a view's rows"))
    }

    async fn clear_rows(&self, tx: &mut PgConnection, view: &ViewId) -> Result<()> {
        let cleared = self.delete_rows(tx, view, usize::MAX).await;
        cleared.map(drop).map_err(|error| classify(error, "delete a view's rows"))
    }

    async fn promote(&self, view: &ViewId, when: Switch) -> Result<Generation> {
        self.promote_by(view, when, &By::program("no reason given")).await
    }

    async fn promote_by(&self, view: &ViewId, when: Switch, by: &By) -> Result<Generation> {
        by.check()?;
        let failed = |error| classify(error, "switch a view's generation");
        let mut lease = self.connections.lease().await.map_err(failed)?;
        let promoted = self.promote_on(&mut lease, view, when, by);
        let promoted = self.connections.call("switch a view's generation", promoted).await;
        lease.finish(promoted)
    }

    async fn delete_generation(&self, view: &ViewId, rows: usize) -> Result<bool> {
        self.delete_generation_by(view, rows, &By::program("no reason given")).await
    }

    async fn delete_generation_by(&self, view: &ViewId, rows: usize, by: &By) -> Result<bool> {
        by.check()?;
        let failed = |error| classify(error, "delete a view's generation");
        let mut lease = self.connections.lease().await.map_err(failed)?;
        let deleted = self.delete_on(&mut lease, view, rows, by);
        let deleted = self.connections.call("delete a view's generation", deleted).await;
        lease.finish(deleted)
    }

    async fn live_generation(&self, view: &ProjectionName) -> Result<Generation> {
        let query = sqlx::query_as(self.schema.sql(LIVE)).bind(view.as_str());
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
        let keys: Vec<&str> = keys.iter().map(ViewKey::as_str).collect();
        let query = sqlx::query(self.schema.sql(FIND)).bind(view.as_str()).bind(keys);
        self.read(query.bind(generation.map(|number| to_sql(number.get())))).await
    }

    async fn page(
        &self,
        view: &ProjectionName,
        generation: Option<Generation>,
        page: &ViewPage,
    ) -> Result<Vec<ViewRow>> {
        let statement = if page.of.is_some() { PAGE_OF } else { PAGE };
        let query = sqlx::query(self.schema.sql(statement))
            .bind(view.as_str())
            .bind(page.after_key())
            .bind(limit_to_sql(page.limit));
        let query = query.bind(generation.map(|number| to_sql(number.get())));
        match &page.of {
            Some((field, value)) => self.read(query.bind(field).bind(value)).await,
            None => self.read(query).await,
        }
    }
}

impl PostgresReadModel {
    async fn promote_on(
        &self,
        lease: &mut Lease<Postgres>,
        view: &ViewId,
        when: Switch,
        by: &By,
    ) -> Result<Generation> {
        let failed = |error| classify(error, "switch a view's generation");
        let mut tx = lease.begin().await.map_err(failed)?;
        let checkpoint = self.lock_checkpoint(&mut tx, view).await?;
        let live = ViewId::new(view.view().as_str(), self.lock_live(&mut tx, view.view()).await?)?;
        let live_at = self.lock_checkpoint(&mut tx, &live).await?;
        when.check(view, checkpoint, live_at)?;
        self.view_query(PROMOTE, view).execute(&mut *tx).await.map_err(failed)?;
        if live != *view {
            let entry = AuditEntry::switch(view.view(), live.generation(), view.generation(), by);
            insert_audit(&self.schema, &mut tx, &entry).await.map_err(failed)?;
        }
        tx.commit().await.map_err(failed)?;
        Ok(live.generation())
    }

    async fn delete_on(&self, lease: &mut Lease<Postgres>, view: &ViewId, rows: usize, by: &By) -> Result<bool> {
        let failed = |error| classify(error, "delete a view's generation");
        let projection = view.projection().as_str();
        let mut tx = lease.begin().await.map_err(failed)?;
        // Locks in the same order as `promote`, so the two cannot deadlock: first the checkpoint, then the live generation.
        let before = self.lock_checkpoint(&mut tx, view).await?;
        sqlx::query(self.schema.sql(MARK_DELETING)).bind(projection).execute(&mut *tx).await.map_err(failed)?;
        if self.lock_live(&mut tx, view.view()).await? == view.generation() {
            return Err(still_live(view));
        }
        if before.state != ProjectionState::Deleting {
            let entry = AuditEntry::delete_generation(view.projection(), by);
            insert_audit(&self.schema, &mut tx, &entry).await.map_err(failed)?;
        }
        let is_gone = self.delete_rows(&mut tx, view, rows).await.map_err(failed)?;
        if is_gone {
            for delete in [DELETE_PROGRESS, DELETE_PARKED, DELETE_PROCESSORS, DELETE_CHECKPOINT] {
                sqlx::query(self.schema.sql(delete)).bind(projection).execute(&mut *tx).await.map_err(failed)?;
            }
        }
        tx.commit().await.map_err(failed)?;
        Ok(is_gone)
    }

    async fn write(
        &self,
        tx: &mut PgConnection,
        view: &ViewId,
        changes: &Changes<'_>,
        write: &'static str,
        write_fields: &'static str,
    ) -> Result<(), sqlx::Error> {
        if !changes.kept.is_empty() {
            let kept = || changes.kept.iter();
            let query = self
                .view_query(write, view)
                .bind(kept().map(|row| row.key.as_str()).collect::<Vec<_>>())
                .bind(kept().map(|row| row.state.as_deref()).collect::<Vec<_>>())
                .bind(kept().map(|row| row.fields.to_json()).collect::<Vec<_>>())
                .bind(kept().map(|row| to_sql(row.position.get())).collect::<Vec<_>>());
            query.execute(&mut *tx).await?;
        }
        if !changes.removed.is_empty() {
            let keys: Vec<_> = changes.removed.iter().map(|row| row.key.as_str()).collect();
            let remove = self.view_query(REMOVE, view).bind(keys.clone()).bind(view.projection().as_str());
            if remove.execute(&mut *tx).await?.rows_affected() == 0 {
                self.view_query(EMPTY, view).bind(keys).execute(&mut *tx).await?;
            }
        }
        for (statement, entries) in [(REMOVE_FIELDS, &changes.lost), (write_fields, &changes.won)] {
            if !entries.is_empty() {
                let column = |part: fn(&Entry<'_>) -> String| entries.iter().map(part).collect::<Vec<_>>();
                let query = self.view_query(statement, view).bind(column(|entry| entry.0.to_owned()));
                let query = query.bind(column(|entry| entry.1.to_owned())).bind(column(|entry| entry.2.to_string()));
                query.execute(&mut *tx).await?;
            }
        }
        Ok(())
    }

    async fn read(&self, query: Query<'_, Postgres, PgArguments>) -> Result<Vec<ViewRow>> {
        let failed = |error| classify(error, "read a view's rows");
        let rows = self.connections.rows(query).await.map_err(failed)?;
        rows.iter().map(|row| parse(row, stored_key(row.try_get(3).map_err(failed)?)?)).collect()
    }

    /// Returns a query with the view and its generation as the first two binds of `statement`.
    fn view_query<'v>(&self, statement: &'static str, view: &'v ViewId) -> Query<'v, Postgres, PgArguments> {
        sqlx::query(self.schema.sql(statement)).bind(view.view().as_str()).bind(to_sql(view.generation().get()))
    }

    /// Reads a generation's checkpoint and locks it until the transaction ends.
    async fn lock_checkpoint(&self, tx: &mut PgConnection, view: &ViewId) -> Result<GenerationStatus> {
        let query = sqlx::query_as(self.schema.sql(LOCK_CHECKPOINT)).bind(view.projection().as_str());
        let found: Option<(i64, String)> =
            query.fetch_optional(tx).await.map_err(|error| classify(error, "read a checkpoint"))?;
        let Some((position, state)) = found else { return Ok(GenerationStatus::default()) };
        let position = Position::new(from_sql(position, "position")?);
        Ok(GenerationStatus { position, state: ProjectionState::parse(&state)? })
    }

    /// Returns the live generation and locks it until the transaction ends.
    async fn lock_live(&self, tx: &mut PgConnection, view: &ProjectionName) -> Result<Generation> {
        let live = sqlx::query_scalar(self.schema.sql(LOCK_LIVE)).bind(view.as_str()).fetch_one(tx).await;
        let live = live.map_err(|error| classify(error, "read a view's generation"))?;
        from_sql(live, "generation").map(Generation::new)
    }

    /// Deletes at most `at_most` rows of a generation and as many of its fields. Returns whether none are left.
    async fn delete_rows(&self, tx: &mut PgConnection, view: &ViewId, at_most: usize) -> Result<bool, sqlx::Error> {
        let limit = limit_to_sql(at_most);
        for statement in [DELETE_GENERATION, DELETE_GENERATION_FIELDS] {
            let deleted = self.view_query(statement, view).bind(limit).execute(&mut *tx).await?.rows_affected();
            if to_sql(deleted) >= limit {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Parses the columns state, fields and position. All are NULL if the row does not exist.
fn parse(row: &PgRow, key: ViewKey) -> Result<ViewRow> {
    let failed = |error| classify(error, "read a view's row");
    let position: Option<i64> = row.try_get(2).map_err(failed)?;
    let position = Position::new(from_sql(position.unwrap_or(0), "position")?);
    ViewRow::stored(key, row.try_get(0).map_err(failed)?, row.try_get(1).map_err(failed)?, position)
}

/// Binds: view, generation, keys, projection. A function on the server, because the several statements take one round trip this way.
const LOAD: &str = "SELECT row_state, row_fields, row_position FROM {schema}.load_rows($1, $2, $3, $4)";

/// Binds: view, generation, keys, states, fields, positions.
const WRITE: &str = "
    INSERT INTO {schema}.views (view, generation, key, state, fields, position)
    SELECT $1, $2, key, state, fields, position
    FROM unnest($3::text[], $4::text[], $5::text[], $6::bigint[]) AS changed (key, state, fields, position)
    ON CONFLICT (view, generation, key) DO UPDATE
    SET state = excluded.state, fields = excluded.fields, position = excluded.position";

/// Binds: as in `WRITE`. For rows that cannot exist yet: without the conflict check it is half the work of `WRITE`.
const ADD: &str = "
    INSERT INTO {schema}.views (view, generation, key, state, fields, position)
    SELECT $1, $2, key, state, fields, position
    FROM unnest($3::text[], $4::text[], $5::text[], $6::bigint[]) AS new (key, state, fields, position)";

/// Binds: view, generation, fields, values, keys.
const ADD_FIELDS: &str = "
    INSERT INTO {schema}.view_fields (view, generation, field, value, key)
    SELECT $1, $2, field, value, key FROM unnest($3::text[], $4::text[], $5::text[]) AS new (field, value, key)";

/// Deletes rows, if the projection is in log order. Binds: view, generation, keys, projection.
const REMOVE: &str = "
    DELETE FROM {schema}.views
    WHERE view = $1 AND generation = $2 AND key = ANY ($3)
        AND NOT EXISTS (SELECT FROM {schema}.checkpoints WHERE projection = $4 AND per_aggregate)";

/// Empties rows, because with order per aggregate other workers may wait for their locks. Binds: view, generation, keys.
const EMPTY: &str = "
    UPDATE {schema}.views SET state = NULL, fields = NULL, position = 0
    WHERE view = $1 AND generation = $2 AND key = ANY ($3)";

/// Binds: view, generation, fields, values, keys.
const WRITE_FIELDS: &str = "
    INSERT INTO {schema}.view_fields (view, generation, field, value, key)
    SELECT $1, $2, field, value, key FROM unnest($3::text[], $4::text[], $5::text[]) AS won (field, value, key)
    ON CONFLICT DO NOTHING";

/// Binds: view, generation, fields, values, keys.
const REMOVE_FIELDS: &str = "
    DELETE FROM {schema}.view_fields AS f
    USING unnest($3::text[], $4::text[], $5::text[]) AS lost (field, value, key)
    WHERE f.view = $1 AND f.generation = $2 AND f.field = lost.field AND f.value = lost.value AND f.key = lost.key";

const LIVE: &str = "SELECT live FROM {schema}.view_generations WHERE view = $1";

const PROMOTE: &str = "
    INSERT INTO {schema}.view_generations (view, live) VALUES ($1, $2)
    ON CONFLICT (view) DO UPDATE SET live = excluded.live";

const LOCK_CHECKPOINT: &str = "SELECT position, state FROM {schema}.checkpoints WHERE projection = $1 FOR UPDATE";

const LOCK_LIVE: &str = "
    INSERT INTO {schema}.view_generations AS g (view, live) VALUES ($1, 1)
    ON CONFLICT (view) DO UPDATE SET live = g.live
    RETURNING live";

const MARK_DELETING: &str = "
    INSERT INTO {schema}.checkpoints (projection, position, state) VALUES ($1, 0, 'deleting')
    ON CONFLICT (projection) DO UPDATE SET position = excluded.position, event_id = NULL, state = excluded.state";

/// Binds: view, generation, limit.
const DELETE_GENERATION: &str = "
    DELETE FROM {schema}.views
    WHERE ctid = ANY (ARRAY(SELECT ctid FROM {schema}.views WHERE view = $1 AND generation = $2 LIMIT $3))";

/// Binds: view, generation, limit.
const DELETE_GENERATION_FIELDS: &str = "
    DELETE FROM {schema}.view_fields
    WHERE ctid = ANY (ARRAY(SELECT ctid FROM {schema}.view_fields WHERE view = $1 AND generation = $2 LIMIT $3))";

const DELETE_CHECKPOINT: &str = "DELETE FROM {schema}.checkpoints WHERE projection = $1";

const DELETE_PARKED: &str = "DELETE FROM {schema}.parked WHERE projection = $1";

const DELETE_PROCESSORS: &str = "DELETE FROM {schema}.processors WHERE projection = $1";

const DELETE_PROGRESS: &str = "DELETE FROM {schema}.progress WHERE projection = $1";

/// Binds: view, keys, generation or NULL.
const FIND: &str = "
    SELECT state, fields, position, key FROM {schema}.views
    WHERE view = $1 AND key = ANY ($2) AND state IS NOT NULL
        AND generation = coalesce($3, (SELECT live FROM {schema}.view_generations WHERE view = $1), 1)";

/// Binds: view, key to start after, limit, generation or NULL.
const PAGE: &str = "
    SELECT state, fields, position, key FROM {schema}.views
    WHERE view = $1 AND key > $2 AND state IS NOT NULL
        AND generation = coalesce($4, (SELECT live FROM {schema}.view_generations WHERE view = $1), 1)
    ORDER BY key LIMIT $3";

/// Binds: view, key to start after, limit, generation or NULL, field, value.
const PAGE_OF: &str = "
    SELECT v.state, v.fields, v.position, v.key
    FROM {schema}.view_fields AS f
    JOIN {schema}.views AS v ON v.view = f.view AND v.generation = f.generation AND v.key = f.key
    WHERE f.view = $1 AND f.key > $2 AND f.field = $5 AND f.value = $6 AND v.state IS NOT NULL
        AND f.generation = coalesce($4, (SELECT live FROM {schema}.view_generations WHERE view = $1), 1)
    ORDER BY f.key LIMIT $3";
