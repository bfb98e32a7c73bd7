//! Deadlines in a SQLite file.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use rusqlite::{Connection, Row};
use uuid::Uuid;

use crate::error::Result;
use crate::id::ProjectionName;
use crate::store::model::deadlines::{Deadline, DeadlineChange, DeadlineColumns, DeadlineStore, parts};
use crate::store::sqlite::error::{Failure, corrupt};
use crate::store::sqlite::model::read_model::SqliteReadModel;
use crate::store::sqlite::transaction::OpenTransaction;

#[async_trait]
impl DeadlineStore for SqliteReadModel {
    async fn change_deadlines(
        &self,
        tx: &mut Connection,
        process: &ProjectionName,
        changes: &[DeadlineChange],
    ) -> Result<()> {
        change(tx, process, changes).map_err(|failure| failure.to("change deadlines"))
    }

    async fn settle_deadlines(&self, process: &ProjectionName, changes: &[DeadlineChange]) -> Result<()> {
        let (process, changes) = (process.clone(), changes.to_vec());
        self.writer
            .run("change deadlines", move |db| {
                let open = OpenTransaction::begin(db)?;
                change(open.db, &process, &changes)?;
                open.commit()
            })
            .await
    }

    async fn due_deadlines(&self, process: &ProjectionName, now: DateTime<Utc>, limit: usize) -> Result<Vec<Deadline>> {
        let process = process.clone();
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.readers
            .run("read deadlines", move |db| {
                let mut due = db.prepare_cached(DUE)?;
                let mut rows = due.query((process.as_str(), now.timestamp_micros(), limit))?;
                let mut found = Vec::new();
                while let Some(row) = rows.next()? {
                    found.push(parse(row)?);
                }
                Ok(found)
            })
            .await
    }

    async fn postpone_deadline(
        &self,
        process: &ProjectionName,
        id: Uuid,
        until: DateTime<Utc>,
        error: &str,
    ) -> Result<()> {
        let (process, error) = (process.clone(), error.to_owned());
        self.writer
            .run("postpone a deadline", move |db| {
                db.prepare_cached(POSTPONE)?.execute((
                    process.as_str(),
                    id.as_bytes(),
                    until.timestamp_micros(),
                    error,
                ))?;
                Ok(())
            })
            .await
    }
}

fn change(db: &Connection, process: &ProjectionName, changes: &[DeadlineChange]) -> Result<(), Failure> {
    let (set, ended) = parts(changes);
    for deadline in set {
        db.prepare_cached(SET)?.execute((
            process.as_str(),
            deadline.id.as_bytes(),
            deadline.key.as_str(),
            &deadline.name,
            deadline.at.timestamp_micros(),
            deadline.correlation_id.as_ref().map(|id| id.as_uuid().as_bytes()),
            deadline.causation_id.as_ref().map(|id| id.as_uuid().as_bytes()),
            deadline.trace.as_ref().map(ToString::to_string),
        ))?;
    }
    for id in ended {
        db.prepare_cached(END)?.execute((process.as_str(), id.as_bytes()))?;
    }
    Ok(())
}

fn parse(row: &Row<'_>) -> Result<Deadline, Failure> {
    let text = |column| Ok::<_, rusqlite::Error>(row.get_ref(column)?.as_str()?);
    let micros: i64 = row.get(3)?;
    let columns = DeadlineColumns {
        id: Uuid::from_bytes(row.get(0)?),
        key: text(1)?,
        name: text(2)?,
        at: DateTime::from_timestamp_micros(micros).ok_or_else(|| corrupt(format!("invalid time {micros}")))?,
        correlation_id: row.get::<_, Option<[u8; 16]>>(4)?.map(Uuid::from_bytes),
        causation_id: row.get::<_, Option<[u8; 16]>>(5)?.map(Uuid::from_bytes),
        trace: row.get_ref(6)?.as_str_or_null().map_err(rusqlite::Error::from)?,
        attempts: row.get(7)?,
    };
    Ok(columns.parse()?)
}

/// Binds: process, id, key, name, time, correlation id, causation id, trace.
const SET: &str = "
    INSERT INTO retell_deadlines (process, deadline_id, process_key, name, due_at, correlation_id, causation_id, trace)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)
    ON CONFLICT (process, deadline_id) DO NOTHING";

const END: &str = "DELETE FROM retell_deadlines WHERE process = ?1 AND deadline_id = ?2";

const DUE: &str = "
    SELECT deadline_id, process_key, name, due_at, correlation_id, causation_id, trace, attempts FROM retell_deadlines
    WHERE process = ?1 AND due_at <= ?2
    ORDER BY due_at LIMIT ?3";

/// Binds: process, id, time, error.
const POSTPONE: &str = "
    UPDATE retell_deadlines SET due_at = ?3, attempts = attempts + 1, error = ?4 WHERE process = ?1 AND deadline_id = ?2";
