//! Deletes rows of inboxes in a SQLite file.

use rusqlite::Connection;

use crate::error::{Error, Result};
use crate::id::mark::Mark;
use crate::id::{EventId, ProjectionName};
use crate::store::model::interventions::AuditEntry;
use crate::store::model::pruning::{InboxPruning, ReactionStart};
use crate::store::sqlite::audit::insert_audit;
use crate::store::sqlite::convert::{event_id_to_sql, mark_from_sql, position_from_sql, to_sql};
use crate::store::sqlite::error::Failure;
use crate::store::sqlite::model::checkpoint::{RESET_START, checkpoint};
use crate::store::sqlite::model::inbox::start_of;
use crate::store::sqlite::model::read_model::SqliteReadModel;
use crate::store::sqlite::transaction::OpenTransaction;

impl SqliteReadModel {
    pub(crate) async fn record_change(&self, entry: &AuditEntry) -> Result<()> {
        entry.by.check()?;
        let entry = entry.clone();
        self.writer.run("record a change", move |db| insert_audit(db, &entry)).await
    }

    pub(crate) async fn reaction_starts(&self, limit: usize) -> Result<Vec<ReactionStart>> {
        let read = move |db: &mut Connection| {
            let mut select = db.prepare_cached(STARTS)?;
            let mut rows = select.query([to_sql(limit as u64)])?;
            let mut starts = Vec::new();
            while let Some(row) = rows.next()? {
                let reaction = ProjectionName::new(row.get::<_, String>(0)?).map_err(Error::from)?;
                starts.push(ReactionStart::new(reaction, mark_from_sql((row.get(1)?, row.get(2)?))?));
            }
            Ok(starts)
        };
        self.readers.run("list the reactions", read).await
    }

    pub(crate) async fn handled_of(&self, reaction: &ProjectionName, events: &[EventId]) -> Result<u64> {
        let (reaction, events) = (reaction.clone(), events.to_vec());
        let count = move |db: &mut Connection| {
            let mut select = db.prepare_cached(HANDLED)?;
            let mut handled = 0;
            for event in events {
                handled += u64::from(select.exists((reaction.as_str(), event.as_uuid().as_bytes()))?);
            }
            Ok(handled)
        };
        self.readers.run("count the rows of an inbox", count).await
    }

    pub(crate) async fn prune_inbox_of(&self, pruning: &InboxPruning) -> Result<u64> {
        pruning.by.check()?;
        let pruning = pruning.clone();
        self.writer.run("prune an inbox", move |db| prune(db, &pruning)).await
    }
}

fn prune(db: &mut Connection, pruning: &InboxPruning) -> Result<u64, Failure> {
    let open = OpenTransaction::begin(db)?;
    let name = pruning.reaction.as_str();
    let start = start_of(open.db, &pruning.reaction)?.unwrap_or(Mark::START).position;
    let first_parked: Option<i64> = open.db.prepare_cached(FIRST_PARKED)?.query_row([name], |row| row.get(0))?;
    let first_parked = first_parked.map(position_from_sql).transpose()?;
    pruning.check(checkpoint(open.db, &pruning.reaction)?.mark.position.max(start), first_parked)?;
    let mut rows = 0;
    for event in &pruning.events {
        rows += open.db.prepare_cached(DELETE)?.execute((name, event.as_uuid().as_bytes()))? as u64;
    }
    if start < pruning.through.position {
        let Mark { position, event_id } = pruning.through;
        open.db.prepare_cached(RESET_START)?.execute((name, to_sql(position.get()), event_id_to_sql(event_id)))?;
    }
    if rows > 0 {
        insert_audit(open.db, &pruning.entry(rows))?;
    }
    open.commit()?;
    Ok(rows)
}

/// Binds: limit.
const STARTS: &str = "SELECT reaction, begins_after, event_id FROM retell_reactions ORDER BY reaction LIMIT ?1";

/// Binds: reaction, event.
const HANDLED: &str = "SELECT 1 FROM retell_inbox WHERE reaction = ?1 AND event_id = ?2";

const FIRST_PARKED: &str = "SELECT min(from_position) FROM retell_parked WHERE projection = ?1";

/// Binds: reaction, event.
const DELETE: &str = "DELETE FROM retell_inbox WHERE reaction = ?1 AND event_id = ?2";
