//! The id of a session, and its end from another one.
//!
//! The server looks at a connection only between two statements. A statement whose caller has gone runs to its end, and keeps the rows of
//! its transaction locked: `SELECT BENCHMARK(..)` for hours.

use sqlx::{ConnectOptions, MySqlConnection, MySqlPool, raw_sql};

use crate::store::mysql::error::is_not_text;
use crate::store::server::fault::Orphan;
use crate::store::server::orphans::SessionId;

/// The id of the current session as an expression: a number for the server in the upper half, the server's own number in the lower one. A
/// program may be connected to several servers that use the same numbers.
macro_rules! session_id {
    () => {
        "CAST(CRC32(CONCAT(@@hostname, ':', @@port)) << 32 | CONNECTION_ID() AS UNSIGNED)"
    };
}

pub(crate) use session_id;

/// Asks for the id of the session and notes it, unless it is known.
pub(crate) async fn identify(db: &mut MySqlConnection, session: &SessionId) -> Result<(), sqlx::Error> {
    if session.get().is_none() {
        session.set(sqlx::query_scalar(IDENTIFY).fetch_one(db).await?);
    }
    Ok(())
}

/// Ends the session `id` if it executes a statement. A user may end its own sessions without any right.
///
/// A server never gives a number to two sessions while it runs, so this ends no session of another program. A pooler that shares sessions
/// between programs answers for the server with numbers of its own, and then nothing is ended.
pub(crate) async fn end(pool: &MySqlPool, id: u64) -> Result<Orphan, sqlx::Error> {
    // A connection outside of the pool if the pool has none to spare: calls that wait for the locked rows may have all others.
    match pool.try_acquire() {
        Some(mut spare) => {
            let ended = end_from(&mut spare, id).await;
            if ended.is_err() {
                drop(spare.detach());
            }
            ended
        }
        None => end_from(&mut pool.connect_options().connect().await?, id).await,
    }
}

async fn end_from(db: &mut MySqlConnection, id: u64) -> Result<Orphan, sqlx::Error> {
    let answered: u64 = sqlx::Row::try_get(&sqlx::Executor::fetch_one(&mut *db, raw_sql(NUMBER)).await?, 0)?;
    let own: u64 = sqlx::query_scalar(IDENTIFY).fetch_one(&mut *db).await?;
    if own & NUMBERS != answered {
        return Ok(Orphan::Gone);
    }
    if own & !NUMBERS != id & !NUMBERS {
        // Another server.
        return Ok(Orphan::Gone);
    }
    let found: Option<(i64,)> = match sqlx::query_as(FIND).bind(id & NUMBERS).fetch_optional(&mut *db).await {
        // MySQL cannot list its sessions while one of them executes a statement with a binary value, as this one may.
        Err(error) if is_not_text(&error) => Some((1,)),
        found => found?,
    };
    match found {
        None => Ok(Orphan::Gone),
        Some((0,)) => Ok(Orphan::Ending),
        Some(_) => {
            sqlx::query(REMEMBER).bind(id & NUMBERS).execute(&mut *db).await?;
            // This fails if the session has ended since.
            drop(raw_sql(KILL).execute(&mut *db).await);
            Ok(Orphan::Ending)
        }
    }
}

/// The part of an id that is the server's own number.
const NUMBERS: u64 = 0xffff_ffff;

/// ProxySQL answers exactly this text itself.
const NUMBER: &str = "SELECT CONNECTION_ID()";

const IDENTIFY: &str = concat!("SELECT ", session_id!());

/// Binds: the server's number of a session. Selects whether the session executes a statement. A user sees its own sessions.
const FIND: &str = "SELECT CAST(command <> 'Sleep' AS SIGNED) FROM information_schema.processlist WHERE id = ?";

/// Binds: the server's number of a session. MySQL takes no binds in `KILL`.
const REMEMBER: &str = "SELECT ? INTO @retell_session";

const KILL: &str = "KILL @retell_session";
