//! A2. A handler that is slower than the server allows counts as failed, and is parked.

use std::future::pending;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use retell::prelude::*;
use retell::sqlx::{MySqlConnection, PgConnection, raw_sql};
use retell::store::InlineStore;
use retell::{
    Claim, DateTime, DeadlineStore, MySqlReadModel, MySqlStore, Parked, ParkingOptions, PostgresReadModel,
    PostgresStore, ProjectionName, ReadModel, Utc, WorkerOptions,
};
use sqlx::mysql::MySqlPoolOptions;
use sqlx::{ColumnIndex, Decode, Executor, IntoArguments, Pool, Type};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::databases::mysql_sessions::sessions;
use crate::databases::{Database, Place};
use crate::notes;
use crate::sites::{self, Site, on_every_store};

#[derive(Event)]
#[event("job.started")]
struct Started(u64);

/// Is slow with the events of the aggregate `bad`.
struct Slow<T: ?Sized, F> {
    delay: F,
    seen: Arc<Mutex<Vec<usize>>>,
    tx: PhantomData<fn(&T)>,
}

impl<T: ?Sized, F> Slow<T, F> {
    fn new(delay: F) -> Self {
        Self { delay, seen: Arc::default(), tx: PhantomData }
    }
}

#[async_trait]
impl<T, F> Projection for Slow<T, F>
where
    T: Send + ?Sized + 'static,
    F: AsyncSlow<T>,
{
    const NAME: &'static str = "slow";
    type Event = Started;
    type Tx = T;

    async fn apply(&self, tx: &mut T, event: Envelope<Started>) -> Result<(), BoxError> {
        if event.stream.aggregate_id().as_str() == "bad" {
            self.delay.take(tx).await?;
        }
        Ok(())
    }

    async fn apply_batch(&self, tx: &mut T, events: Vec<Envelope<Started>>) -> Result<(), BoxError> {
        let count = events.len();
        for event in events {
            self.apply(tx, event).await?;
        }
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).push(count);
        Ok(())
    }
}

/// Something that takes long.
#[async_trait]
trait AsyncSlow<T: ?Sized>: Send + Sync + 'static {
    async fn take(&self, tx: &mut T) -> Result<(), BoxError>;
}

/// Never returns.
struct Never;

#[async_trait]
impl<T: Send + ?Sized + 'static> AsyncSlow<T> for Never {
    async fn take(&self, _: &mut T) -> Result<(), BoxError> {
        pending().await
    }
}

/// Lets the server end the transaction, and does not notice.
struct Idle;

#[async_trait]
impl AsyncSlow<PgConnection> for Idle {
    async fn take(&self, tx: &mut PgConnection) -> Result<(), BoxError> {
        raw_sql("SET LOCAL idle_in_transaction_session_timeout = '300ms'").execute(tx).await?;
        tokio::time::sleep(Duration::from_millis(1_300)).await;
        Ok(())
    }
}

#[async_trait]
impl AsyncSlow<MySqlConnection> for Idle {
    async fn take(&self, tx: &mut MySqlConnection) -> Result<(), BoxError> {
        raw_sql(
            "SET @retell = 1 /*M! , SESSION idle_transaction_timeout = 1 */ /*!80000 , SESSION wait_timeout = 1 */",
        )
        .execute(tx)
        .await?;
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        Ok(())
    }
}

async fn append(store: &impl EventStore) {
    for job in 0..20 {
        let name = if job == 10 { "bad".to_owned() } else { format!("good{job}") };
        store.append_events(("job", name), ExpectedVersion::Any, [Started(job)]).await.unwrap();
    }
}

fn options() -> WorkerOptions {
    let long = Duration::from_hours(1);
    WorkerOptions::new().with_retries(0).with_parking(ParkingOptions::new().with_delays(long, long))
}

fn assert_bad_is_parked(parked: &[Parked], reason: &str) {
    let [parked] = parked else { panic!("{parked:?}") };
    assert_eq!(parked.stream.to_string(), "job/bad");
    assert!(parked.error.contains(reason), "{}", parked.error);
}

