//! The sequencer: gives positions to commits, in the order of their numbers.

use sqlx::MySqlConnection;

use crate::error::{Error, ErrorKind, Result};
use crate::id::Position;
use crate::store::mysql::connection::{Connections, begin};
use crate::store::mysql::error::classify;
use crate::store::server::convert::from_sql;
use crate::store::server::page;

/// Gives positions to the commits that are visible, waits while another session does so, and returns the last position readers may read.
///
/// This takes two commits. InnoDB lets others see a commit before it is on the disk. The first commit returns when it is on the disk, and only
/// then does the second move the mark that readers read up to.
pub(crate) async fn sequence(connections: &Connections) -> Result<Option<Position>> {
    let failed = |error| classify(error, "give out positions");
    for delay in page::looks() {
        let pending = connections.one(sqlx::query_as(PENDING)).await;
        let (head, last, waiting): (i64, i64, i64) = pending.map_err(failed)?;
        if waiting == 0 && head == last {
            return from_sql(head, "position").map(Position::new).map(Some);
        }
        let Some(Run { last, leaves }) = attempt(connections).await.map_err(failed)? else {
            tokio::time::sleep(delay).await;
            continue;
        };
        if last > head {
            let moved = connections.execute(sqlx::query(MOVE_HEAD).bind(last).bind(last)).await;
            moved.map_err(failed)?;
        }
        if !leaves {
            return from_sql(last, "position").map(Position::new).map(Some);
        }
    }
    Err(Error::new(ErrorKind::Transient("give out positions: another session is at it".into())))
}

/// Runs the sequencer once on a connection of its own.
async fn attempt(connections: &Connections) -> Result<Option<Run>, sqlx::Error> {
    let mut lease = connections.lease().await?;
    let run = sequence_once(&mut lease).await;
    lease.end(run)
}

/// What a run of the sequencer has done.
struct Run {
    /// The log's last position.
    last: i64,
    /// Whether it left commits for the next run.
    leaves: bool,
}

/// Gives positions to what is visible now, unless another session is at it.
async fn sequence_once(connection: &mut MySqlConnection) -> Result<Option<Run>, sqlx::Error> {
    let mut tx = begin(connection).await?;
    if sqlx::query(LOCK_SEQUENCER).fetch_optional(&mut *tx).await?.is_none() {
        tx.rollback().await?;
        return Ok(None);
    }
    // Read committed: from here on each statement's snapshot is taken after the lock, and sees all that earlier holders did.
    let before: i64 = sqlx::query_scalar(LAST_POSITION).fetch_one(&mut *tx).await?;
    let placed = sqlx::query(PLACE).bind(before).execute(&mut *tx).await?.rows_affected();
    let mut run = Run { last: before, leaves: placed == PLACED_AT_ONCE };
    if placed > 0 {
        let (last, late): (i64, Option<i64>) = sqlx::query_as(SECOND_LOOK).fetch_one(&mut *tx).await?;
        run.last = last;
        if let Some(late) = late {
            // It may belong before those with larger numbers: they wait for the next run.
            sqlx::query(UNPLACE).bind(before).bind(late).execute(&mut *tx).await?;
            run = Run { last: sqlx::query_scalar(LAST_POSITION).fetch_one(&mut *tx).await?, leaves: true };
        }
    }
    if run.last > before {
        sqlx::query(TAKE_PLACED).bind(before).execute(&mut *tx).await?;
    } else {
        // A session may have placed commits and died before it moved the mark. Only a commit that has written something waits until
        // the disk has all that is visible here.
        sqlx::query(COUNT_RUN).execute(&mut *tx).await?;
    }
    tx.commit().await?;
    Ok(Some(run))
}

/// Commits that one run of the sequencer places at most: what it holds at once stays bounded. As in `PLACE`.
const PLACED_AT_ONCE: u64 = 10_000;

/// The last position anyone may read, the last there is, and whether commits wait for theirs.
const PENDING: &str = "
    SELECT position, CAST(COALESCE((SELECT first_position + events - 1 FROM retell_log ORDER BY first_position DESC LIMIT 1), 0) AS SIGNED),
        CAST(EXISTS (SELECT 1 FROM retell_commits) AS SIGNED)
    FROM retell_head WHERE id = 1";

/// One at a time: a second caller finds the row locked and leaves. The lock ends with the transaction, however it ends.
const LOCK_SEQUENCER: &str = "SELECT id FROM retell_sequencer WHERE id = 1 FOR UPDATE SKIP LOCKED";

const LAST_POSITION: &str = "
    SELECT CAST(COALESCE((SELECT first_position + events - 1 FROM retell_log ORDER BY first_position DESC LIMIT 1), 0) AS SIGNED)";

/// Binds: the last position. One statement, so one snapshot; under read committed it waits for no row of others.
const PLACE: &str = "
    INSERT INTO retell_log (first_position, commit_id, events)
    SELECT ? + 1 + SUM(fresh.events) OVER (ORDER BY fresh.commit_id) - fresh.events, fresh.commit_id, fresh.events
    FROM (SELECT commit_id, events FROM retell_commits ORDER BY commit_id LIMIT 10000) AS fresh";

/// The last position now; and the first commit that has shown itself since `PLACE` looked, with a smaller number than one placed there.
/// A snapshot of MariaDB's may miss a commit and yet see one that was built on it. It cannot be missed twice.
const SECOND_LOOK: &str = "
    SELECT CAST(l.first_position + l.events - 1 AS SIGNED), (
        SELECT c.commit_id FROM retell_commits AS c LEFT JOIN retell_log AS placed ON placed.commit_id = c.commit_id
        WHERE c.commit_id < l.commit_id AND placed.commit_id IS NULL ORDER BY c.commit_id LIMIT 1)
    FROM retell_log AS l ORDER BY l.first_position DESC LIMIT 1";

/// Binds: the last position before, commit number.
const UNPLACE: &str = "DELETE FROM retell_log WHERE first_position > ? AND commit_id > ?";

/// Binds: the last position before. Looks up by their keys just the rows that were placed: a scan would wait for those of open
/// transactions.
const TAKE_PLACED: &str = "
    DELETE c FROM retell_log AS l STRAIGHT_JOIN retell_commits AS c FORCE INDEX (PRIMARY) ON c.commit_id = l.commit_id
    WHERE l.first_position > ?";

const COUNT_RUN: &str = "UPDATE retell_sequencer SET runs = runs + 1 WHERE id = 1";

/// Binds: position, twice.
const MOVE_HEAD: &str = "UPDATE retell_head SET position = ? WHERE id = 1 AND position < ?";
