//! The deadlines of processes, with an index by time.

use chrono::{DateTime, Utc};
use redb::WriteTransaction;
use retell::store::{Deadline, DeadlineChange, DeadlineStore, driver};
use retell::{AggregateId, BoxError, CorrelationId, EventId, ProjectionName, Result, async_trait, trace::TraceContext};
use uuid::Uuid;

use crate::file::{classify, corrupt};
use crate::log::from_micros;
use crate::model::RedbReadModel;
use crate::rows::{Saved, key, number, rows};

/// `deadline`, process, id -> key, name, time in microseconds, correlation id and cause, trace, attempts, last error. The index has `due`, process, time,
/// id -> nothing.
type Row = (AggregateId, String, i64, (Option<CorrelationId>, Option<EventId>), Option<TraceContext>, u32, String);

#[async_trait]
impl DeadlineStore for RedbReadModel {
    async fn change_deadlines(
        &self,
        tx: &mut WriteTransaction,
        process: &ProjectionName,
        changes: &[DeadlineChange],
    ) -> Result<()> {
        change(tx, process, changes).map_err(|error| classify("change deadlines", error))
    }

    async fn settle_deadlines(&self, process: &ProjectionName, changes: &[DeadlineChange]) -> Result<()> {
        let (process, changes) = (process.clone(), changes.to_vec());
        self.file.write("change deadlines", move |tx| change(tx, &process, &changes)).await
    }

    async fn due_deadlines(&self, process: &ProjectionName, now: DateTime<Utc>, limit: usize) -> Result<Vec<Deadline>> {
        let process = process.clone();
        let read = move |rows: &Saved| {
            let due = rows.below::<()>(&key!("due", process), "")?.map(|entry| {
                let id = Uuid::parse_str(&entry?.0)?;
                let row = rows.get(&key!("deadline", process, id.to_string()))?;
                Ok::<_, BoxError>(parse(id, row.ok_or_else(|| corrupt("no row of deadline", id))?)?)
            });
            let is_due = |deadline: &Result<Deadline, _>| deadline.as_ref().map_or(true, |deadline| deadline.at <= now);
            due.take_while(is_due).take(limit).collect()
        };
        self.file.read("read due deadlines", read).await
    }

    async fn postpone_deadline(
        &self,
        process: &ProjectionName,
        id: Uuid,
        until: DateTime<Utc>,
        error: &str,
    ) -> Result<()> {
        let (process, error, until) = (process.clone(), error.to_owned(), until.timestamp_micros());
        let postpone = move |tx: &mut WriteTransaction| {
            let (mut rows, place) = (rows(tx)?, key!("deadline", process, id.to_string()));
            let Some((key, name, at, causes, trace, attempts, _)) = rows.remove::<Row>(&place)? else { return Ok(()) };
            rows.remove::<()>(&due(&process, at, id))?;
            rows.put(&due(&process, until, id), &())?;
            rows.put::<Row>(&place, &(key, name, until, causes, trace, attempts + 1, error))
        };
        self.file.write("postpone a deadline", postpone).await
    }
}

/// Sets and ends deadlines.
fn change(tx: &WriteTransaction, process: &ProjectionName, changes: &[DeadlineChange]) -> Result<(), BoxError> {
    let mut rows = rows(tx)?;
    let (set, ended) = driver::deadline_parts(changes);
    for Deadline { id, key, name, at, correlation_id, causation_id, trace, attempts, .. } in set {
        let (place, at) = (key!("deadline", process, id.to_string()), at.timestamp_micros());
        if rows.get::<Row>(&place)?.is_none() {
            rows.put(&place, &(key, name, at, (correlation_id, causation_id), trace, attempts, ""))?;
            rows.put(&due(process, at, *id), &())?;
        }
    }
    for id in ended {
        if let Some((_, _, at, ..)) = rows.remove::<Row>(&key!("deadline", process, id.to_string()))? {
            rows.remove::<()>(&due(process, at, id))?;
        }
    }
    Ok(())
}

/// Returns the index key of a deadline. The sign bit is flipped so that times before 1970 sort first.
fn due(process: &ProjectionName, at: i64, id: Uuid) -> String {
    key!("due", process, number(at.cast_unsigned() ^ (1 << 63)), id.to_string())
}

fn parse(id: Uuid, (key, name, at, causes, trace, attempts, _): Row) -> Result<Deadline> {
    let mut deadline = Deadline::new(id, key, name, from_micros(at)?);
    ((deadline.correlation_id, deadline.causation_id), deadline.trace, deadline.attempts) = (causes, trace, attempts);
    Ok(deadline)
}