/// A handler that never returns is dropped at its limit, and parked alone.
async fn endless_handler_is_parked<S, M>(Site { store, models, .. }: Site<S, M>)
where
    S: EventStore + Clone,
    M: ReadModel + Clone,
{
    append(&store).await;
    let options = options().with_longest_call(Duration::from_millis(200));
    let worker = Worker::new(Slow::<M::Tx, _>::new(Never), store, models).with_options(options);
    let caught_up = worker.catch_up().await.unwrap();
    assert_bad_is_parked(&caught_up.parked, "the handler did not return within 200ms");
    assert_eq!(caught_up.position, Position::new(20));
}

async fn endless_handler_is_parked_per_aggregate<S, M>(Site { store, models, .. }: Site<S, M>)
where
    S: EventStore + Clone,
    M: ReadModel + Clone,
{
    append(&store).await;
    let options = options().with_longest_call(Duration::from_millis(200));
    let worker = Worker::new(Slow::<M::Tx, _>::new(Never), store, models).with_options(options);
    let caught_up = worker.with_order_per_aggregate().catch_up().await.unwrap();
    assert_bad_is_parked(&caught_up.parked, "the handler did not return within 200ms");
    assert_eq!(caught_up.position, Position::new(20));
}

/// A process whose command or deadline never ends.
struct Waiting;

#[async_trait]
impl Process for Waiting {
    const NAME: &'static str = "waiting";
    type Event = Started;
    type State = ();
    type Command = String;

    fn key(&self, event: &Envelope<Started>) -> Option<AggregateId> {
        Some(event.stream.aggregate_id().clone())
    }

    fn on_event(&self, (): &mut (), event: &Envelope<Started>, effects: &mut Effects<String>) {
        effects.send("now".into()).set_deadline("later", event.recorded_at);
    }

    fn on_deadline(&self, (): &mut (), _: &str, effects: &mut Effects<String>) {
        effects.send("later".into());
    }

    async fn execute(&self, key: &AggregateId, command: String, _: Context) -> Result<(), CommandFailure> {
        match (key.as_str(), &*command) {
            ("bad", "now") | ("good1", "later") => pending().await,
            _ => Ok(()),
        }
    }
}

/// A command that never ends parks its event, and postpones its deadline. The others are executed: they append, which may take a while on a busy
/// machine.
async fn endless_command_is_parked<S, M>(Site { store, models, .. }: Site<S, M>)
where
    S: EventStore + Clone,
    M: DeadlineStore + Clone,
{
    append(&store).await;
    let options = options().with_longest_call(Duration::from_secs(5));
    let manager = ProcessManager::new(Waiting, store, models.clone()).with_options(options);
    let caught_up = manager.catch_up().await.unwrap();
    assert_bad_is_parked(&caught_up.parked, "the handler did not return within 5s");
    let name = ProjectionName::new(Waiting::NAME).unwrap();
    let due = models.due_deadlines(&name, DateTime::<Utc>::MAX_UTC, 100).await.unwrap();
    assert_eq!(due.iter().map(|due| due.key.as_str()).collect::<Vec<_>>(), ["good1"]);
    assert_eq!(due[0].attempts, 1);
}

/// Batches become as small as the time of a batch demands.
async fn batches_fit_into_their_time<S, M>(Site { store, models, .. }: Site<S, M>)
where
    S: EventStore + Clone,
    M: ReadModel + Clone,
{
    for event in 0..200 {
        store.append_events(("job", "bad"), ExpectedVersion::Any, [Started(event)]).await.unwrap();
    }
    let slow = Slow::<M::Tx, _>::new(Pause);
    let seen = slow.seen.clone();
    let options = options().with_batch_time(Duration::from_millis(50));
    let caught_up = Worker::new(slow, store, models).with_options(options).catch_up().await.unwrap();
    assert!(caught_up.is_complete() && caught_up.position == Position::new(200), "{caught_up:?}");
    let seen = seen.lock().unwrap();
    // A pause takes at least 5 ms, so that at most ten fit.
    assert!(seen[0] == 64 && seen[1..].iter().all(|events| *events <= 10), "{seen:?}");
}

