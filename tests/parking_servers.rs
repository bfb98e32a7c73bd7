//! Parking on database servers. Needs `POSTGRES_URL` and `MYSQL_URL`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/databases.rs"]
mod databases;
mod support;
#[path = "support/workers.rs"]
mod workers;

use std::slice::from_ref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use databases::{Database, Place};
use retell::event::NewEvent;
use retell::store::{Append, Parking};
use retell::worker::{ParkingOptions, WorkerOptions};
use retell::{
    BoxError, Envelope, EventStore, ExpectedVersion, MySqlReadModel, PostgresReadModel, Projection, ProjectionName,
    ReadModel, StreamId, Worker, async_trait,
};
use sqlx::{MySqlConnection, PgConnection};
use support::CounterEvent;
use workers::{reached, until, while_running};

/// Records the applied events in a table. Fails on the second position while `poisoned`, and terminates its own connection there `cuts`
/// times.
#[derive(Debug)]
struct Applied<Tx: ?Sized> {
    poisoned: Arc<AtomicBool>,
    cuts: Arc<AtomicUsize>,
    tx: std::marker::PhantomData<fn(&mut Tx)>,
}

impl<Tx: ?Sized> Clone for Applied<Tx> {
    fn clone(&self) -> Self {
        Self { poisoned: self.poisoned.clone(), cuts: self.cuts.clone(), tx: self.tx }
    }
}

impl<Tx: ?Sized> Applied<Tx> {
    fn new(poisoned: bool, cuts: usize) -> Self {
        let (poisoned, cuts) = (Arc::new(AtomicBool::new(poisoned)), Arc::new(AtomicUsize::new(cuts)));
        Self { poisoned, cuts, tx: std::marker::PhantomData }
    }

    fn cuts(&self) -> bool {
        self.cuts.try_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
    }

    fn check(&self, position: u64) -> Result<(), BoxError> {
        if position == 2 && self.poisoned.load(Ordering::SeqCst) { Err("poison".into()) } else { Ok(()) }
    }
}

const TABLE: &str = "CREATE TABLE IF NOT EXISTS applied (position BIGINT NOT NULL)";

#[async_trait]
impl Projection for Applied<PgConnection> {
    const NAME: &'static str = "applied";
    type Event = CounterEvent;
    type Tx = PgConnection;

    async fn setup(&self, tx: &mut PgConnection) -> Result<(), BoxError> {
        Ok(sqlx::query(TABLE).execute(tx).await.map(drop)?)
    }

    async fn apply(&self, tx: &mut PgConnection, event: Envelope<CounterEvent>) -> Result<(), BoxError> {
        let position = event.position.get();
        if position == 2 && self.cuts() {
            sqlx::query("SELECT pg_terminate_backend(pg_backend_pid())").execute(&mut *tx).await?;
        }
        let insert = sqlx::query("INSERT INTO applied (position) VALUES ($1)").bind(i64::try_from(position)?);
        insert.execute(tx).await?;
        self.check(position)
    }
}

#[async_trait]
impl Projection for Applied<MySqlConnection> {
    const NAME: &'static str = "applied";
    type Event = CounterEvent;
    type Tx = MySqlConnection;

    async fn setup(&self, tx: &mut MySqlConnection) -> Result<(), BoxError> {
        Ok(sqlx::query(TABLE).execute(tx).await.map(drop)?)
    }

    async fn apply(&self, tx: &mut MySqlConnection, event: Envelope<CounterEvent>) -> Result<(), BoxError> {
        let position = event.position.get();
        if position == 2 && self.cuts() {
            sqlx::raw_sql("KILL CONNECTION_ID()").execute(&mut *tx).await?;
        }
        let insert = sqlx::query("INSERT INTO applied (position) VALUES (?)").bind(i64::try_from(position)?);
        insert.execute(tx).await?;
        self.check(position)
    }
}

fn name() -> ProjectionName {
    ProjectionName::new("applied").unwrap()
}

async fn add(store: &dyn EventStore, id: &str) {
    let event = NewEvent::new(&CounterEvent::Added { amount: 1 }).unwrap();
    let stream = StreamId::parse("counter", id).unwrap();
    store.append(Append::new(stream, ExpectedVersion::Any, vec![event])).await.unwrap();
}

