//! The sessions of MySQL and MariaDB.

#![allow(unused_imports, unused_macros, reason = "each test file uses its own part")]

use sqlx::{AssertSqlSafe, MySqlConnection};

/// The table of sessions, as `s`. MySQL cannot read its `information_schema.processlist` while a session executes a statement with a binary
/// value, so a comment with a version chooses another table there.
macro_rules! sessions {
    () => {
        "/*M! information_schema.processlist */ /*!80000 (
            SELECT processlist_id AS id, processlist_db AS db, processlist_state AS state, processlist_info AS info
            FROM performance_schema.threads WHERE processlist_id IS NOT NULL) */ s"
    };
}

pub(crate) use sessions;

/// Ends all other sessions that have this database selected.
pub(crate) async fn end(operator: &mut MySqlConnection, database: &str) {
    let others = concat!("SELECT CAST(id AS SIGNED) FROM ", sessions!(), " WHERE db = ? AND id <> CONNECTION_ID()");
    let others: Vec<i64> = sqlx::query_scalar(others).bind(database).fetch_all(&mut *operator).await.unwrap();
    for id in others {
        // The session may have ended already.
        drop(sqlx::raw_sql(AssertSqlSafe(format!("KILL {id}"))).execute(&mut *operator).await);
    }
}
