//! The changes that operators make to a projection, and their records.

use chrono::Utc;
use rusqlite::{Connection, OptionalExtension, Row};

use crate::error::Result;
use crate::id::{ProjectionName, StreamId};
use crate::store::model::checkpoint::ProjectionState;
use crate::store::model::interventions::{AuditEntry, By, Intervention, Pause, check_pausable};
use crate::store::model::read_model::ReadModel;
use crate::store::model::skipped::{Skipped, SkippedColumns};
use crate::store::sqlite::audit::{entries, insert_audit, limit_to_sql, time};
use crate::store::sqlite::convert::{event_id_from_sql, event_id_to_sql, to_sql};
use crate::store::sqlite::error::Failure;
use crate::store::sqlite::model::checkpoint::{checkpoint, set_checkpoint};
use crate::store::sqlite::model::parking::{RETRY, parked_at};
use crate::store::sqlite::model::processors::FORGET;
use crate::store::sqlite::model::read_model::SqliteReadModel;
use crate::store::sqlite::transaction::OpenTransaction;

impl SqliteReadModel {
    pub(crate) async fn change_as(
        &self,
        projection: &ProjectionName,
        intervention: &Intervention,
        by: &By,
    ) -> Result<bool> {
        by.check()?;
        self.check_name(projection).await?;
        let (projection, intervention, by) = (projection.clone(), intervention.clone(), by.clone());
        let change = move |db: &mut Connection| {
            // The file has one writer, so no transaction of a worker is in progress.
            let open = OpenTransaction::begin(db)?;
            let is_changed = change(open.db, &projection, &intervention, &by)?;
            if is_changed {
                if intervention.counts() {
                    let found = checkpoint(open.db, &projection)?;
                    set_checkpoint(open.db, &projection, found.mark, found.changes + 1)?;
                }
                let entry = AuditEntry::new(intervention.action(), intervention.target(&projection), &by);
                insert_audit(open.db, &entry)?;
            }
            open.commit()?;
            Ok(is_changed)
        };
        self.writer.run("change a projection", change).await
    }

    pub(crate) async fn pause_of(&self, projection: &ProjectionName) -> Result<Option<Pause>> {
        let projection = projection.clone();
        self.readers.run("read a pause", move |db| pause(db, &projection)).await
    }

    pub(crate) async fn skipped_of(
        &self,
        projection: &ProjectionName,
        stream: Option<&StreamId>,
        limit: usize,
    ) -> Result<Vec<Skipped>> {
        let (projection, stream) = (projection.clone(), stream.cloned());
        let read = move |db: &mut Connection| skipped(db, &projection, stream.as_ref(), limit);
        self.readers.run("read skipped events", read).await
    }

    pub(crate) async fn audit_before(&self, limit: usize, before: Option<u64>) -> Result<Vec<AuditEntry>> {
        let read = move |db: &mut Connection| entries(db, limit, before);
        self.readers.run("read the audit", read).await
    }
}

/// Refuses a transaction that does not name the count of changes.
pub(crate) fn refuse_if_paused(db: &Connection, projection: &ProjectionName, paused: bool) -> Result<(), Failure> {
    match pause(db, projection)?.filter(|_| paused) {
        Some(pause) => Err(pause.refuse(projection).into()),
        None => Ok(()),
    }
}

fn change(db: &Connection, projection: &ProjectionName, intervention: &Intervention, by: &By) -> Result<bool, Failure> {
    let (found, name) = (checkpoint(db, projection)?, projection.as_str());
    Ok(match intervention {
        Intervention::Pause | Intervention::Retire => {
            let inline: Option<bool> = db.prepare_cached(IS_INLINE)?.query_row([name], |row| row.get(0)).optional()?;
            check_pausable(projection, if inline == Some(true) { ProjectionState::Inline } else { found.state })?;
            let begun = intervention.pause_after(pause(db, projection)?.as_ref(), by);
            if let Some(pause) = &begun {
                let binds = (name, pause.since.timestamp_micros(), &by.who, &by.reason, pause.retired);
                db.prepare_cached(PAUSE)?.execute(binds)?;
            }
            begun.is_some()
        }
        Intervention::Resume => db.prepare_cached(RESUME)?.execute([name])? > 0,
        Intervention::RetryParked(stream) => revive(db, projection, stream)?,
        Intervention::SkipParked { stream, version, event_id } => {
            let parked = parked_at(db, projection, stream)?;
            let row = Skipped::of(projection, (stream, *version, *event_id), parked, by)?;
            let is_new = !row.is_last_of(&skipped(db, projection, Some(stream), usize::MAX)?);
            if is_new {
                insert_skipped(db, &row)?;
            }
            revive(db, projection, stream)?;
            is_new
        }
        Intervention::WithdrawSkip { stream, version } => {
            let rows = skipped(db, projection, Some(stream), usize::MAX)?;
            let last = rows.into_iter().rev().find(|row| row.version == *version);
            match last.and_then(|last| last.withdraw(projection, by)) {
                Some(withdrawn) => insert_skipped(db, &withdrawn).map(|()| true)?,
                None => false,
            }
        }
        Intervention::ForgetProcessor(processor) => db.prepare_cached(FORGET)?.execute((name, processor.digest()))? > 0,
    })
}

