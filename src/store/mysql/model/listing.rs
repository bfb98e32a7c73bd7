//! Lists progress and inboxes in MySQL and MariaDB.

use uuid::Uuid;

use crate::error::Result;
use crate::id::ProjectionName;
use crate::store::model::listing::{HandledEvent, ProgressRow};
use crate::store::mysql::error::classify;
use crate::store::mysql::model::read_model::MySqlReadModel;
use crate::store::server::convert::{ProgressColumns, limit_to_sql, progress_from_sql};

impl MySqlReadModel {
    pub(crate) async fn list_progress(&self, after: Option<&ProgressRow>, limit: usize) -> Result<Vec<ProgressRow>> {
        let read = || async {
            let (name, kind, id) = after.map_or(("", "", ""), |row| {
                (row.projection.as_str(), row.stream.aggregate_type().as_str(), row.stream.aggregate_id().as_str())
            });
            let [name, kind, id] = [name, kind, id].map(str::as_bytes);
            let query = sqlx::query_as(PROGRESS).bind(name).bind(name).bind(kind).bind(name).bind(kind).bind(id);
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
            let name = after.map_or("", |row| row.reaction.as_str()).as_bytes();
            let event = after.map_or(Uuid::nil(), |row| *row.event_id.as_uuid());
            let query = sqlx::query_as(HANDLED).bind(name).bind(name).bind(event).bind(limit_to_sql(limit));
            let rows: Vec<(String, Uuid)> =
                self.connections.all(query).await.map_err(|error| classify(error, "list the inboxes"))?;
            let row = |(name, event): (String, Uuid)| Ok(HandledEvent::new(ProjectionName::new(name)?, event.into()));
            rows.into_iter().map(row).collect()
        };
        self.connections.repeat("list the inboxes", read).await
    }
}

/// Binds, of the row before: projection, projection and aggregate type, projection, aggregate type and aggregate id; then the limit. MySQL finds no
/// range of an index for a comparison of rows.
const PROGRESS: &str = "
    SELECT CONVERT(projection USING utf8mb4), CONVERT(aggregate_type USING utf8mb4), CONVERT(aggregate_id USING utf8mb4), applied,
        seen, seen_id
    FROM retell_progress
    WHERE projection > ? OR (projection = ? AND aggregate_type > ?)
        OR (projection = ? AND aggregate_type = ? AND aggregate_id > ?)
    ORDER BY retell_progress.projection, retell_progress.aggregate_type, retell_progress.aggregate_id LIMIT ?";

/// Binds, of the row before: reaction, reaction and event; then the limit.
const HANDLED: &str = "
    SELECT CONVERT(reaction USING utf8mb4), event_id FROM retell_inbox
    WHERE reaction > ? OR (reaction = ? AND event_id > ?)
    ORDER BY retell_inbox.reaction, retell_inbox.event_id LIMIT ?";
