//! Inboxes in PostgreSQL.

use sqlx::PgConnection;

use crate::error::Result;
use crate::id::mark::Mark;
use crate::id::{EventId, ProjectionName};
use crate::store::postgres::error::classify;
use crate::store::postgres::model::read_model::PostgresReadModel;
use crate::store::server::convert::{id_to_sql, mark_from_sql, to_sql};

impl PostgresReadModel {
    pub(crate) async fn record_handled(
        &self,
        tx: &mut PgConnection,
        reaction: &ProjectionName,
        event: EventId,
    ) -> Result<bool> {
        let insert = sqlx::query(self.schema.sql(INSERT_HANDLED)).bind(reaction.as_str()).bind(*event.as_uuid());
        let inserted = insert.execute(tx).await.map_err(|error| classify(error, "record an event in an inbox"))?;
        Ok(inserted.rows_affected() == 1)
    }

    pub(crate) async fn record_start(&self, reaction: &ProjectionName, mark: Mark) -> Result<Mark> {
        let failed = |error| classify(error, "record the start of a reaction");
        let insert = sqlx::query(self.schema.sql(INSERT_START)).bind(reaction.as_str());
        let insert = insert.bind(to_sql(mark.position.get())).bind(id_to_sql(mark));
        self.connections.execute(insert).await.map_err(failed)?;
        // A separate statement, because it must see the row of a process that inserted it first.
        let start = sqlx::query_as(self.schema.sql(START)).bind(reaction.as_str());
        mark_from_sql(self.connections.one(start).await.map_err(failed)?)
    }
}

const INSERT_HANDLED: &str = "INSERT INTO {schema}.inbox (reaction, event_id) VALUES ($1, $2) ON CONFLICT DO NOTHING";

const INSERT_START: &str =
    "INSERT INTO {schema}.reactions (reaction, begins_after, event_id) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING";

const START: &str = "SELECT begins_after, event_id FROM {schema}.reactions WHERE reaction = $1";
