//! Finds orders by customer and by day.

use std::marker::PhantomData;
use std::num::TryFromIntError;

use chrono::NaiveDate;
use retell::{BoxError, Envelope, Projection, async_trait};

use crate::database::{Database, Insert, Row, Select};
use crate::domain::Cents;
use crate::domain::order::OrderEvent;
use crate::read_models::ReadModels;

pub const NAME: &str = "search";

pub struct Search<D>(pub PhantomData<fn() -> D>);

#[async_trait]
impl<D: Database> Projection for Search<D> {
    const NAME: &'static str = NAME;
    type Event = OrderEvent;
    type Tx = D;

    async fn setup(&self, db: &mut D) -> Result<(), BoxError> {
        db.create(TABLES).await
    }

    async fn apply(&self, db: &mut D, event: Envelope<OrderEvent>) -> Result<(), BoxError> {
        self.apply_batch(db, vec![event]).await
    }

    async fn apply_batch(&self, db: &mut D, events: Vec<Envelope<OrderEvent>>) -> Result<(), BoxError> {
        let (mut created, mut cancelled) = (Vec::new(), Vec::new());
        for event in events {
            match event.event {
                OrderEvent::Created { order_id, user_id, total_amount, date, .. } => {
                    created.push(order(order_id, user_id, total_amount, date, false)?);
                }
                OrderEvent::Cancelled { order_id, user_id, total_amount, date, .. } => {
                    cancelled.push(order(order_id, user_id, total_amount, date, true)?);
                }
                OrderEvent::Confirmed { .. } => {}
            }
        }
        db.insert(&ADD_ORDER, created).await?;
        db.insert(&CANCEL_ORDER, cancelled).await
    }
}

fn order(id: String, user_id: String, amount: Cents, date: NaiveDate, cancelled: bool) -> Result<Row, TryFromIntError> {
    let (cents, cancelled) = (i64::try_from(amount.0)?, i64::from(cancelled));
    Ok(Row::from([id.into(), user_id.into(), date.to_string().into(), cents.into(), cancelled.into()]))
}

/// Returns the number of orders that are not cancelled and the number of those that are.
pub async fn orders(models: &impl ReadModels) -> Result<[u64; 2], BoxError> {
    let mut orders = [0; 2];
    for row in models.select(&ORDERS, Row::default()).await? {
        let of = if row.number(0)? == 0 { &mut orders[0] } else { &mut orders[1] };
        *of = row.number(1)?;
    }
    Ok(orders)
}

/// Returns the day of a customer's last order.
pub async fn last_order(models: &impl ReadModels, customer_id: &str) -> Result<Option<String>, BoxError> {
    let rows = models.select(&LAST_ORDER, Row::from([customer_id.to_owned().into()])).await?;
    Ok(rows.first().map(|row| row.text(0)).transpose()?)
}

/// Returns the day with the most orders, the earliest of equals, and the number of its orders.
pub async fn busiest_day(models: &impl ReadModels) -> Result<Option<(String, u64)>, BoxError> {
    let rows = models.select(&BUSIEST_DAY, Row::default()).await?;
    rows.first().map(|row| Ok((row.text(0)?, row.number(1)?))).transpose()
}

/// The key serves queries by customer and day. It also keeps orders unique, since an order's customer and day never change.
const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS search_orders (
        customer_id VARCHAR(100), date VARCHAR(10), order_id VARCHAR(100), amount BIGINT NOT NULL, cancelled BIGINT NOT NULL,
        PRIMARY KEY (customer_id, date, order_id)
    );";

/// Has no conflict clause: a repeated order is an error and stops the consumer.
const ADD_ORDER: Insert = Insert {
    into: "INSERT INTO search_orders (order_id, customer_id, date, amount, cancelled)",
    on_conflict: "",
    on_duplicate_key: "",
};

const CANCEL_ORDER: Insert = Insert {
    into: "INSERT INTO search_orders (order_id, customer_id, date, amount, cancelled)",
    on_conflict: "ON CONFLICT (customer_id, date, order_id) DO UPDATE SET cancelled = 1",
    on_duplicate_key: "ON DUPLICATE KEY UPDATE cancelled = 1",
};

const ORDERS: Select = Select::same("SELECT cancelled, count(*) FROM search_orders GROUP BY cancelled");

const LAST_ORDER: Select = Select {
    sql: "SELECT date FROM search_orders WHERE customer_id = $1 AND cancelled = 0 ORDER BY date DESC LIMIT 1",
    mysql: "SELECT date FROM search_orders WHERE customer_id = ? AND cancelled = 0 ORDER BY date DESC LIMIT 1",
};

const BUSIEST_DAY: Select = Select::same(
    "SELECT date, count(*) AS orders FROM search_orders WHERE cancelled = 0
    GROUP BY date ORDER BY orders DESC, date LIMIT 1",
);
