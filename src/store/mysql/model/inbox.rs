//! Inboxes in MySQL and MariaDB.

use sqlx::MySqlConnection;

use crate::error::Result;
use crate::id::mark::Mark;
use crate::id::{EventId, ProjectionName};
use crate::store::mysql::error::classify;
use crate::store::mysql::model::read_model::MySqlReadModel;
use crate::store::server::convert::{id_to_sql, mark_from_sql, to_sql};

impl MySqlReadModel {
    pub(crate) async fn record_handled(
        &self,
        tx: &mut MySqlConnection,
        reaction: &ProjectionName,
        event: EventId,
    ) -> Result<bool> {
        let insert = sqlx::query(INSERT_HANDLED).bind(reaction.as_str().as_bytes()).bind(*event.as_uuid());
        let inserted = insert.execute(tx).await.map_err(|error| classify(error, "record an event in an inbox"))?;
        Ok(inserted.rows_affected() == 1)
    }

    pub(crate) async fn record_start(&self, reaction: &ProjectionName, mark: Mark) -> Result<Mark> {
        let failed = |error| classify(error, "record the start of a reaction");
        let insert = sqlx::query(INSERT_START).bind(reaction.as_str().as_bytes());
        let insert = insert.bind(to_sql(mark.position.get())).bind(id_to_sql(mark));
        self.connections.execute(insert).await.map_err(failed)?;
        let start = self.connections.one(sqlx::query_as(START).bind(reaction.as_str().as_bytes()));
        mark_from_sql(start.await.map_err(failed)?)
    }
}

/// `IGNORE`, because `ON DUPLICATE KEY UPDATE` would count an existing row that does not change. It hides no other error: names have at most
/// 255 bytes.
const INSERT_HANDLED: &str = "INSERT IGNORE INTO retell_inbox (reaction, event_id) VALUES (?, ?)";

const INSERT_START: &str = "INSERT IGNORE INTO retell_reactions (reaction, begins_after, event_id) VALUES (?, ?, ?)";

const START: &str = "SELECT begins_after, event_id FROM retell_reactions WHERE reaction = ?";
