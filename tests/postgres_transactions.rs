//! Cases that need a server with many sessions: callers' own transactions, unrelated transactions, isolation levels and
//! lost connections. Needs `POSTGRES_URL`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/postgres.rs"]
#[allow(dead_code, reason = "each test file uses its own part")]
mod postgres;

use std::time::Duration;

use retell::event::NewEvent;
use retell::store::postgres::{PostgresOptions, PostgresStore};
use retell::store::{Append, Appended};
use retell::testing::store::{events, stream};
use retell::{
    ErrorKind, EventReader, EventReaderExt, EventStore, ExpectedVersion, Filter, IdempotencyKey, Position,
    PostgresReadModel, Version,
};
use sqlx::{Connection, Executor, PgConnection};

const ISOLATION: [&str; 3] = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"];

fn append(id: &str, expected: ExpectedVersion) -> Append {
    Append::new(stream(id), expected, events(1))
}

/// Returns the streams of the log, in order.
async fn log(store: &PostgresStore) -> Vec<String> {
    let page = store.read_all(Position::ZERO, 10_000, &Filter::all()).await.unwrap();
    assert!(page.events.iter().zip(1..).all(|(event, position)| event.position == Position::new(position)));
    page.events.iter().map(|event| event.stream.aggregate_id().as_str().to_owned()).collect()
}

async fn begin(isolation: &'static str) -> PgConnection {
    let mut connection = PgConnection::connect_with(&postgres::server()).await.unwrap();
    let begin = match isolation {
        "REPEATABLE READ" => "BEGIN ISOLATION LEVEL REPEATABLE READ",
        "SERIALIZABLE" => "BEGIN ISOLATION LEVEL SERIALIZABLE",
        _ => "BEGIN ISOLATION LEVEL READ COMMITTED",
    };
    connection.execute(begin).await.unwrap();
    connection
}

async fn written(store: &PostgresStore, tx: &mut PgConnection, id: &str) -> Appended {
    store.append_in(tx, &append(id, ExpectedVersion::Any)).await.unwrap()
}

#[tokio::test]
async fn rows_and_events_commit_together_in_every_isolation_level() {
    for isolation in ISOLATION {
        let store = postgres::store().await;
        store.pool().execute("CREATE TABLE rows (id text)").await.unwrap();
        for end in ["ROLLBACK", "COMMIT"] {
            let mut tx = begin(isolation).await;
            let schema: String = sqlx::query_scalar("SHOW search_path").fetch_one(store.pool()).await.unwrap();
            sqlx::query("SELECT set_config('search_path', $1, true)").bind(schema).execute(&mut tx).await.unwrap();
            tx.execute("INSERT INTO rows VALUES ('caller')").await.unwrap();
            written(&store, &mut tx, end).await;
            assert_eq!(log(&store).await.len(), 0, "readers see nothing before the commit");
            tx.execute(end).await.unwrap();
        }
        let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM rows").fetch_one(store.pool()).await.unwrap();
        assert_eq!((rows, log(&store).await), (1, vec!["COMMIT".to_owned()]), "{isolation}");
    }
}

#[tokio::test]
async fn late_commit_with_an_early_id_keeps_its_place() {
    for isolation in ISOLATION {
        let store = postgres::store().await;
        let mut late = begin(isolation).await;
        late.execute("SELECT pg_current_xact_id()").await.unwrap();
        let token = written(&store, &mut late, "late").await.token();
        for id in ["a", "b"] {
            store.append(append(id, ExpectedVersion::NoStream)).await.unwrap();
        }
        assert_eq!(log(&store).await, ["a", "b"], "readers do not wait for the open transaction");
        assert_eq!(store.position_of(token).await.unwrap(), None);
        late.execute("COMMIT").await.unwrap();
        store.append(append("c", ExpectedVersion::NoStream)).await.unwrap();
        // Neither `late` nor `c` has a position yet, and `late` has the lower number.
        assert_eq!(log(&store).await, ["a", "b", "late", "c"], "{isolation}");
        assert_eq!(store.position_of(token).await.unwrap(), Some(Position::new(3)));
    }
}

