//! Order per aggregate in MySQL and MariaDB: one statement creates and locks the rows of a batch, one reads them, one writes the changed rows.

use std::collections::HashMap;

use async_trait::async_trait;
use sqlx::mysql::MySqlRow;
use sqlx::{MySql, MySqlConnection, QueryBuilder, Row as _};
use uuid::Uuid;

use crate::error::{ErrorKind, Result};
use crate::id::mark::Mark;
use crate::id::{ProjectionName, StreamId};
use crate::store::held::holding;
use crate::store::model::checkpoint::ProjectionState;
use crate::store::model::parking::Parked;
use crate::store::model::processors::check_changes;
use crate::store::model::progress::{
    Progress, Row, Seen, StoredRow, Turn, changes, in_key_order, parked_of, progress_of, stored,
};
use crate::store::model::read_model::Work;
use crate::store::mysql::convert::text;
use crate::store::mysql::error::{classify, classify_work};
use crate::store::mysql::model::checkpoint::lock_checkpoint_in;
use crate::store::mysql::model::parking::{columns, park};
use crate::store::mysql::model::read_model::MySqlReadModel;
use crate::store::mysql::session::session_id;
use crate::store::server::convert::{from_sql, id_to_sql, mark_from_sql, to_sql};
use crate::store::server::inline::InlineModels;
use crate::store::server::lease::Lease;
use crate::store::server::orphans::SessionId;

/// The most rows in one statement. More rows take several statements, one after the other in key order.
pub(crate) const ROWS: usize = 1024;

impl MySqlReadModel {
    pub(crate) async fn begin_per_aggregate(
        &self,
        projection: &ProjectionName,
        work: Work<MySqlConnection>,
    ) -> Result<()> {
        self.begin_as(projection, ProjectionState::Running, work).await
    }

    pub(crate) async fn seen_versions(
        &self,
        projection: &ProjectionName,
        streams: &[StreamId],
    ) -> Result<HashMap<StreamId, Seen>> {
        let failed = |error| classify(error, "read progress");
        let read = || async {
            let mut lease = self.connections.lease().await.map_err(failed)?;
            let mut seen = HashMap::new();
            for chunk in streams.chunks(ROWS) {
                let (found, _) = rows(&mut lease, projection, chunk, AT_ANY_TIME).await?;
                seen.extend(found.into_iter().map(|(stream, row)| (stream, Seen::of(row))));
            }
            lease.end(Ok(seen)).map_err(failed)
        };
        self.connections.repeat("read progress", read).await
    }

    pub(crate) async fn run_turn(
        &self,
        projection: &ProjectionName,
        known: u64,
        streams: Vec<StreamId>,
        turn: Turn<MySqlConnection>,
    ) -> Result<()> {
        let streams = in_key_order(streams);
        let _turn = self.connections.turn().await?;
        let (mut turn, mut retries) = (Some(turn), self.connections.retries());
        loop {
            let lease = self.connections.lease().await;
            let mut lease = lease.map_err(|error| classify(error, "commit a batch"))?;
            let done = self.turn_on(&mut lease, (projection, known), &streams, &mut turn).await;
            let done = lease.finish(done);
            if turn.is_none() || !retries.may_pass(&done) {
                return done;
            }
        }
    }

    pub(crate) async fn sweep_to(&self, projection: &ProjectionName, known: u64, from: Mark, to: Mark) -> Result<Mark> {
        let failed = |error| classify(error, "advance a swept position");
        let (name, id) = (projection.as_str().as_bytes(), id_to_sql(from));
        let query = sqlx::query(SWEEP).bind(to_sql(to.position.get())).bind(id_to_sql(to)).bind(name);
        let query = query.bind(to_sql(from.position.get())).bind(id).bind(id).bind(to_sql(known));
        self.connections.execute(query).await.map_err(failed)?;
        // A projection has its row since it began.
        let swept: Option<(i64, Option<Uuid>, i64)> =
            self.connections.optional(sqlx::query_as(SWEPT).bind(name)).await.map_err(failed)?;
        let Some((position, event_id, stored)) = swept else { return Ok(Mark::START) };
        check_changes(projection, known, from_sql(stored, "count")?)?;
        mark_from_sql((position, event_id))
    }
}

