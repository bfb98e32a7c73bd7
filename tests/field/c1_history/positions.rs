//! The side of positions: checkpoints, rows of progress, relays, frames and generations.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::FutureExt;
use retell::broker::frame::Frame;
use retell::broker::{Announced, Announcer, Confirm, Publisher};
use retell::prelude::*;
use retell::store::ViewStore;
use retell::{
    ErrorKind, Mark, MySqlReadModel, MySqlStore, PostgresReadModel, PostgresStore, ProjectionName, ReadModel, Rebuild,
    RecordedEvent, RelayOptions, RelayStore, SqliteReadModel, SqliteStore, WorkerOptions,
};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::databases::{Database, Place};
use crate::server::{self, Server};

#[derive(Event)]
#[event("shelf.filled")]
pub(super) struct Filled(pub(super) u64);

/// Lists the numbers of each stream, in one of two orders.
#[derive(Clone, Copy)]
pub(super) struct Numbers(pub(super) &'static str);

pub(super) const IN_LOG_ORDER: Numbers = Numbers("numbers");
pub(super) const PER_AGGREGATE: Numbers = Numbers("numbers per aggregate");

impl View for Numbers {
    const NAME: &'static str = "numbers";
    type Event = Filled;
    type State = Vec<u64>;

    fn name(&self) -> &str {
        self.0
    }

    fn key(&self, filled: &Envelope<Filled>) -> Option<String> {
        Some(filled.stream.to_string())
    }

    fn apply(&self, numbers: &mut Vec<u64>, filled: Envelope<Filled>) {
        numbers.push(filled.event.0);
    }
}

/// A log and read models in one database, so that both can be restored in one transaction.
pub(super) struct Site<S, M> {
    pub(super) store: S,
    pub(super) models: M,
    pub(super) database: Database,
}

pub(super) async fn sqlite() -> Site<SqliteStore, SqliteReadModel> {
    let database = Database::sqlite();
    let Place::Sqlite(path) = &database.place else { unreachable!("a file") };
    let store = SqliteStore::open(path).await.unwrap();
    Site { models: store.read_model(), store, database }
}

pub(super) async fn postgres() -> Site<PostgresStore, PostgresReadModel> {
    let database = Database::postgres().await;
    let Place::Postgres(url) = &database.place else { unreachable!("a PostgreSQL database") };
    let store = PostgresStore::connect(url).await.unwrap();
    Site { store, models: PostgresReadModel::connect(url).await.unwrap(), database }
}

pub(super) async fn mysql() -> Site<MySqlStore, MySqlReadModel> {
    let database = Database::mysql().await;
    let Place::MySql(url) = &database.place else { unreachable!("a MySQL database") };
    let store = MySqlStore::connect(url).await.unwrap();
    Site { store, models: MySqlReadModel::connect(url).await.unwrap(), database }
}

/// A part of the database that is dumped and restored.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Part {
    Log,
    Models,
    Both,
}

impl Part {
    fn tables(self, place: &Place) -> Vec<&'static str> {
        let mut tables = Vec::new();
        if self != Self::Models {
            tables.extend(["events", "keys", "reservations", "snapshots", "relays"]);
            match place {
                Place::Sqlite(_) => {}
                Place::Postgres(_) => tables.extend(["commits", "lanes", "log"]),
                Place::MySql(_) => tables.extend(["commits", "log", "head"]),
            }
        }
        if self != Self::Log {
            tables.extend(["checkpoints", "parked", "progress", "views", "view_fields", "reactions", "inbox"]);
        }
        tables
    }

    /// Copies the tables.
    pub(super) async fn dump(self, place: &Place) {
        let prefix = prefix(place);
        for table in self.tables(place) {
            place.run(&format!("CREATE TABLE dump_{table} AS SELECT * FROM {prefix}{table}")).await;
        }
    }

    /// Replaces the rows of the tables by the dumped ones under open connections, in one transaction.
    pub(super) async fn restore(self, place: &Place) {
        let prefix = prefix(place);
        let mut sql = match place {
            Place::Sqlite(_) => {
                "PRAGMA busy_timeout = 10000; BEGIN IMMEDIATE; DROP TRIGGER IF EXISTS retell_events_no_delete;"
                    .to_owned()
            }
            Place::Postgres(_) => "SET session_replication_role = replica; BEGIN;".into(),
            Place::MySql(_) => "DROP TRIGGER IF EXISTS retell_events_no_delete; START TRANSACTION;".into(),
        };
        for table in self.tables(place) {
            let rows = format!("DELETE FROM {prefix}{table}; INSERT INTO {prefix}{table} SELECT * FROM dump_{table};");
            sql.push_str(&rows);
        }
        place.run(&(sql + "COMMIT")).await;
    }
}

