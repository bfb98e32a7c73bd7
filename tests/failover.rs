//! A database of several servers, of which one accepts writes: the store finds that one when it opens, and after each promotion.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/programs.rs"]
mod programs;
#[path = "chaos/proxy.rs"]
mod proxy;
#[path = "history/server.rs"]
mod server;

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use retell::store::Append;
use retell::store::mysql::MySqlOptions;
use retell::store::postgres::PostgresOptions;
use retell::testing::store::{events, stream};
use retell::{
    ErrorKind, EventReader, EventStore, ExpectedVersion, IdempotencyKey, MySqlStore, Position, PostgresReadModel,
    PostgresStore,
};
use sqlx::mysql::MySqlPoolOptions;
use sqlx::postgres::PgPoolOptions;
use tokio::runtime::Runtime;
use tokio::time::{sleep, timeout};

use proxy::{Proxy, Traffic};
use server::{Kind, Server};

/// Time limit for a store to follow a promotion.
const PATIENCE: Duration = Duration::from_mins(5);

/// Runs a test on each kind of server.
macro_rules! on_each_server {
    ($($test:ident),* $(,)?) => {
        mod postgres {
            $(#[test] fn $test() { super::$test(super::Kind::Postgres); })*
        }
        mod mysql {
            $(#[test] fn $test() { super::$test(super::Kind::MySql); })*
        }
    };
}

on_each_server! {
    opening_finds_the_primary,
    opening_without_a_primary_names_each_server,
    a_store_follows_a_promotion,
    a_silent_primary_is_left_after_a_promotion,
    a_server_without_the_database_is_left,
}

type Store = Arc<dyn EventStore>;

/// Opens a log on servers at `hosts`, with limits that tests can wait for.
async fn open(kind: Kind, hosts: &[String]) -> retell::Result<Store> {
    let (call, wait) = (Duration::from_secs(3), Duration::from_secs(2));
    let url = url(kind, &hosts[0]);
    Ok(match kind {
        Kind::Postgres => {
            let options = PostgresOptions::new().with_hosts(hosts).with_call_timeout(call).with_acquire_timeout(wait);
            let pool = PgPoolOptions::new().test_before_acquire(false).connect_lazy(&url).unwrap();
            Arc::new(PostgresStore::open_with(pool, options).await?)
        }
        Kind::MySql => {
            let options = MySqlOptions::new().with_hosts(hosts).with_call_timeout(call).with_acquire_timeout(wait);
            let pool = MySqlPoolOptions::new().test_before_acquire(false).connect_lazy(&url).unwrap();
            Arc::new(MySqlStore::open_with(pool, options).await?)
        }
    })
}

/// The database in the URL of a server is the server's own.
fn url(kind: Kind, hosts: &str) -> String {
    let url = kind.url(hosts);
    format!("{}/failover", url.rsplit_once('/').unwrap().0)
}

fn start_primary(kind: Kind) -> Server {
    let primary = Server::start_primary(kind);
    primary.administer("CREATE DATABASE failover");
    primary
}

/// Makes the append of this number, which is written once, however often it is tried.
async fn append(store: &Store, number: u64) -> retell::Result<()> {
    let key = IdempotencyKey::new(number.to_string()).unwrap();
    store.append(Append::new(stream("a"), ExpectedVersion::Any, events(1)).with_key(key)).await.map(drop)
}

async fn append_until_done(store: &Store, number: u64) {
    let appended = async {
        while let Err(error) = append(store, number).await {
            assert!(matches!(error.kind(), ErrorKind::Transient(_) | ErrorKind::ReadOnly), "{error:#}");
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, appended).await.expect("an append succeeds in time");
}

/// Returns the address of a server that is down, and one that accepts connections and says nothing.
fn useless_hosts() -> (Vec<String>, TcpListener) {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let down = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    (vec![down.to_string(), silent.local_addr().unwrap().to_string()], silent)
}

fn opening_finds_the_primary(kind: Kind) {
    let primary = start_primary(kind);
    let replica = primary.replica();
    let (mut hosts, _silent) = useless_hosts();
    hosts.extend([replica.host(), primary.host()]);
    Runtime::new().unwrap().block_on(async {
        let store = open(kind, &hosts).await.unwrap();
        append(&store, 1).await.unwrap();
        let url = url(kind, &hosts.join(","));
        match kind {
            Kind::Postgres => {
                let store = PostgresStore::connect(&url).await.unwrap();
                assert_eq!(store.head().await.unwrap(), Position::new(1));
                PostgresReadModel::connect(&url).await.unwrap();
            }
            Kind::MySql => {
                let store = MySqlStore::connect(&url).await.unwrap();
                assert_eq!(store.head().await.unwrap(), Position::new(1));
            }
        }
    });
}

fn opening_without_a_primary_names_each_server(kind: Kind) {
    let primary = start_primary(kind);
    let replica = primary.replica();
    let (mut hosts, _silent) = useless_hosts();
    hosts.push(replica.host());
    Runtime::new().unwrap().block_on(async {
        let error = open(kind, &hosts).await.err().unwrap();
        assert!(error.is_transient(), "{error:#}");
        let text = format!("{error:#}");
        for (host, problem) in hosts.iter().zip(["Connection refused", "no answer", "it accepts no writes"]) {
            assert!(text.contains(&format!("{host}: ")) && text.contains(problem), "{text}");
        }
        for wrong in ["", ":5432", "db:port", "a:b:5432", "db:70000"] {
            let error = open(kind, &[replica.host(), wrong.into()]).await.err().unwrap();
            assert!(matches!(error.kind(), ErrorKind::Invalid(_)), "{wrong}: {error:#}");
        }
    });
}

/// Two promotions, the second one back to the address of the first primary.
fn a_store_follows_a_promotion(kind: Kind) {
    let mut primary = start_primary(kind);
    let mut replica = primary.synchronous_replica(None);
    let hosts = [primary.host(), replica.host()];
    Runtime::new().unwrap().block_on(async {
        let store = open(kind, &hosts).await.unwrap();
        for number in 1..=3 {
            append_until_done(&store, number).await;
            let has_all = async {
                while store.head().await.ok() != Some(Position::new(number)) {
                    sleep(Duration::from_millis(20)).await;
                }
            };
            timeout(PATIENCE, has_all).await.expect("the log has every append");
            primary = tokio::task::block_in_place(|| {
                primary.kill();
                replica.take_over();
                let next = replica.synchronous_replica(Some(&primary));
                std::mem::replace(&mut replica, next)
            });
        }
    });
}

/// The network loses the primary without a sign. A call ends by its limit, and the next one finds the new primary.
fn a_silent_primary_is_left_after_a_promotion(kind: Kind) {
    let runtime = Runtime::new().unwrap();
    let primary = start_primary(kind);
    let replica = primary.synchronous_replica(None);
    let proxy = Proxy::start(&runtime, primary.host());
    let hosts = [proxy.address.to_string(), replica.host()];
    runtime.block_on(async {
        let store = open(kind, &hosts).await.unwrap();
        append(&store, 1).await.unwrap();
        proxy.silence();
        tokio::task::block_in_place(|| {
            let mut primary = primary;
            primary.kill();
            replica.take_over();
        });
        append_until_done(&store, 2).await;
        assert_eq!(store.head().await.unwrap(), Position::new(2));
    });
}

/// The server in the place of the first one has just been set up and does not have the database.
fn a_server_without_the_database_is_left(kind: Kind) {
    let (mut first, second) = (start_primary(kind), start_primary(kind));
    Runtime::new().unwrap().block_on(async {
        drop(open(kind, &[second.host()]).await.unwrap());
        let store = open(kind, &[first.host(), second.host()]).await.unwrap();
        append(&store, 1).await.unwrap();
        assert_eq!(store.head().await.unwrap(), Position::new(1));
        tokio::task::block_in_place(|| {
            first.kill_and_start();
            first.administer(if kind == Kind::Postgres {
                "DROP DATABASE failover WITH (FORCE)"
            } else {
                "DROP DATABASE failover"
            });
        });
        append_until_done(&store, 2).await;
        // It is the first event of the second server.
        assert_eq!(store.head().await.unwrap(), Position::new(1));
    });
}

/// The primary that failed has come back and accepts writes, too. It answers sooner than the new one.
#[test]
fn of_two_primaries_the_one_promoted_last_is_used() {
    let mut primary = start_primary(Kind::Postgres);
    let replica = primary.synchronous_replica(None);
    primary.kill();
    replica.take_over();
    primary.kill_and_start();
    let runtime = Runtime::new().unwrap();
    let slow = Proxy::start(&runtime, replica.host());
    slow.set(Traffic::Delayed(Duration::from_millis(25)));
    let promoted = slow.address.to_string();
    runtime.block_on(async {
        for hosts in [[primary.host(), promoted.clone()], [promoted, primary.host()]] {
            let url = url(Kind::Postgres, &hosts.join(","));
            let store = PostgresStore::connect(&url).await.unwrap();
            let port: i32 = sqlx::query_scalar("SELECT inet_server_port()").fetch_one(store.pool()).await.unwrap();
            assert_eq!(format!("127.0.0.1:{port}"), replica.host());
        }
    });
}
