//! A proxy between a store and its server. It holds answers, silences connections, cuts them, and answers for the server.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use retell::store::mysql::{MySqlOptions, MySqlReadModel, MySqlStore};
use retell::store::postgres::{PostgresOptions, PostgresReadModel, PostgresStore};
use sqlx::mysql::{MySqlConnectOptions, MySqlPool, MySqlPoolOptions};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::databases::{Database, Place};

/// Selects how the proxy treats answers.
#[derive(Clone, PartialEq)]
pub(crate) enum Traffic {
    Flows,
    /// Keeps the answers until traffic flows again.
    Held,
    /// Accepts connections, and lets nothing through.
    Gone,
    /// Replaces the answer to a request that contains the first text, and ends that connection. The server has executed the request.
    Replaced(&'static [u8], Vec<u8>),
}

type Refusal = Arc<Mutex<Option<Vec<u8>>>>;

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    /// Host and port that new connections are forwarded to.
    server: watch::Sender<String>,
    traffic: watch::Sender<Traffic>,
    /// Each change silences the connections that are open.
    silenced: watch::Sender<u64>,
    /// Each change closes the connections that are open.
    cut: watch::Sender<u64>,
    /// The number of requests that have arrived.
    requests: Arc<watch::Sender<u64>>,
    /// The answer to the next request, which does not reach the server, and then ends that connection.
    refusal: Refusal,
    accepting: JoinHandle<()>,
}

impl Proxy {
    pub(crate) async fn start(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (traffic, silenced, cut) =
            (watch::Sender::new(Traffic::Flows), watch::Sender::new(0), watch::Sender::new(0));
        let (requests, refusal) = (Arc::new(watch::Sender::new(0)), Refusal::default());
        let (server, target) = watch::channel(server);
        let (flow, silence, cuts, counted, refused) =
            (traffic.subscribe(), silenced.subscribe(), cut.subscribe(), requests.clone(), refusal.clone());
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, counted, refused) = (target.borrow().clone(), counted.clone(), refused.clone());
                let (flow, mut silence, mut cuts) = (flow.clone(), silence.clone(), cuts.clone());
                silence.mark_unchanged();
                cuts.mark_unchanged();
                tokio::spawn(async move {
                    tokio::select! {
                        () = serve(client, &server, flow, silence, &counted, &refused) => {}
                        _ = cuts.changed() => {}
                    }
                });
            }
        });
        Self { address, server, traffic, silenced, cut, requests, refusal, accepting }
    }

    /// Answers the next request with `answer` instead of the server, and ends that connection.
    pub(crate) fn refuse_next(&self, answer: Vec<u8>) {
        *self.refusal.lock().unwrap() = Some(answer);
    }

    pub(crate) fn set(&self, traffic: Traffic) {
        self.traffic.send_replace(traffic);
    }

    /// Lets nothing more through on the connections that are open, and tells neither side. New connections work.
    pub(crate) fn silence(&self) {
        self.silenced.send_modify(|count| *count += 1);
    }

    /// Closes the connections that are open, as a restart of the server does.
    pub(crate) fn cut(&self) {
        self.cut.send_modify(|count| *count += 1);
    }

    /// Closes the connections that are open, and forwards new ones to another server.
    pub(crate) fn redirect(&self, server: String) {
        self.server.send_replace(server);
        self.cut();
    }

    /// Lets nothing more through at all.
    pub(crate) fn go(&self) {
        self.set(Traffic::Gone);
        self.silence();
    }

    /// Starts `call` and waits until its first request has arrived, whose answer is held. Returns the call.
    pub(crate) async fn start_held<F: Future + Unpin>(&self, mut call: F) -> F {
        self.set(Traffic::Held);
        let mut requests = self.requests.subscribe();
        requests.mark_unchanged();
        tokio::select! {
            _ = &mut call => panic!("the call does not wait for the server"),
            arrived = requests.changed() => arrived.unwrap(),
        }
        call
    }

    /// Waits until a request has arrived, whose answer is held.
    pub(crate) async fn hold_one(&self) {
        drop(self.start_held(std::future::pending::<()>()).await);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // The connections end with the channels.
        self.accepting.abort();
    }
}

