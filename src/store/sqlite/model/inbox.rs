//! Inboxes in a SQLite file.

use rusqlite::Connection;

use crate::error::Result;
use crate::id::{EventId, Position, ProjectionName};
use crate::store::sqlite::convert::{position_from_sql, to_sql};
use crate::store::sqlite::error::Failure;
use crate::store::sqlite::model::read_model::SqliteReadModel;
use crate::store::sqlite::transaction::OpenTransaction;

impl SqliteReadModel {
    pub(crate) fn record_handled(tx: &mut Connection, reaction: &ProjectionName, event: EventId) -> Result<bool> {
        insert_handled(tx, reaction, event).map_err(|failure| failure.to("record an event in an inbox"))
    }

    pub(crate) async fn record_start(&self, reaction: &ProjectionName, position: Position) -> Result<Position> {
        let reaction = reaction.clone();
        self.writer
            .run("record the start of a reaction", move |db| {
                let open = OpenTransaction::begin(db)?;
                open.db.prepare_cached(INSERT_START)?.execute((reaction.as_str(), to_sql(position.get())))?;
                let start = open.db.prepare_cached(START)?.query_row([reaction.as_str()], |row| row.get(0))?;
                open.commit()?;
                position_from_sql(start)
            })
            .await
    }
}

fn insert_handled(db: &Connection, reaction: &ProjectionName, event: EventId) -> Result<bool, Failure> {
    Ok(db.prepare_cached(INSERT_HANDLED)?.execute((reaction.as_str(), event.as_uuid().as_bytes()))? == 1)
}

const INSERT_HANDLED: &str = "INSERT INTO retell_inbox (reaction, event_id) VALUES (?1, ?2) ON CONFLICT DO NOTHING";

const INSERT_START: &str =
    "INSERT INTO retell_reactions (reaction, begins_after) VALUES (?1, ?2) ON CONFLICT DO NOTHING";

const START: &str = "SELECT begins_after FROM retell_reactions WHERE reaction = ?1";