fn prefix(place: &Place) -> &'static str {
    if matches!(place, Place::Postgres(_)) { "retell." } else { "retell_" }
}

pub(super) async fn append(log: &impl EventStore, numbers: std::ops::Range<u64>) {
    for number in numbers {
        let stream = StreamId::parse("shelf", &(number % 3).to_string()).unwrap();
        log.append_events(stream, ExpectedVersion::Any, [Filled(number)]).await.unwrap();
    }
}

/// Returns the numbers of each stream that the log has.
pub(super) async fn fold(log: &impl EventReader) -> BTreeMap<String, Vec<u64>> {
    let mut folded = BTreeMap::<_, Vec<_>>::new();
    for event in log.read_all(Position::ZERO, 10_000, &Filter::all()).await.unwrap().events {
        let filled = event.decode::<Filled>().unwrap();
        folded.entry(event.stream.to_string()).or_default().push(filled.event.0);
    }
    folded
}

pub(super) async fn rows<M: ViewStore + Clone>(models: &M, view: Numbers) -> BTreeMap<String, Vec<u64>> {
    let mut rows = BTreeMap::new();
    for key in ["shelf/0", "shelf/1", "shelf/2"] {
        if let Some(numbers) = Views::new(&view, models.clone()).get(key).await.unwrap() {
            rows.insert(key.to_owned(), numbers);
        }
    }
    rows
}

pub(super) async fn until(what: &str, done: impl AsyncFn() -> bool) {
    let waiting = async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(5), waiting).await.unwrap_or_else(|_| panic!("waited for {what}"));
}

pub(super) fn options() -> WorkerOptions {
    WorkerOptions::new().with_sweep(Duration::from_millis(20))
}

fn worker<S: EventReader + Clone, M: ViewStore + Clone>(
    view: Numbers,
    log: &S,
    models: &M,
) -> Worker<impl retell::Projection<Tx = M::Tx>, M> {
    let worker = Worker::view(view, log.clone(), models.clone()).with_options(options());
    if view.0 == PER_AGGREGATE.0 { worker.with_order_per_aggregate() } else { worker }
}

/// The workers of both views, and a relay that feeds them frames.
struct Running {
    tasks: Vec<(&'static str, JoinHandle<retell::Result<()>>)>,
    stop: CancellationToken,
}

impl Running {
    fn start<S, M>(log: &S, models: &M, broker: &MemoryBroker) -> Self
    where
        S: EventStore + RelayStore + Clone,
        M: ViewStore + Clone,
    {
        let stop = CancellationToken::new();
        let mut tasks = Vec::new();
        for view in [IN_LOG_ORDER, PER_AGGREGATE] {
            let (worker, stop) = (worker(view, log, models).with_broker(broker.clone()), stop.clone());
            tasks.push((view.0, tokio::spawn(async move { worker.run(stop).await })));
        }
        let options = RelayOptions::new().with_poll(Duration::from_millis(5));
        let relay = Relay::new(log.clone(), broker.clone()).with_checkpoint(log.clone(), "main").with_options(options);
        let stopped = stop.clone();
        tasks.push(("relay main", tokio::spawn(async move { relay.run(stopped).await })));
        Self { tasks, stop }
    }

    async fn stop(self) {
        self.stop.cancel();
        for (name, task) in self.tasks {
            task.await.unwrap().unwrap_or_else(|error| panic!("{name}: {error:#}"));
        }
    }