#[tokio::test]
async fn open_callers_transactions_do_not_block_appends() {
    let store = postgres::store().await;
    let mut open = Vec::new();
    for caller in 0..32 {
        let mut tx = begin("READ COMMITTED").await;
        written(&store, &mut tx, &format!("open {caller}")).await;
        open.push(tx);
    }
    // One caller more than there are lanes for callers, so this one waits for another caller to end.
    let one_more = tokio::spawn(wait_for_a_lane(store.clone(), "one more"));
    until_a_caller_waits_for_a_lane(&store).await;
    let appends = (0..100).map(|n| store.append(append(&format!("free {n}"), ExpectedVersion::NoStream)));
    for appended in futures::future::join_all(appends).await {
        appended.unwrap();
    }
    assert_eq!(log(&store).await.len(), 100);
    for tx in &mut open {
        tx.execute("COMMIT").await.unwrap();
    }
    one_more.await.unwrap();
    assert_eq!(log(&store).await.len(), 133);
}

async fn wait_for_a_lane(store: PostgresStore, id: &'static str) -> Appended {
    let mut tx = begin("READ COMMITTED").await;
    let appended = written(&store, &mut tx, id).await;
    tx.execute("COMMIT").await.unwrap();
    appended
}

async fn until_a_caller_waits_for_a_lane(store: &PostgresStore) {
    let waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND pid IN
        (SELECT pid FROM pg_stat_activity WHERE query LIKE $1)";
    let schema: String = sqlx::query_scalar("SHOW search_path").fetch_one(store.pool()).await.unwrap();
    while sqlx::query_scalar::<_, i64>(waiting)
        .bind(format!("%{schema}.append%(%"))
        .fetch_one(store.pool())
        .await
        .unwrap()
        == 0
    {}
}

#[tokio::test]
async fn time_never_goes_backward_within_a_stream() {
    let store = postgres::store().await;
    let mut open = Vec::new();
    for caller in 0..32 {
        let mut tx = begin("READ COMMITTED").await;
        written(&store, &mut tx, &format!("open {caller}")).await;
        open.push(tx);
    }
    // This append begins now and waits for a lane. A transaction that already has a lane writes version 1 later.
    let waits = tokio::spawn(wait_for_a_lane(store.clone(), "a"));
    until_a_caller_waits_for_a_lane(&store).await;
    written(&store, &mut open[0], "a").await;
    for tx in &mut open {
        tx.execute("COMMIT").await.unwrap();
    }
    assert_eq!(waits.await.unwrap().versions, [Version::new(2)]);
    let times: Vec<(i64, chrono::DateTime<chrono::Utc>)> =
        sqlx::query_as("SELECT version, recorded_at FROM events WHERE aggregate_id = 'a' ORDER BY version")
            .fetch_all(store.pool())
            .await
            .unwrap();
    assert!(times[0].1 <= times[1].1, "{times:?}");
}

async fn search_path(pool: &sqlx::PgPool) -> String {
    sqlx::query_scalar("SHOW search_path").fetch_one(pool).await.unwrap()
}

/// Waits until a session whose transaction began after `after` waits for another transaction. Returns when it began.
async fn blocked(store: &PostgresStore, after: chrono::DateTime<chrono::Utc>) -> chrono::DateTime<chrono::Utc> {
    let schema = search_path(store.pool()).await;
    let sql = "SELECT a.xact_start FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
        WHERE l.locktype = 'transactionid' AND NOT l.granted AND a.query LIKE $1 AND a.xact_start > $2";
    loop {
        let query = sqlx::query_scalar(sql).bind(format!("%{schema}.append%(%")).bind(after);
        if let Some(began) = query.fetch_optional(store.pool()).await.unwrap() {
            return began;
        }
    }
}