#[async_trait]
impl InlineModels for MySqlReadModel {
    async fn begin_inline(&self, projection: &ProjectionName, work: Work<MySqlConnection>) -> Result<()> {
        self.begin_as(projection, ProjectionState::Inline, work).await
    }
}

impl MySqlReadModel {
    /// Sets the projection up with order per aggregate, in this state.
    async fn begin_as(
        &self,
        projection: &ProjectionName,
        state: ProjectionState,
        work: Work<MySqlConnection>,
    ) -> Result<()> {
        let _turn = self.connections.turn().await?;
        let (mut work, mut retries) = (Some(work), self.connections.retries());
        loop {
            let lease = self.connections.lease().await;
            let mut lease = lease.map_err(|error| classify(error, "set up a projection"))?;
            let done = self.begin_on(&mut lease, projection, state, &mut work).await;
            let done = lease.finish(done);
            if work.is_none() || !retries.may_pass(&done) {
                return done;
            }
        }
    }

    /// Sets the projection up. Takes `work` when it runs it.
    async fn begin_on(
        &self,
        lease: &mut Lease<MySql>,
        projection: &ProjectionName,
        state: ProjectionState,
        work: &mut Option<Work<MySqlConnection>>,
    ) -> Result<()> {
        let failed = |error| classify(error, "set up a projection");
        let limits = self.connections.limits();
        let session = lease.session();
        let mut tx = lease.begin().await.map_err(failed)?;
        let locked = lock_checkpoint_in(&mut tx, projection, &session);
        let found = limits.call("set up a projection", locked).await?;
        if found.state != ProjectionState::Inline || state != ProjectionState::Inline {
            found.state.check_running(projection)?;
            found.check_aggregate_order(projection)?;
        }
        if found.paused
            && let Some(pause) = limits.call("set up a projection", self.pause_on(&mut tx, projection)).await?
        {
            return Err(pause.refuse(projection));
        }
        // The state comes first because work that creates a table commits implicitly.
        let mark = sqlx::query(BEGIN_PER_AGGREGATE);
        let mark = mark.bind(state.as_str().as_bytes()).bind(projection.as_str().as_bytes());
        limits.statements(mark.execute(&mut *tx)).await.map_err(failed)?;
        let gate = sqlx::query(ADD_GATE).bind(projection.as_str().as_bytes());
        limits.statements(gate.execute(&mut *tx)).await.map_err(failed)?;
        if let Some(work) = work.take() {
            holding(self.connections.held(), work(&mut tx)).await.map_err(classify_work)?;
        }
        limits.statements(tx.commit()).await.map_err(failed)
    }

    /// Runs a turn. Takes `turn` when it runs it.
    async fn turn_on(
        &self,
        lease: &mut Lease<MySql>,
        (projection, known): (&ProjectionName, u64),
        streams: &[StreamId],
        turn: &mut Option<Turn<MySqlConnection>>,
    ) -> Result<()> {
        let failed = |error| classify(error, "commit a batch");
        let limits = self.connections.limits();
        let session = lease.session();
        let mut tx = lease.begin().await.map_err(failed)?;
        let locked = async {
            let (locked, stored) = lock(&mut tx, projection, streams, &session).await?;
            if let Some(stored) = stored {
                check_changes(projection, known, from_sql(stored, "count")?)?;
            }
            let parked = read_parked(&mut tx, projection, &parked_of(streams, &locked)).await?;
            progress_of(streams.to_vec(), &locked, parked)
        };
        let before = limits.call("commit a batch", locked).await?;
        let mut after = before.clone();
        // Work that fails may have dropped a query half-way. The connection is then closed, which ends the transaction.
        if let Some(turn) = turn.take() {
            holding(self.connections.held(), turn(&mut tx, &mut after)).await.map_err(classify_work)?;
        }
        let (changed, parking) = changes(&before, &after);
        let committed = async {
            set(&mut tx, projection, &changed).await?;
            for change in &parking {
                park(projection, change).execute(&mut *tx).await?;
            }
            tx.commit().await
        };
        limits.statements(committed).await.map_err(failed)
    }
}

