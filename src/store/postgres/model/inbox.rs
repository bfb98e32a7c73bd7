//! Inboxes in PostgreSQL.

use sqlx::PgConnection;

use crate::error::Result;
use crate::id::{EventId, Position, ProjectionName};
use crate::store::postgres::error::classify;
use crate::store::postgres::model::read_model::PostgresReadModel;
use crate::store::server::convert::{from_sql, to_sql};

impl PostgresReadModel {
    pub(crate) async fn record_handled(
        &self,
        tx: &mut PgConnection,
        reaction: &ProjectionName,
        event: EventId,
    ) -> Result<bool> {
        let take = sqlx::query(self.schema.sql(TAKE)).bind(reaction.as_str()).bind(*event.as_uuid());
        let taken = take.execute(tx).await.map_err(|error| classify(error, "take an event into an inbox"))?;
        Ok(taken.rows_affected() == 1)
    }

    pub(crate) async fn record_start(&self, reaction: &ProjectionName, position: Position) -> Result<Position> {
        let failed = |error| classify(error, "keep where a reaction begins");
        let keep = sqlx::query(self.schema.sql(BEGIN)).bind(reaction.as_str()).bind(to_sql(position.get()));
        keep.execute(&self.pool).await.map_err(failed)?;
        // A statement of its own: it sees the row of whoever was faster.
        let kept = sqlx::query_scalar(self.schema.sql(BEGUN)).bind(reaction.as_str());
        from_sql(kept.fetch_one(&self.pool).await.map_err(failed)?, "position").map(Position::new)
    }
}

const TAKE: &str = "INSERT INTO {schema}.inbox (reaction, event_id) VALUES ($1, $2) ON CONFLICT DO NOTHING";

const BEGIN: &str = "INSERT INTO {schema}.reactions (reaction, begins_after) VALUES ($1, $2) ON CONFLICT DO NOTHING";

const BEGUN: &str = "SELECT begins_after FROM {schema}.reactions WHERE reaction = $1";
