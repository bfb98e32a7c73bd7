//! The sequencer: assigns positions to commits, in the order of their numbers.

use sqlx::MySql;
use tracing::Instrument;

use crate::error::{Error, ErrorKind, Result};
use crate::id::Position;
use crate::store::mysql::connection::Connections;
use crate::store::mysql::error::{classify, refusal};
use crate::store::server::convert::from_sql;
use crate::store::server::fault::Fault;
use crate::store::server::lease::Lease;
use crate::store::server::page;
use crate::store::server::rounds::Refusal;
use crate::trace::span;

/// Assigns positions to all visible commits, waits while another session does so, and returns the last position that readers may read.
///
/// This takes two commits, because InnoDB shows a commit to other sessions before it is on the disk. The first commit writes the positions and
/// returns when they are on the disk. Only then does the second one move the head, up to which readers read.
pub(crate) async fn sequence(connections: &Connections) -> Result<Option<Position>> {
    let failed = |error| classify(error, "assign positions");
    let mut retries = connections.retries();
    for delay in page::looks() {
        let pending = connections.one(sqlx::query_as(PENDING)).await;
        let (head, last, waiting): (i64, i64, i64) = pending.map_err(failed)?;
        if waiting == 0 && head == last {
            return from_sql(head, "position").map(Position::new).map(Some);
        }
        let Run { last, has_more } = match attempt(connections).instrument(span::sequence()).await.map_err(failed) {
            Ok(Some(run)) => run,
            Ok(None) => {
                tokio::time::sleep(delay).await;
                continue;
            }
            // A demoted primary keeps its sessions read-only, while new sessions reach the new one.
            Err(error) if *error.kind() == ErrorKind::ReadOnly && retries.may_pass_after(Fault::ReadOnly) => continue,
            // A replica shows the positions that were assigned on the primary.
            Err(error) if *error.kind() == ErrorKind::ReadOnly => {
                return from_sql(head, "position").map(Position::new).map(Some);
            }
            Err(error) => return Err(error),
        };
        if last > head {
            match connections.execute(sqlx::query(MOVE_HEAD).bind(last).bind(last)).await {
                // Another session moves the head at this moment.
                Err(error) if refusal(&error) == Refusal::Blocked => continue,
                moved => moved.map_err(failed)?,
            }
        }
        if !has_more {
            return from_sql(last, "position").map(Position::new).map(Some);
        }
    }
    Err(Error::new(ErrorKind::Transient("assign positions: another session holds the sequencer's lock".into())))
}

/// Runs the sequencer once, on a leased connection.
async fn attempt(connections: &Connections) -> Result<Option<Run>, sqlx::Error> {
    let mut lease = connections.lease().await?;
    let run = connections.limits().statements(sequence_once(&mut lease)).await;
    lease.end(run)
}

/// The result of one run of the sequencer.
struct Run {
    /// The log's last position.
    last: i64,
    /// Whether commits are left for the next run.
    has_more: bool,
}

/// Assigns positions to the commits that are visible now. Returns `None` if another session holds the sequencer's lock.
async fn sequence_once(lease: &mut Lease<MySql>) -> Result<Option<Run>, sqlx::Error> {
    let mut tx = lease.begin().await?;
    if sqlx::query(LOCK_SEQUENCER).fetch_optional(&mut *tx).await?.is_none() {
        tx.rollback().await?;
        return Ok(None);
    }
    // In read committed, each statement from here on takes its snapshot after the lock and sees the commits of all earlier holders.
    let before: i64 = sqlx::query_scalar(LAST_POSITION).fetch_one(&mut *tx).await?;
    let placed = sqlx::query(PLACE).bind(before).execute(&mut *tx).await?.rows_affected();
    let mut run = Run { last: before, has_more: placed == MAX_PLACED };
    if placed > 0 {
        let (last, late): (i64, Option<i64>) = sqlx::query_as(LATE_COMMIT).fetch_one(&mut *tx).await?;
        run.last = last;
        if let Some(late) = late {
            // The late commit comes before commits with larger numbers, so those wait for the next run.
            sqlx::query(UNPLACE).bind(before).bind(late).execute(&mut *tx).await?;
            run = Run { last: sqlx::query_scalar(LAST_POSITION).fetch_one(&mut *tx).await?, has_more: true };
        }
    }
    if run.last > before {
        sqlx::query(DELETE_PLACED).bind(before).execute(&mut *tx).await?;
    } else {
        // A session may have placed commits and died before it moved the head. Only a commit that writes something waits until everything
        // visible here is on the disk.
        sqlx::query(COUNT_RUN).execute(&mut *tx).await?;
    }
    tx.commit().await?;
    Ok(Some(run))
}

/// The most commits that one run of the sequencer places, which bounds its transaction. `PLACE` has the same limit.
const MAX_PLACED: u64 = 10_000;

/// Selects the last position that readers may read, the last position in the log, and whether commits wait for positions.
const PENDING: &str = "
    SELECT position, CAST(COALESCE((SELECT first_position + events - 1 FROM retell_log ORDER BY first_position DESC LIMIT 1), 0) AS SIGNED),
        CAST(EXISTS (SELECT 1 FROM retell_commits) AS SIGNED)
    FROM retell_head WHERE id = 1";

/// One session sequences at a time: a second one finds the row locked and has_more. The lock ends with the transaction, however that ends.
pub(crate) const LOCK_SEQUENCER: &str = "SELECT id FROM retell_sequencer WHERE id = 1 FOR UPDATE SKIP LOCKED";

const LAST_POSITION: &str = "
    SELECT CAST(COALESCE((SELECT first_position + events - 1 FROM retell_log ORDER BY first_position DESC LIMIT 1), 0) AS SIGNED)";

/// Binds: the last position. One statement uses one snapshot. In read committed it waits for no rows of other transactions.
const PLACE: &str = "
    INSERT INTO retell_log (first_position, commit_id, events)
    SELECT ? + 1 + SUM(fresh.events) OVER (ORDER BY fresh.commit_id) - fresh.events, fresh.commit_id, fresh.events
    FROM (SELECT commit_id, events FROM retell_commits ORDER BY commit_id LIMIT 10000) AS fresh";

/// Selects the new last position, and the first commit that became visible after the snapshot of `PLACE` with a smaller number than a placed
/// commit. A snapshot of MariaDB may miss a commit and yet see a later one that depends on it. The next snapshot cannot miss it.
const LATE_COMMIT: &str = "
    SELECT CAST(l.first_position + l.events - 1 AS SIGNED), (
        SELECT c.commit_id FROM retell_commits AS c LEFT JOIN retell_log AS placed ON placed.commit_id = c.commit_id
        WHERE c.commit_id < l.commit_id AND placed.commit_id IS NULL ORDER BY c.commit_id LIMIT 1)
    FROM retell_log AS l ORDER BY l.first_position DESC LIMIT 1";

/// Binds: the last position before, commit number.
const UNPLACE: &str = "DELETE FROM retell_log WHERE first_position > ? AND commit_id > ?";

/// Binds: the last position before. Looks up only the placed rows, by their keys: a scan would wait for the rows of open transactions.
const DELETE_PLACED: &str = "
    DELETE c FROM retell_log AS l STRAIGHT_JOIN retell_commits AS c FORCE INDEX (PRIMARY) ON c.commit_id = l.commit_id
    WHERE l.first_position > ?";

const COUNT_RUN: &str = "UPDATE retell_sequencer SET runs = runs + 1 WHERE id = 1";

/// Binds: position, twice.
const MOVE_HEAD: &str = "UPDATE retell_head SET position = ? WHERE id = 1 AND position < ?";