/// Takes 5 ms.
struct Pause;

#[async_trait]
impl<T: Send + ?Sized + 'static> AsyncSlow<T> for Pause {
    async fn take(&self, _: &mut T) -> Result<(), BoxError> {
        tokio::time::sleep(Duration::from_millis(5)).await;
        Ok(())
    }
}

on_every_store! {
    endless_handler_is_parked,
    endless_handler_is_parked_per_aggregate,
    endless_command_is_parked,
    batches_fit_into_their_time,
}

/// A commit that the server refuses because the transaction was idle counts against the event.
async fn idle_transaction_is_parked<S, M>(Site { store, models, database: _database }: Site<S, M>)
where
    S: EventStore + Clone,
    M: ReadModel + Clone,
    Idle: AsyncSlow<M::Tx>,
{
    append(&store).await;
    for per_aggregate in [false, true] {
        let slow = Slow::<M::Tx, _>::new(Idle);
        let worker = Worker::new(Titled(slow, format!("slow{per_aggregate}")), store.clone(), models.clone());
        let worker = worker.with_options(options());
        let worker = if per_aggregate { worker.with_order_per_aggregate() } else { worker };
        let caught_up = worker.catch_up().await.unwrap();
        assert_bad_is_parked(&caught_up.parked, "keep a transaction while its handler runs");
        assert_eq!(caught_up.position, Position::new(20));
    }
}

/// Waits for a statement that ends long after the test.
struct Statement;

#[async_trait]
impl AsyncSlow<PgConnection> for Statement {
    async fn take(&self, tx: &mut PgConnection) -> Result<(), BoxError> {
        raw_sql("SELECT pg_sleep(600)").execute(tx).await?;
        Ok(())
    }
}

#[async_trait]
impl AsyncSlow<MySqlConnection> for Statement {
    async fn take(&self, tx: &mut MySqlConnection) -> Result<(), BoxError> {
        // Unlike `SLEEP`, this does not end when the client has gone.
        raw_sql("SELECT BENCHMARK(400000000000, SHA2('retell', 256))").execute(tx).await?;
        Ok(())
    }
}

/// Less than the wait for a locked row, which is 50 seconds in MariaDB.
const SOON: Duration = Duration::from_secs(40);

