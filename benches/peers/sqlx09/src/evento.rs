//! evento. Its payloads are bitcode, which is smaller than JSON. Aggregates are loaded from their events on each load. It can also cache
//! them in memory, which is not measured. An aggregate has at most 65,535 events.

use std::ops::Range;

use ::evento::cursor::Args;
use ::evento::metadata::Event;
use ::evento::migrator::{Migrate, Plan};
use ::evento::{Executor, Projection, ProjectionAggregate, TenantFilter, WriteBuilder, WriteError};
use async_trait::async_trait;
use peers::order;
use peers::side::{ATTEMPTS, Side, Supported};
use sqlx::{PgPool, SqlitePool};
use uuid::Uuid;

#[derive(Debug, Clone, PartialEq, bitcode::Encode, bitcode::Decode)]
pub(crate) struct Item {
    sku: String,
    quantity: u32,
    cents: u64,
}

#[::evento::aggregate(name = "order")]
pub(crate) enum Order {
    Placed { order_id: String, user_id: u64, items: Vec<Item>, total_cents: u64, method: String, at: String },
    Paid { order_id: String, user_id: u64, payment_id: String, cents: u64, method: String, at: String },
    Shipped { order_id: String, parcel: String, carrier: String, items: Vec<String>, weight_grams: u32, at: String },
}

fn placed(event: Placed) -> order::Placed {
    let Placed { order_id, user_id, items, total_cents, method, at } = event;
    let item = |Item { sku, quantity, cents }| order::Item { sku, quantity, cents };
    order::Placed { order_id, user_id, items: items.into_iter().map(item).collect(), total_cents, method, at }
}

fn paid(event: Paid) -> order::Paid {
    let Paid { order_id, user_id, payment_id, cents, method, at } = event;
    order::Paid { order_id, user_id, payment_id, cents, method, at }
}

fn shipped(event: Shipped) -> order::Shipped {
    let Shipped { order_id, parcel, carrier, items, weight_grams, at } = event;
    order::Shipped { order_id, parcel, carrier, items, weight_grams, at }
}

/// Adds the event with this number to `builder`.
fn write(builder: &mut WriteBuilder, number: u64) {
    match order::OrderEvent::numbered(number) {
        order::OrderEvent::Placed(order::Placed { order_id, user_id, items, total_cents, method, at }) => {
            let item = |order::Item { sku, quantity, cents }| Item { sku, quantity, cents };
            let items = items.into_iter().map(item).collect();
            builder.event(&Placed { order_id, user_id, items, total_cents, method, at })
        }
        order::OrderEvent::Paid(order::Paid { order_id, user_id, payment_id, cents, method, at }) => {
            builder.event(&Paid { order_id, user_id, payment_id, cents, method, at })
        }
        order::OrderEvent::Shipped(order::Shipped { order_id, parcel, carrier, items, weight_grams, at }) => {
            builder.event(&Shipped { order_id, parcel, carrier, items, weight_grams, at })
        }
    };
}