/// Runs a worker over five events of two aggregates until `done`.
async fn run<P, M>(place: &Place, projection: P, models: &M, parking: ParkingOptions, done: impl AsyncFnOnce())
where
    P: Projection,
    M: ReadModel<Tx = P::Tx> + Clone,
{
    let store = place.open().await.unwrap().events;
    for id in ["a", "b", "a", "b", "a"] {
        add(&*store, id).await;
    }
    let brief = Duration::from_millis(5);
    // A call that takes as long as the longest delay is not retried in place: on a busy machine, one of a few milliseconds does.
    let options = WorkerOptions::new().with_sweep(brief).with_longest_delay(Duration::from_secs(1)).with_retries(2);
    let worker = Worker::new(projection, store, models.clone()).with_options(options.with_parking(parking));
    while_running(from_ref(&worker), async {
        reached(models, &name(), 5).await;
        done().await;
    })
    .await;
}

/// Checks that an aggregate is parked, marked dead, and released by a requested retry.
async fn parks_and_revives<P, M>(place: &Place, projection: P, poisoned: Arc<AtomicBool>, models: &M)
where
    P: Projection,
    M: ReadModel<Tx = P::Tx> + Clone,
{
    let brief = Duration::from_millis(1);
    let parking = ParkingOptions::new().with_delays(brief, brief).with_retries(2);
    run(place, projection, models, parking, async || {
        let parked = async || models.parking(&name()).await.unwrap().parked;
        until(async || parked().await[0].attempts == 3).await;
        let dead = parked().await.remove(0);
        assert_eq!((dead.from_version.get(), dead.from_position.get(), dead.state.as_str()), (1, 2, "dead"));
        poisoned.store(false, Ordering::SeqCst);
        assert!(models.retry_parked(&name(), &dead.stream).await.unwrap());
        until(async || parked().await.is_empty()).await;
    })
    .await;
}

async fn in_postgres(models: &PostgresReadModel) -> Vec<i64> {
    sqlx::query_scalar("SELECT position FROM applied").fetch_all(models.pool()).await.unwrap()
}

async fn in_mysql(models: &MySqlReadModel) -> Vec<i64> {
    sqlx::query_scalar("SELECT position FROM applied").fetch_all(models.pool()).await.unwrap()
}

fn sorted(mut positions: Vec<i64>) -> Vec<i64> {
    positions.sort_unstable();
    positions
}

#[tokio::test]
async fn a_dead_aggregate_is_revived_on_request_on_postgres() {
    let database = Database::postgres().await;
    let Place::Postgres(url) = &database.place else { unreachable!("a server") };
    let models = PostgresReadModel::connect(url).await.unwrap();
    let projection = Applied::<PgConnection>::new(true, 0);
    parks_and_revives(&database.place, projection.clone(), projection.poisoned, &models).await;
    assert_eq!(sorted(in_postgres(&models).await), [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_dead_aggregate_is_revived_on_request_on_mysql() {
    let database = Database::mysql().await;
    let Place::MySql(url) = &database.place else { unreachable!("a server") };
    let models = MySqlReadModel::connect(url).await.unwrap();
    let projection = Applied::<MySqlConnection>::new(true, 0);
    parks_and_revives(&database.place, projection.clone(), projection.poisoned, &models).await;
    assert_eq!(sorted(in_mysql(&models).await), [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_connection_lost_during_apply_parks_nothing_on_postgres() {
    let database = Database::postgres().await;
    let Place::Postgres(url) = &database.place else { unreachable!("a server") };
    let models = PostgresReadModel::connect(url).await.unwrap();
    run(&database.place, Applied::<PgConnection>::new(false, 6), &models, ParkingOptions::new(), async || {}).await;
    // The only change is that the worker has registered.
    assert_eq!(models.parking(&name()).await.unwrap(), Parking::new(1, Vec::new()));
    assert_eq!(in_postgres(&models).await, [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_connection_lost_during_apply_parks_nothing_on_mysql() {
    let database = Database::mysql().await;
    let Place::MySql(url) = &database.place else { unreachable!("a server") };
    let models = MySqlReadModel::connect(url).await.unwrap();
    run(&database.place, Applied::<MySqlConnection>::new(false, 6), &models, ParkingOptions::new(), async || {}).await;
    // The only change is that the worker has registered.
    assert_eq!(models.parking(&name()).await.unwrap(), Parking::new(1, Vec::new()));
    assert_eq!(in_mysql(&models).await, [1, 2, 3, 4, 5]);
}
