//! Inboxes in MySQL and MariaDB.

use sqlx::MySqlConnection;

use crate::error::Result;
use crate::id::{EventId, Position, ProjectionName};
use crate::store::mysql::error::classify;
use crate::store::mysql::model::read_model::MySqlReadModel;
use crate::store::server::convert::{from_sql, to_sql};

impl MySqlReadModel {
    pub(crate) async fn record_handled(
        &self,
        tx: &mut MySqlConnection,
        reaction: &ProjectionName,
        event: EventId,
    ) -> Result<bool> {
        let take = sqlx::query(TAKE).bind(reaction.as_str().as_bytes()).bind(*event.as_uuid());
        let taken = take.execute(tx).await.map_err(|error| classify(error, "take an event into an inbox"))?;
        Ok(taken.rows_affected() == 1)
    }

    pub(crate) async fn record_start(&self, reaction: &ProjectionName, position: Position) -> Result<Position> {
        let failed = |error| classify(error, "keep where a reaction begins");
        let keep = sqlx::query(BEGIN).bind(reaction.as_str().as_bytes()).bind(to_sql(position.get()));
        self.connections.execute(keep).await.map_err(failed)?;
        let kept = self.connections.one(sqlx::query_as(BEGUN).bind(reaction.as_str().as_bytes()));
        let (position,): (i64,) = kept.await.map_err(failed)?;
        from_sql(position, "position").map(Position::new)
    }
}

/// `IGNORE`, since the server would count a row that is there and stays as it is. Nothing else can be wrong with names of 255 bytes.
const TAKE: &str = "INSERT IGNORE INTO retell_inbox (reaction, event_id) VALUES (?, ?)";

const BEGIN: &str = "INSERT IGNORE INTO retell_reactions (reaction, begins_after) VALUES (?, ?)";

const BEGUN: &str = "SELECT begins_after FROM retell_reactions WHERE reaction = ?";