/// A statement that is still running when its handler is dropped does not hold the rows of its transaction.
async fn endless_statement_is_parked<S, M>(store: &S, models: &M)
where
    S: EventStore + Clone,
    M: ReadModel + Clone,
    Statement: AsyncSlow<M::Tx>,
{
    append(store).await;
    let options = options().with_longest_call(Duration::from_millis(300));
    for per_aggregate in [false, true] {
        let name = format!("slow{per_aggregate}");
        let worker = Worker::new(Titled(Slow::<M::Tx, _>::new(Statement), name), store.clone(), models.clone());
        let worker = worker.with_options(options);
        let worker = if per_aggregate { worker.with_order_per_aggregate() } else { worker };
        let caught_up = timeout(SOON, worker.catch_up()).await.expect("no row is held");
        assert_bad_is_parked(&caught_up.unwrap().parked, "the handler did not return within 300ms");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_statement_is_parked_on_postgres() {
    let Site { store, models, database: _database } = sites::postgres().await;
    endless_statement_is_parked(&store, &models).await;
    statements_end(models.pool(), RUNNING_ON_POSTGRES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_statement_is_parked_on_mariadb() {
    let Site { store, models, database: _database } = sites::mysql().await;
    endless_statement_is_parked(&store, &models).await;
    statements_end(models.pool(), RUNNING_ON_MARIADB).await;
}

/// A pool with one connection has none to spare for the end of a session.
#[tokio::test(flavor = "multi_thread")]
async fn endless_statement_on_the_only_connection_ends() {
    let database = Database::mysql().await;
    let Place::MySql(url) = &database.place else { unreachable!("a MySQL database") };
    let pool = MySqlPoolOptions::new().max_connections(1).connect(url).await.unwrap();
    let store = MySqlStore::connect(url).await.unwrap();
    let models = MySqlReadModel::open(pool).await.unwrap();
    endless_statement_is_parked(&store, &models).await;
    statements_end(store.pool(), RUNNING_ON_MARIADB).await;
}

/// A worker that is stopped drops its handler. Closing the read models ends the statement first.
#[tokio::test(flavor = "multi_thread")]
async fn endless_statement_ends_before_the_models_close() {
    let Site { store, models, database: _database } = sites::mysql().await;
    append(&store).await;
    let options = options().with_grace(Duration::ZERO).with_longest_call(Duration::from_hours(1));
    let worker = Worker::new(Slow::<MySqlConnection, _>::new(Statement), store.clone(), models.clone());
    let stop = CancellationToken::new();
    let running = tokio::spawn({
        let stop = stop.clone();
        async move { worker.with_options(options).run(stop).await }
    });
    until(async || count(store.pool(), RUNNING_ON_MARIADB).await > 0).await;
    stop.cancel();
    // The result names the handler that was dropped.
    running.await.unwrap().unwrap_err();
    models.close().await.unwrap();
    assert_eq!(count(store.pool(), RUNNING_ON_MARIADB).await, 0);
}

/// Gives its statement a limit of its own, as a careful handler does, and returns the error.
struct Limited;

#[async_trait]
impl<T: Send + ?Sized + 'static> AsyncSlow<T> for Limited
where
    Statement: AsyncSlow<T>,
{
    async fn take(&self, tx: &mut T) -> Result<(), BoxError> {
        timeout(Duration::from_millis(300), Statement.take(tx)).await?
    }
}

/// A statement that outlives its inline projection does not hold the rows of its append.
async fn endless_statement_fails_its_append<S>(store: &S)
where
    S: InlineStore + Clone,
    Limited: AsyncSlow<S::Tx>,
{
    let log = inline(store.clone(), Slow::<S::Tx, _>::new(Limited)).await.unwrap();
    let claim = || Claim::reserve("email", "ada").unwrap();
    let append = |log: S, id: &str| {
        let events = vec![NewEvent::new(&Started(1)).unwrap()];
        let append = Append::new(StreamId::parse("job", id).unwrap(), ExpectedVersion::Any, events);
        async move { log.append(append.with_claims([claim()])).await }
    };
    append(log.clone(), "bad").await.unwrap_err();
    // The failed append has held the value's row.
    timeout(SOON, append(log, "good")).await.expect("no row is held").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_statement_fails_its_append_on_postgres() {
    let Site { store, database: _database, .. } = sites::postgres().await;
    endless_statement_fails_its_append(&store).await;
    statements_end(store.pool(), RUNNING_ON_POSTGRES).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn endless_statement_fails_its_append_on_mariadb() {
    let Site { store, database: _database, .. } = sites::mysql().await;
    endless_statement_fails_its_append(&store).await;
    statements_end(store.pool(), RUNNING_ON_MARIADB).await;
}

/// Waits until no statement of a handler runs.
async fn statements_end<DB>(pool: &Pool<DB>, running: &'static str)
where
    DB: sqlx::Database<Arguments: IntoArguments<DB>>,
    for<'c> &'c Pool<DB>: Executor<'c, Database = DB>,
    for<'r> i64: Decode<'r, DB> + Type<DB>,
    usize: ColumnIndex<DB::Row>,
{
    until(async || count(pool, running).await == 0).await;
}

async fn count<DB>(pool: &Pool<DB>, running: &'static str) -> i64
where
    DB: sqlx::Database<Arguments: IntoArguments<DB>>,
    for<'c> &'c Pool<DB>: Executor<'c, Database = DB>,
    for<'r> i64: Decode<'r, DB> + Type<DB>,
    usize: ColumnIndex<DB::Row>,
{
    sqlx::query_scalar(running).fetch_one(pool).await.unwrap()
}

async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    let waited = async {
        while !is_so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SOON, waited).await.expect("the condition holds soon");
}

const RUNNING_ON_POSTGRES: &str = "
    SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'active' AND query LIKE 'SELECT pg_sleep%'";

const RUNNING_ON_MARIADB: &str = concat!(
    "SELECT CAST(COUNT(*) AS SIGNED) FROM ",
    sessions!(),
    " WHERE db = DATABASE() AND info LIKE 'SELECT BENCHMARK%'"
);

/// Takes 31 seconds, a second longer than the servers let a transaction be idle.
struct HalfAMinute;

#[async_trait]
impl<T: Send + ?Sized + 'static> AsyncSlow<T> for HalfAMinute {
    async fn take(&self, _: &mut T) -> Result<(), BoxError> {
        tokio::time::sleep(Duration::from_secs(31)).await;
        Ok(())
    }
}

/// With the default settings, a handler that takes 31 seconds is dropped after 20, and parked. With a longer limit, the server ends its
/// transaction after 30 seconds, and the event is parked for that.
async fn handler_of_31_seconds_is_parked<S, M>(Site { store, models, database: _database }: Site<S, M>)
where
    S: EventStore + Clone,
    M: ReadModel + Clone,
{
    append(&store).await;
    let cases = [
        (WorkerOptions::new(), "the handler did not return within 20s"),
        (
            WorkerOptions::new().with_longest_call(Duration::from_mins(1)),
            "keep a transaction while its handler runs for 31",
        ),
    ];
    for (case, (options, reason)) in cases.into_iter().enumerate() {
        let slow = Titled(Slow::<M::Tx, _>::new(HalfAMinute), format!("slow{case}"));
        let worker = Worker::new(slow, store.clone(), models.clone()).with_options(options);
        let caught_up = timeout(Duration::from_mins(5), worker.catch_up()).await.unwrap().unwrap();
        assert_bad_is_parked(&caught_up.parked, reason);
        assert_eq!(caught_up.position, Position::new(20));
    }
}

/// Runs a test that takes minutes, if `RETELL_FIELD=long` asks for it.
async fn in_the_long_form(test: impl Future<Output = ()>) {
    if std::env::var("RETELL_FIELD").is_ok_and(|form| form == "long") {
        return test.await;
    }
    notes::show("a handler of 31 seconds runs in the long form only: RETELL_FIELD=long");
}

#[tokio::test(flavor = "multi_thread")]
async fn handler_of_31_seconds_is_parked_on_postgres() {
    in_the_long_form(async { handler_of_31_seconds_is_parked(sites::postgres().await).await }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn handler_of_31_seconds_is_parked_on_mariadb() {
    in_the_long_form(async { handler_of_31_seconds_is_parked(sites::mysql().await).await }).await;
}

/// A projection under a name of its own.
struct Titled<P>(P, String);

#[async_trait]
impl<P: Projection> Projection for Titled<P> {
    const NAME: &'static str = "titled";
    type Event = P::Event;
    type Tx = P::Tx;

    fn name(&self) -> &str {
        &self.1
    }

    async fn apply(&self, tx: &mut P::Tx, event: Envelope<P::Event>) -> Result<(), BoxError> {
        self.0.apply(tx, event).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_transaction_is_parked_on_postgres() {
    let site: Site<PostgresStore, PostgresReadModel> = sites::postgres().await;
    idle_transaction_is_parked(site).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_transaction_is_parked_on_mariadb() {
    let site: Site<MySqlStore, MySqlReadModel> = sites::mysql().await;
    idle_transaction_is_parked(site).await;
}

/// An inline projection that never returns fails its append after 20 seconds, and later appends are written.
#[tokio::test(start_paused = true)]
async fn endless_inline_projection_fails_its_append() {
    let store = MemoryStore::new();
    let log = inline(store.clone(), Slow::<(), _>::new(Never)).await.unwrap();
    let append = async |name| log.append_events(("job", name), ExpectedVersion::Any, [Started(1)]).await;
    let (bad, good) = tokio::join!(append("bad"), append("good"));
    assert!(bad.unwrap_err().to_string().contains("slow"));
    good.unwrap();
    append("later").await.unwrap();
}