#[tokio::test]
async fn a_deadlock_is_retried() {
    let (pool, options) = postgres::fresh().await;
    // Only the store's sessions check for a deadlock in time, so the server aborts the store's append.
    let pool = postgres::pool_with(&[("search_path", &search_path(&pool).await), ("deadlock_timeout", "2s")], 5).await;
    let store = PostgresStore::open_with(pool, options).await.unwrap();
    let mut other = begin("READ COMMITTED").await;
    other.execute("SET deadlock_timeout = '10min'").await.unwrap();
    written(&store, &mut other, "b").await;
    let both = append("a", ExpectedVersion::NoStream).with_stream(stream("b"), ExpectedVersion::NoStream, events(1));
    let appending = tokio::spawn({
        let store = store.clone();
        async move { store.append(both).await }
    });
    // The append holds `a` and waits for `b`.
    let first = blocked(&store, chrono::DateTime::UNIX_EPOCH).await;
    written(&store, &mut other, "a").await;
    // The append has lost `a` to a deadlock, and retries.
    blocked(&store, first).await;
    other.execute("ROLLBACK").await.unwrap();
    assert_eq!(appending.await.unwrap().unwrap().versions, [Version::new(1), Version::new(1)]);
    assert_eq!(log(&store).await, ["a", "b"]);
}

#[tokio::test]
async fn a_lock_timeout_is_retried() {
    let (pool, options) = postgres::fresh().await;
    let pool = postgres::pool_with(&[("search_path", &search_path(&pool).await), ("lock_timeout", "200ms")], 5).await;
    let store = PostgresStore::open_with(pool, options).await.unwrap();
    let mut other = begin("READ COMMITTED").await;
    written(&store, &mut other, "a").await;
    let appending = tokio::spawn({
        let store = store.clone();
        async move { store.append(append("a", ExpectedVersion::Any)).await }
    });
    let first = blocked(&store, chrono::DateTime::UNIX_EPOCH).await;
    blocked(&store, first).await;
    // The store does not retry in a caller's own transaction: the caller gets the error.
    let mut tx = begin("READ COMMITTED").await;
    tx.execute("SET LOCAL lock_timeout = '50ms'").await.unwrap();
    assert!(store.append_in(&mut tx, &append("a", ExpectedVersion::Any)).await.unwrap_err().is_transient());
    tx.execute("ROLLBACK").await.unwrap();
    other.execute("COMMIT").await.unwrap();
    assert_eq!(appending.await.unwrap().unwrap().versions, [Version::new(2)]);
    assert_eq!(log(&store).await, ["a", "a"]);
}

#[tokio::test]
async fn a_transaction_in_another_database_stalls_nothing() {
    let store = postgres::store().await;
    let database = format!("other_{}", std::process::id());
    store.pool().execute(sqlx::AssertSqlSafe(format!("CREATE DATABASE {database}"))).await.unwrap();
    let mut operator = PgConnection::connect_with(&postgres::server().database(&database)).await.unwrap();
    operator.execute("BEGIN; CREATE TABLE t (); SELECT pg_current_xact_id()").await.unwrap();
    store.append(append("a", ExpectedVersion::NoStream)).await.unwrap();
    assert_eq!(log(&store).await, ["a"]);
    operator.execute("ROLLBACK").await.unwrap();
    operator.close().await.unwrap();
    store.pool().execute(sqlx::AssertSqlSafe(format!("DROP DATABASE {database}"))).await.unwrap();
}

#[tokio::test]
async fn a_rolled_back_savepoint_leaves_no_gap() {
    let store = postgres::store().await;
    let mut tx = begin("READ COMMITTED").await;
    written(&store, &mut tx, "kept").await;
    tx.execute("SAVEPOINT s").await.unwrap();
    written(&store, &mut tx, "undone").await;
    tx.execute("ROLLBACK TO SAVEPOINT s").await.unwrap();
    written(&store, &mut tx, "kept too").await;
    tx.execute("COMMIT").await.unwrap();
    store.append(append("next", ExpectedVersion::NoStream)).await.unwrap();
    assert_eq!(log(&store).await, ["kept", "kept too", "next"]);
}

