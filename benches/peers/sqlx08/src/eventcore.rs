//! eventcore. The state of a command is folded from a stream's events, or from a snapshot if the command asks for one. A snapshot is
//! refreshed after 100 more events.

use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ::eventcore::{Command, CommandError, CommandLogic, Event, NewEvents, RetryPolicy, StreamId, execute};
use async_trait::async_trait;
use eventcore_postgres::PostgresEventStore;
use eventcore_sqlite::SqliteEventStore;
use eventcore_types::{BatchSize, CommandStateSnapshotId, EventFilter, EventPage, EventReader, EventStore};
use futures::TryStreamExt;
use peers::order::{Order, OrderEvent};
use peers::side::{Place, Side, Supported};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;
use uuid::Uuid;

/// An event with its stream.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct OfOrder {
    order: StreamId,
    event: OrderEvent,
}

impl Event for OfOrder {
    fn stream_id(&self) -> &StreamId {
        &self.order
    }

    fn event_type_name() -> &'static str {
        "order"
    }
}

/// Appends the events with these numbers.
#[derive(Clone, Command)]
struct Add {
    #[stream]
    order: StreamId,
    numbers: Range<u64>,
}

impl CommandLogic for Add {
    type Event = OfOrder;
    type State = Order;

    fn apply(&self, mut order: Order, event: &OfOrder) -> Order {
        order.apply(event.event.clone());
        order
    }

    fn handle(&self, _: Order) -> Result<NewEvents<OfOrder>, CommandError> {
        let event = |number| OfOrder { order: self.order.clone(), event: OrderEvent::numbered(number) };
        Ok(self.numbers.clone().map(event).collect::<Vec<_>>().into())
    }
}

/// Appends nothing; records the state that was folded from a snapshot.
#[derive(Clone, Command)]
struct Look {
    #[stream]
    order: StreamId,
    seen: Arc<Mutex<Order>>,
}

impl CommandLogic for Look {
    type Event = OfOrder;
    type State = Order;

    fn apply(&self, mut order: Order, event: &OfOrder) -> Order {
        order.apply(event.event.clone());
        order
    }

    fn handle(&self, order: Order) -> Result<NewEvents<OfOrder>, CommandError> {
        *self.seen.lock().unwrap() = order;
        Ok(NewEvents::default())
    }

    fn command_state_snapshot_id(&self) -> Option<CommandStateSnapshotId> {
        Some(CommandStateSnapshotId::try_new(self.order.to_string()).unwrap())
    }

    fn serialize_command_state_snapshot(&self, order: &Order) -> Result<serde_json::Value, CommandError> {
        Ok(serde_json::to_value(order).unwrap())
    }

    fn deserialize_command_state_snapshot(&self, order: serde_json::Value) -> Result<Order, CommandError> {
        Ok(serde_json::from_value(order).unwrap())
    }
}

pub(crate) struct Eventcore<S> {
    store: S,
    migrate: fn(S) -> futures::future::BoxFuture<'static, ()>,
}

pub(crate) fn postgres(pool: PgPool) -> Eventcore<Arc<PostgresEventStore>> {
    let migrate = |store: Arc<PostgresEventStore>| -> futures::future::BoxFuture<'static, ()> {
        Box::pin(async move { store.migrate().await })
    };
    Eventcore { store: Arc::new(PostgresEventStore::from_pool(pool)), migrate }
}

/// Opens the store. It has one connection, which gets the settings of the other sides.
pub(crate) fn sqlite(place: &Place) -> Eventcore<Arc<SqliteEventStore>> {
    let db = rusqlite::Connection::open(&place.url).unwrap();
    for (name, value) in [("journal_mode", "WAL"), ("synchronous", "FULL"), ("cache_size", "-16384")] {
        db.pragma_update(None, name, value).unwrap();
    }
    db.busy_timeout(Duration::from_mins(1)).unwrap();
    let migrate = |store: Arc<SqliteEventStore>| -> futures::future::BoxFuture<'static, ()> {
        Box::pin(async move { store.migrate().await.unwrap() })
    };
    Eventcore { store: Arc::new(SqliteEventStore::from_connection(db)), migrate }
}

fn stream(id: Uuid) -> StreamId {
    StreamId::try_new(id.to_string()).unwrap()
}

#[async_trait]
impl<S> Side for Eventcore<Arc<S>>
where
    S: Send + Sync + 'static,
    for<'s> &'s S: EventStore,
    S: EventStore + EventReader<Error: std::fmt::Debug>,
{
    async fn create(&self) {
        (self.migrate)(self.store.clone()).await;
    }

    async fn execute(&self, id: Uuid, number: u64) {
        self.add(id, number..number + 1).await;
    }

    async fn add(&self, id: Uuid, numbers: Range<u64>) {
        execute(&*self.store, Add { order: stream(id), numbers }, RetryPolicy::new()).await.unwrap();
    }

    async fn load(&self, id: Uuid) -> Order {
        let mut order = Order::default();
        let mut events = self.store.read_stream::<OfOrder>(stream(id)).await.unwrap();
        while let Some(event) = events.try_next().await.unwrap() {
            order.apply(event.event);
        }
        order
    }

    async fn add_with_snapshot(&self, id: Uuid, snapshot: u64, events: u64) -> Supported<()> {
        self.add(id, 0..snapshot).await;
        self.load_from_snapshot(id).await?;
        self.add(id, snapshot..events).await;
        Ok(())
    }

    async fn load_from_snapshot(&self, id: Uuid) -> Supported<Order> {
        let seen = Arc::default();
        let look = Look { order: stream(id), seen: Arc::clone(&seen) };
        execute(&*self.store, look, RetryPolicy::new()).await.unwrap();
        let order = seen.lock().unwrap().clone();
        Ok(order)
    }

    async fn count_all(&self) -> Supported<Order> {
        let (mut order, limit) = (Order::default(), BatchSize::new(1_000));
        let mut next = Some(EventPage::first(limit));
        while let Some(page) = next {
            let events = self.store.read_events::<OfOrder>(EventFilter::all(), page).await.unwrap();
            next = page.next_from_results(&events);
            events.into_iter().for_each(|(event, _)| order.apply(event.event));
        }
        Ok(order)
    }

    async fn empty_view(&self) -> Supported<()> {
        Err("a view is the application's own")
    }
}