/// Inserts the missing rows and locks all of them, in key order, and the gate of the projection. Notes the id of the session. Returns the rows,
/// and the count of the projection's changes if there are any rows.
async fn lock(
    tx: &mut MySqlConnection,
    projection: &ProjectionName,
    streams: &[StreamId],
    session: &SessionId,
) -> Result<(HashMap<StreamId, Row>, Option<i64>)> {
    for chunk in streams.chunks(ROWS) {
        let new = chunk.iter().map(|stream| (stream, Row::default()));
        write(tx, projection, new, LOCKED).await.map_err(|error| classify(error, "lock progress"))?;
    }
    let (mut locked, mut changes) = (HashMap::new(), None);
    for chunk in streams.chunks(ROWS) {
        let (found, last) = rows(tx, projection, chunk, IN_A_TURN).await?;
        locked.extend(found);
        if let Some((id, stored, closed)) = last {
            session.set(id);
            if closed {
                return Err(ErrorKind::ProcessorsChanged(projection.clone()).into());
            }
            changes = changes.or(Some(stored));
        }
    }
    Ok((locked, changes))
}

/// Binds for each row: projection, aggregate type, aggregate id, applied, seen, event seen.
async fn write(
    tx: &mut MySqlConnection,
    projection: &ProjectionName,
    rows: impl ExactSizeIterator<Item = (&StreamId, Row)> + Clone,
    end: &str,
) -> Result<(), sqlx::Error> {
    let mut query = QueryBuilder::new(WRITE);
    query.push_values(padded(rows), |mut row, (stream, (applied, seen, seen_id))| {
        row.push_bind(projection.as_str().as_bytes());
        row.push_bind(stream.aggregate_type().as_str().as_bytes());
        row.push_bind(stream.aggregate_id().as_str().as_bytes());
        row.push_bind(to_sql(applied.get())).push_bind(to_sql(seen.get()));
        row.push_bind(seen_id.map(|id| *id.as_uuid()));
    });
    query.push(end);
    query.build().execute(tx).await.map(drop)
}

/// Pads `rows` to the next power of two by repeating the last row, which changes nothing: a few different statements serve any number of rows.
pub(crate) fn padded<T>(rows: impl ExactSizeIterator<Item = T> + Clone) -> impl Iterator<Item = T> {
    let (number, last) = (rows.len(), rows.clone().skip(rows.len().saturating_sub(1)));
    rows.chain(last.cycle().take(number.next_power_of_two() - number))
}

async fn set(tx: &mut MySqlConnection, projection: &ProjectionName, changed: &[&Progress]) -> Result<(), sqlx::Error> {
    for chunk in changed.chunks(ROWS) {
        write(tx, projection, chunk.iter().map(|row| (&row.stream, (row.applied, row.seen, row.seen_id))), CHANGED)
            .await?;
    }
    Ok(())
}

/// Returns the rows. If there are any, also the id of the session, the count of the projection's changes, and with [`IN_A_TURN`] whether its gate
/// is closed.
async fn rows(
    db: &mut MySqlConnection,
    projection: &ProjectionName,
    streams: &[StreamId],
    gate: &'static str,
) -> Result<(HashMap<StreamId, Row>, Option<(u64, i64, bool)>)> {
    let failed = |error| classify(error, "read progress");
    let mut query = QueryBuilder::new(FIND);
    let name = projection.as_str().as_bytes();
    query.push_bind(name).push(CLOSED).push_bind(name).push(gate).push_bind(name);
    push_keys(&mut query, streams.iter());
    let found = query.build().fetch_all(db).await.map_err(failed)?;
    let last = found
        .first()
        .map(|row| Ok((row.try_get(5)?, row.try_get(6)?, row.try_get::<i64, _>(7)? != 0)))
        .transpose()
        .map_err(failed)?;
    let rows = found.iter().map(|row| row_of(row).map_err(failed).and_then(stored)).collect::<Result<_>>()?;
    Ok((rows, last))
}