#[tokio::test]
async fn a_callers_transaction_stays_usable_after_a_conflict() {
    for isolation in ISOLATION {
        let store = postgres::store().await;
        let mut tx = begin(isolation).await;
        tx.execute("SELECT 1 FROM pg_class LIMIT 1").await.unwrap();
        // The version check sees the conflict if each statement has its own snapshot; otherwise only the unique
        // constraint does.
        store.append(append("a", ExpectedVersion::NoStream)).await.unwrap();
        let error = store.append_in(&mut tx, &append("a", ExpectedVersion::NoStream)).await.unwrap_err();
        let (stream, expected) = (stream("a"), ExpectedVersion::NoStream);
        assert_eq!(*error.kind(), ErrorKind::Conflict { stream, expected, actual: Version::new(1) }, "{isolation}");
        written(&store, &mut tx, "b").await;
        tx.execute("COMMIT").await.unwrap();
        assert_eq!(log(&store).await, ["a", "b"]);
    }
}

#[tokio::test]
async fn refused_appends_in_a_transaction_are_typed() {
    let store = postgres::store().await;
    let first = append("a", ExpectedVersion::NoStream);
    store.append(first.clone()).await.unwrap();
    let known: NewEvent = first.streams()[0].events[0].clone();
    let mut tx = begin("READ COMMITTED").await;
    let again = Append::new(stream("b"), ExpectedVersion::Any, vec![known.clone()]);
    let error = store.append_in(&mut tx, &again).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::DuplicateEvent(known.id));
    let mut none = PgConnection::connect_with(&postgres::server()).await.unwrap();
    let error = store.append_in(&mut none, &append("b", ExpectedVersion::Any)).await.unwrap_err();
    assert_eq!(error.to_string(), "invalid input: the connection has no open transaction");
    let empty = Append::new(stream("b"), ExpectedVersion::Any, vec![]);
    assert!(matches!(store.append_in(&mut tx, &empty).await.unwrap_err().kind(), ErrorKind::Invalid(_)));
    tx.execute("COMMIT").await.unwrap();
    assert_eq!(log(&store).await, ["a"]);
}

#[tokio::test]
async fn order_holds_under_strict_default_isolation_levels() {
    for isolation in ["serializable", "repeatable read"] {
        let (_, options) = postgres::fresh().await;
        let pool = postgres::pool_with(&[("default_transaction_isolation", isolation)], 8).await;
        let store = PostgresStore::open_with(pool, options).await.unwrap();
        let writers = (0..16).map(|writer| {
            let store = store.clone();
            async move {
                for n in 0..10 {
                    let id = format!("{writer} {n}");
                    store.append(append(&id, ExpectedVersion::NoStream)).await.unwrap();
                    if let Err(error) = store.read_all(Position::ZERO, 1_000, &Filter::all()).await {
                        assert!(
                            error.is_transient(),
                            "a serializable reader may fail only with a transient error: {error}"
                        );
                    }
                }
            }
        });
        futures::future::join_all(writers).await;
        assert_eq!(log(&store).await.len(), 160, "{isolation}");
    }
}

#[tokio::test]
async fn commits_wait_for_the_disk_despite_the_server_default() {
    let (_, options) = postgres::fresh().await;
    let pool = postgres::pool_with(&[("synchronous_commit", "off")], 4).await;
    for (options, expected) in [(options.clone(), "on"), (options.with_durability_of_the_server(), "off")] {
        let store = PostgresStore::open_with(pool.clone(), options).await.unwrap();
        // The server has one function for appends of one event, and one for all others.
        for count in [1, 2] {
            let mut tx = pool.begin().await.unwrap();
            let append = Append::new(stream(&format!("{expected}-{count}")), ExpectedVersion::NoStream, events(count));
            store.append_in(&mut tx, &append).await.unwrap();
            let setting: String = sqlx::query_scalar("SHOW synchronous_commit").fetch_one(&mut *tx).await.unwrap();
            assert_eq!(setting, expected);
        }
    }
}

