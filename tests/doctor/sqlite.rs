//! Problems of a SQLite file.

use retell::store::sqlite::{SqliteOptions, Synchronous};
use retell::{EventStore, SqliteStore};

use crate::databases::{Database, Place};
use crate::expect;

async fn healthy() -> (Database, SqliteStore) {
    let database = Database::sqlite();
    let Place::Sqlite(path) = &database.place else { unreachable!("a SQLite file") };
    let log = SqliteStore::open(path).await.unwrap();
    expect(&log, &[]).await;
    (database, log)
}

#[tokio::test]
async fn healthy_file_has_no_findings() {
    let (_database, log) = healthy().await;
    log.close().await.unwrap();
    expect(&SqliteStore::in_memory().await.unwrap(), &[]).await;
}

#[tokio::test]
async fn closed_store_has_unknown_findings() {
    let (_database, log) = healthy().await;
    log.close().await.unwrap();
    expect(&log, &["unknown"]).await;
}

#[tokio::test]
async fn missing_and_changed_schema_is_found() {
    let (database, log) = healthy().await;
    database.place.run("DROP TRIGGER retell_events_no_delete").await;
    expect(&log, &["trigger-missing"]).await;
    let nothing = "CREATE TRIGGER retell_events_no_delete BEFORE DELETE ON retell_events BEGIN SELECT 1; END";
    database.place.run(nothing).await;
    expect(&log, &["trigger-changed"]).await;
    database.place.run("DROP TRIGGER retell_events_no_delete; DROP INDEX retell_events_id").await;
    expect(&log, &["trigger-missing", "index-missing"]).await;
}

#[tokio::test]
async fn commit_that_does_not_wait_for_the_disk_is_found() {
    let database = Database::sqlite();
    let Place::Sqlite(path) = &database.place else { unreachable!("a SQLite file") };
    let options = SqliteOptions::new().with_synchronous(Synchronous::Normal);
    let log = SqliteStore::open_with(path, options).await.unwrap();
    expect(&log, &["synchronous-not-full"]).await;
}

#[tokio::test]
async fn replaced_file_is_found() {
    let (database, log) = healthy().await;
    let Place::Sqlite(path) = &database.place else { unreachable!("a SQLite file") };
    std::fs::rename(path, path.with_extension("old")).unwrap();
    std::fs::copy(path.with_extension("old"), path).unwrap();
    expect(&log, &["file-replaced"]).await;
}

#[tokio::test]
async fn damaged_pages_are_found() {
    let (database, log) = healthy().await;
    // The index has an entry less than its table.
    database
        .place
        .run(
            "INSERT INTO retell_shapes VALUES ('a', 1, 0, X'00', '', 0, '');
             INSERT INTO retell_parked VALUES ('p', 'a', 'b', 1, 1, '', 1, 0, 'waiting');
             PRAGMA writable_schema = ON;
             UPDATE sqlite_schema SET rootpage = (SELECT rootpage FROM sqlite_schema WHERE name = 'retell_deadlines_due')
             WHERE name = 'retell_parked_from'",
        )
        .await;
    log.close().await.unwrap();
    let Place::Sqlite(path) = &database.place else { unreachable!("a SQLite file") };
    let log = SqliteStore::open(path).await.unwrap();
    expect(&log, &["file-damaged"]).await;
}

#[tokio::test]
async fn large_write_ahead_log_is_found() {
    let (database, log) = healthy().await;
    let Place::Sqlite(path) = &database.place else { unreachable!("a SQLite file") };
    // While a process reads an old state, SQLite keeps everything that is newer in the -wal file.
    let mut other = rusqlite::Connection::open(path).unwrap();
    let reading = other.transaction().unwrap();
    reading.query_row("SELECT count(*) FROM retell_events", [], |_| Ok(())).unwrap();
    database.place.run("CREATE TABLE notes (text BLOB); INSERT INTO notes VALUES (zeroblob(68000000))").await;
    expect(&log, &["wal-large"]).await;
    drop(reading);
    database.place.run("PRAGMA wal_checkpoint(TRUNCATE)").await;
    expect(&log, &[]).await;
}
