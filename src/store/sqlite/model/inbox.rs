//! Inboxes in a SQLite file.

use rusqlite::{Connection, OptionalExtension, Row};

use crate::error::Result;
use crate::id::mark::Mark;
use crate::id::{EventId, ProjectionName};
use crate::store::sqlite::convert::{event_id_to_sql, mark_from_sql, to_sql};
use crate::store::sqlite::error::Failure;
use crate::store::sqlite::model::read_model::SqliteReadModel;
use crate::store::sqlite::transaction::OpenTransaction;

impl SqliteReadModel {
    pub(crate) fn record_handled(tx: &mut Connection, reaction: &ProjectionName, event: EventId) -> Result<bool> {
        insert_handled(tx, reaction, event).map_err(|failure| failure.to("record an event in an inbox"))
    }

    pub(crate) async fn record_start(&self, reaction: &ProjectionName, mark: Mark) -> Result<Mark> {
        let reaction = reaction.clone();
        self.writer
            .run("record the start of a reaction", move |db| {
                let open = OpenTransaction::begin(db)?;
                let binds = (reaction.as_str(), to_sql(mark.position.get()), event_id_to_sql(mark.event_id));
                open.db.prepare_cached(INSERT_START)?.execute(binds)?;
                let start = start_of(open.db, &reaction)?;
                open.commit()?;
                Ok(start.unwrap_or(mark))
            })
            .await
    }
}

/// Returns the place after which a reaction starts; `None` if none is stored.
pub(crate) fn start_of(db: &Connection, reaction: &ProjectionName) -> Result<Option<Mark>, Failure> {
    let columns = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?));
    let start = db.prepare_cached(START)?.query_row([reaction.as_str()], columns).optional()?;
    start.map(mark_from_sql).transpose()
}

fn insert_handled(db: &Connection, reaction: &ProjectionName, event: EventId) -> Result<bool, Failure> {
    Ok(db.prepare_cached(INSERT_HANDLED)?.execute((reaction.as_str(), event.as_uuid().as_bytes()))? == 1)
}

const INSERT_HANDLED: &str = "INSERT INTO retell_inbox (reaction, event_id) VALUES (?1, ?2) ON CONFLICT DO NOTHING";

const INSERT_START: &str =
    "INSERT INTO retell_reactions (reaction, begins_after, event_id) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING";

const START: &str = "SELECT begins_after, event_id FROM retell_reactions WHERE reaction = ?1";