#[tokio::test]
async fn open_detects_stale_commit_numbers_and_repair_fixes_them() {
    let (pool, options) = postgres::fresh().await;
    let store = PostgresStore::open_with(pool.clone(), options.clone()).await.unwrap();
    for id in ["a", "b", "c"] {
        store.append(append(id, ExpectedVersion::NoStream)).await.unwrap();
    }
    assert_eq!(log(&store).await.len(), 3);
    // Simulates logical replication, which does not copy sequences.
    pool.execute("SELECT setval('commit_number', 1)").await.unwrap();
    let error = PostgresStore::open_with(pool.clone(), options.clone()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the store is corrupt: the last commit number is 1, but the data has 6: call `repair`",
        "opening has drawn three numbers"
    );
    PostgresStore::repair(&pool, &options).await.unwrap();
    let store = PostgresStore::open_with(pool, options).await.unwrap();
    store.append(append("d", ExpectedVersion::NoStream)).await.unwrap();
    assert_eq!(log(&store).await, ["a", "b", "c", "d"]);
}

#[tokio::test]
async fn health_lists_lane_holders_and_unsequenced_commits() {
    let store = postgres::store().await;
    store.append(append("a", ExpectedVersion::NoStream)).await.unwrap();
    assert_eq!(store.health().await.unwrap().unsequenced, 1, "no reader has sequenced it yet");
    let mut tx = begin("READ COMMITTED").await;
    written(&store, &mut tx, "slow").await;
    tx.execute("SELECT 'the slow one'").await.unwrap();
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut tx).await.unwrap();
    log(&store).await;
    let health = store.health().await.unwrap();
    assert_eq!((health.head, health.unsequenced), (Position::new(1), 0));
    let open = health.open.seen();
    assert_eq!(open.iter().map(|open| open.session).collect::<Vec<_>>(), [u64::from(pid.unsigned_abs())]);
    assert!(open[0].lane.is_some() && open[0].query.contains("pg_backend_pid"), "{open:?}");
    tx.execute("ROLLBACK").await.unwrap();
    assert!(store.health().await.unwrap().open.seen().is_empty());
}

#[tokio::test]
async fn another_process_is_woken_by_a_notification() {
    let (pool, options) = postgres::fresh().await;
    let here = PostgresStore::open_with(pool, options.clone()).await.unwrap();
    let there = PostgresStore::open_with(postgres::pool_with(&[], 4).await, options).await.unwrap();
    let mut grown = there.watch_head();
    let woken = async {
        // The store listens after the first signal; polling finds a commit that comes before.
        grown.changed().await.unwrap();
        here.append(append("a", ExpectedVersion::NoStream)).await.unwrap();
        grown.changed().await.unwrap();
    };
    tokio::time::timeout(Duration::from_secs(30), woken).await.expect("a notification arrives");
    assert_eq!(log(&there).await, ["a"]);
    here.close().await.unwrap();
}

/// While one process notifies, the others stay silent. The reader must still hear of the last commit.
#[tokio::test]
async fn the_last_commit_of_many_writers_is_announced() {
    let (pool, options) = postgres::fresh().await;
    let reader = PostgresStore::open_with(pool, options.clone()).await.unwrap();
    let mut grown = reader.watch_head();
    // The store listens after the first signal.
    grown.changed().await.unwrap();
    let mut writers = Vec::new();
    for _ in 0..4 {
        writers.push(PostgresStore::open_with(postgres::pool_with(&[], 3).await, options.clone()).await.unwrap());
    }
    for round in 1..=20 {
        let appends = writers.iter().map(|writer| writer.append(append(&format!("a-{round}"), ExpectedVersion::Any)));
        for appended in futures::future::join_all(appends).await {
            appended.unwrap();
        }
        let heard = async {
            while log(&reader).await.len() < round * writers.len() {
                grown.changed().await.unwrap();
            }
        };
        tokio::time::timeout(Duration::from_secs(30), heard).await.expect("a notification of the last commit arrives");
    }
}

