//! Problems of a PostgreSQL server.

use std::time::Duration;

use retell::operate::{self, Severity};
use retell::{Append, EventStore, ExpectedVersion, NewEvent, PostgresStore, StreamId};
use sqlx::postgres::PgPoolOptions;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::databases::{Database, Place};
use crate::server::{self, Place as Folder, Server};
use crate::{expect, findings};

fn url(database: &Database) -> &str {
    let Place::Postgres(url) = &database.place else { unreachable!("a database on PostgreSQL") };
    url
}

async fn healthy() -> (Database, PostgresStore) {
    let database = Database::postgres().await;
    let log = PostgresStore::connect(url(&database)).await.unwrap();
    expect(&log, &[]).await;
    (database, log)
}

fn append() -> Append {
    let event_type = retell::EventType::new("order.placed").unwrap();
    let event = NewEvent::stored(retell::EventId::generate(), event_type, 1, retell::Codec::Json, "{}".into());
    Append::new(StreamId::parse("order", "1").unwrap(), ExpectedVersion::Any, vec![event])
}

/// Waits until the sessions of other users of the database have ended. The server lists them for a moment after they close.
async fn alone(database: &Database, role: &str) {
    let (server, name) = url(database).rsplit_once('/').unwrap();
    let mut session = PgConnection::connect(&format!("{server}/postgres")).await.unwrap();
    let count = "SELECT count(*) FROM pg_stat_activity WHERE datname = $1 AND usename <> $2";
    let others = async {
        while sqlx::query_scalar::<_, i64>(count).bind(name).bind(role).fetch_one(&mut session).await.unwrap() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(5), others).await.expect("the other sessions do not end");
    session.close().await.unwrap();
}

#[tokio::test]
async fn healthy_server_has_no_findings() {
    let (_database, log) = healthy().await;
    log.append(append()).await.unwrap();
    retell::EventReader::head(&log).await.unwrap();
    expect(&log, &[]).await;
    log.close().await.unwrap();
}

#[tokio::test]
async fn server_that_does_not_wait_for_the_disk_is_found() {
    let settings =
        ["fsync=off", "full_page_writes=off", "synchronous_commit=off", "wal_level=replica", "max_wal_senders=3"];
    let server = Server::start_with(Folder::Folder(server::folder()), &settings);
    let log = PostgresStore::connect(&server.url()).await.unwrap();
    let ids = ["fsync-off", "full-page-writes-off", "synchronous-commit-off"];
    expect(&log, &ids).await;
    assert!(operate::doctor(&[&log], Duration::from_hours(1)).await.needs_attention());
    // The replica has the schema and the settings of its server.
    log.append(append()).await.unwrap();
    retell::EventReader::head(&log).await.unwrap();
    let replica = server.replica();
    let log = PostgresStore::connect(&replica.url()).await.unwrap();
    expect(&log, &[&ids[..], &["read-only"]].concat()).await;
}

#[tokio::test]
async fn settings_of_databases_are_found() {
    let (database, log) = healthy().await;
    log.close().await.unwrap();
    let name = url(&database).rsplit_once('/').unwrap().1;
    let alter = |setting: &str| format!("ALTER DATABASE {name} SET {setting}");
    database.place.run(&alter("synchronous_commit = off")).await;
    let log = PostgresStore::connect(url(&database)).await.unwrap();
    expect(&log, &["synchronous-commit-off"]).await;
    // Appends of this store wait for the disk anyway.
    assert_eq!(findings(&log).await[0].severity, Severity::Info);
    database.place.run(&format!("ALTER DATABASE {name} RESET ALL")).await;
    database.place.run(&alter("default_transaction_isolation = 'serializable'")).await;
    let log = PostgresStore::connect(url(&database)).await.unwrap();
    expect(&log, &["isolation"]).await;
    database.place.run(&format!("ALTER DATABASE {name} RESET ALL")).await;
    let pool = PgPoolOptions::new()
        .max_connections(3)
        .after_connect(|session, _| Box::pin(async { sqlx::raw_sql("SET jit = on").execute(session).await.map(drop) }));
    let log = PostgresStore::open(pool.connect(url(&database)).await.unwrap()).await.unwrap();
    expect(&log, &["jit-on"]).await;
    // The sessions that are open keep their setting.
    let log = PostgresStore::connect(url(&database)).await.unwrap();
    database.place.run(&alter("session_replication_role = replica")).await;
    expect(&log, &["triggers-off"]).await;
}

#[tokio::test]
async fn statistics_of_a_much_smaller_table_are_found() {
    let (database, log) = healthy().await;
    // The server must not analyze the tables itself.
    for table in ["events", "commits", "log"] {
        database.place.run(&format!("ALTER TABLE retell.{table} SET (autovacuum_enabled = off)")).await;
    }
    // A session reports its rows when it ends.
    log.close().await.unwrap();
    database
        .place
        .run("ANALYZE; INSERT INTO retell.log SELECT n, n, 1, now() FROM generate_series(1, 100001) AS n")
        .await;
    let log = PostgresStore::open(PgPoolOptions::new().connect(url(&database)).await.unwrap()).await.unwrap();
    let found = async {
        while findings(&log).await.iter().all(|finding| finding.id != "statistics-old") {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), found).await.expect("old statistics are not found");
    database.place.run("ANALYZE retell.log").await;
    assert!(findings(&log).await.iter().all(|finding| finding.id != "statistics-old"));
}

