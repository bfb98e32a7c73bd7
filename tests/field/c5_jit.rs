//! C5. Events become visible at once with `jit` at the server's default.

use retell::store::{Append, EventReader, EventStore, Filter, Replay};
use retell::testing::store::{events, replayed, stream};
use retell::{Claim, EventReaderExt, ExpectedVersion, IdempotencyKey, Position, PostgresStore};
use sqlx::Connection;

use crate::server::{Place, Server, folder};

/// PostgreSQL compiles a statement from an estimated cost of 100,000 on. With a tenth of that limit, this log counts as one of a million.
const COMMITS: u64 = 100_000;

#[tokio::test(flavor = "multi_thread")]
async fn no_statement_is_compiled_on_a_log_of_many_commits() {
    let statistics = ["shared_preload_libraries=pg_stat_statements", "pg_stat_statements.track=all"];
    let settings = [&statistics[..], &["jit_above_cost=10000", "fsync=off"]].concat();
    let server = Server::start_with(Place::Folder(folder()), &settings);
    let store = PostgresStore::open(pool(&server).await).await.unwrap();
    for sql in FILL {
        sqlx::raw_sql(sql).execute(store.pool()).await.unwrap();
    }
    // New sessions make their plans with the statistics of the long log.
    store.close().await.unwrap();
    let store = PostgresStore::open(pool(&server).await).await.unwrap();
    let mut through = store.head().await.unwrap();
    assert_eq!(through, Position::new(COMMITS));
    for number in 0..20 {
        let id = number.to_string();
        let of =
            |kind: &str, count| Append::new(stream(&format!("{kind}-{id}")), ExpectedVersion::NoStream, events(count));
        store.append(of("one", 1)).await.unwrap();
        let appended = store.append(of("keyed", 3).with_key(IdempotencyKey::new(&*id).unwrap())).await.unwrap();
        store.append(of("claiming", 1).with_claims([Claim::reserve("email", &id).unwrap()])).await.unwrap();
        store.position_of(appended.token()).await.unwrap().unwrap();
        let page = store.read_all(through, 1_000, &Filter::all()).await.unwrap();
        assert_eq!(page.events.len(), 5);
        through = page.through;
        store.read_all(Position::ZERO, 100, &Filter::all()).await.unwrap();
        store.read_stream(&stream("7"), retell::Version::default(), 10).await.unwrap();
        store.health().await.unwrap();
        assert_eq!(store.unsequenced().await.unwrap(), 0);
    }

    let mut control = sqlx::PgConnection::connect(&server.url()).await.unwrap();
    let has_compiler: bool = sqlx::query_scalar("SELECT pg_jit_available()").fetch_one(&mut control).await.unwrap();
    let compiled: Vec<(i64, String)> = sqlx::query_as(COMPILED).fetch_all(&mut control).await.unwrap();
    assert_eq!(compiled, [], "PostgreSQL compiled these statements");
    sqlx::query(EXPENSIVE).execute(&mut control).await.unwrap();
    let compiled: Vec<(i64, String)> = sqlx::query_as(COMPILED).fetch_all(&mut control).await.unwrap();
    assert_eq!(compiled.len(), usize::from(has_compiler), "the statistics count what is compiled");
}

/// Returns connections that the library has not opened, so they have the server's settings.
async fn pool(server: &Server) -> sqlx::PgPool {
    sqlx::PgPool::connect(&server.url()).await.unwrap()
}

/// The estimated cost of a replay grows with its stream.
#[tokio::test(flavor = "multi_thread")]
async fn the_replay_of_a_long_stream_is_not_compiled() {
    let statistics = ["shared_preload_libraries=pg_stat_statements", "jit_above_cost=100", "fsync=off"];
    let server = Server::start_with(Place::Folder(folder()), &statistics);
    let store = PostgresStore::connect(&server.url()).await.unwrap();
    let long = stream("long");
    for _ in 0..10 {
        store.append(Append::new(long.clone(), ExpectedVersion::Any, events(1_000))).await.unwrap();
    }
    let mut control = sqlx::PgConnection::connect(&server.url()).await.unwrap();
    for sql in ["CREATE EXTENSION pg_stat_statements", "ANALYZE", "SELECT pg_stat_statements_reset()"] {
        sqlx::raw_sql(sql).execute(&mut control).await.unwrap();
    }
    let replayed = replayed(&store, &long, Replay::ALL).await.unwrap();
    assert_eq!(replayed.events.len(), 10_000);
    let compiled: Vec<(i64, String)> = sqlx::query_as(COMPILED).fetch_all(&mut control).await.unwrap();
    assert_eq!(compiled, [], "PostgreSQL compiled these statements");
}

/// Commits of one event each, as 64 writers leave them behind.
const FILL: [&str; 6] = [
    "INSERT INTO retell.events (commit_id, ordinal, event_id, aggregate_type, aggregate_id, version, event_type, schema_version, codec,
        recorded_at, payload)
     SELECT n, 1, gen_random_uuid(), 'test', (n / 10)::text, n % 10 + 1, 'test.happened', 1, 0, now(), '{}' FROM generate_series(1, 100000) AS n",
    "INSERT INTO retell.commits (lane, commit_id, events, recorded_at) SELECT n % 32, n, 1, now() FROM generate_series(1, 100000) AS n",
    "INSERT INTO retell.log (first_position, commit_id, events, recorded_at) SELECT n, n, 1, now() FROM generate_series(1, 100000) AS n",
    "UPDATE retell.lanes SET sequenced = 100000; SELECT setval('retell.commit_number', 100000)",
    "CREATE EXTENSION pg_stat_statements",
    "ANALYZE; SELECT pg_stat_statements_reset()",
];

/// Statements of this test itself do not count.
const COMPILED: &str = "
    SELECT jit_functions, query FROM pg_stat_statements WHERE jit_functions > 0 ORDER BY query";

const EXPENSIVE: &str = "SELECT count(*) FROM retell.commits AS a JOIN retell.commits AS b ON a.commit_id < b.commit_id AND b.lane < 1 AND a.lane < 1";
