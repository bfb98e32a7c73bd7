//! A dropped call does not affect other calls, neither through its connection nor through the locks it held. Needs
//! `MYSQL_URL`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/mysql.rs"]
#[allow(dead_code, reason = "each test file uses its own part")]
mod mysql;

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use retell::event::StoredEvent;
use retell::id::ProjectionName;
use retell::store::mysql::{MySqlOptions, MySqlReadModel, MySqlStore};
use retell::store::{
    Append, EventReader, EventReaderExt, EventStore, Filter, ReadModel, RelayStore, Replay, Snapshot, Step, Visitor,
};
use retell::testing::store::{event_at, events, stream, whole_log};
use retell::{ErrorKind, EventType, ExpectedVersion, Fence, IdempotencyKey, Position, Version};
use sqlx::mysql::MySqlPoolOptions;
use sqlx::{MySqlConnection, MySqlPool};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use uuid::Uuid;

/// Number of times that each kind of call is dropped.
const ROUNDS: u64 = 10;

/// Upper bound of the polls before a drop. The longest call takes about as many, so some calls complete.
const POLLS: u64 = 80;

/// Maximum size of the chunks that the proxy splits the server's answers into. A call can be dropped in the middle of
/// any packet.
const MAX_CHUNK: u64 = 24;

/// Far longer than any call takes. Detects a call that waits for an answer that never comes.
const TIMEOUT: Duration = Duration::from_mins(5);

/// Polls a call `polls` times, and then drops it.
async fn drop_after<T>(mut polls: u64, call: impl Future<Output = T>) {
    let mut call = pin!(call);
    poll_fn(|context| {
        if polls == 0 || call.as_mut().poll(context).is_ready() {
            return Poll::Ready(());
        }
        polls -= 1;
        Poll::Pending
    })
    .await;
}

/// Pseudorandom numbers from a seed (SplitMix64).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (bits ^ (bits >> 31)) % bound
    }
}

/// Starts a proxy to the server that splits answers into chunks while `wanted` is set. Returns its port; it ends with
/// the runtime.
async fn in_chunks(server: (String, u16), wanted: Arc<AtomicBool>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        for seed in 0.. {
            let (client, _) = listener.accept().await.unwrap();
            let server = TcpStream::connect(&server).await.unwrap();
            for side in [&client, &server] {
                side.set_nodelay(true).unwrap();
            }
            let ((mut asked, answer), (answered, mut ask)) = (client.into_split(), server.into_split());
            tokio::spawn(async move { tokio::io::copy(&mut asked, &mut ask).await });
            tokio::spawn(forward(answered, answer, Random(seed), Arc::clone(&wanted)));
        }
    });
    port
}

async fn forward(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut random: Random,
    in_chunks: Arc<AtomicBool>,
) -> std::io::Result<()> {
    let mut buffer = [0; 4096];
    loop {
        let size = from.read(&mut buffer).await?;
        if size == 0 {
            return Ok(());
        }
        let mut rest = &buffer[..size];
        while !rest.is_empty() {
            let chunk = if in_chunks.load(Ordering::SeqCst) { 1 + random.below(MAX_CHUNK) } else { u64::MAX };
            let (chunk, later) = rest.split_at(rest.len().min(usize::try_from(chunk).unwrap()));
            to.write_all(chunk).await?;
            // The waiting call gets this chunk before the next one arrives.
            tokio::task::yield_now().await;
            rest = later;
        }
    }
}

/// Collects the snapshot and the versions that a replay visits.
#[derive(Default)]
struct Visited {
    snapshot: Option<Vec<u8>>,
    versions: Vec<u64>,
}

impl Visitor for Visited {
    fn snapshot(&mut self, _: Version, _: retell::EventId, state: &[u8]) -> retell::Result<()> {
        self.snapshot = Some(state.to_vec());
        Ok(())
    }

    fn event(&mut self, version: Version, _: retell::EventId, _: StoredEvent<'_>) -> retell::Result<()> {
        self.versions.push(version.get());
        Ok(())
    }
}

struct Subject {
    in_chunks: Arc<AtomicBool>,
    pool: MySqlPool,
    store: MySqlStore,
    model: MySqlReadModel,
}

const SNAPSHOT: Replay = Replay::ALL.with_snapshot(7);

fn name(text: &str) -> ProjectionName {
    ProjectionName::new(text).unwrap()
}

fn key() -> IdempotencyKey {
    IdempotencyKey::new("known").unwrap()
}

fn noted() -> EventType {
    events(1)[0].event_type.clone()
}

fn state(version: u64, event: retell::EventId, state: &[u8]) -> Snapshot {
    Snapshot::new(Version::new(version), event, 7, state.to_vec())
}

fn work(tx: &mut MySqlConnection) -> BoxFuture<'_, retell::Result<()>> {
    async move {
        let done = sqlx::query("SELECT 1").execute(tx).await;
        done.map(drop).map_err(|_| ErrorKind::Backend("work".into()).into())
    }
    .boxed()
}

