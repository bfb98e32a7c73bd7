//! The log's database is shared: applications run their own migrations in it, and people query it at a prompt. Needs `POSTGRES_URL` and
//! `MYSQL_URL`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/databases.rs"]
mod databases;

use std::path::Path;

use retell::codec::Codec;
use retell::store::mysql::{MySqlReadModel, MySqlStore};
use retell::store::postgres::{PostgresOptions, PostgresReadModel, PostgresStore};
use retell::store::sqlite::{SqliteReadModel, SqliteStore};
use retell::store::{Append, EventStore, ReadModel, Step, Work};
use retell::testing::store::{event, events, stream, whole_log};
use retell::{ExpectedVersion, Position, ProjectionName};
use sqlx::migrate::{Migration, MigrationType, Migrator};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, MySqlConnection, MySqlPool, PgConnection, PgPool, SqliteConnection,
};

use databases::{Database, Place, Store};

/// Returns what `sqlx::migrate!` creates from a folder with `newest` of two files.
fn migrator(newest: i64) -> Migrator {
    let steps =
        ["CREATE TABLE orders (id INTEGER PRIMARY KEY)", "CREATE TABLE migrations (number INTEGER PRIMARY KEY)"];
    let migrations = steps.into_iter().zip(1..=newest).map(|(sql, number)| {
        Migration::new(number, "orders".into(), MigrationType::Simple, sqlx::SqlStr::from_static(sql), false)
    });
    Migrator { migrations: migrations.collect(), ..Migrator::DEFAULT }
}

/// Rounds of (events before the round, migrations of the application). Library and application both open the database again in each round,
/// in either order.
const ROUNDS: [(u64, i64); 4] = [(0, 1), (1, 1), (2, 2), (3, 2)];

/// Appends one event and moves a projection over it.
async fn used<M: ReadModel>(store: impl EventStore, model: M, before: u64) {
    let nothing: Work<M::Tx> = Box::new(|_| Box::pin(async { Ok(()) }));
    store.append(Append::new(stream("a"), ExpectedVersion::Any, events(1))).await.unwrap();
    let log = whole_log(&store).await.unwrap();
    assert_eq!(log.len() as u64, before + 1);
    let projection = ProjectionName::new("orders").unwrap();
    let from = Position::new(before);
    model.commit(Step::new(&projection, from, from.next()), nothing).await.unwrap();
}

#[tokio::test]
async fn application_migrations_coexist_with_ours_in_sqlite() {
    let database = Database::sqlite();
    let Place::Sqlite(path) = &database.place else { unreachable!("a file") };
    let mut db = sqlite(path).await;
    for (before, newest) in ROUNDS {
        migrator(newest).run(&mut db).await.unwrap();
        used(SqliteStore::open(path).await.unwrap(), SqliteReadModel::open(path).await.unwrap(), before).await;
    }
    sqlx::raw_sql("INSERT INTO orders (id) SELECT number FROM migrations").execute(&mut db).await.unwrap();
}

async fn sqlite(path: &Path) -> SqliteConnection {
    SqliteConnectOptions::new().filename(path).create_if_missing(true).connect().await.unwrap()
}

/// Uses the library's default schema and the application's.
#[tokio::test]
async fn application_migrations_coexist_with_ours_in_postgres() {
    for schema in ["retell", "public"] {
        let database = Database::postgres().await;
        let Place::Postgres(url) = &database.place else { unreachable!("a server") };
        let options = PostgresOptions::new().with_schema(schema);
        let mut db = PgConnection::connect(url).await.unwrap();
        for (before, newest) in ROUNDS {
            migrator(newest).run(&mut db).await.unwrap();
            let pool = PgPool::connect(url).await.unwrap();
            let model = PostgresReadModel::open_with(pool.clone(), options.clone()).await.unwrap();
            let store = PostgresStore::open_with(pool, options.clone()).await.unwrap();
            used(store, model, before).await;
        }
        sqlx::raw_sql("INSERT INTO orders (id) SELECT number FROM migrations").execute(&mut db).await.unwrap();
    }
}

