//! esrs. Its views are the application's own SQL, so there is no view to compare.

use std::convert::Infallible;
use std::ops::Range;

use async_trait::async_trait;
use esrs::manager::AggregateManager;
use esrs::store::postgres::{PgStore, PgStoreBuilder};
use esrs::{Aggregate, AggregateState};
use futures::TryStreamExt;
use peers::order::{Order, OrderEvent};
use peers::side::{Side, Supported};
use sqlx::PgPool;
use uuid::Uuid;

struct Orders;

impl Aggregate for Orders {
    const NAME: &'static str = "order";
    type State = Order;
    type Command = Range<u64>;
    type Event = OrderEvent;
    type Error = Infallible;

    fn handle_command(_: &Order, numbers: Range<u64>) -> Result<Vec<OrderEvent>, Infallible> {
        Ok(numbers.map(OrderEvent::numbered).collect())
    }

    fn apply_event(mut order: Order, event: OrderEvent) -> Order {
        order.apply(event);
        order
    }
}

pub(crate) struct Esrs {
    pool: PgPool,
    store: PgStore<Orders>,
    manager: AggregateManager<PgStore<Orders>>,
}

impl Esrs {
    pub(crate) async fn new(pool: PgPool, migrate: bool) -> Self {
        let builder = PgStoreBuilder::<Orders>::new(pool.clone());
        let builder = if migrate { builder } else { builder.without_running_migrations() };
        let store = builder.try_build().await.unwrap();
        Self { pool, manager: AggregateManager::new(store.clone()), store }
    }

    async fn state(&self, id: Uuid) -> AggregateState<Order> {
        self.manager.load(id).await.unwrap().unwrap_or_else(|| AggregateState::with_id(id))
    }
}

#[async_trait]
impl Side for Esrs {
    /// Building the store has created the tables.
    async fn create(&self) {}

    async fn execute(&self, id: Uuid, number: u64) {
        self.add(id, number..number + 1).await;
    }

    async fn add(&self, id: Uuid, numbers: Range<u64>) {
        let state = self.state(id).await;
        self.manager.handle_command(state, numbers).await.unwrap().unwrap();
    }

    async fn load(&self, id: Uuid) -> Order {
        self.state(id).await.into_inner()
    }

    async fn count_all(&self) -> Supported<Order> {
        let mut order = Order::default();
        let mut events = self.store.stream_events(&self.pool);
        while let Some(event) = events.try_next().await.unwrap() {
            order.apply(event.payload);
        }
        Ok(order)
    }

    async fn empty_view(&self) -> Supported<()> {
        Err("a view is the application's own SQL")
    }
}
