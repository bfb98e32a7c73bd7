//! Tells what an error of the server does to its session, and ends sessions.

use async_trait::async_trait;
use sqlx::mysql::MySqlConnectOptions;
use sqlx::{MySql, MySqlConnection, Pool};

use crate::store::mysql::error::{is_ended, is_read_only, number};
use crate::store::mysql::session;
use crate::store::server::fault::{Fault, Orphan, Server, is_lost, is_lost_in_handshake};

#[async_trait]
impl Server for MySql {
    /// Read committed regardless of the session's default: each statement must see all earlier commits, and a refused row must not leave gap
    /// locks.
    const BEGIN: Option<&'static str> = Some("SET TRANSACTION ISOLATION LEVEL READ COMMITTED; START TRANSACTION");
    const RECOVERS: bool = false;
    const BEGIN_SNAPSHOT: &'static str =
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY";

    fn fault(error: &sqlx::Error) -> Fault {
        match (error, number(error)) {
            (sqlx::Error::Io(error), _) if is_lost(error) => Fault::Ended,
            (sqlx::Error::BeginFailed, _) => Fault::Ended,
            (error, _) if is_lost_in_handshake(error) => Fault::Ended,
            (_, Some(number)) if is_read_only(number) => Fault::ReadOnly,
            (_, Some(number)) if is_ended(number) => Fault::Ended,
            _ => Fault::Other,
        }
    }

    fn at(options: MySqlConnectOptions, host: &str, port: Option<u16>) -> MySqlConnectOptions {
        let options = options.host(host);
        port.map_or(options.clone(), |port| options.port(port))
    }

    async fn promotions(connection: &mut MySqlConnection) -> Result<Option<u64>, sqlx::Error> {
        let is_writable: i64 = sqlx::query_scalar(IS_WRITABLE).fetch_one(connection).await?;
        // The server does not know how often it was promoted.
        Ok((is_writable != 0).then_some(0))
    }

    async fn end_session(pool: &Pool<Self>, id: u64) -> Result<Orphan, sqlx::Error> {
        session::end(pool, id).await
    }
}

/// The value is a number or, in newer releases of MariaDB, a word.
const IS_WRITABLE: &str = "
    SELECT CAST(CAST(@@GLOBAL.read_only AS CHAR) IN ('0', 'OFF') AND CAST(@@GLOBAL.innodb_read_only AS CHAR) IN ('0', 'OFF') AS SIGNED)";
