//! C3. Sessions that the server ends cost no call.

use std::time::Duration;

use futures::FutureExt;
use futures::future::{join_all, try_join_all};
use retell::prelude::*;
use retell::store::{Append, EventStore, ReadModel, Replay, Step};
use retell::testing::store::{event, replayed, stream};
use retell::{IdempotencyKey, PostgresStore, ProjectionName};
use sqlx::mysql::MySqlConnection;
use sqlx::postgres::PgConnection;
use sqlx::{Connection, query_scalar};

use crate::databases::Place;
use crate::databases::mysql_sessions::sessions;
use crate::proxy::{Limits, Proxied, Traffic, on_proxied_servers, open_mysql, open_postgres};
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
        proxied.database.place.end_sessions().await;
        no_sessions(&proxied.database.place).await;
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

/// The connection is lost in the middle of a call that has written nothing. It was just used, so nothing asks whether it answers.
async fn session_lost_in_a_call_costs_no_call(
    proxied: &Proxied,
    store: impl EventStore,
    models: impl ReadModel,
    _: impl Fn() -> bool,
) {
    let (stream, name) = (stream("1"), ProjectionName::new("p").unwrap());
    append(&store, 1).await.unwrap();
    use_one(&models, &name, 0).await.unwrap();
    for call in 0..8 {
        for round in 0..3 {
            store.head().await.unwrap();
            models.mark(&name).await.unwrap();
            let call_in_round = match call {
                0 => async { store.head().await.map(drop) }.boxed(),
                1 => async { replayed(&store, &stream, Replay::ALL).await.map(drop) }.boxed(),
                2 => async { store.read_all(Position::ZERO, 10, &Filter::all()).await.map(drop) }.boxed(),
                3 => async { store.find_by_key(&IdempotencyKey::new("k").unwrap()).await.map(drop) }.boxed(),
                4 => async { store.unsequenced().await.map(drop) }.boxed(),
                5 => async { models.mark(&name).await.map(drop) }.boxed(),
                6 => async { models.parking(&name).await.map(drop) }.boxed(),
                _ => use_one(&models, &name, round + 1).boxed(),
            };
            let held = proxied.proxy.start_held(call_in_round).await;
            proxied.proxy.cut();
            proxied.proxy.set(Traffic::Flows);
            held.await.unwrap_or_else(|error| panic!("call {call}: {error:#}"));
        }
    }
    store.close().await.unwrap();
}

async fn use_one(models: &impl ReadModel, name: &ProjectionName, at: u64) -> retell::Result<()> {
    let step = Step::new(name, Position::new(at), Position::new(at + 1));
    models.commit(step, Box::new(|_| Box::pin(async { Ok(()) }))).await
}

/// The server has ended the session while it was idle, and says so when the next statement comes.
async fn session_ended_before_an_append_costs_no_call(
    proxied: &Proxied,
    store: impl EventStore,
    _: impl ReadModel,
    _: impl Fn() -> bool,
) {
    for _ in 0..5 {
        // The connection was just used, so nothing asks whether it answers.
        store.head().await.unwrap();
        proxied.proxy.refuse_next(end_of_session(&proxied.database.place));
        append(&store, 1).await.unwrap_or_else(|error| panic!("{error:#}"));
    }
    assert_eq!(replayed(&store, &stream("1"), Replay::ALL).await.unwrap().versions(), [1, 2, 3, 4, 5]);
    store.close().await.unwrap();
}

/// Returns what the server sends when it ends an idle session.
fn end_of_session(place: &Place) -> Vec<u8> {
    if matches!(place, Place::Postgres(_)) {
        let fields = b"SFATAL\0VFATAL\0C57P05\0Mterminating connection due to idle-session timeout\0\0";
        let length = u32::try_from(fields.len() + 4).unwrap().to_be_bytes();
        [&b"E"[..], &length, fields].concat()
    } else {
        let error = [&[0xff][..], &4031_u16.to_le_bytes(), b"#HY000The client was disconnected by the server"].concat();
        [&[u8::try_from(error.len()).unwrap(), 0, 0, 1][..], &error].concat()
    }
}

on_proxied_servers!(
    super::CONNECTIONS,
    super::LIMITS,
    killed_sessions_cost_no_call,
    cut_connections_cost_no_call,
    session_lost_in_a_call_costs_no_call,
    session_ended_before_an_append_costs_no_call,
);

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
    let pool = proxied.postgres_pool(CONNECTIONS, "SET idle_session_timeout = 2000").await;
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
    let pool = proxied.mysql_pool(CONNECTIONS, "SET SESSION wait_timeout = 3").await;
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

const LEFT_ON_POSTGRES: &str = "
    SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'";

const LEFT_ON_MYSQL: &str =
    concat!("SELECT CAST(COUNT(*) AS SIGNED) FROM ", sessions!(), " WHERE db = DATABASE() AND id <> CONNECTION_ID()");
