//! The cost of an inline projection for an append: on SQLite, and on PostgreSQL if `POSTGRES_URL` is set.
//!
//! Each writer appends one event after the other to its own stream for a second. `view`: a view counts the events of each stream. `sql`: a
//! projection does the same with one statement per event. The rounds take turns. A figure is the median of three, in appends/s. A ratio is
//! the time of an append relative to a plain one.
//!
//! ```sh
//! POSTGRES_URL=postgres://.. cargo bench -p retell-benches --bench inline
//! ```
#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::env;
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use retell::inline::inline;
use retell::store::postgres::PostgresOptions;
use retell::store::{Append, InlineStore};
use retell::testing::store::{event, stream};
use retell::view::ViewProjection;
use retell::{
    AnyEvent, BoxError, Envelope, EventStore, ExpectedVersion, PostgresStore, Projection, SqliteStore, View, ViewStore,
    async_trait, rusqlite,
};
use sqlx::{PgConnection, PgPool};
use tokio::task::JoinSet;

const TIME: Duration = Duration::from_secs(1);

const ROUNDS: usize = 3;

struct Counts;

impl View for Counts {
    const NAME: &'static str = "counts";
    type Event = AnyEvent;
    type State = u64;

    fn key(&self, event: &Envelope<AnyEvent>) -> Option<String> {
        Some(event.stream.aggregate_id().to_string())
    }

    fn apply(&self, count: &mut u64, _: Envelope<AnyEvent>) {
        *count += 1;
    }
}

struct Sql<T>(PhantomData<fn(&mut T)>);

/// The statements of [`Sql`], which differ between databases.
#[async_trait]
trait Counter: Send + 'static {
    async fn make(&mut self) -> Result<(), BoxError>;

    async fn count(&mut self, id: &str) -> Result<(), BoxError>;
}

#[async_trait]
impl Counter for rusqlite::Connection {
    async fn make(&mut self) -> Result<(), BoxError> {
        Ok(self.execute_batch("CREATE TABLE counted (id TEXT PRIMARY KEY, n INTEGER NOT NULL)")?)
    }

    async fn count(&mut self, id: &str) -> Result<(), BoxError> {
        self.prepare_cached("INSERT INTO counted VALUES (?1, 1) ON CONFLICT (id) DO UPDATE SET n = n + 1")?
            .execute([id])?;
        Ok(())
    }
}

#[async_trait]
impl Counter for PgConnection {
    async fn make(&mut self) -> Result<(), BoxError> {
        sqlx::raw_sql("DROP TABLE IF EXISTS counted; CREATE TABLE counted (id text PRIMARY KEY, n bigint NOT NULL)")
            .execute(self)
            .await?;
        Ok(())
    }

    async fn count(&mut self, id: &str) -> Result<(), BoxError> {
        sqlx::query("INSERT INTO counted AS c VALUES ($1, 1) ON CONFLICT (id) DO UPDATE SET n = c.n + 1")
            .bind(id)
            .execute(self)
            .await?;
        Ok(())
    }
}

#[async_trait]
impl<T: Counter> Projection for Sql<T> {
    const NAME: &'static str = "sql";
    type Event = AnyEvent;
    type Tx = T;

    async fn setup(&self, tx: &mut T) -> Result<(), BoxError> {
        tx.make().await
    }

    async fn apply(&self, tx: &mut T, event: Envelope<AnyEvent>) -> Result<(), BoxError> {
        tx.count(event.stream.aggregate_id().as_str()).await
    }
}

/// Returns appends per second.
async fn measure<S: EventStore + Clone>(log: &S, writers: usize) -> f64 {
    let began = Instant::now();
    let mut tasks = JoinSet::new();
    for writer in 0..writers {
        let log = log.clone();
        tasks.spawn(async move {
            let mut appends = 0.0;
            while began.elapsed() < TIME {
                let event = event(r#"{"item":"6f1c2a9e","count":3,"note":"as it was ordered"}"#);
                let append = Append::new(stream(&writer.to_string()), ExpectedVersion::Any, vec![event]);
                log.append(append).await.unwrap();
                appends += 1.0;
            }
            appends
        });
    }
    tasks.join_all().await.iter().sum::<f64>() / began.elapsed().as_secs_f64()
}

async fn compare<S, M>(what: &str, open: impl AsyncFn() -> (S, M))
where
    S: InlineStore<Tx: Counter + Sized> + Clone,
    M: ViewStore<Tx = <S as InlineStore>::Tx> + Clone,
{
    for writers in [1, 16] {
        let mut figures = [const { Vec::new() }; 3];
        for _ in 0..ROUNDS {
            let (log, _) = open().await;
            figures[0].push(measure(&log, writers).await);
            let (log, models) = open().await;
            let log = inline(log, ViewProjection::new(Counts, models)).await.unwrap();
            figures[1].push(measure(&log, writers).await);
            let (log, _) = open().await;
            let log = inline(log, Sql(PhantomData)).await.unwrap();
            figures[2].push(measure(&log, writers).await);
        }
        let [plain, view, sql] = figures.map(|mut figures| {
            figures.sort_by(f64::total_cmp);
            figures[ROUNDS / 2]
        });
        println!(
            "{what}, {writers:2} writers: plain {plain:.0}/s, view {view:.0}/s ({:.2}), sql {sql:.0}/s ({:.2})",
            plain / view,
            plain / sql
        );
    }
}

#[tokio::main]
async fn main() {
    let folder = tempfile::TempDir::new().unwrap();
    let opened = std::sync::atomic::AtomicU32::new(0);
    let number = || opened.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    compare("SQLite", async || {
        let log = SqliteStore::open(folder.path().join(number().to_string())).await.unwrap();
        let models = log.read_model();
        (log, models)
    })
    .await;
    let Ok(url) = env::var("POSTGRES_URL") else {
        return println!("POSTGRES_URL is not set: PostgreSQL is not measured");
    };
    let pool = PgPool::connect(&url).await.unwrap();
    compare("PostgreSQL", async || {
        let options = PostgresOptions::new().with_schema(format!("inline_{}_{}", std::process::id(), number()));
        let log = PostgresStore::open_with(pool.clone(), options).await.unwrap();
        let models = log.read_model();
        (log, models)
    })
    .await;
}