    /// Waits until every part has ended with an error about another history that names it.
    async fn all_refused(self) {
        for (name, task) in self.tasks {
            let ended = tokio::time::timeout(Duration::from_mins(5), task).await;
            let error = ended.unwrap_or_else(|_| panic!("{name} runs on")).unwrap().unwrap_err();
            assert!(matches!(error.kind(), ErrorKind::HistoryChanged { what, .. } if what.contains(name)), "{error}");
            assert!(!error.is_transient());
        }
    }
}

pub(super) async fn caught_up<S: EventReader, M: ViewStore + Clone>(log: &S, models: &M) {
    let expected = fold(log).await;
    for view in [IN_LOG_ORDER, PER_AGGREGATE] {
        until(view.0, async || rows(models, view).await == expected).await;
    }
}

/// The log loses its tail under running workers and a relay, and grows another one that is longer.
async fn parts_stop_when_the_log_lost_its_tail<S, M>(Site { store, models, database }: Site<S, M>)
where
    S: EventStore + RelayStore + Clone,
    M: ViewStore + Clone,
{
    let (broker, place) = (MemoryBroker::new(), &database.place);
    append(&store, 0..20).await;
    Part::Log.dump(place).await;
    let running = Running::start(&store, &models, &broker);
    append(&store, 20..27).await;
    caught_up(&store, &models).await;
    until("the relay", async || store.position("main").await.unwrap() == Position::new(27)).await;
    Part::Log.restore(place).await;
    append(&store, 100..110).await;
    running.all_refused_but_the_relay_may_run().await;
    // The log has outgrown every position, and nothing runs again for that.
    append(&store, 110..130).await;
    for view in [IN_LOG_ORDER, PER_AGGREGATE] {
        let error = worker(view, &store, &models).catch_up().await.unwrap_err();
        assert!(error.is_history_changed(), "{error}");
        let error = Rebuild::new(view, store.clone(), models.clone()).switch().await.unwrap_err();
        assert!(error.is_history_changed(), "{error}");
        Rebuild::new(view, store.clone(), models.clone()).reset().await.unwrap();
    }
    store.reset("main", Mark::START).await.unwrap();
    let running = Running::start(&store, &models, &MemoryBroker::new());
    caught_up(&store, &models).await;
    until("the relay", async || store.position("main").await.unwrap() == Position::new(50)).await;
    running.stop().await;
}

impl Running {
    /// Waits until the workers are refused. The relay's position was restored with the log: it either stops, or continues from there.
    async fn all_refused_but_the_relay_may_run(mut self) {
        let (name, relay) = self.tasks.pop().unwrap();
        let stop = self.stop.clone();
        self.all_refused().await;
        stop.cancel();
        if let Err(error) = relay.await.unwrap() {
            assert!(matches!(error.kind(), ErrorKind::HistoryChanged { what, .. } if what == name), "{error}");
        }
    }
}

/// A relay whose mark the log has lost stops, although the log has outgrown it.
async fn a_relay_stops_when_the_log_lost_its_tail<S, M>(Site { store, database, .. }: Site<S, M>)
where
    S: EventStore + RelayStore + Clone,
    M: ViewStore + Clone,
{
    let place = &database.place;
    append(&store, 0..20).await;
    Part::Log.dump(place).await;
    append(&store, 20..27).await;
    let relay = || {
        let options = RelayOptions::new().with_poll(Duration::from_millis(5));
        Relay::new(store.clone(), MemoryBroker::new()).with_checkpoint(store.clone(), "main").with_options(options)
    };
    let (running, stop) = (relay(), CancellationToken::new());
    let task = tokio::spawn({
        let stop = stop.clone();
        async move { running.run(stop).await }
    });
    until("the relay", async || store.position("main").await.unwrap() == Position::new(27)).await;
    Part::Log.restore(place).await;
    append(&store, 100..130).await;
    let error = tokio::time::timeout(Duration::from_mins(5), task).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::HistoryChanged { what, .. } if what == "relay main"), "{error}");
    // The position was restored with the log, so the next run publishes every event of the new tail.
    assert_eq!(store.position("main").await.unwrap(), Position::ZERO);
    let (running, stop) = (relay(), CancellationToken::new());
    let ((), ran) = tokio::join!(
        async {
            until("the relay", async || store.position("main").await.unwrap() == Position::new(50)).await;
            stop.cancel();
        },
        running.run(stop.clone())
    );
    ran.unwrap();
}

/// Announces nothing, and confirms when it may.
struct Held(watch::Receiver<bool>);

#[async_trait]
impl Announcer for Held {
    async fn announce(&self, _: &[RecordedEvent]) -> retell::Result<Confirm<Announced>> {
        let mut may_confirm = self.0.clone();
        let confirm = async move { may_confirm.wait_for(|may| *may).await.map(|_| Announced::default()) };
        Ok(confirm.map(|confirmed| Ok(confirmed.unwrap())).boxed())
    }
}

