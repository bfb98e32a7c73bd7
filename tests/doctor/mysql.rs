//! Problems of a MySQL or MariaDB server.

use retell::{Append, EventStore, ExpectedVersion, MySqlStore, NewEvent, StreamId};
use sqlx::mysql::MySqlPoolOptions;
use sqlx::{AssertSqlSafe, Connection, MySqlConnection};

use crate::databases::{Database, Place};
use crate::{expect, findings};

pub(crate) fn url(database: &Database) -> &str {
    let Place::MySql(url) = &database.place else { unreachable!("a database on MySQL") };
    url
}

async fn healthy() -> (Database, MySqlStore) {
    let database = Database::mysql().await;
    let log = MySqlStore::connect(url(&database)).await.unwrap();
    expect(&log, &[]).await;
    (database, log)
}

/// Opens a log whose sessions run a statement first.
pub(crate) async fn with_setting(database: &Database, sql: &'static str) -> MySqlStore {
    let pool = MySqlPoolOptions::new()
        .max_connections(3)
        .after_connect(move |session, _| Box::pin(async move { sqlx::raw_sql(sql).execute(session).await.map(drop) }))
        .connect(url(database))
        .await
        .unwrap();
    MySqlStore::open(pool).await.unwrap()
}

#[tokio::test]
async fn healthy_server_has_no_findings() {
    let (_database, log) = healthy().await;
    log.close().await.unwrap();
}

#[tokio::test]
async fn settings_of_sessions_are_found() {
    let database = Database::mysql().await;
    expect(&with_setting(&database, "SET sql_mode = ''").await, &["sql-mode-not-strict"]).await;
    let serializable = "SET SESSION TRANSACTION ISOLATION LEVEL SERIALIZABLE";
    expect(&with_setting(&database, serializable).await, &["isolation"]).await;
}

#[tokio::test]
async fn missing_and_changed_triggers_are_found() {
    let (database, log) = healthy().await;
    database.place.run("DROP TRIGGER retell_seals_no_update").await;
    expect(&log, &["trigger-missing"]).await;
    let nothing = "CREATE TRIGGER retell_seals_no_update BEFORE UPDATE ON retell_seals FOR EACH ROW SET @nothing = 1";
    database.place.run(nothing).await;
    expect(&log, &["trigger-changed"]).await;
}

#[tokio::test]
async fn number_behind_the_data_is_found() {
    let (database, log) = healthy().await;
    for _ in 0..3 {
        let event_type = retell::EventType::new("order.placed").unwrap();
        let event = NewEvent::stored(retell::EventId::generate(), event_type, 1, retell::Codec::Json, "{}".into());
        let stream = StreamId::parse("order", "1").unwrap();
        log.append(Append::new(stream, ExpectedVersion::Any, vec![event])).await.unwrap();
    }
    retell::EventReader::head(&log).await.unwrap();
    database.place.run("ALTER TABLE retell_commits AUTO_INCREMENT = 1").await;
    expect(&log, &["numbers-behind"]).await;
}

#[tokio::test]
async fn missing_rights_are_found() {
    let (database, log) = healthy().await;
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT CONVERT(table_name USING utf8mb4) FROM information_schema.tables WHERE table_schema = DATABASE()",
    )
    .fetch_all(log.pool())
    .await
    .unwrap();
    log.close().await.unwrap();
    let name = url(&database).rsplit_once('/').unwrap().1;
    let user = format!("u{name}");
    let server = url(&database).rsplit_once('@').unwrap().1;
    let mut operator = MySqlConnection::connect(url(&database)).await.unwrap();
    let mut run = async |sql: String| sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut operator).await.map(drop).unwrap();
    run(format!("CREATE USER {user} IDENTIFIED BY 'secret'")).await;
    // A right on a table is gone at once when it is revoked; one on a database stays with the sessions that are open.
    for table in tables {
        run(format!("GRANT SELECT, INSERT, UPDATE, DELETE, TRIGGER ON {name}.{table} TO {user}")).await;
    }
    let log = MySqlStore::connect(&format!("mysql://{user}:secret@{server}")).await.unwrap();
    // The right to see the transactions of others is missing.
    expect(&log, &["unknown"]).await;
    run(format!("REVOKE DELETE ON {name}.retell_log FROM {user}")).await;
    expect(&log, &["right-missing", "unknown"]).await;
    run(format!(
        "REVOKE TRIGGER ON {name}.retell_events FROM {user}; REVOKE TRIGGER ON {name}.retell_seals FROM {user}"
    ))
    .await;
    let found = findings(&log).await;
    let unknown = found.iter().filter(|finding| finding.id == "unknown");
    assert_eq!(unknown.count(), 2, "neither transactions nor triggers are visible: {found:?}");
    log.close().await.unwrap();
    run(format!("DROP USER {user}")).await;
}
