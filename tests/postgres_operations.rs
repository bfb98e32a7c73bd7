//! Operations on a PostgreSQL log: dump and restore, replication, promotion of a replica, full disks, shutdowns and
//! limits. Needs `POSTGRES_URL`, and PostgreSQL's own programs to start servers for single tests.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/postgres.rs"]
#[allow(dead_code, reason = "each test file uses its own part")]
mod postgres;
#[path = "support/programs.rs"]
mod programs;
#[path = "support/server.rs"]
mod server;

use std::fs;
use std::time::{Duration, Instant};

use retell::event::{NewEvent, RecordedEvent};
use retell::store::postgres::{PostgresOptions, PostgresReadModel, PostgresStore};
use retell::store::{Append, Filter, KeyedOutcome, Outcome, ReadModel, RelayStore, Replay, Snapshot, Step, Work};
use retell::testing::store::{event, event_at, events, replayed, stream, whole_log};
use retell::{
    Error, ErrorKind, EventReader, EventReaderExt, EventStore, ExpectedVersion, Fence, IdempotencyKey, Position,
    ProjectionName, Version,
};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, PgPool};
use tempfile::TempDir;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use uuid::Uuid;

use server::{Disk, Place, Server, TIMEOUT, program, run};

fn append(id: &str) -> Append {
    Append::new(stream(id), ExpectedVersion::Any, events(1))
}

fn keyed(key: &str, id: &str, events: Vec<NewEvent>) -> Append {
    Append::new(stream(id), ExpectedVersion::Any, events).with_key(IdempotencyKey::new(key).unwrap())
}

async fn open(server: &Server) -> PostgresStore {
    PostgresStore::connect(&server.url()).await.unwrap()
}

async fn log(store: &PostgresStore) -> Vec<RecordedEvent> {
    let log = whole_log(store).await.unwrap();
    assert!(log.iter().zip(1..).all(|(event, position)| event.position == Position::new(position)), "the log has gaps");
    log
}

/// Waits until `is_so` holds. `what` describes the condition.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !is_so().await {
        assert!(started.elapsed() < TIMEOUT, "timed out waiting for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn projection() -> ProjectionName {
    ProjectionName::new("totals").unwrap()
}

fn no_work() -> Work<PgConnection> {
    Box::new(|_| Box::pin(async { Ok(()) }))
}

// -- Dump and restore --

/// Dumps the log with `pg_dump`.
fn dump(server: &Server) -> TempDir {
    let folder = server::folder();
    run(program("pg_dump").arg("-f").arg(folder.path().join("dump.sql")).arg(server.url()));
    folder
}

fn restore(dump: &TempDir) -> Server {
    let server = Server::start();
    let mut psql = program("psql");
    psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-f"]).arg(dump.path().join("dump.sql")).arg(server.url());
    run(&mut psql);
    server
}

