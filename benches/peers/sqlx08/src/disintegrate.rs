//! disintegrate. The state of a command is a query over all events, and the append is a serializable transaction that repeats the query.
//!
//! Its own setup fails on PostgreSQL before version 16, since one of its functions contains a hexadecimal literal. So this module creates
//! the same tables and functions without that literal, and opens the store on existing tables.

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
use peers::side::{ATTEMPTS, Side, Supported};
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
    loads_with_snapshot: EventSourcedStateStore<PgEventId, OrderEvent, Store, WithPgSnapshot>,
}

impl Disintegrate {
    pub(crate) fn new(pool: PgPool) -> Self {
        let store = PgEventStore::new_uninitialized(pool.clone(), Json::default());
        let snapshots = WithPgSnapshot::new(PgSnapshotter::new_uninitialized(pool.clone(), SNAPSHOT));
        Self {
            commands: decision_maker(store.clone(), NoSnapshot),
            loads: EventSourcedStateStore::new(store.clone(), NoSnapshot),
            loads_with_snapshot: EventSourcedStateStore::new(store.clone(), snapshots),
            store,
            pool,
        }
    }
}

/// The snapshot interval of the other sides.
const SNAPSHOT: u64 = 100;

#[async_trait]
impl Side for Disintegrate {
    /// More tasks would only conflict with each other.
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
        // Serializable transactions may conflict even if their orders differ.
        for _ in 0..ATTEMPTS {
            match self.commands.make(Add(id, numbers.clone())).await {
                Ok(_) => return,
                Err(error) if is_conflict(&error) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
        panic!("conflicted {ATTEMPTS} times");
    }

    async fn load(&self, id: Uuid) -> order::Order {
        let order = Order { order_id: id, ..Order::default() };
        self.loads.load(order).await.unwrap().state().state.clone()
    }

    async fn add_with_snapshot(&self, id: Uuid, snapshot: u64, events: u64) -> Supported<()> {
        self.add(id, 0..snapshot).await;
        // Loading stores the snapshot.
        self.load_from_snapshot(id).await?;
        self.add(id, snapshot..events).await;
        Ok(())
    }

    async fn load_from_snapshot(&self, id: Uuid) -> Supported<order::Order> {
        let order = Order { order_id: id, ..Order::default() };
        Ok(self.loads_with_snapshot.load(order).await.unwrap().state().state.clone())
    }

    async fn count_all(&self) -> Supported<order::Order> {
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

    async fn empty_view(&self) -> Supported<()> {
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

/// Copied from its migrator, except for 4294967295, which is 0xFFFFFFFF there.
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