fn row_of(row: &MySqlRow) -> Result<StoredRow<'_>, sqlx::Error> {
    Ok((text(row.try_get(0)?)?, text(row.try_get(1)?)?, row.try_get(2)?, row.try_get(3)?, row.try_get(4)?))
}

async fn read_parked(
    tx: &mut MySqlConnection,
    projection: &ProjectionName,
    streams: &[&StreamId],
) -> Result<Vec<Parked>> {
    let failed = |error| classify(error, "read parked aggregates");
    let mut parked = Vec::new();
    for chunk in streams.chunks(ROWS) {
        let mut query = QueryBuilder::new(PARKED);
        query.push_bind(projection.as_str().as_bytes());
        push_keys(&mut query, chunk.iter().copied());
        for row in query.build().fetch_all(&mut *tx).await.map_err(failed)? {
            parked.push(columns(&row).map_err(failed)?.parse()?);
        }
    }
    Ok(parked)
}

fn push_keys<'s>(query: &mut QueryBuilder<MySql>, streams: impl ExactSizeIterator<Item = &'s StreamId> + Clone) {
    query.push(AMONG);
    query.push_tuples(padded(streams), |mut key, stream| {
        key.push_bind(stream.aggregate_type().as_str().as_bytes());
        key.push_bind(stream.aggregate_id().as_str().as_bytes());
    });
}

/// Binds: state, projection.
const BEGIN_PER_AGGREGATE: &str = "UPDATE retell_checkpoints SET per_aggregate = TRUE, state = ? WHERE projection = ?";

const WRITE: &str = "INSERT INTO retell_progress (projection, aggregate_type, aggregate_id, applied, seen, seen_id) ";

/// Takes an exclusive lock even if the row exists: two transactions with shared locks would deadlock.
const LOCKED: &str = " ON DUPLICATE KEY UPDATE applied = retell_progress.applied";

const CHANGED: &str =
    " ON DUPLICATE KEY UPDATE applied = VALUES(applied), seen = VALUES(seen), seen_id = VALUES(seen_id)";

/// In a transaction that has locked the rows, they do not change after this read.
const FIND: &str = concat!(
    "SELECT aggregate_type, aggregate_id, applied, seen, seen_id, ",
    session_id!(),
    ", COALESCE((SELECT changes FROM retell_checkpoints WHERE projection = "
);

const CLOSED: &str = "), 0), COALESCE((SELECT closed FROM retell_gates WHERE projection = ";

/// Reads the gate without a lock.
const AT_ANY_TIME: &str = "), 0) FROM retell_progress WHERE projection = ";

/// Locks the gate to the end of the transaction, and reads its newest row. A pause waits for the lock.
const IN_A_TURN: &str = " LOCK IN SHARE MODE), 0) FROM retell_progress WHERE projection = ";

/// A projection has its gate since it began.
const ADD_GATE: &str = "INSERT IGNORE INTO retell_gates (projection) VALUES (?)";

const PARKED: &str = "
    SELECT aggregate_type, aggregate_id, from_version, from_position, error, attempts, next_at, state
    FROM retell_parked WHERE projection = ";

const AMONG: &str = " AND (aggregate_type, aggregate_id) IN ";

/// Binds: new position and event, projection, old position, old event twice, count of changes.
const SWEEP: &str = "
    UPDATE retell_checkpoints SET position = ?, event_id = ?
    WHERE projection = ? AND state = 'running' AND position = ? AND (? IS NULL OR event_id = ?) AND changes = ?";

const SWEPT: &str = "SELECT position, event_id, changes FROM retell_checkpoints WHERE projection = ?";
