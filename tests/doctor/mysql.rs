//! Problems of a MySQL or MariaDB server.

use retell::{Append, EventStore, ExpectedVersion, MySqlStore, NewEvent, StreamId};
use sqlx::mysql::MySqlPoolOptions;

use crate::databases::{Database, Place};
use crate::expect;

fn url(database: &Database) -> &str {
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
async fn with_setting(database: &Database, sql: &'static str) -> MySqlStore {
    let pool = MySqlPoolOptions::new()
        .max_connections(3)
        .after_connect(move |session, _| {
            Box::pin(async move { sqlx::raw_sql(sql).execute(session).await.map(drop) })
        })
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
    log.close().await.unwrap();
    let name = url(&database).rsplit_once('/').unwrap().1;
    let user = format!("u{name}");
    let server = url(&database).rsplit_once('@').unwrap().1;
    let tables = "SELECT, INSERT, UPDATE, DELETE, TRIGGER";
    database
        .place
        .run(&format!(
            "CREATE USER {user}@'%' IDENTIFIED BY 'secret'; CREATE USER {user}@localhost IDENTIFIED BY 'secret';
             GRANT {tables} ON {name}.* TO {user}@'%'; GRANT {tables} ON {name}.* TO {user}@localhost"
        ))
        .await;
    let log = MySqlStore::connect(&format!("mysql://{user}:secret@{server}")).await.unwrap();
    // The right to see the transactions of others is missing.
    expect(&log, &["unknown"]).await;
    database
        .place
        .run(&format!("REVOKE DELETE ON {name}.* FROM {user}@'%'; REVOKE DELETE ON {name}.* FROM {user}@localhost"))
        .await;
    let again = MySqlStore::connect(&format!("mysql://{user}:secret@{server}")).await;
    assert!(again.is_err(), "opening demands the right");
    log.pool().close().await;
    drop(log);
    database.place.run(&format!("DROP USER {user}@'%'; DROP USER {user}@localhost")).await;
}