/// The broker confirms events that the log has lost meanwhile. Their place is not stored in the log that has lost them.
async fn a_relay_stores_no_lost_place<S, M>(Site { store, database, .. }: Site<S, M>)
where
    S: EventStore + RelayStore + Clone,
    M: ViewStore + Clone,
{
    append(&store, 0..20).await;
    let (confirms, may_confirm) = watch::channel(true);
    // After the log has gone back, nothing wakes the relay to read another page.
    let options = RelayOptions::new().with_poll(Duration::from_hours(1));
    let relay = Relay::announcing(store.clone(), Held(may_confirm)).with_checkpoint(store.clone(), "main");
    let (relay, stop) = (relay.with_options(options), CancellationToken::new());
    let mut published = relay.published();
    let task = tokio::spawn(async move { relay.run(stop).await });
    until("the relay", async || store.position("main").await.unwrap() == Position::new(20)).await;
    Part::Log.dump(&database.place).await;
    confirms.send_replace(false);
    store.append_events(("shelf", "0"), ExpectedVersion::Any, (20..27).map(Filled)).await.unwrap();
    until("the page", async || confirms.receiver_count() > 1).await;
    Part::Log.restore(&database.place).await;
    confirms.send_replace(true);
    // A relay that reads once more before the confirm ends without it.
    drop(published.wait_for(|position| *position == Position::new(27)).await);
    let error = tokio::time::timeout(Duration::from_mins(5), task).await.unwrap().unwrap().unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::HistoryChanged { what, .. } if what == "relay main"), "{error}");
    assert_eq!(store.position("main").await.unwrap(), Position::new(20));
}

/// The read models alone go back, and are filled again, whether more events come or not.
async fn restored_models_are_filled_again<S, M>(Site { store, models, database }: Site<S, M>)
where
    S: EventStore + RelayStore + Clone,
    M: ViewStore + Clone,
{
    let (broker, place) = (MemoryBroker::new(), &database.place);
    append(&store, 0..20).await;
    let running = Running::start(&store, &models, &broker);
    caught_up(&store, &models).await;
    running.stop().await;
    Part::Models.dump(place).await;
    let running = Running::start(&store, &models, &broker);
    append(&store, 20..27).await;
    caught_up(&store, &models).await;
    Part::Models.restore(place).await;
    caught_up(&store, &models).await;
    Part::Models.restore(place).await;
    append(&store, 27..30).await;
    caught_up(&store, &models).await;
    running.stop().await;
}

/// The log and the read models go back together: everything continues from there, and no event of the new tail is left out.
async fn restored_together_everything_continues<S, M>(Site { store, models, database }: Site<S, M>)
where
    S: EventStore + RelayStore + Clone,
    M: ViewStore + Clone,
{
    let place = &database.place;
    append(&store, 0..20).await;
    let running = Running::start(&store, &models, &MemoryBroker::new());
    caught_up(&store, &models).await;
    running.stop().await;
    Part::Both.dump(place).await;
    // Without frames: a queue that kept frames of the lost tail would bring them back.
    let stop = CancellationToken::new();
    let tasks = [IN_LOG_ORDER, PER_AGGREGATE].map(|view| {
        let (worker, stop) = (worker(view, &store, &models), stop.clone());
        tokio::spawn(async move { worker.run(stop).await })
    });
    append(&store, 20..27).await;
    caught_up(&store, &models).await;
    Part::Both.restore(place).await;
    append(&store, 100..110).await;
    caught_up(&store, &models).await;
    stop.cancel();
    for task in tasks {
        task.await.unwrap().unwrap();
    }
}

