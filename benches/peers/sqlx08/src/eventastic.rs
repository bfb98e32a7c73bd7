//! eventastic. It writes a snapshot with each command, and loads from it: what is measured as loading without one has had it deleted.

use std::convert::Infallible;
use std::ops::Range;

use async_trait::async_trait;
use eventastic::aggregate::{Aggregate, Context, Root, SideEffect};
use eventastic::event::DomainEvent;
use eventastic::repository::{Repository, RepositoryError};
use eventastic_postgres::{NoEncryption, PostgresRepository, SideEffectDbError, SideEffectStorage, TableConfig};
use peers::order::{Order, OrderEvent};
use peers::side::{Can, Place, Side};
use serde::{Deserialize, Serialize};
use sqlx::{Executor, PgPool, Postgres, Transaction};
use uuid::Uuid;

/// An event carries its own id, and the first of an order the order's.
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

/// There are none.
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
    /// It makes its own pool; the other is for what it cannot do.
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

    /// Loads outside the transaction, as its documentation has it: the version tells a conflict.
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

    async fn keep(&self, id: Uuid, snapshot: u64, events: u64) -> Can<()> {
        // Those of the orders that are loaded from their events.
        self.pool.execute("DELETE FROM snapshots").await.unwrap();
        self.add(id, 0..snapshot).await;
        self.pool.execute("CREATE TABLE kept AS SELECT * FROM snapshots").await.unwrap();
        self.add(id, snapshot..events).await;
        for statement in ["DELETE FROM snapshots", "INSERT INTO snapshots SELECT * FROM kept"] {
            self.pool.execute(statement).await.unwrap();
        }
        Ok(())
    }

    async fn load_kept(&self, id: Uuid) -> Can<Order> {
        Ok(self.load(id).await)
    }

    async fn count_all(&self) -> Can<Order> {
        Err("reads no events but those of one aggregate, and has no view tables")
    }

    async fn empty_view(&self) -> Can<()> {
        Err("reads no events but those of one aggregate, and has no view tables")
    }
}
