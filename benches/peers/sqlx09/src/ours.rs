//! The library itself.

use std::convert::Infallible;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use peers::order::{self, Paid, Placed, Shipped};
use peers::side::{Place, Side, Supported};
use retell::repository::RepositoryOptions;
use retell::store::postgres::PostgresOptions;
use retell::store::sqlite::{SqliteOptions, Synchronous};
use retell::{
    Aggregate, Apply, Envelope, Event, EventReaderExt, EventStore, Filter, Handle, Position, PostgresReadModel, PostgresStore, Rebuild,
    Repository, Shape, SqliteReadModel, SqliteStore, View, Views,
};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::database;

#[derive(Debug, Event)]
enum OrderEvent {
    #[event("order.placed")]
    Placed(#[event(opaque)] Placed),
    #[event("order.paid")]
    Paid(#[event(opaque)] Paid),
    #[event("order.shipped")]
    Shipped(#[event(opaque)] Shipped),
}

impl OrderEvent {
    fn numbered(number: u64) -> Self {
        match order::OrderEvent::numbered(number) {
            order::OrderEvent::Placed(placed) => Self::Placed(placed),
            order::OrderEvent::Paid(paid) => Self::Paid(paid),
            order::OrderEvent::Shipped(shipped) => Self::Shipped(shipped),
        }
    }

    fn fold(self, order: &mut order::Order) {
        match self {
            Self::Placed(placed) => order.placed(placed),
            Self::Paid(paid) => order.paid(paid),
            Self::Shipped(shipped) => order.shipped(shipped),
        }
    }
}

/// Appends the events with these numbers.
struct Add(Range<u64>);

/// The order without snapshots, so that every load reads all events.
#[derive(Debug, Clone, Default, Aggregate)]
#[aggregate("order", event = OrderEvent, snapshots = never)]
struct Order(order::Order);

impl Apply<OrderEvent> for Order {
    fn apply(&mut self, event: OrderEvent) {
        event.fold(&mut self.0);
    }
}

impl Handle<Add> for Order {
    type Error = Infallible;

    fn handle(&self, Add(numbers): &Add) -> Result<Vec<OrderEvent>, Infallible> {
        Ok(numbers.clone().map(OrderEvent::numbered).collect())
    }
}

/// The order with a snapshot every 100 events.
#[derive(Debug, Clone, Default, Serialize, Deserialize, Aggregate)]
#[aggregate("order", event = OrderEvent, snapshots = 100)]
struct KeptOrder(order::Order);

impl Apply<OrderEvent> for KeptOrder {
    fn apply(&mut self, event: OrderEvent) {
        event.fold(&mut self.0);
    }
}

impl Handle<Add> for KeptOrder {
    type Error = Infallible;

    fn handle(&self, Add(numbers): &Add) -> Result<Vec<OrderEvent>, Infallible> {
        Ok(numbers.clone().map(OrderEvent::numbered).collect())
    }
}

/// The state of a row. The type is that of all peers.
#[derive(Debug, Default, Serialize, Deserialize, Shape)]
#[serde(transparent)]
struct Row(#[shape(opaque)] order::Order);

struct Orders;

impl View for Orders {
    const NAME: &'static str = "orders";
    type Event = OrderEvent;
    type State = Row;

    fn key(&self, event: &Envelope<OrderEvent>) -> Option<String> {
        Some(event.stream.aggregate_id().to_string())
    }

    fn apply(&self, row: &mut Row, event: Envelope<OrderEvent>) {
        event.event.fold(&mut row.0);
    }
}

#[derive(Clone)]
enum Database {
    Postgres(PostgresStore, PostgresReadModel),
    Sqlite(SqliteStore, SqliteReadModel),
}

pub(crate) struct Ours {
    database: Database,
    commands: Repository<Order>,
    uncached: Repository<Order>,
    kept: Repository<KeptOrder>,
}

impl Ours {
    pub(crate) async fn postgres(place: &Place, cached: bool) -> Self {
        let (pool, options) = (database::postgres(place).await, PostgresOptions::new());
        let store = PostgresStore::open_with(pool.clone(), options.clone()).await.unwrap();
        let models = PostgresReadModel::open_with(pool, options).await.unwrap();
        Self::over(Database::Postgres(store, models), cached)
    }

    /// Opens two files, one for the log and one for the views. Views can be rebuilt, so their file keeps the default durability.
    pub(crate) async fn sqlite(place: &Place, cached: bool) -> Self {
        let options = SqliteOptions::new().with_synchronous(Synchronous::Full);
        let store = SqliteStore::open_with(&place.url, options).await.unwrap();
        let models = SqliteReadModel::open(Path::new(&place.url).with_extension("views")).await.unwrap();
        Self::over(Database::Sqlite(store, models), cached)
    }

    fn over(database: Database, cached: bool) -> Self {
        let store: Arc<dyn EventStore> = match &database {
            Database::Postgres(store, _) => Arc::new(store.clone()),
            Database::Sqlite(store, _) => Arc::new(store.clone()),
        };
        let options = RepositoryOptions::new();
        let uncached = options.with_cached_aggregates(0);
        Self {
            database,
            commands: Repository::over(store.clone()).with_options(if cached { options } else { uncached }),
            uncached: Repository::over(store.clone()).with_options(uncached),
            kept: Repository::over(store).with_options(uncached),
        }
    }

    fn store(&self) -> &dyn EventStore {
        match &self.database {
            Database::Postgres(store, _) => store,
            Database::Sqlite(store, _) => store,
        }
    }
}

#[async_trait]
impl Side for Ours {
    /// Opening the stores has created the tables.
    async fn create(&self) {}

    async fn execute(&self, id: Uuid, number: u64) {
        self.commands.execute(id.to_string(), Add(number..number + 1)).await.unwrap();
    }

    async fn add(&self, id: Uuid, numbers: Range<u64>) {
        self.uncached.execute(id.to_string(), Add(numbers)).await.unwrap();
    }

    async fn load(&self, id: Uuid) -> order::Order {
        self.uncached.load(id.to_string()).await.unwrap().state.0
    }

    async fn add_with_snapshot(&self, id: Uuid, snapshot: u64, events: u64) -> Supported<()> {
        self.kept.execute(id.to_string(), Add(0..snapshot)).await.unwrap();
        self.kept.flush().await;
        self.kept.execute(id.to_string(), Add(snapshot..events)).await.unwrap();
        self.kept.flush().await;
        Ok(())
    }

    async fn load_from_snapshot(&self, id: Uuid) -> Supported<order::Order> {
        Ok(self.kept.load(id.to_string()).await.unwrap().state.0)
    }

    async fn count_all(&self) -> Supported<order::Order> {
        let (mut order, mut after) = (order::Order::default(), Position::ZERO);
        loop {
            let page = self.store().read_all(after, 10_000, &Filter::all()).await.unwrap();
            if page.through == after {
                return Ok(order);
            }
            after = page.through;
            for event in page.events {
                event.into_envelope::<OrderEvent>().unwrap().event.fold(&mut order);
            }
        }
    }

    async fn empty_view(&self) -> Supported<()> {
        match &self.database {
            Database::Postgres(store, models) => Rebuild::new(Orders, store.clone(), models.clone()).reset().await,
            Database::Sqlite(store, models) => Rebuild::new(Orders, store.clone(), models.clone()).reset().await,
        }
        .unwrap();
        Ok(())
    }

    async fn rebuild(&self) {
        let stop = CancellationToken::new();
        match &self.database {
            Database::Postgres(store, models) => Rebuild::new(Orders, store.clone(), models.clone()).run(stop).await,
            Database::Sqlite(store, models) => Rebuild::new(Orders, store.clone(), models.clone()).run(stop).await,
        }
        .unwrap();
    }

    async fn row(&self, id: Uuid) -> Option<order::Order> {
        let id = id.to_string();
        match &self.database {
            Database::Postgres(_, models) => Views::new(&Orders, models.clone()).get(&id).await.unwrap(),
            Database::Sqlite(_, models) => Views::new(&Orders, models.clone()).get(&id).await.unwrap(),
        }
        .map(|row| row.0)
    }
}
