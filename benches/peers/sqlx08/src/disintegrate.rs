//! disintegrate. A command's state is a query over all events, and its append a serializable transaction that asks the query again.
//!
//! Its own set-up fails before PostgreSQL 16: a function holds a hexadecimal literal. So the tables and functions are made here, the same but
//! for that literal, and the store is opened as it is over tables that are there.

use std::convert::Infallible;
use std::ops::Range;

use async_trait::async_trait;
use disintegrate::serde::json::Json;
use disintegrate::{
    Decision, Event, EventSourcedStateStore, EventStore, LoadState, NoSnapshot, StateMutate, StateQuery, StreamItem,
    StreamQuery, query,
};
use disintegrate_postgres::{PgDecisionMaker, PgEventId, PgEventStore, PgSnapshotter, WithPgSnapshot, decision_maker};
use futures::TryStreamExt;
use peers::order::{self, Paid, Placed, Shipped};
use peers::side::{ATTEMPTS, Can, Side};
use serde::{Deserialize, Serialize};
use sqlx::{Executor, PgPool};
use uuid::Uuid;

#[derive(Debug, Clone, PartialEq, Event, Serialize, Deserialize)]
#[stream(OrderStream, [Placed, Paid, Shipped])]
enum OrderEvent {
    Placed {
        #[id]
        order_id: Uuid,
        event: Placed,
    },
    Paid {
        #[id]
        order_id: Uuid,
        event: Paid,
    },
    Shipped {
        #[id]
        order_id: Uuid,
        event: Shipped,
    },
}

impl OrderEvent {
    fn numbered(order_id: Uuid, number: u64) -> Self {
        match order::OrderEvent::numbered(number) {
            order::OrderEvent::Placed(event) => Self::Placed { order_id, event },
            order::OrderEvent::Paid(event) => Self::Paid { order_id, event },
            order::OrderEvent::Shipped(event) => Self::Shipped { order_id, event },
        }
    }

    fn fold(self, order: &mut order::Order) {
        match self {
            Self::Placed { event, .. } => order.placed(event),
            Self::Paid { event, .. } => order.paid(event),
            Self::Shipped { event, .. } => order.shipped(event),
        }
    }
}

#[derive(Debug, Clone, Default, StateQuery, Serialize, Deserialize)]
#[state_query(OrderEvent)]
struct Order {
    #[id]
    order_id: Uuid,
    state: order::Order,
}

impl StateMutate for Order {
    fn mutate(&mut self, event: OrderEvent) {
        event.fold(&mut self.state);
    }
}

#[derive(Debug, Clone)]
struct Add(Uuid, Range<u64>);

impl Decision for Add {
    type Event = OrderEvent;
    type StateQuery = Order;
    type Error = Infallible;

    fn state_query(&self) -> Order {
        Order { order_id: self.0, ..Order::default() }
    }

    fn process(&self, _: &Order) -> Result<Vec<OrderEvent>, Infallible> {
        Ok(self.1.clone().map(|number| OrderEvent::numbered(self.0, number)).collect())
    }
}

type Store = PgEventStore<OrderEvent, Json<OrderEvent>>;

pub(crate) struct Disintegrate {
    pool: PgPool,
    store: Store,
    commands: PgDecisionMaker<OrderEvent, Json<OrderEvent>, NoSnapshot>,
    loads: EventSourcedStateStore<PgEventId, OrderEvent, Store, NoSnapshot>,
    loads_kept: EventSourcedStateStore<PgEventId, OrderEvent, Store, WithPgSnapshot>,
}

impl Disintegrate {
    pub(crate) fn new(pool: PgPool) -> Self {
        let store = PgEventStore::new_uninitialized(pool.clone(), Json::default());
        let snapshots = WithPgSnapshot::new(PgSnapshotter::new_uninitialized(pool.clone(), SNAPSHOT));
        Self {
            commands: decision_maker(store.clone(), NoSnapshot),
            loads: EventSourcedStateStore::new(store.clone(), NoSnapshot),
            loads_kept: EventSourcedStateStore::new(store.clone(), snapshots),
            store,
            pool,
        }
    }
}

/// As snapshots are kept on the other sides.
const SNAPSHOT: u64 = 100;

#[async_trait]
impl Side for Disintegrate {
    /// More only refuse each other.
    fn fillers(&self) -> u64 {
        1
    }

    async fn create(&self) {
        self.pool.execute(TABLES).await.unwrap();
    }

    async fn execute(&self, id: Uuid, number: u64) {
        self.add(id, number..number + 1).await;
    }