/// A stream's lost events arrive from the broker after the log has lost them.
async fn lost_events_from_the_broker_are_noticed<S, M>(Site { store, models, database }: Site<S, M>)
where
    S: EventStore + RelayStore + Clone,
    M: ViewStore + Clone,
{
    let place = &database.place;
    append(&store, 0..20).await;
    for view in [IN_LOG_ORDER, PER_AGGREGATE] {
        worker(view, &store, &models).catch_up().await.unwrap();
    }
    Part::Log.dump(place).await;
    append(&store, 20..27).await;
    let lost = store.read_all(Position::new(19), 100, &Filter::all()).await.unwrap().events;
    let frames = Frame::split(&lost, 1, 1 << 20).unwrap();
    append(&store, 27..60).await;
    // It will continue the row of its stream, when that has 13 events again.
    let lost = store.read_all(Position::new(41), 1, &Filter::all()).await.unwrap().events;
    let later = Frame::split(&lost, 1, 1 << 20).unwrap();
    Part::Log.restore(place).await;
    append(&store, 100..102).await;
    // In log order, the gate compares the event before a frame, so no lost event is applied.
    let (broker, stop) = (MemoryBroker::new(), CancellationToken::new());
    let in_log_order = worker(IN_LOG_ORDER, &store, &models).with_broker(broker.clone());
    let publish = async {
        for number in 102..120 {
            broker.publish(&frames[1..]).await.unwrap().await.unwrap();
            append(&store, number..number + 1).await;
            let expected = fold(&store).await;
            until("a sweep", async || rows(&models, IN_LOG_ORDER).await == expected).await;
        }
        stop.cancel();
    };
    futures::join!(async { in_log_order.run(stop.clone()).await.unwrap() }, publish);
    // With order per aggregate, the first lost event is noticed at the next sweep. The next worker is refused, too.
    let (broker, stop) = (MemoryBroker::new(), CancellationToken::new());
    let per_aggregate = worker(PER_AGGREGATE, &store, &models).with_broker(broker.clone());
    let publish = async {
        loop {
            broker.publish(&later).await.unwrap().await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let ended = tokio::time::timeout(Duration::from_mins(5), async {
        tokio::select! {
            ended = per_aggregate.run(stop.clone()) => ended.unwrap_err(),
            () = publish => unreachable!("publishes forever"),
        }
    });
    for error in [ended.await.unwrap(), worker(PER_AGGREGATE, &store, &models).catch_up().await.unwrap_err()] {
        assert!(error.is_history_changed(), "{error}");
    }
    Rebuild::new(PER_AGGREGATE, store.clone(), models.clone()).reset().await.unwrap();
    worker(PER_AGGREGATE, &store, &models).catch_up().await.unwrap();
    assert_eq!(rows(&models, PER_AGGREGATE).await, fold(&store).await);
}

macro_rules! drills {
    ($($case:ident),* $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                super::$case(super::sqlite().await).await;
            })*
        }

        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                super::$case(super::postgres().await).await;
            })*
        }

        mod on_mysql {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                super::$case(super::mysql().await).await;
            })*
        }
    };
}

drills!(
    parts_stop_when_the_log_lost_its_tail,
    a_relay_stops_when_the_log_lost_its_tail,
    a_relay_stores_no_lost_place,
    restored_models_are_filled_again,
    restored_together_everything_continues,
    lost_events_from_the_broker_are_noticed,
);

/// An asynchronous replica is promoted that lacks the last seven events. The read models are elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_replica_without_the_tail_is_noticed() {
    let mut primary = Server::start();
    let store = PostgresStore::connect(&primary.url()).await.unwrap();
    let models = SqliteReadModel::in_memory().await.unwrap();
    append(&store, 0..20).await;
    assert_eq!(store.head().await.unwrap(), Position::new(20));
    let replica = primary.replica();
    let reader = PostgresStore::connect(&replica.url()).await.unwrap();
    until("the replica", async || reader.head().await.unwrap() == Position::new(20)).await;
    Place::Postgres(replica.url()).run("ALTER SYSTEM SET primary_conninfo = ''").await;
    Place::Postgres(replica.url()).run("SELECT pg_reload_conf()").await;
    let is_cut = || {
        server::run(server::program("psql").args([
            "-d",
            &replica.url(),
            "-Atc",
            "SELECT count(*) FROM pg_stat_wal_receiver",
        ]))
    };
    until("the replica to be cut off", async || is_cut().trim() == "0").await;
    append(&store, 20..27).await;
    for view in [IN_LOG_ORDER, PER_AGGREGATE] {
        assert_eq!(worker(view, &store, &models).catch_up().await.unwrap().position, Position::new(27));
        // A replica that lags behind is no changed history.
        let mark = models.mark(&ProjectionName::new(view.0).unwrap()).await.unwrap();
        let error = reader.read_all(mark, 10, &Filter::all()).await.unwrap_err();
        assert!(error.is_transient(), "{error}");
    }
    primary.stop();
    Place::Postgres(replica.url()).run("SELECT pg_promote()").await;
    let promoted = PostgresStore::connect(&replica.url()).await.unwrap();
    append(&promoted, 100..110).await;
    assert_eq!(promoted.head().await.unwrap(), Position::new(30));
    for view in [IN_LOG_ORDER, PER_AGGREGATE] {
        let error = worker(view, &promoted, &models).catch_up().await.unwrap_err();
        assert!(error.is_history_changed(), "{error}");
        Rebuild::new(view, promoted.clone(), models.clone()).reset().await.unwrap();
        worker(view, &promoted, &models).catch_up().await.unwrap();
        assert_eq!(rows(&models, view).await, fold(&promoted).await);
    }
}
