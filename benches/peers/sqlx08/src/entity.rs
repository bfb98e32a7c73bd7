//! es-entity. Its statements are checked against a database at compile time. `.sqlx` holds the results, so that no database is needed;
//! `prepare.sh` regenerates it. Its snapshots are not measured: they would be a separate entity with separate tables.

use std::ops::Range;

use async_trait::async_trait;
use es_entity::{
    EntityEvents, EntityEventsBuilder, EntityHydrationError, EsEntity, EsEvent, EsRepo, FromCaller, IntoEvents,
    TryFromEvents, errlanes,
};
use peers::order::{self, Paid, Placed, Shipped};
use peers::side::{Side, Supported};
use serde::{Deserialize, Serialize};
use sqlx::{Executor, PgPool};
use uuid::Uuid;

es_entity::entity_id! { OrderId }

#[derive(Debug, Clone, EsEvent, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[es_event(id = "OrderId")]
pub enum OrderEvent {
    Placed { event: Placed },
    Paid { event: Paid },
    Shipped { event: Shipped },
}

impl OrderEvent {
    fn numbered(number: u64) -> Self {
        match order::OrderEvent::numbered(number) {
            order::OrderEvent::Placed(event) => Self::Placed { event },
            order::OrderEvent::Paid(event) => Self::Paid { event },
            order::OrderEvent::Shipped(event) => Self::Shipped { event },
        }
    }

    fn fold(&self, order: &mut order::Order) {
        match self.clone() {
            Self::Placed { event } => order.placed(event),
            Self::Paid { event } => order.paid(event),
            Self::Shipped { event } => order.shipped(event),
        }
    }
}

#[derive(EsEntity)]
pub struct Order {
    pub id: OrderId,
    state: order::Order,
    events: EntityEvents<OrderEvent>,
}

impl TryFromEvents<OrderEvent> for Order {
    fn try_from_events(events: EntityEvents<OrderEvent>) -> Result<Self, EntityHydrationError> {
        let mut state = order::Order::default();
        events.iter_all().for_each(|event| event.fold(&mut state));
        let mut hydrator = Order::hydrator();
        hydrator.id(*events.id()).state(state);
        hydrator.build(events)
    }
}

pub struct NewOrder {
    id: OrderId,
    numbers: Range<u64>,
}

impl IntoEvents<OrderEvent> for NewOrder {
    type IdSource = FromCaller;

    fn into_events(self, builder: EntityEventsBuilder<OrderEvent, FromCaller>) -> EntityEvents<OrderEvent> {
        builder.initial_events(self.id, self.numbers.map(OrderEvent::numbered))
    }
}

#[derive(EsRepo)]
#[es_repo(entity = "Order", id(source = caller))]
pub struct Orders {
    pool: PgPool,
}

impl Orders {
    pub(crate) fn new(pool: PgPool) -> Self {
        Self { pool }
    }
}

#[async_trait]
impl Side for Orders {
    async fn create(&self) {
        self.pool.execute(include_str!("../prepare.sql")).await.unwrap();
    }

    async fn execute(&self, id: Uuid, number: u64) {
        self.add(id, number..number + 1).await;
    }

    async fn add(&self, id: Uuid, numbers: Range<u64>) {
        match self.maybe_find_by_id(OrderId::from(id)).await.unwrap() {
            None => drop(Orders::create(self, NewOrder { id: id.into(), numbers }).await.unwrap()),
            Some(mut order) => {
                for number in numbers {
                    let event = OrderEvent::numbered(number);
                    event.fold(&mut order.state);
                    order.events.push(event);
                }
                self.update(&mut order).await.unwrap();
            }
        }
    }

    async fn load(&self, id: Uuid) -> order::Order {
        self.find_by_id(OrderId::from(id)).await.unwrap().state
    }

    async fn add_with_snapshot(&self, _id: Uuid, _snapshot: u64, _events: u64) -> Supported<()> {
        Err("its snapshots are not measured")
    }

    async fn load_from_snapshot(&self, _id: Uuid) -> Supported<order::Order> {
        Err("its snapshots are not measured")
    }

    async fn count_all(&self) -> Supported<order::Order> {
        Err("reads events only through entities, and has no view tables")
    }

    async fn empty_view(&self) -> Supported<()> {
        Err("reads events only through entities, and has no view tables")
    }
}