async fn serve(
    client: TcpStream,
    server: &str,
    mut traffic: watch::Receiver<Traffic>,
    mut silence: watch::Receiver<u64>,
    requests: &watch::Sender<u64>,
    refusal: &Mutex<Option<Vec<u8>>>,
) {
    if *traffic.borrow() == Traffic::Gone {
        drop(traffic.wait_for(|traffic| *traffic != Traffic::Gone).await);
        return;
    }
    let Ok(server) = TcpStream::connect(server).await else { return };
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let (last_request, asked) = watch::channel(Vec::new());
    let (silence_of_requests, silence_of_answers) = (silence.clone(), silence.clone());
    let asks = async {
        let mut chunk = vec![0; 65_536];
        while let Ok(bytes @ 1..) = from_client.read(&mut chunk).await {
            stay_if_silent(&silence_of_requests).await;
            let refused = refusal.lock().unwrap().take();
            if refused.is_some() {
                return refused;
            }
            last_request.send_replace(chunk[..bytes].to_vec());
            if to_server.write_all(&chunk[..bytes]).await.is_err() {
                return None;
            }
            requests.send_modify(|count| *count += 1);
        }
        None
    };
    tokio::select! {
        refused = asks => if let Some(answer) = refused {
            drop(to_client.write_all(&answer).await);
        },
        () = answer(&mut from_server, &mut to_client, traffic, silence_of_answers, asked) => {}
        changed = silence.changed() => if changed.is_ok() {
            // Both sockets stay open until the proxy ends.
            while silence.changed().await.is_ok() {}
        },
    }
}

/// Never returns on a connection that has been silenced. The task of a connection may notice the silence late, and what comes after it must not
/// pass in the meantime.
async fn stay_if_silent(silence: &watch::Receiver<u64>) {
    if silence.has_changed().unwrap_or(false) {
        std::future::pending::<()>().await;
    }
}

async fn answer(
    from: &mut OwnedReadHalf,
    to: &mut OwnedWriteHalf,
    mut traffic: watch::Receiver<Traffic>,
    silence: watch::Receiver<u64>,
    asked: watch::Receiver<Vec<u8>>,
) {
    let mut chunk = vec![0; 65_536];
    while let Ok(bytes @ 1..) = from.read(&mut chunk).await {
        let Ok(now) = traffic.wait_for(|traffic| *traffic != Traffic::Held).await.map(|now| now.clone()) else {
            return;
        };
        stay_if_silent(&silence).await;
        if let Traffic::Replaced(request, answer) = now {
            let request_came = request.is_empty() || asked.borrow().windows(request.len()).any(|part| part == request);
            if request_came {
                drop(to.write_all(&answer).await);
                return;
            }
        }
        if to.write_all(&chunk[..bytes]).await.is_err() {
            return;
        }
    }
}

/// The servers end the transactions of silent sessions soon, which would otherwise keep their locks.
pub(crate) const POSTGRES_SESSION: &str = "SET idle_in_transaction_session_timeout = 2000";
pub(crate) const MYSQL_SESSION: &str =
    "SET @retell = 1 /*M! , SESSION idle_transaction_timeout = 2 */ /*!80000 , SESSION wait_timeout = 2 */";

/// A database behind a proxy.
pub(crate) struct Proxied {
    /// Dropped before the database, so that no session keeps it.
    pub(crate) proxy: Proxy,
    pub(crate) database: Database,
}

/// The limits of a test's stores.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) call: Duration,
    pub(crate) wait: Duration,
}

impl Proxied {
    pub(crate) async fn postgres() -> Self {
        Self::of(Database::postgres().await).await
    }

