//! Deletes rows of inboxes in MySQL and MariaDB.

use sqlx::{MySql, QueryBuilder};
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::id::{EventId, Position, ProjectionName};
use crate::store::model::interventions::AuditEntry;
use crate::store::model::pruning::{InboxPruning, ReactionStart};
use crate::store::mysql::audit::insert_audit;
use crate::store::mysql::error::classify;
use crate::store::mysql::model::checkpoint::{RESET_START, lock_checkpoint_in};
use crate::store::mysql::model::read_model::MySqlReadModel;
use crate::store::server::convert::{MarkRow, from_sql, id_to_sql, limit_to_sql, mark_from_sql, to_sql};
use crate::store::server::lease::Lease;

const ATTEMPT: &str = "prune an inbox";

fn failed(error: sqlx::Error) -> Error {
    classify(error, ATTEMPT)
}

/// Returns a statement that ends with a list of events.
fn of_events(statement: &'static str, reaction: &ProjectionName, events: &[EventId]) -> QueryBuilder<MySql> {
    let mut query = QueryBuilder::new(statement);
    query.push_bind(reaction.as_str().as_bytes().to_vec()).push(AND_EVENTS);
    let mut list = query.separated(", ");
    for event in events {
        list.push_bind(*event.as_uuid());
    }
    query.push(")");
    query
}

impl MySqlReadModel {
    pub(crate) async fn record_change(&self, entry: &AuditEntry) -> Result<()> {
        entry.by.check()?;
        let mut lease = self.connections.lease().await.map_err(failed)?;
        let insert =
            async { insert_audit(&mut lease, entry).await.map_err(|error| classify(error, "record a change")) };
        let recorded = self.connections.limits().call("record a change", insert).await;
        lease.finish(recorded)
    }

    pub(crate) async fn reaction_starts(&self, limit: usize) -> Result<Vec<ReactionStart>> {
        let failed = |error| classify(error, "list the reactions");
        let read = || async {
            let query = sqlx::query_as(STARTS).bind(limit_to_sql(limit));
            let rows: Vec<(String, i64, Option<Uuid>)> = self.connections.all(query).await.map_err(failed)?;
            let start = |(reaction, position, id)| {
                Ok(ReactionStart::new(ProjectionName::new(reaction)?, mark_from_sql((position, id))?))
            };
            rows.into_iter().map(start).collect()
        };
        self.connections.repeat("list the reactions", read).await
    }

    pub(crate) async fn handled_of(&self, reaction: &ProjectionName, events: &[EventId]) -> Result<u64> {
        if events.is_empty() {
            return Ok(0);
        }
        let failed = |error| classify(error, "count the rows of an inbox");
        let read = || async {
            let mut query = of_events(HANDLED, reaction, events);
            let query = query.build_query_as().persistent(false);
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

    async fn prune_on(&self, lease: &mut Lease<MySql>, pruning: &InboxPruning) -> Result<u64> {
        let session = lease.session();
        let mut tx = lease.begin().await.map_err(failed)?;
        let name = pruning.reaction.as_str().as_bytes();
        // The reaction handles no event meanwhile.
        let checkpoint = lock_checkpoint_in(&mut tx, &pruning.reaction, &session).await?.mark.position;
        let start: Option<MarkRow> = sqlx::query_as(START).bind(name).fetch_optional(&mut *tx).await.map_err(failed)?;
        let start = start.map(mark_from_sql).transpose()?.unwrap_or_default().position;
        let (parked,): (Option<i64>,) =
            sqlx::query_as(FIRST_PARKED).bind(name).fetch_one(&mut *tx).await.map_err(failed)?;
        let parked = parked.map(|position| from_sql(position, "position").map(Position::new)).transpose()?;
        pruning.check(checkpoint.max(start), parked)?;
        let mut rows = 0;
        if !pruning.events.is_empty() {
            let mut delete = of_events(DELETE, &pruning.reaction, &pruning.events);
            rows = delete.build().persistent(false).execute(&mut *tx).await.map_err(failed)?.rows_affected();
        }
        if start < pruning.through.position {
            let begin = sqlx::query(RESET_START).bind(to_sql(pruning.through.position.get()));
            begin.bind(id_to_sql(pruning.through)).bind(name).execute(&mut *tx).await.map_err(failed)?;
        }
        if rows > 0 {
            insert_audit(&mut tx, &pruning.entry(rows)).await.map_err(failed)?;
        }
        tx.commit().await.map_err(failed)?;
        Ok(rows)
    }
}

/// Binds: limit.
const STARTS: &str = "
    SELECT CONVERT(reaction USING utf8mb4), begins_after, event_id FROM retell_reactions ORDER BY reaction LIMIT ?";

const START: &str = "SELECT begins_after, event_id FROM retell_reactions WHERE reaction = ? FOR UPDATE";

/// Followed by the reaction, [`AND_EVENTS`] and the events.
const HANDLED: &str = "SELECT COUNT(*) FROM retell_inbox WHERE reaction = ";

const FIRST_PARKED: &str = "SELECT MIN(from_position) FROM retell_parked WHERE projection = ?";

/// Followed by the reaction, [`AND_EVENTS`] and the events.
const DELETE: &str = "DELETE FROM retell_inbox WHERE reaction = ";

const AND_EVENTS: &str = " AND event_id IN (";
