//! eventastic. It writes a snapshot with each command and loads from it. To measure loads without a snapshot, the snapshot is deleted
//! first.

use std::convert::Infallible;
use std::ops::Range;

use async_trait::async_trait;
use eventastic::aggregate::{Aggregate, Context, Root, SideEffect};
use eventastic::event::DomainEvent;
use eventastic::repository::{Repository, RepositoryError};
use eventastic_postgres::{NoEncryption, PostgresRepository, SideEffectDbError, SideEffectStorage, TableConfig};
use peers::order::{Order, OrderEvent};
use peers::side::{Place, Side, Supported};
use serde::{Deserialize, Serialize};
use sqlx::{Executor, PgPool, Postgres, Transaction};
use uuid::Uuid;

/// An event with its own id and the id of its order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Event {
    id: Uuid,
    order: Uuid,
    event: OrderEvent,
}

impl Event {
    fn numbered(order: Uuid, number: u64) -> Self {
        Self { id: Uuid::new_v4(), order, event: OrderEvent::numbered(number) }
    }
}

impl DomainEvent for Event {
    type EventId = Uuid;

    fn id(&self) -> &Uuid {
        &self.id
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Kept {
    id: Uuid,
    order: Order,
}

/// Required by the traits; there are no side effects.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Effect(Uuid);

impl SideEffect for Effect {
    type SideEffectId = Uuid;

    fn id(&self) -> &Uuid {
        &self.0
    }
}

impl Aggregate for Kept {
    const SNAPSHOT_VERSION: u64 = 1;
    type AggregateId = Uuid;
    type DomainEvent = Event;
    type ApplyError = Infallible;
    type SideEffect = Effect;

    fn aggregate_id(&self) -> &Uuid {
        &self.id
    }

    fn apply_new(event: &Event) -> Result<Self, Infallible> {
        let mut kept = Self { id: event.order, order: Order::default() };
        kept.apply(event)?;
        Ok(kept)
    }

    fn apply(&mut self, event: &Event) -> Result<(), Infallible> {
        self.order.apply(event.event.clone());
        Ok(())
    }

    fn side_effects(&self, _: &Event) -> Option<Vec<Effect>> {
        None
    }
}

#[derive(Debug, Clone)]
struct NoOutbox;

#[async_trait]
impl<E> SideEffectStorage<E, Effect> for NoOutbox {
    async fn store_side_effects(
        &self,
        _: &mut Transaction<'_, Postgres>,
        _: Vec<Effect>,
    ) -> Result<(), SideEffectDbError<E, serde_json::Error>> {
        Ok(())
    }
}

pub(crate) struct Eventastic {
    pool: PgPool,
    repository: PostgresRepository<Kept, NoOutbox, NoEncryption>,
}

impl Eventastic {
    /// Opens the repository, which creates its own pool. The other pool is for statements that the repository does not offer.
    pub(crate) async fn new(place: &Place) -> Self {
        let tables = TableConfig::new("events", "snapshots");
        let (options, pool) = (crate::database::postgres_address(place), crate::database::postgres_options(place));
        let repository = PostgresRepository::new(options.clone(), pool, tables, NoOutbox, NoEncryption).await.unwrap();
        Self { pool: PgPool::connect_lazy_with(options), repository }
    }

    async fn loaded(&self, id: Uuid) -> Option<Context<Kept>> {
        match self.repository.load(&id).await {
            Ok(order) => Some(order),
            Err(RepositoryError::AggregateNotFound) => None,
            Err(error) => panic!("{error}"),
        }
    }
}

#[async_trait]
impl Side for Eventastic {
    async fn create(&self) {
        self.repository.run_migrations().await.unwrap();
    }

    async fn execute(&self, id: Uuid, number: u64) {
        self.add(id, number..number + 1).await;
    }

    /// Loads outside the transaction, as its documentation does; the version detects a conflict.
    async fn add(&self, id: Uuid, numbers: Range<u64>) {
        let mut events = numbers.map(|number| Event::numbered(id, number));
        let mut order = match self.loaded(id).await {
            Some(order) => order,
            None => Kept::record_new(events.next().unwrap()).unwrap(),
        };
        events.for_each(|event| order.record_that(event).unwrap());
        let mut tx = self.repository.begin_transaction().await.unwrap();
        tx.store(&mut order).await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn load(&self, id: Uuid) -> Order {
        self.loaded(id).await.unwrap().state().order.clone()
    }

    async fn add_with_snapshot(&self, id: Uuid, snapshot: u64, events: u64) -> Supported<()> {
        // Delete the snapshots of the orders that are loaded from their events.
        self.pool.execute("DELETE FROM snapshots").await.unwrap();
        self.add(id, 0..snapshot).await;
        self.pool.execute("CREATE TABLE kept AS SELECT * FROM snapshots").await.unwrap();
        self.add(id, snapshot..events).await;
        for statement in ["DELETE FROM snapshots", "INSERT INTO snapshots SELECT * FROM kept"] {
            self.pool.execute(statement).await.unwrap();
        }
        Ok(())
    }

    async fn load_from_snapshot(&self, id: Uuid) -> Supported<Order> {
        Ok(self.load(id).await)
    }

    async fn count_all(&self) -> Supported<Order> {
        Err("reads only the events of one aggregate, and has no view tables")
    }

    async fn empty_view(&self) -> Supported<()> {
        Err("reads only the events of one aggregate, and has no view tables")
    }
}
