//! B5. A text that the database cannot hold fails its own append alone.

use futures::future::join_all;
use retell::prelude::*;
use retell::store::mysql::MySqlStore;
use sqlx::Connection;

use crate::databases::{Database, Place};
use crate::unfit::report;

#[derive(Event)]
#[event("note.written")]
struct Written;

/// Refuses every event of the aggregates `bad..`, as a database does that cannot hold a value.
const SQLITE: &str = "CREATE TRIGGER refuse BEFORE INSERT ON retell_events WHEN NEW.aggregate_id LIKE 'bad%'
    BEGIN SELECT RAISE(ABORT, 'the database cannot hold this'); END";
const POSTGRES: &str = "ALTER TABLE retell.events ADD CONSTRAINT refuse CHECK (aggregate_id NOT LIKE 'bad%')";
const MYSQL: &str = "CREATE TRIGGER refuse BEFORE INSERT ON retell_events FOR EACH ROW
    IF NEW.aggregate_id LIKE 'bad%' THEN SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'cannot hold this'; END IF";

/// Appends that share a commit with appends that the database refuses are written.
async fn innocent_appends_are_written(database: Database, refuse: &str) {
    let store = database.place.open().await.unwrap().events;
    database.place.run(refuse).await;
    let names: Vec<_> = (0..64).map(|n| if n % 20 == 7 { format!("bad{n}") } else { format!("good{n}") }).collect();
    let append = async |name: &String| {
        let stream = StreamId::parse("note", name).unwrap();
        let events = vec![NewEvent::new(&Written).unwrap()];
        store.append(Append::new(stream, ExpectedVersion::NoStream, events)).await
    };
    let results = join_all(names.iter().map(append)).await;
    for (name, result) in names.iter().zip(&results) {
        assert_eq!(result.is_ok(), name.starts_with("good"), "{name}: {result:?}");
    }
    for error in results.into_iter().filter_map(Result::err) {
        assert!(!error.is_transient() && !error.is_conflict(), "{error:?}");
    }
    assert_eq!(store.head().await.unwrap(), Position::new(61));
    append(&"good64".to_owned()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_append_fails_alone_on_sqlite() {
    innocent_appends_are_written(Database::sqlite(), SQLITE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_append_fails_alone_on_postgres() {
    innocent_appends_are_written(Database::postgres().await, POSTGRES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_append_fails_alone_on_mysql() {
    innocent_appends_are_written(Database::mysql().await, MYSQL).await;
}

#[tokio::test]
async fn database_in_latin1_is_refused_and_left_unchanged() {
    let server = Database::postgres().await;
    let Place::Postgres(url) = &server.place else { unreachable!() };
    let name = format!("{}_latin1", url.rsplit_once('/').unwrap().1);
    server.place.run(&format!("CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0")).await;
    let latin1 = format!("{}/{name}", url.rsplit_once('/').unwrap().0);
    let log = PostgresStore::connect(&latin1).await.unwrap_err();
    let models = PostgresReadModel::connect(&latin1).await.unwrap_err();
    for error in [log, models] {
        assert!(report(&error).contains("encoding LATIN1"), "{error}");
    }
    let mut db = sqlx::PgConnection::connect(&latin1).await.unwrap();
    let schemas: i64 = sqlx::query_scalar("SELECT count(*) FROM pg_namespace WHERE nspname = 'retell'")
        .fetch_one(&mut db)
        .await
        .unwrap();
    assert_eq!(schemas, 0);
    db.close().await.unwrap();
    server.place.run(&format!("DROP DATABASE {name} WITH (FORCE)")).await;
}

#[tokio::test]
async fn mysql_sessions_in_latin1_are_refused() {
    let database = Database::mysql().await;
    let Place::MySql(url) = &database.place else { unreachable!() };
    let error = MySqlStore::connect(&format!("{url}?charset=latin1")).await.unwrap_err();
    assert!(report(&error).contains("character_set_client = latin1"), "{error}");
}