#[tokio::test]
async fn application_migrations_coexist_with_ours_in_mysql() {
    let database = Database::mysql().await;
    let Place::MySql(url) = &database.place else { unreachable!("a server") };
    let mut db = MySqlConnection::connect(url).await.unwrap();
    for (before, newest) in ROUNDS {
        migrator(newest).run(&mut db).await.unwrap();
        let pool = MySqlPool::connect(url).await.unwrap();
        let model = MySqlReadModel::open(pool.clone()).await.unwrap();
        let store = MySqlStore::open(pool).await.unwrap();
        used(store, model, before).await;
    }
    sqlx::raw_sql("INSERT INTO orders (id) SELECT number FROM migrations").execute(&mut db).await.unwrap();
}

// -- At a prompt --

/// Creates a log with one event of each kind of payload, and returns it with the date of its events.
async fn readable(database: &Database) -> (Store, String) {
    let store = database.place.open().await.unwrap();
    let mut compact = event(vec![0, 0xab]);
    compact.codec = Codec::Compact;
    let mut noted = event(r#"{"to": "zoë 🦀"}"#);
    noted.metadata.source = Some("billing".into());
    let append = Append::new(stream("zoë"), ExpectedVersion::Any, vec![noted, compact]);
    store.events.append(append.with_stream(stream("b"), ExpectedVersion::Any, vec![event("")])).await.unwrap();
    // On a server, an event appears in the view once it has a position.
    let log = whole_log(&*store.events).await.unwrap();
    assert_eq!(log.len(), 3);
    (store, log[0].recorded_at.date_naive().to_string())
}

/// Expected output of each statement, row by row.
const READABLE: [[&str; 6]; 3] = [
    ["1", "account", "zoë", "1", r#"{"to": "zoë 🦀"}"#, r#"{"source":"billing"}"#],
    ["2", "account", "zoë", "2", "compact: 00ab", ""],
    ["3", "account", "b", "1", "", ""],
];

fn assert_readable(rows: &[String], day: &str) {
    let expected: Vec<_> = READABLE.iter().map(|row| format!("{}|{day}", row.join("|"))).collect();
    assert_eq!(rows, expected);
}

#[tokio::test]
async fn a_view_shows_readable_payloads_in_sqlite() {
    let database = Database::sqlite();
    let (_store, day) = readable(&database).await;
    let Place::Sqlite(path) = &database.place else { unreachable!("a file") };
    let sql =
        "SELECT concat_ws('|', position, aggregate_type, aggregate_id, version, lower(payload), coalesce(metadata, ''),
        substr(recorded_at, 1, 10)) FROM retell_log ORDER BY position";
    let rows: Vec<String> = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&mut sqlite(path).await).await.unwrap();
    assert_readable(&rows, &day);
}

#[tokio::test]
async fn a_view_shows_readable_payloads_in_postgres() {
    let database = Database::postgres().await;
    let (_store, day) = readable(&database).await;
    let Place::Postgres(url) = &database.place else { unreachable!("a server") };
    let sql = "SELECT concat_ws('|', position, aggregate_type, aggregate_id, version, payload, coalesce(metadata, ''),
        (recorded_at AT TIME ZONE 'UTC')::date) FROM retell.readable_log ORDER BY position";
    let rows: Vec<String> =
        sqlx::query_scalar(sql).fetch_all(&mut PgConnection::connect(url).await.unwrap()).await.unwrap();
    assert_readable(&rows, &day);
}

#[tokio::test]
async fn a_view_shows_readable_payloads_in_mysql() {
    let database = Database::mysql().await;
    let (_store, day) = readable(&database).await;
    let Place::MySql(url) = &database.place else { unreachable!("a server") };
    let sql = "SELECT CONCAT_WS('|', position, aggregate_type, aggregate_id, version, payload, COALESCE(metadata, ''),
        DATE(recorded_at)) FROM retell_readable_log ORDER BY position";
    let rows: Vec<String> =
        sqlx::query_scalar(sql).fetch_all(&mut MySqlConnection::connect(url).await.unwrap()).await.unwrap();
    assert_readable(&rows, &day);
}
