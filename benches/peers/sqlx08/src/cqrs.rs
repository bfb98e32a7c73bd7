//! cqrs-es, with postgres-es and sqlite-es. Its view is a `GenericQuery` over the library's own view table, rebuilt by `QueryReplay`.

use std::convert::Infallible;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use cqrs_es::event_sink::EventSink;
use cqrs_es::persist::{GenericQuery, PersistedEventRepository, PersistedEventStore, QueryReplay, ViewRepository};
use cqrs_es::{
    Aggregate, AggregateContext, AggregateError, CqrsFramework, DomainEvent, EventEnvelope, EventStore, Query, View,
};
use peers::order::{self, OrderEvent};
use peers::side::{ATTEMPTS, Side, Supported};
use postgres_es::{PostgresEventRepository, PostgresViewRepository};
use serde::{Deserialize, Serialize};
use sqlite_es::{SqliteEventRepository, SqliteViewRepository};
use sqlx::{Executor, PgPool, SqlitePool};
use uuid::Uuid;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
struct Event(OrderEvent);

impl DomainEvent for Event {
    fn event_type(&self) -> String {
        self.0.name().into()
    }

    fn event_version(&self) -> String {
        "1.0".into()
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
struct Order(order::Order);

impl Aggregate for Order {
    const TYPE: &'static str = "order";
    type Command = Range<u64>;
    type Event = Event;
    type Error = Infallible;
    type Services = ();

    async fn handle(&mut self, numbers: Range<u64>, (): &(), sink: &EventSink<Self>) -> Result<(), Infallible> {
        // The documentation passes `self` here, but then events are applied a second time when a snapshot is stored, and the snapshot holds
        // each of them twice.
        let mut spare = Self::default();
        for number in numbers {
            sink.write(Event(OrderEvent::numbered(number)), &mut spare).await;
        }
        Ok(())
    }

    fn apply(&mut self, Event(event): Event) {
        self.0.apply(event);
    }
}

impl View<Order> for Order {
    fn update(&mut self, event: &EventEnvelope<Order>) {
        self.0.apply(event.payload.0.clone());
    }
}

/// Folds all events into one order, in memory.
#[derive(Clone, Default)]
struct Counter(Arc<Mutex<order::Order>>);

#[async_trait]
impl Query<Order> for Counter {
    async fn dispatch(&self, _id: &str, events: &[EventEnvelope<Order>]) {
        let mut order = self.0.lock().unwrap();
        events.iter().for_each(|event| order.apply(event.payload.0.clone()));
    }
}

struct Cqrs<R: PersistedEventRepository, V> {
    pool: Pool,
    commands: CqrsFramework<Order, PersistedEventStore<R, Order>>,
    loads: PersistedEventStore<R, Order>,
    kept: CqrsFramework<Order, PersistedEventStore<R, Order>>,
    loads_with_snapshot: PersistedEventStore<R, Order>,
    repository: fn(&Pool) -> R,
    views: Arc<V>,
}

enum Pool {
    Postgres(PgPool),
    Sqlite(SqlitePool),
}

/// The snapshot interval of the other sides.
const SNAPSHOT: usize = 100;

pub(crate) fn postgres(pool: PgPool) -> Arc<dyn Side> {
    let views = PostgresViewRepository::<Order, Order>::new("orders", pool.clone());
    let repository = |pool: &Pool| match pool {
        Pool::Postgres(pool) => PostgresEventRepository::new(pool.clone()),
        Pool::Sqlite(_) => unreachable!("made for PostgreSQL"),
    };
    Arc::new(Cqrs::new(Pool::Postgres(pool), repository, views))
}

pub(crate) fn sqlite(pool: SqlitePool) -> Arc<dyn Side> {
    let views = SqliteViewRepository::<Order, Order>::new("orders", pool.clone());
    let repository = |pool: &Pool| match pool {
        Pool::Sqlite(pool) => SqliteEventRepository::new(pool.clone()),
        Pool::Postgres(_) => unreachable!("made for SQLite"),
    };
    Arc::new(Cqrs::new(Pool::Sqlite(pool), repository, views))
}

impl<R: PersistedEventRepository, V> Cqrs<R, V> {
    fn new(pool: Pool, repository: fn(&Pool) -> R, views: V) -> Self {
        let events = || PersistedEventStore::new_event_store(repository(&pool));
        let snapshots = || PersistedEventStore::new_snapshot_store(repository(&pool), SNAPSHOT);
        Self {
            commands: CqrsFramework::new(events(), vec![], ()),
            loads: events(),
            kept: CqrsFramework::new(snapshots(), vec![], ()),
            loads_with_snapshot: snapshots(),
            views: Arc::new(views),
            repository,
            pool,
        }
    }

    /// Replays all events into a query.
    async fn replay<Q: Query<Order>>(&self, query: Q) {
        let mut replay = QueryReplay::new((self.repository)(&self.pool), query);
        replay.use_error_handler(Box::new(|error| panic!("{error}")));
        replay.replay_all().await.unwrap();
    }

    async fn run(&self, postgres: &'static str, sqlite: &'static str) {
        match &self.pool {
            Pool::Postgres(pool) => drop(pool.execute(postgres).await.unwrap()),
            Pool::Sqlite(pool) => drop(pool.execute(sqlite).await.unwrap()),
        }
    }
}

#[async_trait]
impl<R, V> Side for Cqrs<R, V>
where
    R: PersistedEventRepository + Send + Sync + 'static,
    V: ViewRepository<Order, Order> + 'static,
{
    async fn create(&self) {
        self.run(POSTGRES_TABLES, SQLITE_TABLES).await;
    }

    async fn execute(&self, id: Uuid, number: u64) {
        // Retry after a conflict with another command on the same order.
        for _ in 0..ATTEMPTS {
            match self.commands.execute(&id.to_string(), number..number + 1).await {
                Ok(()) => return,
                Err(AggregateError::AggregateConflict) => {}
                Err(error) => panic!("{error}"),
            }
        }
        panic!("conflicted {ATTEMPTS} times");
    }

    async fn add(&self, id: Uuid, numbers: Range<u64>) {
        self.commands.execute(&id.to_string(), numbers).await.unwrap();
    }

    async fn load(&self, id: Uuid) -> order::Order {
        std::mem::take(&mut self.loads.load_aggregate(&id.to_string()).await.unwrap().aggregate().0)
    }

    async fn add_with_snapshot(&self, id: Uuid, snapshot: u64, events: u64) -> Supported<()> {
        for numbers in [0..snapshot, snapshot..events] {
            self.kept.execute(&id.to_string(), numbers).await.unwrap();
        }
        Ok(())
    }

    async fn load_from_snapshot(&self, id: Uuid) -> Supported<order::Order> {
        Ok(std::mem::take(&mut self.loads_with_snapshot.load_aggregate(&id.to_string()).await.unwrap().aggregate().0))
    }

    async fn count_all(&self) -> Supported<order::Order> {
        let counter = Counter::default();
        self.replay(counter.clone()).await;
        let order = counter.0.lock().unwrap().clone();
        Ok(order)
    }

    async fn empty_view(&self) -> Supported<()> {
        self.run("TRUNCATE orders", "DELETE FROM orders").await;
        Ok(())
    }

    async fn rebuild(&self) {
        let mut query = GenericQuery::new(self.views.clone());
        query.use_error_handler(Box::new(|error| panic!("{error}")));
        self.replay(query).await;
    }

    async fn row(&self, id: Uuid) -> Option<order::Order> {
        Some(self.views.load(&id.to_string()).await.unwrap()?.0)
    }
}

/// Copied from its `db/init.sql`.
const POSTGRES_TABLES: &str = "
    CREATE TABLE events (
        aggregate_type text NOT NULL,
        aggregate_id text NOT NULL,
        sequence bigint CHECK (sequence >= 0) NOT NULL,
        event_type text NOT NULL,
        event_version text NOT NULL,
        payload json NOT NULL,
        metadata json NOT NULL,
        PRIMARY KEY (aggregate_type, aggregate_id, sequence)
    );
    CREATE TABLE snapshots (
        aggregate_type text NOT NULL,
        aggregate_id text NOT NULL,
        last_sequence bigint CHECK (last_sequence >= 0) NOT NULL,
        current_snapshot bigint CHECK (current_snapshot >= 0) NOT NULL,
        payload json NOT NULL,
        PRIMARY KEY (aggregate_type, aggregate_id, last_sequence)
    );
    CREATE TABLE orders (
        view_id text NOT NULL,
        version bigint CHECK (version >= 0) NOT NULL,
        payload json NOT NULL,
        PRIMARY KEY (view_id)
    );";

/// Copied from its migration.
const SQLITE_TABLES: &str = "
    CREATE TABLE events (
        aggregate_type text NOT NULL,
        aggregate_id text NOT NULL,
        sequence integer CHECK (sequence >= 0) NOT NULL,
        event_type text NOT NULL,
        event_version text NOT NULL,
        payload text NOT NULL,
        metadata text NOT NULL,
        PRIMARY KEY (aggregate_type, aggregate_id, sequence)
    ) STRICT;
    CREATE TABLE snapshots (
        aggregate_type text NOT NULL,
        aggregate_id text NOT NULL,
        last_sequence integer CHECK (last_sequence >= 0) NOT NULL,
        current_snapshot integer CHECK (current_snapshot >= 0) NOT NULL,
        payload text NOT NULL,
        PRIMARY KEY (aggregate_type, aggregate_id, last_sequence)
    ) STRICT;
    CREATE TABLE orders (
        view_id text NOT NULL,
        version integer CHECK (version >= 0) NOT NULL,
        payload text NOT NULL,
        PRIMARY KEY (view_id)
    ) STRICT;";