/// With TLS, the driver takes the end of the connection for an answer.
#[tokio::test]
async fn server_that_closes_new_connections_is_tried_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let closes = tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            // The request for TLS has eight bytes.
            drop(socket.read_exact(&mut [0; 8]).await);
        }
    });
    let error = PostgresStore::connect(&format!("postgres://ada@{address}/shop")).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    closes.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_log_continues_where_the_dump_ended() {
    let server = Server::start();
    let store = open(&server).await;
    let model = PostgresReadModel::connect(&server.url()).await.unwrap();
    let first = store.append(keyed("pay", "a", events(2))).await.unwrap();
    for id in ["b", "c", "a"] {
        store.append(append(id)).await.unwrap();
    }
    store
        .save_snapshot(
            &stream("a"),
            Snapshot::new(Version::new(2), event_at(&store, &stream("a"), 2).await, 7, vec![1]),
        )
        .await
        .unwrap();
    store.advance("main", Position::new(3).into(), Fence::ZERO).await.unwrap();
    model.commit(Step::new(&projection(), Position::ZERO, Position::new(4)), no_work()).await.unwrap();
    let before = log(&store).await;
    // The last append has no position yet, and the number before its own belongs to a transaction that the dump does
    // not see.
    let mut open_tx = PgConnection::connect(&server.url()).await.unwrap();
    open_tx.execute("BEGIN").await.unwrap();
    store.append_in(&mut open_tx, &append("never ended")).await.unwrap();
    store.append(append("unsequenced")).await.unwrap();

    let dump = dump(&server);
    drop((open_tx, server));
    let server = restore(&dump);
    let store = open(&server).await;
    let after = log(&store).await;
    assert_eq!(after[..5], before);
    assert_eq!(after[5].stream, stream("unsequenced"));
    assert_eq!(after.len(), 6);
    let again = store.append(keyed("pay", "a", events(2))).await.unwrap();
    assert_eq!((again.outcome, again.commit, again.versions), (Outcome::Repeated, first.commit, first.versions));
    let from_snapshot = replayed(&store, &stream("a"), Replay::ALL.with_snapshot(7)).await.unwrap();
    assert_eq!((from_snapshot.snapshot, from_snapshot.events.len()), (Some((Version::new(2), vec![1])), 1));
    assert_eq!(store.position("main").await.unwrap(), Position::new(3));
    let model = PostgresReadModel::connect(&server.url()).await.unwrap();
    assert_eq!(model.checkpoint(&projection()).await.unwrap(), Position::new(4));

    assert_eq!(store.append(append("a")).await.unwrap().versions, [Version::new(4)]);
    store.append(append("never ended")).await.unwrap();
    let ids: Vec<_> = log(&store).await[6..].iter().map(|event| event.stream.aggregate_id().to_string()).collect();
    assert_eq!(ids, ["a", "never ended"]);
    let health = store.health().await.unwrap();
    assert_eq!((health.head, health.unsequenced, health.open.seen().len()), (Position::new(8), 0, 0));
    assert_eq!(health.projections, [(projection(), 4)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_taken_during_writes_is_a_complete_log() {
    let server = Server::start();
    let store = open(&server).await;
    let (stop, stopped) = tokio::sync::watch::channel(());
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..4 {
        let (store, stopped) = (open(&server).await, stopped.clone());
        tasks.spawn(async move {
            while stopped.has_changed().is_ok() {
                let both = append("shared").with_stream(stream(&writer.to_string()), ExpectedVersion::Any, events(2));
                store.append(both).await.unwrap();
                store.head().await.unwrap();
            }
        });
    }
    drop(stopped);
    until("300 events", async || store.head().await.unwrap() >= Position::new(300)).await;
    let dump = tokio::task::block_in_place(|| dump(&server));
    let head = store.head().await.unwrap();
    until("more events after the dump", async || store.head().await.unwrap() > head).await;
    drop(stop);
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    let original = log(&store).await;

    let server = tokio::task::block_in_place(|| restore(&dump));
    let mut db = PgConnection::connect(&server.url()).await.unwrap();
    let placed = "SELECT coalesce(sum(events), 0)::bigint FROM retell.log";
    let placed: i64 = sqlx::query_scalar(placed).fetch_one(&mut db).await.unwrap();
    let placed = usize::try_from(placed).unwrap();
    let store = open(&server).await;
    let restored = log(&store).await;
    assert!(placed >= 300 && restored.len() < original.len(), "{placed} of {}", restored.len());
    assert_eq!(restored[..placed], original[..placed], "sequenced events keep their positions");
    let versions = |log: &[RecordedEvent]| -> Vec<u64> {
        log.iter().filter(|event| event.stream == stream("shared")).map(|event| event.version.get()).collect()
    };
    let last = versions(&restored).len() as u64;
    assert_eq!(versions(&restored), (1..=last).collect::<Vec<_>>());
    assert_eq!(store.append(append("shared")).await.unwrap().versions, [Version::new(last + 1)]);
    assert_eq!(log(&store).await.len(), restored.len() + 1);
}

// -- Replicas --

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_reads_sequenced_events_and_refuses_writes() {
    let primary = Server::start();
    let store = open(&primary).await;
    let kept = store.append(keyed("pay", "a", events(2))).await.unwrap();
    log(&store).await;
    let replica = tokio::task::block_in_place(|| primary.replica());
    let there = open(&replica).await;
    assert_eq!(log(&there).await, log(&store).await);
    assert_eq!(there.position_of(kept.token()).await.unwrap(), Some(Position::new(2)));
    let outcome = there.find_by_key(&IdempotencyKey::new("pay").unwrap()).await.unwrap().unwrap();
    let KeyedOutcome { streams, appended, .. } = outcome;
    assert_eq!((streams, appended.versions), (vec![stream("a")], kept.versions));

    // No reader of the primary has given the event a position. The replica cannot assign one, so it does not show the
    // event.
    let late = store.append(append("b")).await.unwrap();
    let versions = async || replayed(&there, &stream("b"), Replay::ALL).await.unwrap().versions();
    until("the event on the replica", async || versions().await == [1]).await;
    assert_eq!(there.position_of(late.token()).await.unwrap(), None);
    assert_eq!((there.head().await.unwrap(), log(&there).await.len()), (Position::new(2), 2));
    assert_eq!(there.health().await.unwrap().unsequenced, 1);
    assert_eq!(store.head().await.unwrap(), Position::new(3));
    until("its position on the replica", async || there.head().await.unwrap() == Position::new(3)).await;
    assert_eq!(log(&there).await, log(&store).await);
    assert_eq!(there.newest(&log(&there).await[2].event.event_type, 1).await.unwrap()[0].position, Position::new(3));

    let refused = |result: Result<(), Error>| assert_eq!(*result.unwrap_err().kind(), ErrorKind::ReadOnly);
    refused(there.append(append("c")).await.map(drop));
    let mut tx = there.pool().begin().await.unwrap();
    refused(there.append_in(&mut tx, &append("c")).await.map(drop));
    tx.rollback().await.unwrap();
    let snapshot = Snapshot::new(Version::new(1), retell::EventId::generate(), 1, Vec::new());
    refused(there.save_snapshot(&stream("a"), snapshot).await);
    refused(there.advance("main", Position::new(1).into(), Fence::ZERO).await);
    refused(there.acquire_lease("main", Uuid::nil(), TIMEOUT).await.map(drop));
    let model = PostgresReadModel::connect(&replica.url()).await.unwrap();
    assert_eq!(model.mark(&projection()).await.unwrap().position, Position::ZERO);
    refused(model.commit(Step::new(&projection(), Position::ZERO, Position::new(1)), no_work()).await);
    let pool = PgPool::connect(&replica.url()).await.unwrap();
    let nowhere = PostgresStore::open_with(pool, PostgresOptions::new().with_schema("nowhere")).await.map(drop);
    refused(nowhere);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_of_a_replica_never_sees_a_gap() {
    const WRITERS: u64 = 4;
    const APPENDS: u64 = 100;
    let primary = Server::start();
    let store = open(&primary).await;
    let replica = tokio::task::block_in_place(|| primary.replica());
    let there = open(&replica).await;
    let mut tasks = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let store = open(&primary).await;
        tasks.spawn(async move {
            for _ in 0..APPENDS {
                let both = append("shared").with_stream(stream(&writer.to_string()), ExpectedVersion::Any, events(2));
                store.append(both).await.unwrap();
                // Assigns positions, in runs of different lengths.
                store.head().await.unwrap();
            }
        });
    }
    let mut last = Position::ZERO;
    until("all events on the replica", async || {
        let page = there.read_all(last, 7, &Filter::all()).await.unwrap();
        for event in &page.events {
            assert_eq!(event.position, last.next(), "a gap after {last}");
            last = event.position;
        }
        assert_eq!(page.through, last);
        last == Position::new(WRITERS * APPENDS * 3)
    })
    .await;
    while let Some(ended) = tasks.join_next().await {
        ended.unwrap();
    }
    assert_eq!(log(&there).await, log(&store).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_replica_continues_versions_and_positions() {
    let mut primary = Server::start();
    let store = open(&primary).await;
    for id in ["a", "a", "b"] {
        store.append(append(id)).await.unwrap();
    }
    let replica = tokio::task::block_in_place(|| primary.replica());
    let there = open(&replica).await;
    // The second event has no position when the primary stops.
    store.append(append("a")).await.unwrap();
    assert_eq!(store.head().await.unwrap(), Position::new(4));
    store.append(append("b")).await.unwrap();
    let before = replayed(&store, &stream("b"), Replay::ALL).await.unwrap();
    until("the second event on the replica", async || {
        replayed(&there, &stream("b"), Replay::ALL).await.unwrap() == before
    })
    .await;
    tokio::task::block_in_place(|| primary.stop());
    assert!(store.append(append("c")).await.unwrap_err().is_transient());

    there.pool().execute("SELECT pg_promote(true)").await.unwrap();
    let appended = there.append(append("a")).await.unwrap();
    assert_eq!(appended.versions, [Version::new(4)]);
    let ids: Vec<_> = log(&there).await.iter().map(|event| event.stream.aggregate_id().to_string()).collect();
    assert_eq!(ids, ["a", "a", "b", "a", "b", "a"]);
    let reopened = open(&replica).await;
    reopened.append(append("b")).await.unwrap();
    assert_eq!(log(&reopened).await, log(&there).await);
}

// -- Limits, shut-downs and other refusals --

async fn pool_at(server: PgConnectOptions, settings: &[(&str, &str)]) -> PgPool {
    let pool = PgPoolOptions::new().max_connections(3).test_before_acquire(false);
    pool.connect_with(server.options(settings.iter().copied())).await.unwrap()
}

#[tokio::test]
async fn timeouts_are_transient_and_write_nothing() {
    for (setting, code) in [("statement_timeout", "57014"), ("lock_timeout", "55P03")] {
        let (pool, options) = postgres::fresh().await;
        PostgresStore::open_with(pool.clone(), options.clone()).await.unwrap();
        let impatient = postgres::pool_with(&[(setting, "50ms")], 3).await;
        let store = PostgresStore::open_with(impatient, options.clone().without_listening()).await.unwrap();
        let mut other = pool.begin().await.unwrap();
        other.execute("LOCK TABLE events IN ACCESS EXCLUSIVE MODE").await.unwrap();
        let error = store.append(append("a")).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Transient(_)), "{setting}: {error:?}");
        assert_eq!(code_of(&error), code, "{setting}");
        let error = replayed(&store, &stream("a"), Replay::ALL).await.unwrap_err();
        assert_eq!((error.is_transient(), code_of(&error)), (true, code.to_owned()), "{setting}");
        other.rollback().await.unwrap();
        assert_eq!(store.append(append("a")).await.unwrap().versions, [Version::new(1)]);
        assert_eq!(log(&store).await.len(), 1);
    }
}

/// Returns the server's error code, which the error keeps in its source.
fn code_of(error: &Error) -> String {
    let cause = std::error::Error::source(error).unwrap().downcast_ref::<sqlx::Error>().unwrap();
    cause.as_database_error().unwrap_or_else(|| panic!("{cause:?}")).code().unwrap().into_owned()
}

/// Begins a caller's own transaction, and returns it with the id of its server process.
async fn caller(deadlock_timeout: &'static str) -> (PgConnection, i32) {
    let mut caller = PgConnection::connect_with(&postgres::server()).await.unwrap();
    caller.execute(deadlock_timeout).await.unwrap();
    caller.execute("BEGIN").await.unwrap();
    let pid = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut caller).await.unwrap();
    (caller, pid)
}

/// Waits until another session waits for the session `pid`.
async fn until_waited_for(pid: i32) {
    // Not in a transaction, because the server shows a transaction the sessions as they were at its first look.
    let mut operator = PgConnection::connect_with(&postgres::server()).await.unwrap();
    let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE $1 = ANY (pg_blocking_pids(pid)))";
    until("a session that waits", async || sqlx::query_scalar(waits).bind(pid).fetch_one(&mut operator).await.unwrap())
        .await;
}

/// Opens a log whose sessions check for a deadlock after `deadlock_timeout`. The server aborts the session that detects
/// one.
async fn store_with(deadlock_timeout: &'static str) -> PostgresStore {
    let (_, options) = postgres::fresh().await;
    let pool = postgres::pool_with(&[("deadlock_timeout", deadlock_timeout)], 5).await;
    PostgresStore::open_with(pool, options).await.unwrap()
}

/// Appends to several streams at once. The store writes streams in the order of their names.
fn append_in_order(ids: &[&str], store: &PostgresStore) -> tokio::task::JoinHandle<Result<Vec<Version>, Error>> {
    let first = append(ids[0]);
    let all = ids[1..].iter().fold(first, |all, id| all.with_stream(stream(id), ExpectedVersion::Any, events(1)));
    let store = store.clone();
    tokio::spawn(async move { Ok(store.append(all).await?.versions) })
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_aborted_by_a_deadlock_is_retried() {
    let store = store_with("10ms").await;
    let ((mut other, other_pid), (mut caller, caller_pid)) =
        (caller("SET deadlock_timeout = '10min'").await, caller("SET deadlock_timeout = '10min'").await);
    store.append_in(&mut other, &append("b")).await.unwrap();
    store.append_in(&mut caller, &append("c")).await.unwrap();
    // The append holds `a` and waits for `b`. Then the caller waits for `a`. Then the append continues with `c`, which
    // completes the cycle.
    let all = append_in_order(&["a", "b", "c"], &store);
    until_waited_for(other_pid).await;
    let append_pid: i32 = sqlx::query_scalar("SELECT pid FROM pg_stat_activity WHERE $1 = ANY (pg_blocking_pids(pid))")
        .bind(other_pid)
        .fetch_one(store.pool())
        .await
        .unwrap();
    let crossing = tokio::spawn({
        let store = store.clone();
        async move {
            store.append_in(&mut caller, &append("a")).await.unwrap();
            caller.execute("COMMIT").await.unwrap();
        }
    });
    until_waited_for(append_pid).await;
    assert_ne!(caller_pid, append_pid);
    other.execute("ROLLBACK").await.unwrap();
    crossing.await.unwrap();
    assert_eq!(
        all.await.unwrap().unwrap(),
        [2, 1, 2].map(Version::new),
        "the append was aborted, and retried after the caller's commit"
    );
    assert_eq!(log(&store).await.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callers_transaction_stays_usable_after_a_deadlock() {
    let store = store_with("10min").await;
    let (mut caller, pid) = caller("SET deadlock_timeout = '10ms'").await;
    store.append_in(&mut caller, &append("b")).await.unwrap();
    // The append holds `a` and waits for `b`.
    let both = append_in_order(&["a", "b"], &store);
    until_waited_for(pid).await;
    let error = store.append_in(&mut caller, &append("a")).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Transient(_)), "{error:?}");
    assert_eq!(code_of(&error), "40P01");
    caller.execute("COMMIT").await.unwrap();
    assert_eq!(both.await.unwrap().unwrap(), [1, 2].map(Version::new));
    assert_eq!(log(&store).await.len(), 3, "the caller's earlier append is in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ended_by_an_administrator_is_transient() {
    let (pool, options) = postgres::fresh().await;
    let store = PostgresStore::open_with(pool.clone(), options.clone().without_listening()).await.unwrap();
    let mut other = pool.begin().await.unwrap();
    other.execute("LOCK TABLE events IN ACCESS EXCLUSIVE MODE").await.unwrap();
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.append(append("a")).await }
    });
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *other).await.unwrap();
    until_waited_for(pid).await;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE $1 = ANY (pg_blocking_pids(pid))";
    sqlx::query(end).bind(pid).execute(&pool).await.unwrap();
    let error = waiting.await.unwrap().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Transient(_)), "{error:?}");
    assert_eq!(code_of(&error), "57P01");
    other.rollback().await.unwrap();
    store.append(append("a")).await.unwrap();
    assert_eq!(log(&store).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_loses_no_acknowledged_append() {
    let mut server = Server::start();
    let store = open(&server).await;
    let mut acknowledged = 0;
    for round in 0..3 {
        let writing = tokio::spawn({
            let store = store.clone();
            async move {
                for number in 0.. {
                    let call = || keyed(&format!("{round} {number}"), "a", events(1));
                    if let Err(error) = store.append(call()).await {
                        return (number, call(), error);
                    }
                }
                unreachable!("the loop returns at the first error")
            }
        });
        until("twenty more events", async || {
            replayed(&store, &stream("a"), Replay::ALL).await.unwrap().events.len() > acknowledged + 20
        })
        .await;
        tokio::task::block_in_place(|| server.stop());
        let (written, unknown, error) = writing.await.unwrap();
        assert!(matches!(error.kind(), ErrorKind::Transient(_)), "{error:?}");
        tokio::task::block_in_place(|| server.wait());
        until("the append with the unknown outcome", async || match store.append(unknown.clone()).await {
            Ok(_) => true,
            Err(error) => {
                assert!(error.is_transient(), "{error:?}");
                false
            }
        })
        .await;
        acknowledged += written + 1;
        assert_eq!(log(&store).await.len(), acknowledged);
    }
}

/// Creates a login role with the attributes `given`, and no other privileges.
async fn role(name: &str, given: &str) -> PgConnectOptions {
    let role = format!("{name}_{}", std::process::id());
    let mut operator = PgConnection::connect_with(&postgres::server()).await.unwrap();
    operator.execute(AssertSqlSafe(format!("CREATE ROLE {role} LOGIN PASSWORD 'role' {given}"))).await.unwrap();
    postgres::server().username(&role).password("role")
}

async fn drop_role(name: &str) {
    let role = format!("{name}_{}", std::process::id());
    let mut operator = PgConnection::connect_with(&postgres::server()).await.unwrap();
    operator.execute(AssertSqlSafe(format!("DROP OWNED BY {role}; DROP ROLE {role}"))).await.unwrap();
}

#[tokio::test]
async fn too_many_connections_are_transient() {
    let one_only = role("one_only", "CONNECTION LIMIT 1").await;
    let one = PgConnection::connect_with(&one_only).await.unwrap();
    let pool = PgPoolOptions::new().acquire_timeout(Duration::from_millis(300)).connect_lazy_with(one_only.clone());
    let (_, options) = postgres::fresh().await;
    let error = PostgresStore::open_with(pool, options).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Transient(_)), "{error:?}");
    one.close().await.unwrap();
    drop_role("one_only").await;
}