#[tokio::test]
async fn changed_schema_is_found() {
    let (database, log) = healthy().await;
    let cases = [
        ("ALTER TABLE retell.events DISABLE TRIGGER events_no_change", "trigger-disabled"),
        ("ALTER TABLE retell.events ENABLE TRIGGER events_no_change", ""),
        ("DROP TRIGGER events_no_truncate ON retell.events", "trigger-missing"),
        (
            "CREATE TRIGGER events_no_truncate BEFORE INSERT ON retell.events
             FOR EACH STATEMENT WHEN (false) EXECUTE FUNCTION retell.refuse_change()",
            "trigger-changed",
        ),
        (
            "DROP TRIGGER events_no_truncate ON retell.events; CREATE TRIGGER events_no_truncate BEFORE TRUNCATE ON retell.events
             FOR EACH STATEMENT EXECUTE FUNCTION retell.refuse_change()",
            "",
        ),
        (
            "CREATE FUNCTION retell.kept() RETURNS text LANGUAGE sql AS $$ SELECT 1::text $$;
             CREATE OR REPLACE FUNCTION retell.wait_for_disk(wanted boolean) RETURNS text LANGUAGE sql AS $$ SELECT NULL::text $$",
            "function-changed",
        ),
    ];
    for (sql, id) in cases {
        database.place.run(sql).await;
        let ids = if id.is_empty() { vec![] } else { vec![id] };
        expect(&log, &ids).await;
    }
    // Opening does not install a function whose text is noted as installed. The remedy does.
    database.place.run("DELETE FROM retell.retell_functions WHERE name = 'wait_for_disk'").await;
    let log = PostgresStore::connect(url(&database)).await.unwrap();
    expect(&log, &[]).await;
    database.place.run("ALTER TABLE retell.events DROP CONSTRAINT events_id").await;
    expect(&log, &["index-missing"]).await;
}

#[tokio::test]
async fn changed_numbers_are_found() {
    let (database, log) = healthy().await;
    log.append(append()).await.unwrap();
    retell::EventReader::head(&log).await.unwrap();
    let cases = [
        ("ALTER SEQUENCE retell.commit_number CACHE 10", "sequence-changed"),
        ("ALTER SEQUENCE retell.commit_number CACHE 1", ""),
        ("UPDATE retell.lanes SET sequenced = sequenced + 1000 WHERE sequenced > 0", "lane-ahead"),
        ("UPDATE retell.lanes SET sequenced = sequenced - 1000 WHERE sequenced > 0", ""),
        ("SELECT setval('retell.commit_number', 1)", "numbers-behind"),
    ];
    for (sql, id) in cases {
        database.place.run(sql).await;
        let ids = if id.is_empty() { vec![] } else { vec![id] };
        expect(&log, &ids).await;
    }
}

#[tokio::test]
async fn open_transactions_are_found() {
    let (database, log) = healthy().await;
    let mut session = PgConnection::connect(url(&database)).await.unwrap();
    let mut tx = session.begin().await.unwrap();
    let open = async || {
        let diagnosis = operate::doctor(&[&log], Duration::ZERO).await;
        diagnosis.findings().map(|finding| (finding.id.clone(), finding.remedy.clone())).collect::<Vec<_>>()
    };
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *tx).await.unwrap();
    let found = open().await;
    assert!(found.len() == 1 && found[0].0 == "transaction-open", "{found:?}");
    assert!(found[0].1.contains(&format!("pg_terminate_backend({pid})")), "{found:?}");
    log.append_in(&mut tx, &append()).await.unwrap();
    let found = open().await;
    assert!(found.len() == 1 && found[0].0 == "lane-held", "{found:?}");
    tx.rollback().await.unwrap();
    assert_eq!(open().await, []);
}

#[tokio::test]
async fn missing_rights_are_found() {
    let (database, owner) = healthy().await;
    owner.close().await.unwrap();
    let (server, name) = url(&database).rsplit_once('/').unwrap();
    let role = format!("r{name}");
    database
        .place
        .run(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'secret'; GRANT USAGE ON SCHEMA retell TO {role};
             GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA retell TO {role};
             GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA retell TO {role}"
        ))
        .await;
    let host = server.rsplit_once('@').unwrap().1;
    let log = PostgresStore::connect(&format!("postgres://{role}:secret@{host}/{name}")).await.unwrap();
    alone(&database, &role).await;
    expect(&log, &[]).await;
    database.place.run(&format!("REVOKE INSERT ON retell.keys FROM {role}")).await;
    alone(&database, &role).await;
    expect(&log, &["right-missing"]).await;
    let found = findings(&log).await;
    assert_eq!(found[0].remedy, format!("GRANT INSERT ON retell.keys TO {role};"));
    // The user may not see what this session does.
    let mut session = PgConnection::connect(url(&database)).await.unwrap();
    sqlx::raw_sql("SELECT 1").execute(&mut session).await.unwrap();
    expect(&log, &["right-missing", "unknown"]).await;
    log.close().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(format!("DROP OWNED BY {role}; DROP ROLE {role}")))
        .execute(&mut session)
        .await
        .unwrap();
    session.close().await.unwrap();
}
