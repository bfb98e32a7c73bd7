//! Deletes rows of inboxes in PostgreSQL.

use sqlx::Postgres;
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::id::{EventId, Position, ProjectionName};
use crate::store::model::interventions::AuditEntry;
use crate::store::model::pruning::{InboxPruning, ReactionStart};
use crate::store::postgres::audit::insert_audit;
use crate::store::postgres::error::classify;
use crate::store::postgres::model::checkpoint::{LOCK, RESET_START, lock};
use crate::store::postgres::model::read_model::PostgresReadModel;
use crate::store::server::convert::{MarkRow, from_sql, id_to_sql, limit_to_sql, mark_from_sql, to_sql};
use crate::store::server::lease::Lease;

const ATTEMPT: &str = "prune an inbox";

fn failed(error: sqlx::Error) -> Error {
    classify(error, ATTEMPT)
}

fn ids(events: &[EventId]) -> Vec<Uuid> {
    events.iter().map(|event| *event.as_uuid()).collect()
}

impl PostgresReadModel {
    pub(crate) async fn record_change(&self, entry: &AuditEntry) -> Result<()> {
        entry.by.check()?;
        let mut lease = self.connections.lease().await.map_err(failed)?;
        let insert = async {
            insert_audit(&self.schema, &mut lease, entry).await.map_err(|error| classify(error, "record a change"))
        };
        let recorded = self.connections.limits().call("record a change", insert).await;
        lease.finish(recorded)
    }

    pub(crate) async fn reaction_starts(&self, limit: usize) -> Result<Vec<ReactionStart>> {
        let failed = |error| classify(error, "list the reactions");
        let read = || async {
            let query = sqlx::query_as(self.schema.sql(STARTS)).bind(limit_to_sql(limit));
            let rows: Vec<(String, i64, Option<Uuid>)> = self.connections.all(query).await.map_err(failed)?;
            let start = |(reaction, position, id)| {
                Ok(ReactionStart::new(ProjectionName::new(reaction)?, mark_from_sql((position, id))?))
            };
            rows.into_iter().map(start).collect()
        };
        self.connections.repeat("list the reactions", read).await
    }

    pub(crate) async fn handled_of(&self, reaction: &ProjectionName, events: &[EventId]) -> Result<u64> {
        let failed = |error| classify(error, "count the rows of an inbox");
        let read = || async {
            let query = sqlx::query_as(self.schema.sql(HANDLED)).bind(reaction.as_str()).bind(ids(events));
            let (rows,): (i64,) = self.connections.one(query).await.map_err(failed)?;
            from_sql(rows, "count")
        };
        self.connections.repeat("count the rows of an inbox", read).await
    }

    pub(crate) async fn prune_inbox_of(&self, pruning: &InboxPruning) -> Result<u64> {
        pruning.by.check()?;
        let mut lease = self.connections.lease().await.map_err(failed)?;
        let pruned = self.connections.limits().call(ATTEMPT, self.prune_on(&mut lease, pruning)).await;
        lease.finish(pruned)
    }

    async fn prune_on(&self, lease: &mut Lease<Postgres>, pruning: &InboxPruning) -> Result<u64> {
        let mut tx = lease.begin().await.map_err(failed)?;
        let name = pruning.reaction.as_str();
        // The reaction handles no event meanwhile.
        let checkpoint = lock(&self.schema, LOCK, &pruning.reaction, &mut tx).await?.mark.position;
        let start = sqlx::query_as(self.schema.sql(START)).bind(name).fetch_optional(&mut *tx).await;
        let start: Option<MarkRow> = start.map_err(failed)?;
        let start = start.map(mark_from_sql).transpose()?.unwrap_or_default().position;
        let parked = sqlx::query_as(self.schema.sql(FIRST_PARKED)).bind(name).fetch_one(&mut *tx).await;
        let (parked,): (Option<i64>,) = parked.map_err(failed)?;
        let parked = parked.map(|position| from_sql(position, "position").map(Position::new)).transpose()?;
        pruning.check(checkpoint.max(start), parked)?;
        let delete = sqlx::query(self.schema.sql(DELETE)).bind(name).bind(ids(&pruning.events));
        let rows = delete.execute(&mut *tx).await.map_err(failed)?.rows_affected();
        if start < pruning.through.position {
            let (position, id) = (to_sql(pruning.through.position.get()), id_to_sql(pruning.through));
            let begin = sqlx::query(self.schema.sql(RESET_START)).bind(name).bind(position).bind(id);
            begin.execute(&mut *tx).await.map_err(failed)?;
        }
        if rows > 0 {
            insert_audit(&self.schema, &mut tx, &pruning.entry(rows)).await.map_err(failed)?;
        }
        tx.commit().await.map_err(failed)?;
        Ok(rows)
    }
}

/// Binds: limit.
const STARTS: &str = "SELECT reaction, begins_after, event_id FROM {schema}.reactions ORDER BY reaction LIMIT $1";

const START: &str = "SELECT begins_after, event_id FROM {schema}.reactions WHERE reaction = $1 FOR UPDATE";

/// Binds: reaction, events.
const HANDLED: &str = "SELECT count(*) FROM {schema}.inbox WHERE reaction = $1 AND event_id = ANY($2)";

const FIRST_PARKED: &str = "SELECT min(from_position) FROM {schema}.parked WHERE projection = $1";

/// Binds: reaction, events.
const DELETE: &str = "DELETE FROM {schema}.inbox WHERE reaction = $1 AND event_id = ANY($2)";