/// Declares a state. It is declared twice: one is never stored, the other is stored on each load that found new events.
macro_rules! state {
    ($name:ident, $handlers:ident, $(#[$attribute:meta])+) => {
        $(#[$attribute])+
        pub(crate) struct $name {
            id: String,
            events: u64,
            items: u64,
            owed: u64,
            paid: u64,
            grams: u64,
            method: String,
            parcel: String,
        }

        impl $name {
            fn change(&mut self, id: &str, change: impl FnOnce(&mut order::Order)) {
                self.id = id.to_owned();
                let mut order = self.take();
                change(&mut order);
                let order::Order { events, items, owed, paid, grams, method, parcel } = order;
                (self.events, self.items, self.owed, self.paid, self.grams) = (events, items, owed, paid, grams);
                (self.method, self.parcel) = (method, parcel);
            }

            fn take(&mut self) -> order::Order {
                let (method, parcel) = (std::mem::take(&mut self.method), std::mem::take(&mut self.parcel));
                let Self { events, items, owed, paid, grams, .. } = *self;
                order::Order { events, items, owed, paid, grams, method, parcel }
            }
        }

        mod $handlers {
            use super::*;

            #[::evento::handler]
            async fn on_placed(event: Event<Placed>, order: &mut $name) -> anyhow::Result<()> {
                order.change(&event.aggregate_id, |order| order.placed(placed(event.data.clone())));
                Ok(())
            }

            #[::evento::handler]
            async fn on_paid(event: Event<Paid>, order: &mut $name) -> anyhow::Result<()> {
                order.change(&event.aggregate_id, |order| order.paid(paid(event.data.clone())));
                Ok(())
            }

            #[::evento::handler]
            async fn on_shipped(event: Event<Shipped>, order: &mut $name) -> anyhow::Result<()> {
                order.change(&event.aggregate_id, |order| order.shipped(shipped(event.data.clone())));
                Ok(())
            }

            pub(super) async fn load<E: Executor>(executor: &E, id: Uuid) -> Option<$name> {
                let projection = Projection::<E, $name>::new::<Order>();
                let projection = projection.handler(on_placed()).handler(on_paid()).handler(on_shipped());
                projection.load(id.to_string()).execute(executor).await.unwrap()
            }
        }
    };
}

state!(Replayed, replayed, #[::evento::projection(id = id)] #[::evento::snapshot(none)]);
state!(Kept, kept, #[::evento::projection(id = id, bitcode::Encode, bitcode::Decode)]);

pub(crate) struct Evento<E>(E);

pub(crate) async fn postgres(pool: PgPool, migrate: bool) -> Evento<::evento::Postgres> {
    if migrate {
        let mut db = pool.acquire().await.unwrap();
        ::evento::sql_migrator::new::<sqlx::Postgres>().unwrap().run(&mut *db, &Plan::apply_all()).await.unwrap();
    }
    Evento(pool.into())
}

pub(crate) async fn sqlite(pool: SqlitePool, migrate: bool) -> Evento<::evento::Sqlite> {
    if migrate {
        let mut db = pool.acquire().await.unwrap();
        ::evento::sql_migrator::new::<sqlx::Sqlite>().unwrap().run(&mut *db, &Plan::apply_all()).await.unwrap();
    }
    Evento(pool.into())
}

impl<E: Executor> Evento<E> {
    async fn try_add(&self, id: Uuid, numbers: Range<u64>) -> Result<(), WriteError> {
        let mut builder = match replayed::load(&self.0, id).await {
            Some(order) => order.write().unwrap(),
            None => WriteBuilder::new(id.to_string()),
        };
        numbers.for_each(|number| write(&mut builder, number));
        builder.commit(&self.0).await.map(drop)
    }
}

#[async_trait]
impl<E: Executor> Side for Evento<E> {
    /// Opening the side has run the migrations.
    async fn create(&self) {}

    async fn execute(&self, id: Uuid, number: u64) {
        for _ in 0..ATTEMPTS {
            match self.try_add(id, number..number + 1).await {
                Ok(()) => return,
                Err(WriteError::InvalidOriginalVersion) => {}
                Err(error) => panic!("{error}"),
            }
        }
        panic!("conflicted {ATTEMPTS} times");
    }

    async fn add(&self, id: Uuid, numbers: Range<u64>) {
        self.try_add(id, numbers).await.unwrap();
    }

    async fn load(&self, id: Uuid) -> order::Order {
        replayed::load(&self.0, id).await.unwrap().take()
    }

    async fn add_with_snapshot(&self, id: Uuid, snapshot: u64, events: u64) -> Supported<()> {
        self.add(id, 0..snapshot).await;
        self.load_from_snapshot(id).await?;
        self.add(id, snapshot..events).await;
        Ok(())
    }

    async fn load_from_snapshot(&self, id: Uuid) -> Supported<order::Order> {
        Ok(kept::load(&self.0, id).await.unwrap().take())
    }

    async fn count_all(&self) -> Supported<order::Order> {
        let (mut order, mut after) = (order::Order::default(), None);
        loop {
            let page = Args::forward(1_000, after);
            let page = self.0.read(None, None, TenantFilter::All, page, None).await.unwrap();
            for edge in page.edges {
                match OrderEvent::try_from(&edge.node).unwrap() {
                    OrderEvent::Placed(event) => order.placed(placed(event)),
                    OrderEvent::Paid(event) => order.paid(paid(event)),
                    OrderEvent::Shipped(event) => order.shipped(shipped(event)),
                }
            }
            if !page.page_info.has_next_page {
                return Ok(order);
            }
            after = page.page_info.end_cursor;
        }
    }

    async fn empty_view(&self) -> Supported<()> {
        Err("a view is the application's own SQL")
    }
}