fn revive(db: &Connection, projection: &ProjectionName, stream: &StreamId) -> Result<bool, Failure> {
    let (kind, id) = (stream.aggregate_type().as_str(), stream.aggregate_id().as_str());
    Ok(db.prepare_cached(RETRY)?.execute((projection.as_str(), kind, id, Utc::now().timestamp_micros()))? == 1)
}

fn pause(db: &Connection, projection: &ProjectionName) -> Result<Option<Pause>, Failure> {
    let mut select = db.prepare_cached(PAUSED)?;
    let mut rows = select.query([projection.as_str()])?;
    let Some(row) = rows.next()? else { return Ok(None) };
    let (who, reason): (String, String) = (row.get(1)?, row.get(2)?);
    Ok(Some(Pause::new(time(row.get(0)?)?, By::new(who, reason)).with_retired(row.get(3)?)))
}

fn skipped(
    db: &Connection,
    projection: &ProjectionName,
    stream: Option<&StreamId>,
    limit: usize,
) -> Result<Vec<Skipped>, Failure> {
    let (name, limit) = (Skipped::shared_name(projection), limit_to_sql(limit));
    let mut select = db.prepare_cached(if stream.is_some() { SKIPPED_AT } else { SKIPPED })?;
    let mut rows = match stream {
        Some(stream) => {
            select.query((name, limit, stream.aggregate_type().as_str(), stream.aggregate_id().as_str()))?
        }
        None => select.query((name, limit))?,
    };
    let mut skipped = Vec::new();
    while let Some(row) = rows.next()? {
        skipped.push(columns(row)?.parse()?);
    }
    Ok(skipped)
}

fn columns(row: &Row<'_>) -> Result<SkippedColumns, Failure> {
    Ok(SkippedColumns {
        projection: row.get(0)?,
        aggregate_type: row.get(1)?,
        aggregate_id: row.get(2)?,
        version: row.get(3)?,
        position: row.get(4)?,
        event_id: event_id_from_sql(row.get(5)?),
        error: row.get(6)?,
        at: time(row.get(7)?)?,
        who: row.get(8)?,
        reason: row.get(9)?,
        state: row.get(10)?,
    })
}

fn insert_skipped(db: &Connection, row: &Skipped) -> Result<(), Failure> {
    db.prepare_cached(SKIP)?.execute((
        Skipped::shared_name(&row.projection),
        row.projection.as_str(),
        row.stream.aggregate_type().as_str(),
        row.stream.aggregate_id().as_str(),
        to_sql(row.version.get()),
        to_sql(row.position.get()),
        event_id_to_sql(row.event_id),
        &row.error,
        row.at.timestamp_micros(),
        &row.by.who,
        &row.by.reason,
        row.state.as_str(),
    ))?;
    Ok(())
}

const IS_INLINE: &str = "SELECT inline FROM retell_checkpoints WHERE projection = ?1";

/// Binds: projection, time, operator, reason, whether it is retired.
const PAUSE: &str = "
    INSERT INTO retell_checkpoints (projection, position, paused_at, paused_by, pause_reason, retired)
    VALUES (?1, 0, ?2, ?3, ?4, ?5)
    ON CONFLICT (projection) DO UPDATE SET paused_at = excluded.paused_at, paused_by = excluded.paused_by,
        pause_reason = excluded.pause_reason, retired = excluded.retired";

const RESUME: &str = "
    UPDATE retell_checkpoints SET paused_at = NULL, paused_by = NULL, pause_reason = NULL, retired = 0
    WHERE projection = ?1 AND paused_at IS NOT NULL";

const PAUSED: &str = "
    SELECT paused_at, paused_by, pause_reason, retired FROM retell_checkpoints
    WHERE projection = ?1 AND paused_at IS NOT NULL";

/// Binds: shared name, projection, aggregate type, aggregate id, version, position, event, error, time, operator, reason, state.
const SKIP: &str = "
    INSERT INTO retell_skipped (shared_name, projection, aggregate_type, aggregate_id, version, position, event_id, error, at,
        who, reason, state)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)";

/// Binds: shared name, limit.
const SKIPPED: &str = "
    SELECT projection, aggregate_type, aggregate_id, version, position, event_id, error, at, who, reason, state
    FROM retell_skipped WHERE shared_name = ?1 ORDER BY number LIMIT ?2";

/// Binds: shared name, limit, aggregate type, aggregate id.
const SKIPPED_AT: &str = "
    SELECT projection, aggregate_type, aggregate_id, version, position, event_id, error, at, who, reason, state
    FROM retell_skipped WHERE shared_name = ?1 AND aggregate_type = ?3 AND aggregate_id = ?4 ORDER BY number LIMIT ?2";