    pub(crate) async fn mysql() -> Self {
        Self::of(Database::mysql().await).await
    }

    async fn of(database: Database) -> Self {
        let server = match &database.place {
            Place::Postgres(url) => {
                let options: PgConnectOptions = url.parse().unwrap();
                format!("{}:{}", options.get_host(), options.get_port())
            }
            Place::MySql(url) => {
                let options: MySqlConnectOptions = url.parse().unwrap();
                format!("{}:{}", options.get_host(), options.get_port())
            }
            Place::Sqlite(_) => unreachable!("a file has no server"),
        };
        Self { proxy: Proxy::start(server).await, database }
    }

    /// Opens a pool through the proxy. Each session runs `setting` first.
    pub(crate) async fn postgres_pool(&self, connections: u32, setting: &'static str) -> PgPool {
        let Place::Postgres(url) = &self.database.place else { unreachable!("a PostgreSQL database") };
        let options: PgConnectOptions = url.parse().unwrap();
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .test_before_acquire(false)
            .after_connect(move |db, _| Box::pin(async move { sqlx::raw_sql(setting).execute(db).await.map(drop) }));
        pool.connect_with(options.host("127.0.0.1").port(self.proxy.address.port())).await.unwrap()
    }

    /// Opens a pool through the proxy. Each session runs `setting` first.
    pub(crate) async fn mysql_pool(&self, connections: u32, setting: &'static str) -> MySqlPool {
        let Place::MySql(url) = &self.database.place else { unreachable!("a MySQL database") };
        let options: MySqlConnectOptions = url.parse().unwrap();
        let pool = MySqlPoolOptions::new()
            .max_connections(connections)
            .test_before_acquire(false)
            .after_connect(move |db, _| Box::pin(async move { sqlx::raw_sql(setting).execute(db).await.map(drop) }));
        pool.connect_with(options.host("127.0.0.1").port(self.proxy.address.port())).await.unwrap()
    }
}

pub(crate) async fn open_postgres(pool: PgPool, limits: Limits) -> (PostgresStore, PostgresReadModel) {
    let options = PostgresOptions::new().without_listening();
    let options = options.with_call_timeout(limits.call).with_acquire_timeout(limits.wait);
    let store = PostgresStore::open_with(pool, options).await.unwrap();
    let models = store.read_model();
    (store, models)
}

pub(crate) async fn open_mysql(pool: MySqlPool, limits: Limits) -> (MySqlStore, MySqlReadModel) {
    let options = MySqlOptions::new().with_call_timeout(limits.call).with_acquire_timeout(limits.wait);
    let store = MySqlStore::open_with(pool, options).await.unwrap();
    let models = store.read_model();
    (store, models)
}

/// Makes a test of each async function, on both kinds of servers. The function takes the proxied database, the store, its read model, and a
/// function that returns whether every connection is back in the store's pool, so that the next call asks the one that it gets.
macro_rules! on_proxied_servers {
    ($connections:expr, $limits:expr, $($case:ident),* $(,)?) => {
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                let proxied = $crate::proxy::Proxied::postgres().await;
                let pool = proxied.postgres_pool($connections, $crate::proxy::POSTGRES_SESSION).await;
                let (store, models) = $crate::proxy::open_postgres(pool.clone(), $limits).await;
                super::$case(&proxied, store, models, || u32::try_from(pool.num_idle()).unwrap() == pool.size()).await;
            })*
        }

        mod on_mysql {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                let proxied = $crate::proxy::Proxied::mysql().await;
                let pool = proxied.mysql_pool($connections, $crate::proxy::MYSQL_SESSION).await;
                let (store, models) = $crate::proxy::open_mysql(pool.clone(), $limits).await;
                super::$case(&proxied, store, models, || u32::try_from(pool.num_idle()).unwrap() == pool.size()).await;
            })*
        }
    };
}

pub(crate) use on_proxied_servers;
