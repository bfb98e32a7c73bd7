//! Lists progress and inboxes of a SQLite file.

use rusqlite::Connection;

use crate::error::{Error, Result};
use crate::id::{ProjectionName, StreamId, Version};
use crate::store::model::listing::{HandledEvent, ProgressRow};
use crate::store::sqlite::convert::{event_id_from_sql, from_sql, to_sql};
use crate::store::sqlite::error::{Failure, corrupt};
use crate::store::sqlite::model::read_model::SqliteReadModel;

impl SqliteReadModel {
    pub(crate) async fn list_progress(&self, after: Option<&ProgressRow>, limit: usize) -> Result<Vec<ProgressRow>> {
        let after = after.cloned();
        self.readers.run("list the progress", move |db| progress(db, after.as_ref(), limit)).await
    }

    pub(crate) async fn list_handled(&self, after: Option<&HandledEvent>, limit: usize) -> Result<Vec<HandledEvent>> {
        let after = after.cloned();
        self.readers.run("list the inboxes", move |db| handled(db, after.as_ref(), limit)).await
    }
}

fn progress(db: &Connection, after: Option<&ProgressRow>, limit: usize) -> Result<Vec<ProgressRow>, Failure> {
    let mut select = db.prepare_cached(PROGRESS)?;
    let (name, kind, id) = after.map_or(("", "", ""), |row| {
        (row.projection.as_str(), row.stream.aggregate_type().as_str(), row.stream.aggregate_id().as_str())
    });
    let mut rows = select.query((name, kind, id, to_sql(limit as u64)))?;
    let mut listed = Vec::new();
    while let Some(row) = rows.next()? {
        let (name, kind, id): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let version = |number| from_sql(number, "version").map(Version::new);
        let versions = (version(row.get(3)?)?, version(row.get(4)?)?);
        let stream = StreamId::parse(&kind, &id).map_err(Error::from)?;
        let projection = ProjectionName::new(name).map_err(Error::from)?;
        listed.push(ProgressRow::new(projection, stream, versions, event_id_from_sql(row.get(5)?)));
    }
    Ok(listed)
}

fn handled(db: &Connection, after: Option<&HandledEvent>, limit: usize) -> Result<Vec<HandledEvent>, Failure> {
    let mut select = db.prepare_cached(HANDLED)?;
    let name = after.map_or("", |row| row.reaction.as_str());
    let event = after.map_or([0; 16], |row| row.event_id.as_uuid().into_bytes());
    let mut rows = select.query((name, event, to_sql(limit as u64)))?;
    let mut listed = Vec::new();
    while let Some(row) = rows.next()? {
        let reaction = ProjectionName::new(row.get::<_, String>(0)?).map_err(Error::from)?;
        let event =
            event_id_from_sql(row.get(1)?).ok_or_else(|| corrupt("an inbox has a row without an event".into()))?;
        listed.push(HandledEvent::new(reaction, event));
    }
    Ok(listed)
}

/// Binds: projection, aggregate type and aggregate id of the row before, limit.
const PROGRESS: &str = "
    SELECT projection, aggregate_type, aggregate_id, applied, seen, seen_id FROM retell_progress
    WHERE (projection, aggregate_type, aggregate_id) > (?1, ?2, ?3)
    ORDER BY projection, aggregate_type, aggregate_id LIMIT ?4";

/// Binds: reaction and event of the row before, limit.
const HANDLED: &str = "
    SELECT reaction, event_id FROM retell_inbox WHERE (reaction, event_id) > (?1, ?2)
    ORDER BY reaction, event_id LIMIT ?3";
