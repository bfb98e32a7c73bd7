//! C3. Sessions that the server ends cost no call.

use std::time::Duration;

use futures::future::{join_all, try_join_all};
use retell::prelude::*;
use retell::store::{Append, EventStore, ReadModel, Replay, Step};
use retell::testing::store::{event, replayed, stream};
use retell::{IdempotencyKey, PostgresStore, ProjectionName};
use sqlx::mysql::MySqlConnection;
use sqlx::postgres::PgConnection;
use sqlx::{Connection, query_scalar};

use crate::databases::Place;
use crate::proxy::{Limits, Proxied, on_proxied_servers, open_mysql, open_postgres};
use crate::server::Server;

const LIMITS: Limits = Limits { call: Duration::from_secs(30), wait: Duration::from_secs(5) };

const CONNECTIONS: u32 = 8;

async fn append(store: &impl EventStore, id: u32) -> retell::Result<()> {
    store.append(Append::new(stream(&id.to_string()), ExpectedVersion::Any, vec![event("{}")])).await.map(drop)
}

/// Uses every connection of the pool at once, with each kind of call. None may fail.
async fn use_all(store: &impl EventStore, models: &impl ReadModel, round: u64) {
    let calls = async |number: u32| {
        append(store, number).await?;
        store.head().await?;
        replayed(store, &stream(&number.to_string()), Replay::ALL).await?;
        let append = Append::new(stream(&number.to_string()), ExpectedVersion::Any, vec![event("{}")]);
        store.append(append.with_key(IdempotencyKey::new(format!("{round}-{number}")).unwrap())).await?;
        let name = ProjectionName::new(format!("p{number}")).unwrap();
        let step = Step::new(&name, Position::new(round), Position::new(round + 1));
        models.commit(step, Box::new(|_| Box::pin(async { Ok(()) }))).await
    };
    try_join_all((0..2 * CONNECTIONS).map(calls)).await.unwrap();
}

/// Ends all sessions of the database between calls.
async fn killed_sessions_cost_no_call<S: EventStore>(
    proxied: &Proxied,
    store: S,
    models: impl ReadModel,
    all_are_back: impl Fn() -> bool,
) {
    for round in 0..4 {
        use_all(&store, &models, round).await;
        // A connection that was used within the last 5 ms is used again without a question.
        while !all_are_back() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        end_sessions(&proxied.database.place).await;
    }
    use_all(&store, &models, 4).await;
    store.close().await.unwrap();
}

/// A restart of the server, or a firewall, closes the connections.
async fn cut_connections_cost_no_call(
    proxied: &Proxied,
    store: impl EventStore,
    models: impl ReadModel,
    all_are_back: impl Fn() -> bool,
) {
    for round in 0..4 {
        use_all(&store, &models, round).await;
        // A connection that was used within the last 5 ms is used again without a question.
        while !all_are_back() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        proxied.proxy.cut();
    }
    use_all(&store, &models, 4).await;
    store.close().await.unwrap();
}

on_proxied_servers!(super::CONNECTIONS, super::LIMITS, killed_sessions_cost_no_call, cut_connections_cost_no_call);

/// Ends all other sessions of a database, and waits until they are gone.
async fn end_sessions(place: &Place) {
    match place {
        Place::Postgres(_) => place.run(END_ON_POSTGRES).await,
        Place::MySql(_) => place.run(END_ON_MYSQL).await,
        Place::Sqlite(_) => unreachable!("a file has no sessions"),
    }
    no_sessions(place).await;
}

/// Waits until no other session uses the database.
async fn no_sessions(place: &Place) {
    let mut left = 1;
    while left > 0 {
        left = match place {
            Place::Postgres(url) => {
                let mut db = PgConnection::connect(url).await.unwrap();
                query_scalar(LEFT_ON_POSTGRES).fetch_one(&mut db).await.unwrap()
            }
            Place::MySql(url) => {
                let mut db = MySqlConnection::connect(url).await.unwrap();
                query_scalar::<_, i64>(LEFT_ON_MYSQL).fetch_one(&mut db).await.unwrap()
            }
            Place::Sqlite(_) => unreachable!("a file has no sessions"),
        };
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_session_timeout_costs_no_call_on_postgres() {
    let proxied = Proxied::postgres().await;
    let pool = proxied.postgres_pool(CONNECTIONS, "SET idle_session_timeout = 200").await;
    let (store, models) = open_postgres(pool, LIMITS).await;
    for round in 0..2 {
        use_all(&store, &models, round).await;
        no_sessions(&proxied.database.place).await;
    }
    use_all(&store, &models, 2).await;
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn wait_timeout_costs_no_call_on_mysql() {
    let proxied = Proxied::mysql().await;
    let pool = proxied.mysql_pool(CONNECTIONS, "SET SESSION wait_timeout = 1").await;
    let (store, models) = open_mysql(pool, LIMITS).await;
    for round in 0..2 {
        use_all(&store, &models, round).await;
        no_sessions(&proxied.database.place).await;
    }
    use_all(&store, &models, 2).await;
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn restarted_server_costs_no_call_on_postgres() {
    let mut server = tokio::task::spawn_blocking(Server::start).await.unwrap();
    let store = PostgresStore::connect(&server.url()).await.unwrap();
    let models = store.read_model();
    for round in 0..2 {
        use_all(&store, &models, round).await;
        // A fast shutdown: a killed server may forget the last commits of read models.
        tokio::task::block_in_place(|| {
            server.stop();
            server.kill_and_start();
        });
    }
    use_all(&store, &models, 2).await;
    let closed = join_all([store.close()]).await;
    assert!(closed.iter().all(Result::is_ok));
}

const END_ON_POSTGRES: &str = "
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";

const LEFT_ON_POSTGRES: &str = "
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'";

const END_ON_MYSQL: &str = "
    BEGIN NOT ATOMIC
        DECLARE CONTINUE HANDLER FOR 1094 BEGIN END;
        FOR s IN (SELECT id FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()) DO KILL s.id; END FOR;
    END";

const LEFT_ON_MYSQL: &str = "
    SELECT CAST(COUNT(*) AS SIGNED) FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()";