impl Subject {
    async fn new(database: &mysql::Database) -> Self {
        let options = database.options();
        let server = (options.get_host().to_owned(), options.get_port());
        let chunked = Arc::new(AtomicBool::new(false));
        let port = in_chunks(server, Arc::clone(&chunked)).await;
        let pool = MySqlPoolOptions::new().max_connections(2).test_before_acquire(false);
        let pool = pool.connect_with(options.host("127.0.0.1").port(port)).await.unwrap();
        let store = MySqlStore::open(pool.clone()).await.unwrap();
        let model = MySqlReadModel::open(pool.clone()).await.unwrap();
        let subject = Self { in_chunks: chunked, pool, store, model };
        let first = Append::new(stream("known"), ExpectedVersion::NoStream, events(3)).with_key(key());
        subject.store.append(first).await.unwrap();
        subject.store.advance("known", Position::new(77).into(), Fence::ZERO).await.unwrap();
        let second = event_at(&subject.store, &stream("known"), 2).await;
        subject.store.save_snapshot(&stream("known"), state(2, second, b"two")).await.unwrap();
        subject.advance("known", 0, 55).await.unwrap();
        subject
    }

    async fn advance(&self, projection: &str, from: u64, to: u64) -> retell::Result<()> {
        let (from, to) = (Position::new(from), Position::new(to));
        self.model.commit(Step::new(&name(projection), from, to), Box::new(work)).await
    }

    /// Returns one call of each kind. None of them changes data that `assert_answers` checks.
    fn calls(&self, round: u64) -> Vec<BoxFuture<'_, ()>> {
        let store = &self.store;
        vec![
            async move { drop(store.find_by_key(&key()).await) }.boxed(),
            async move { drop(store.position("known").await) }.boxed(),
            async move { drop(store.advance("other", Position::new(round).into(), Fence::ZERO).await) }.boxed(),
            async move { drop(store.acquire_lease("other", Uuid::from_u128(round.into()), Duration::ZERO).await) }
                .boxed(),
            async move { drop(store.release_lease("other", Uuid::from_u128(round.into())).await) }.boxed(),
            async move {
                drop(store.save_snapshot(&stream("other"), state(round, retell::EventId::generate(), b"other")).await);
            }
            .boxed(),
            async move { drop(self.model.checkpoint(&name("known")).await) }.boxed(),
            async move { drop(self.advance(&format!("other {round}"), 0, 5).await) }.boxed(),
            async move { drop(self.advance("known", 1, 5).await) }.boxed(),
            async move { drop(store.replay(&stream("known"), SNAPSHOT, &mut Visited::default()).await) }.boxed(),
            async move { drop(store.newest(&noted(), 5).await) }.boxed(),
            async move { drop(store.recorded_after(chrono::DateTime::UNIX_EPOCH, 5).await) }.boxed(),
            async move { drop(store.read_all(Position::ZERO, 1_000, &Filter::all()).await) }.boxed(),
            async move { drop(store.head().await) }.boxed(),
            async move { drop(store.health().await) }.boxed(),
            async move { drop(self.append(round).await) }.boxed(),
            async move { drop(MySqlStore::open(self.pool.clone()).await) }.boxed(),
            async move { drop(MySqlStore::repair(&self.pool, &MySqlOptions::new()).await) }.boxed(),
            async move { drop(MySqlReadModel::open(self.pool.clone()).await) }.boxed(),
        ]
    }

    async fn append(&self, round: u64) -> retell::Result<retell::store::Appended> {
        let append = Append::new(stream(&format!("round {round}")), ExpectedVersion::Any, events(1));
        self.store.append(append).await
    }

    /// Asserts that every connection of the pool answers every query correctly. All the answers differ, so that a
    /// mix-up is visible.
    async fn assert_answers(&self, round: u64) {
        let store = &self.store;
        for _ in 0..2 {
            let token = self.append(round).await.unwrap().token();
            assert_eq!(store.find_by_key(&key()).await.unwrap().unwrap().appended.versions, [Version::new(3)]);
            assert_eq!(store.position("known").await.unwrap().get(), 77);
            assert_eq!(self.model.checkpoint(&name("known")).await.unwrap().get(), 55);
            let mut seen = Visited::default();
            store.replay(&stream("known"), SNAPSHOT, &mut seen).await.unwrap();
            assert_eq!((seen.snapshot.as_deref(), &*seen.versions), (Some(&b"two"[..]), &[3][..]));
            let head = store.head().await.unwrap();
            assert_eq!(store.position_of(token).await.unwrap(), Some(head));
            assert_eq!(whole_log(store).await.unwrap().len() as u64, head.get());
        }
    }
}

#[tokio::test]
async fn a_dropped_call_does_not_affect_others() {
    let database = mysql::Database::create().await;
    let subject = Subject::new(&database).await;
    let mut random = Random(2026);
    for round in 1..=ROUNDS {
        let kinds = subject.calls(round).len();
        for kind in 0..kinds {
            let polls = random.below(POLLS);
            subject.in_chunks.store(true, Ordering::SeqCst);
            drop_after(polls, subject.calls(round).swap_remove(kind)).await;
            subject.in_chunks.store(false, Ordering::SeqCst);
            let answered = tokio::time::timeout(TIMEOUT, subject.assert_answers(round)).await;
            assert!(
                answered.is_ok(),
                "the store does not answer after call {kind} was dropped at poll {polls} of round {round}"
            );
        }
    }
}
