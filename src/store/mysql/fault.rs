//! Tells what an error of the server does to its session, and ends sessions.

use async_trait::async_trait;
use sqlx::{MySql, Pool};

use crate::store::mysql::error::{is_ended, is_read_only, number};
use crate::store::mysql::session;
use crate::store::server::fault::{Fault, Orphan, Server, is_lost};

#[async_trait]
impl Server for MySql {
    /// Read committed regardless of the session's default: each statement must see all earlier commits, and a refused row must not leave gap
    /// locks.
    const BEGIN: Option<&'static str> = Some("SET TRANSACTION ISOLATION LEVEL READ COMMITTED; START TRANSACTION");
    const RECOVERS: bool = false;

    fn fault(error: &sqlx::Error) -> Fault {
        match (error, number(error)) {
            (sqlx::Error::Io(error), _) if is_lost(error) => Fault::Ended,
            (sqlx::Error::BeginFailed, _) => Fault::Ended,
            (_, Some(number)) if is_read_only(number) => Fault::ReadOnly,
            (_, Some(number)) if is_ended(number) => Fault::Ended,
            _ => Fault::Other,
        }
    }

    async fn end_session(pool: &Pool<Self>, id: u64) -> Result<Orphan, sqlx::Error> {
        session::end(pool, id).await
    }
}
