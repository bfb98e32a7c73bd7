//! The code that an application without a library would contain: one table, sqlx, serde_json. A command reads the order's events, decides,
//! and inserts one row without an explicit transaction; the unique key detects a conflict.

use std::ops::Range;

use async_trait::async_trait;
use futures::TryStreamExt;
use peers::order::{Order, OrderEvent, Paid, Placed, Shipped};
use peers::side::{ATTEMPTS, Side, Supported};
use sqlx::{Executor, PgPool, Row, SqlitePool};
use uuid::Uuid;

/// Returns the name and the payload of an event: one struct per type, without a tag.
fn encoded(number: u64) -> (&'static str, Vec<u8>) {
    let event = OrderEvent::numbered(number);
    let payload = match &event {
        OrderEvent::Placed(placed) => serde_json::to_vec(placed),
        OrderEvent::Paid(paid) => serde_json::to_vec(paid),
        OrderEvent::Shipped(shipped) => serde_json::to_vec(shipped),
    };
    (event.name(), payload.unwrap())
}

fn fold(order: &mut Order, event_type: &str, payload: &[u8]) {
    match event_type {
        "order.placed" => order.placed(serde_json::from_slice::<Placed>(payload).unwrap()),
        "order.paid" => order.paid(serde_json::from_slice::<Paid>(payload).unwrap()),
        "order.shipped" => order.shipped(serde_json::from_slice::<Shipped>(payload).unwrap()),
        other => panic!("{other}"),
    }
}

/// Implements the side for one driver. Only the types differ, since sqlx requires concrete types where a statement runs.
macro_rules! by_hand {
    ($name:ident, $pool:ty, $tables:ident) => {
        pub(crate) struct $name($pool);

        impl $name {
            pub(crate) fn new(pool: $pool) -> Self {
                Self(pool)
            }

            /// Loads the events after version `version`.
            async fn load_after(&self, id: Uuid, version: i64, mut order: Order) -> Order {
                let mut rows = sqlx::query(LOAD).bind(id).bind(version).fetch(&self.0);
                while let Some(row) = rows.try_next().await.unwrap() {
                    fold(&mut order, row.get(0), row.get(1));
                }
                order
            }

            async fn insert(&self, id: Uuid, first: u64, numbers: Range<u64>) {
                let mut tx = self.0.begin().await.unwrap();
                for (version, number) in (first + 1..).zip(numbers) {
                    let (event_type, payload) = encoded(number);
                    let insert = sqlx::query(INSERT).bind(Uuid::now_v7()).bind(id).bind(version.cast_signed());
                    insert.bind(event_type).bind(payload).execute(&mut *tx).await.unwrap();
                }
                tx.commit().await.unwrap();
            }
        }

        #[async_trait]
        impl Side for $name {
            async fn create(&self) {
                self.0.execute($tables).await.unwrap();
            }

            async fn execute(&self, id: Uuid, number: u64) {
                for _ in 0..ATTEMPTS {
                    let order = self.load(id).await;
                    let (event_type, payload) = encoded(number);
                    let version = order.events.cast_signed() + 1;
                    let insert = sqlx::query(INSERT).bind(Uuid::now_v7()).bind(id).bind(version);
                    match insert.bind(event_type).bind(payload).execute(&self.0).await {
                        Ok(_) => return,
                        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                panic!("conflicted {ATTEMPTS} times");
            }

            async fn add(&self, id: Uuid, numbers: Range<u64>) {
                self.insert(id, numbers.start, numbers).await;
            }

            async fn load(&self, id: Uuid) -> Order {
                self.load_after(id, 0, Order::default()).await
            }

            async fn add_with_snapshot(&self, id: Uuid, snapshot: u64, events: u64) -> Supported<()> {
                self.insert(id, 0, 0..snapshot).await;
                let state = serde_json::to_vec(&self.load(id).await).unwrap();
                let insert = sqlx::query("INSERT INTO snapshots (aggregate_id, version, state) VALUES ($1, $2, $3)");
                insert.bind(id).bind(snapshot.cast_signed()).bind(state).execute(&self.0).await.unwrap();
                self.insert(id, snapshot, snapshot..events).await;
                Ok(())
            }

            async fn load_from_snapshot(&self, id: Uuid) -> Supported<Order> {
                let select = sqlx::query("SELECT version, state FROM snapshots WHERE aggregate_id = $1").bind(id);
                let row = select.fetch_one(&self.0).await.unwrap();
                let order = serde_json::from_slice(row.get(1)).unwrap();
                Ok(self.load_after(id, row.get(0), order).await)
            }

            async fn count_all(&self) -> Supported<Order> {
                let mut order = Order::default();
                let mut rows = sqlx::query(ALL).fetch(&self.0);
                while let Some(row) = rows.try_next().await.unwrap() {
                    fold(&mut order, row.get(0), row.get(1));
                }
                Ok(order)
            }

            async fn empty_view(&self) -> Supported<()> {
                Err("not implemented")
            }
        }
    };
}

by_hand!(ByHand, PgPool, POSTGRES_TABLES);
by_hand!(ByHandSqlite, SqlitePool, SQLITE_TABLES);

const POSTGRES_TABLES: &str = "
    CREATE TABLE events (
        position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        event_id uuid NOT NULL UNIQUE,
        aggregate_id uuid NOT NULL,
        version bigint NOT NULL,
        event_type text NOT NULL,
        payload bytea NOT NULL,
        recorded_at timestamptz NOT NULL DEFAULT now(),
        UNIQUE (aggregate_id, version)
    );
    CREATE TABLE snapshots (aggregate_id uuid PRIMARY KEY, version bigint NOT NULL, state bytea NOT NULL);";

const SQLITE_TABLES: &str = "
    CREATE TABLE events (
        position integer PRIMARY KEY,
        event_id blob NOT NULL UNIQUE,
        aggregate_id blob NOT NULL,
        version integer NOT NULL,
        event_type text NOT NULL,
        payload blob NOT NULL,
        recorded_at text NOT NULL DEFAULT CURRENT_TIMESTAMP,
        UNIQUE (aggregate_id, version)
    ) STRICT;
    CREATE TABLE snapshots (aggregate_id blob PRIMARY KEY, version integer NOT NULL, state blob NOT NULL) STRICT;";

/// Binds: aggregate id, version.
const LOAD: &str = "SELECT event_type, payload FROM events WHERE aggregate_id = $1 AND version > $2 ORDER BY version";

const ALL: &str = "SELECT event_type, payload FROM events ORDER BY position";

/// Binds: event id, aggregate id, version, event type, payload.
const INSERT: &str =
    "INSERT INTO events (event_id, aggregate_id, version, event_type, payload) VALUES ($1, $2, $3, $4, $5)";