#[tokio::test]
async fn read_only_sessions_read_and_refuse_writes() {
    let (pool, options) = postgres::fresh().await;
    let store = PostgresStore::open_with(pool, options.clone()).await.unwrap();
    store.append(append("a")).await.unwrap();
    log(&store).await;
    store.append(append("b")).await.unwrap();
    let reading = pool_at(postgres::server(), &[("default_transaction_read_only", "on")]).await;
    let reader = PostgresStore::open_with(reading, options).await.unwrap();
    assert_eq!(log(&reader).await.len(), 1, "the second has no position yet");
    assert_eq!(log(&store).await.len(), 2);
    assert_eq!(log(&reader).await, log(&store).await);
    let error = reader.append(append("c")).await.unwrap_err();
    assert_eq!((error.kind(), code_of(&error).as_str()), (&ErrorKind::ReadOnly, "25006"));
}

#[tokio::test]
async fn a_user_without_create_privilege_uses_an_existing_log() {
    let (pool, options) = postgres::fresh().await;
    let schema: String = sqlx::query_scalar("SHOW search_path").fetch_one(&pool).await.unwrap();
    let user = role("app", "").await;
    let app = pool_at(user, &[]).await;
    assert!(matches!(
        PostgresStore::open_with(app.clone(), options.clone()).await.unwrap_err().kind(),
        ErrorKind::UnfitServer(_)
    ));
    let store = PostgresStore::open_with(pool.clone(), options.clone()).await.unwrap();
    let name = format!("app_{}", std::process::id());
    let grants = format!(
        "GRANT USAGE ON SCHEMA {schema} TO {name};
         GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA {schema} TO {name};
         GRANT DELETE ON {schema}.snapshots TO {name};
         REVOKE UPDATE ON {schema}.events FROM {name};
         GRANT SELECT, USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {name}"
    );
    sqlx::raw_sql(AssertSqlSafe(grants)).execute(&pool).await.unwrap();
    let restricted = PostgresStore::open_with(app.clone(), options.clone()).await.unwrap();
    restricted.append(append("a")).await.unwrap();
    let first = event_at(&restricted, &stream("a"), 1).await;
    restricted.save_snapshot(&stream("a"), Snapshot::new(Version::new(1), first, 1, vec![1])).await.unwrap();
    let model = PostgresReadModel::open_with(app.clone(), options).await.unwrap();
    model.commit(Step::new(&projection(), Position::ZERO, Position::new(1)), no_work()).await.unwrap();
    assert_eq!(log(&restricted).await, log(&store).await);
    restricted.close().await.unwrap();
    drop_role("app").await;
}

