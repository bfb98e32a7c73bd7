//! Lists progress and inboxes in PostgreSQL.

use uuid::Uuid;

use crate::error::Result;
use crate::id::ProjectionName;
use crate::store::model::listing::{HandledEvent, ProgressRow};
use crate::store::postgres::error::classify;
use crate::store::postgres::model::read_model::PostgresReadModel;
use crate::store::server::convert::{ProgressColumns, limit_to_sql, progress_from_sql};

impl PostgresReadModel {
    pub(crate) async fn list_progress(&self, after: Option<&ProgressRow>, limit: usize) -> Result<Vec<ProgressRow>> {
        let read = || async {
            let (name, kind, id) = after.map_or(("", "", ""), |row| {
                (row.projection.as_str(), row.stream.aggregate_type().as_str(), row.stream.aggregate_id().as_str())
            });
            let query = sqlx::query_as(self.schema.sql(PROGRESS)).bind(name).bind(kind).bind(id);
            let rows: Vec<ProgressColumns> = self
                .connections
                .all(query.bind(limit_to_sql(limit)))
                .await
                .map_err(|error| classify(error, "list the progress"))?;
            rows.into_iter().map(progress_from_sql).collect()
        };
        self.connections.repeat("list the progress", read).await
    }

    pub(crate) async fn list_handled(&self, after: Option<&HandledEvent>, limit: usize) -> Result<Vec<HandledEvent>> {
        let read = || async {
            let query = sqlx::query_as(self.schema.sql(HANDLED)).bind(after.map_or("", |row| row.reaction.as_str()));
            let query = query.bind(after.map_or(Uuid::nil(), |row| *row.event_id.as_uuid())).bind(limit_to_sql(limit));
            let rows: Vec<(String, Uuid)> =
                self.connections.all(query).await.map_err(|error| classify(error, "list the inboxes"))?;
            let row = |(name, event): (String, Uuid)| Ok(HandledEvent::new(ProjectionName::new(name)?, event.into()));
            rows.into_iter().map(row).collect()
        };
        self.connections.repeat("list the inboxes", read).await
    }
}

/// Binds: projection, aggregate type and aggregate id of the row before, limit.
const PROGRESS: &str = "
    SELECT projection, aggregate_type, aggregate_id, applied, seen, seen_id FROM {schema}.progress
    WHERE (projection, aggregate_type, aggregate_id) > ($1, $2, $3)
    ORDER BY projection, aggregate_type, aggregate_id LIMIT $4";

/// Binds: reaction and event of the row before, limit.
const HANDLED: &str = "
    SELECT reaction, event_id FROM {schema}.inbox WHERE (reaction, event_id) > ($1, $2)
    ORDER BY reaction, event_id LIMIT $3";