#[tokio::test]
async fn losing_the_listener_repeatedly_fails_no_append() {
    let store = postgres::store().await;
    let schema: String = sqlx::query_scalar("SHOW search_path").fetch_one(store.pool()).await.unwrap();
    let listen = format!("LISTEN \"retell_{schema}\"%");
    let mut operator = PgConnection::connect_with(&postgres::server()).await.unwrap();
    let mut appended = 0;
    for _ in 0..5 {
        let mut cut_off = 0;
        while cut_off == 0 {
            for _ in 0..10 {
                store.append(append(&format!("a-{appended}"), ExpectedVersion::NoStream)).await.unwrap();
                appended += 1;
            }
            let listening = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE $1";
            cut_off = sqlx::query_scalar::<_, i64>(listening).bind(&listen).fetch_one(&mut operator).await.unwrap();
        }
    }
    assert_eq!(log(&store).await.len(), appended);
}

#[tokio::test]
async fn eight_stores_open_an_empty_database_at_once() {
    let (_, options) = postgres::fresh().await;
    let starts = (0..8).map(|process| {
        let options = options.clone();
        async move {
            let store = PostgresStore::open_with(postgres::pool_with(&[], 3).await, options).await.unwrap();
            store.append(append(&process.to_string(), ExpectedVersion::NoStream)).await.unwrap();
            store
        }
    });
    let stores = futures::future::join_all(starts).await;
    assert_eq!(log(&stores[0]).await.len(), 8);
}

#[tokio::test]
async fn two_schemas_are_two_logs() {
    let (one, two) = (postgres::store().await, postgres::store().await);
    let event = append("a", ExpectedVersion::NoStream);
    one.append(event.clone()).await.unwrap();
    two.append(event).await.unwrap();
    assert_eq!((log(&one).await.len(), log(&two).await.len()), (1, 1));
}

#[tokio::test]
async fn a_schema_name_that_is_not_an_identifier_is_refused() {
    let (pool, _) = postgres::fresh().await;
    for name in ["", "Retell", "1a", "a b", "a;drop table x", "a\"b", "ä", &"a".repeat(64)] {
        let error = PostgresStore::open_with(pool.clone(), PostgresOptions::new().with_schema(name)).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Invalid(_)), "{name:?}: {error}");
    }
}

#[tokio::test]
async fn a_newer_schema_is_refused() {
    let (pool, options) = postgres::fresh().await;
    PostgresStore::open_with(pool.clone(), options.clone()).await.unwrap();
    pool.execute("INSERT INTO retell_migrations (number, name) VALUES (99, 'later')").await.unwrap();
    let error = PostgresStore::open_with(pool, options).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::NewerStore { found: 99, known: 1 });
}

#[tokio::test]
async fn events_are_immutable() {
    let (pool, options) = postgres::fresh().await;
    let store = PostgresStore::open_with(pool.clone(), options).await.unwrap();
    store.append(append("a", ExpectedVersion::NoStream)).await.unwrap();
    for change in ["UPDATE events SET version = 2", "DELETE FROM events", "TRUNCATE events"] {
        let error = pool.execute(change).await.unwrap_err();
        assert_eq!(error.as_database_error().unwrap().code().as_deref(), Some("23001"), "{change}");
    }
    assert_eq!(log(&store).await, ["a"]);
}

#[tokio::test]
async fn records_of_operators_are_never_emptied() {
    let (pool, options) = postgres::fresh().await;
    let _models = PostgresReadModel::open_with(pool.clone(), options).await.unwrap();
    for change in ["TRUNCATE skipped", "TRUNCATE audit"] {
        let error = pool.execute(change).await.unwrap_err();
        assert_eq!(error.as_database_error().unwrap().code().as_deref(), Some("23001"), "{change}");
    }
}