// -- Full disks --

/// Returns an event of 100 KB that does not compress.
fn bulky() -> Vec<NewEvent> {
    let mut state = u64::from_le_bytes(uuid_bytes());
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_be_bytes()[0]
    };
    vec![event((0..100_000).map(|_| next()).collect::<Vec<u8>>())]
}

fn uuid_bytes() -> [u8; 8] {
    let id = retell::EventId::generate();
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&id.as_uuid().as_bytes()[8..]);
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_tablespace_refuses_whole_appends_until_freed() {
    let disk = Disk::of_mib(24);
    disk.fill_mib(12);
    let server = Server::start();
    let space = disk.path().join("space");
    run(program("mkdir").arg(&space));
    let mut db = PgConnection::connect(&server.url()).await.unwrap();
    let create = format!("CREATE TABLESPACE small LOCATION '{}'", space.display());
    db.execute(AssertSqlSafe(create)).await.unwrap();
    let small = server.url().parse::<PgConnectOptions>().unwrap();
    let pool = pool_at(small, &[("default_tablespace", "small")]).await;
    let store = PostgresStore::open(pool).await.unwrap();

    let both = |number: usize| {
        keyed(&number.to_string(), "a", bulky()).with_stream(stream("b"), ExpectedVersion::Any, bulky())
    };
    let mut written = 0;
    let error = loop {
        match store.append(both(written)).await {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
        assert!(written < 1_000, "the disk did not fill up");
    };
    assert_eq!((error.kind(), code_of(&error).as_str()), (&ErrorKind::Full, "53100"));
    assert!(written > 10, "{written}");
    let expected: Vec<u64> = (1..=written as u64).collect();
    for id in ["a", "b"] {
        assert_eq!(
            replayed(&store, &stream(id), Replay::ALL).await.unwrap().versions(),
            expected,
            "an append was written in part"
        );
    }
    disk.free();
    let appended = store.append(both(written)).await.unwrap();
    assert_eq!(appended.outcome, Outcome::Written);
    assert_eq!(log(&store).await.len(), 2 * (written + 1));
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_loses_nothing_and_appends_resume_when_freed() {
    let disk = Disk::of_mib(200);
    disk.fill_mib(100);
    let ballast = disk.path().join("ballast");
    let mut server = Server::start_with(Place::Disk(disk), &["min_wal_size=32MB", "max_wal_size=32MB"]);
    let store = open(&server).await;
    let mut written = 0;
    let (unknown, error) = loop {
        let call = keyed(&written.to_string(), "a", bulky());
        match store.append(call.clone()).await {
            Ok(_) => written += 1,
            Err(error) => break (call, error),
        }
        assert!(written < 10_000, "the disk did not fill up");
    };
    // If the server has no space for its own write-ahead log, it ends all sessions.
    assert!(*error.kind() == ErrorKind::Full || error.is_transient(), "{error:?}");
    assert!(written > 10, "{written}");
    fs::remove_file(ballast).unwrap();
    until("a successful append", async || {
        tokio::task::block_in_place(|| server.wait());
        match store.append(unknown.clone()).await {
            Ok(_) => true,
            Err(error) => {
                assert!(*error.kind() == ErrorKind::Full || error.is_transient(), "{error:?}");
                false
            }
        }
    })
    .await;
    let log = log(&store).await;
    assert_eq!(log.iter().map(|event| event.version.get()).collect::<Vec<_>>(), (1..=written + 1).collect::<Vec<_>>());
    eprintln!("{written} appends, then: {error}");
}
