//! C2. A connection that dies silently costs one call a limited time.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use retell::ExpectedVersion;
use retell::store::mysql::{MySqlOptions, MySqlStore};
use retell::store::postgres::{PostgresOptions, PostgresStore};
use retell::store::{Append, EventStore};
use retell::testing::store::{event, stream};
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::databases::{Database, Place};

const LIMIT: Duration = Duration::from_secs(2);

/// Forwards connections to a server. Those that exist when it is silenced stay open and forward nothing more.
async fn silenceable(server: String) -> (SocketAddr, watch::Sender<u64>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, silenced) = (listener.local_addr().unwrap(), watch::Sender::new(0));
    let epochs = silenced.subscribe();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (server, mut epochs) = (TcpStream::connect(&server).await.unwrap(), epochs.clone());
            epochs.mark_unchanged();
            let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
            tokio::spawn(forward(from_client, to_server, epochs.clone()));
            tokio::spawn(forward(from_server, to_client, epochs));
        }
    });
    (address, silenced)
}

async fn forward(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut epochs: watch::Receiver<u64>,
) {
    let mut chunk = vec![0; 65_536];
    loop {
        tokio::select! {
            _ = epochs.changed() => std::future::pending::<()>().await,
            read = from.read(&mut chunk) => match read {
                Ok(bytes @ 1..) if to.write_all(&chunk[..bytes]).await.is_ok() => {}
                _ => return,
            },
        }
    }
}

/// After a silence, a call ends within its limits, and closing does too.
async fn outlasts_silence(store: impl EventStore, silenced: &watch::Sender<u64>) {
    let append = || Append::new(stream("1"), ExpectedVersion::Any, vec![event("{}")]);
    store.append(append()).await.unwrap();
    // The connection is idle in the pool, and is asked before its next use.
    tokio::time::sleep(Duration::from_millis(100)).await;
    silenced.send_modify(|epoch| *epoch += 1);
    let began = Instant::now();
    store.append(append()).await.unwrap();
    store.head().await.unwrap();
    assert!(began.elapsed() < 2 * LIMIT, "{:?}", began.elapsed());
    silenced.send_modify(|epoch| *epoch += 1);
    let began = Instant::now();
    store.close().await.unwrap();
    assert!(began.elapsed() < 5 * LIMIT, "{:?}", began.elapsed());
}

#[tokio::test]
async fn silent_connections_are_replaced_on_postgres() {
    let database = Database::postgres().await;
    let Place::Postgres(url) = &database.place else { unreachable!() };
    let options: PgConnectOptions = url.parse().unwrap();
    let (address, silenced) = silenceable(format!("{}:{}", options.get_host(), options.get_port())).await;
    let options = options.host("127.0.0.1").port(address.port());
    let pool = PgPoolOptions::new().test_before_acquire(false).connect_with(options).await.unwrap();
    let options = PostgresOptions::new().with_call_timeout(LIMIT).with_acquire_timeout(LIMIT);
    outlasts_silence(PostgresStore::open_with(pool, options).await.unwrap(), &silenced).await;
}

#[tokio::test]
async fn silent_connections_are_replaced_on_mysql() {
    let database = Database::mysql().await;
    let Place::MySql(url) = &database.place else { unreachable!() };
    let options: MySqlConnectOptions = url.parse().unwrap();
    let (address, silenced) = silenceable(format!("{}:{}", options.get_host(), options.get_port())).await;
    let options = options.host("127.0.0.1").port(address.port());
    let pool = MySqlPoolOptions::new().test_before_acquire(false).connect_with(options).await.unwrap();
    let options = MySqlOptions::new().with_call_timeout(LIMIT).with_acquire_timeout(LIMIT);
    outlasts_silence(MySqlStore::open_with(pool, options).await.unwrap(), &silenced).await;
}