#[tokio::test]
async fn the_store_works_behind_a_transaction_pooler() {
    let (_, options) = postgres::fresh().await;
    let pool = sqlx::postgres::PgPoolOptions::new()
        .max_connections(3)
        .connect_with(postgres::server().statement_cache_capacity(0))
        .await
        .unwrap();
    let store = PostgresStore::open_with(pool, options.without_listening()).await.unwrap();
    for id in ["a", "b"] {
        store.append(append(id, ExpectedVersion::NoStream)).await.unwrap();
    }
    assert_eq!(log(&store).await, ["a", "b"]);
}

#[tokio::test]
async fn a_pool_without_a_free_connection_is_transient() {
    let (_, options) = postgres::fresh().await;
    let pool = sqlx::postgres::PgPoolOptions::new()
        .max_connections(1)
        .acquire_timeout(Duration::from_millis(50))
        .connect_with(postgres::server())
        .await
        .unwrap();
    let store = PostgresStore::open_with(pool.clone(), options.without_listening()).await.unwrap();
    let taken = pool.acquire().await.unwrap();
    assert!(store.append(append("a", ExpectedVersion::Any)).await.unwrap_err().is_transient());
    assert!(store.head().await.unwrap_err().is_transient());
    drop(taken);
    store.append(append("a", ExpectedVersion::Any)).await.unwrap();
}

/// The store returns a connection that it has cached when another task waits for one of the pool.
#[tokio::test]
async fn a_small_pool_serves_the_store_and_its_owner() {
    let (_, options) = postgres::fresh().await;
    let pool = sqlx::postgres::PgPoolOptions::new().max_connections(2).connect_with(postgres::server()).await.unwrap();
    let store = PostgresStore::open_with(pool.clone(), options.without_listening()).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..4 {
        let store = store.clone();
        tasks.spawn(async move {
            for _ in 0..50 {
                store.append(append(&writer.to_string(), ExpectedVersion::Any)).await.unwrap();
                store.head().await.unwrap();
            }
        });
    }
    for _ in 0..4 {
        let pool = pool.clone();
        tasks.spawn(async move {
            for _ in 0..50 {
                pool.execute("SELECT 1").await.unwrap();
            }
        });
    }
    tasks.join_all().await;
    assert_eq!(log(&store).await.len(), 200);
    store.close().await.unwrap();
    assert_eq!(pool.size(), 0, "the cached connection is closed too");
    assert!(matches!(*store.head().await.unwrap_err().kind(), ErrorKind::Closed(_)));
}

#[test]
fn a_store_outlives_its_runtime() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let store = runtime.block_on(async {
        let store = postgres::store().await;
        store.append(append("a", ExpectedVersion::NoStream)).await.unwrap();
        store
    });
    // The store has a cached connection, and can return it to the pool only while there is a runtime.
    drop(runtime);
    let dropped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(store)));
    assert!(dropped.is_ok(), "dropping the store without a runtime panicked");
}

#[tokio::test]
async fn the_key_decides_after_a_lost_connection() {
    let (pool, options) = postgres::fresh().await;
    let schema: String = sqlx::query_scalar("SHOW search_path").fetch_one(&pool).await.unwrap();
    let store = PostgresStore::open_with(pool, options).await.unwrap();
    let mut operator = PgConnection::connect_with(&postgres::server()).await.unwrap();
    for round in 0..20 {
        let key = IdempotencyKey::new(format!("round {round}")).unwrap();
        let call = || append(&round.to_string(), ExpectedVersion::NoStream).with_key(key.clone());
        let cut = sqlx::query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE $1")
            .bind(format!("%{schema}.append%(%"))
            .execute(&mut operator);
        let (first, _) = tokio::join!(store.append(call()), cut);
        if let Err(error) = first {
            assert!(error.is_transient(), "{error}");
        }
        // Retries until the pool has a connection again.
        let second = loop {
            match store.append(call()).await {
                Ok(appended) => break appended,
                Err(error) => assert!(error.is_transient(), "{error}"),
            }
        };
        assert_eq!(second.versions, [Version::new(1)]);
    }
    assert_eq!(log(&store).await.len(), 20);
}