    async fn add(&self, id: Uuid, numbers: Range<u64>) {
        // Serializable transactions refuse each other where they may have met, also those of different orders.
        for _ in 0..ATTEMPTS {
            match self.commands.make(Add(id, numbers.clone())).await {
                Ok(_) => return,
                Err(error) if is_conflict(&error) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
        panic!("refused {ATTEMPTS} times");
    }

    async fn load(&self, id: Uuid) -> order::Order {
        let order = Order { order_id: id, ..Order::default() };
        self.loads.load(order).await.unwrap().state().state.clone()
    }

    async fn keep(&self, id: Uuid, snapshot: u64, events: u64) -> Can<()> {
        self.add(id, 0..snapshot).await;
        // Loading has it kept.
        self.load_kept(id).await?;
        self.add(id, snapshot..events).await;
        Ok(())
    }

    async fn load_kept(&self, id: Uuid) -> Can<order::Order> {
        let order = Order { order_id: id, ..Order::default() };
        Ok(self.loads_kept.load(order).await.unwrap().state().state.clone())
    }

    async fn count_all(&self) -> Can<order::Order> {
        let mut order = order::Order::default();
        let all: StreamQuery<PgEventId, OrderEvent> = query!(OrderEvent);
        let mut events = self.store.stream(&all);
        while let Some(item) = events.try_next().await.unwrap() {
            if let StreamItem::Event(event) = item {
                event.into_inner().fold(&mut order);
            }
        }
        Ok(order)
    }

    async fn empty_view(&self) -> Can<()> {
        Err("a view is the application's own SQL")
    }
}

fn is_conflict(error: &disintegrate::DecisionError<Infallible>) -> bool {
    let disintegrate::DecisionError::StateStore(error) = error else { return false };
    match error.downcast_ref::<disintegrate_postgres::Error>() {
        Some(disintegrate_postgres::Error::Concurrency) => true,
        Some(disintegrate_postgres::Error::Database(sqlx::Error::Database(error))) => {
            error.code().as_deref() == Some("40001")
        }
        _ => false,
    }
}

/// As its migrator has them, but for 4294967295, which is 0xFFFFFFFF there.
const TABLES: &str = "
    CREATE SEQUENCE seq_event_event_id;
    CREATE TABLE event (
        event_id BIGINT PRIMARY KEY DEFAULT nextval('seq_event_event_id'),
        event_type VARCHAR(255),
        payload BYTEA,
        inserted_at TIMESTAMP DEFAULT now()
    );
    CREATE INDEX idx_event_type_btree ON event(event_type);
    CREATE FUNCTION event_store_current_epoch() RETURNS BIGINT AS $$
    DECLARE
        persisted_event_id BIGINT;
        pending_event_id BIGINT;
        db_id INT;
    BEGIN
        SELECT COALESCE(MAX(event_id), 0) INTO persisted_event_id FROM event;
        SELECT oid INTO db_id FROM pg_database WHERE datname = current_database();

        SELECT MIN((l3.objid::bigint << 32) + l2.objid::bigint)
        INTO pending_event_id
        FROM pg_locks l1
        INNER JOIN pg_locks l2 ON l1.pid = l2.pid
        INNER JOIN pg_locks l3 ON l1.pid = l3.pid
        WHERE
            l1.classid = db_id
            AND l2.classid = 1
            AND l3.classid = 2
            AND l1.locktype = 'advisory';

        RETURN LEAST(COALESCE(pending_event_id, persisted_event_id), persisted_event_id);
    END;
    $$ LANGUAGE plpgsql;
    CREATE FUNCTION event_store_begin_epoch() RETURNS void AS $$
    DECLARE
        id BIGINT;
        db_id INT;
    BEGIN
        SELECT last_value INTO id FROM seq_event_event_id;
        SELECT oid INTO db_id FROM pg_database WHERE datname = current_database();

        PERFORM pg_try_advisory_xact_lock_shared(db_id, 0);
        PERFORM pg_try_advisory_xact_lock_shared(1, (id & 4294967295)::bit(32)::integer);
        PERFORM pg_try_advisory_xact_lock_shared(2, (id >> 32)::bit(32)::integer);
    END;
    $$ LANGUAGE plpgsql;
    ALTER TABLE event ADD COLUMN order_id UUID;
    CREATE INDEX idx_event_order_id ON event (order_id) WHERE order_id IS NOT NULL;
    CREATE TABLE snapshot (
        id uuid PRIMARY KEY,
        name text,
        query text,
        version bigint,
        payload text,
        inserted_at TIMESTAMP DEFAULT now()
    );";
