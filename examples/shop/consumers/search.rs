//! Finds orders: by customer, and by day.

use retell::{BoxError, Envelope, Projection, async_trait};

use crate::database::{Database, Insert, Row, Select};
use crate::domain::order::OrderEvent;
use crate::read_models::ReadModels;

#[derive(Debug)]
pub struct Search;

#[async_trait]
impl Projection for Search {
    type Event = OrderEvent;
    type Tx = dyn Database;

    fn name(&self) -> &'static str {
        "search"
    }

    async fn setup(&self, db: &mut Self::Tx) -> Result<(), BoxError> {
        db.create(TABLES).await
    }

    async fn apply(&self, db: &mut Self::Tx, event: Envelope<OrderEvent>) -> Result<(), BoxError> {
        self.apply_batch(db, vec![event]).await
    }

    async fn apply_batch(&self, db: &mut Self::Tx, events: Vec<Envelope<OrderEvent>>) -> Result<(), BoxError> {
        let orders = events.into_iter().map(|event| order(event.event)).collect::<Result<_, _>>()?;
        db.insert(&ADD_ORDER, orders).await
    }
}

fn order(created: OrderEvent) -> Result<Row, BoxError> {
    let OrderEvent::Created { order_id, user_id, total_amount, date, .. } = created;
    let cents = i64::try_from(total_amount.0)?;
    Ok(Row::from([order_id.into(), user_id.into(), date.to_string().into(), cents.into()]))
}

/// All orders there are.
pub async fn orders(models: &ReadModels) -> Result<u64, BoxError> {
    let rows = models.select(&ORDERS, []).await?;
    Ok(rows.first().ok_or("no count")?.number(0)?)
}

/// The day of a customer's last order.
pub async fn last_order(models: &ReadModels, customer_id: &str) -> Result<Option<String>, BoxError> {
    let rows = models.select(&LAST_ORDER, [customer_id.to_owned().into()]).await?;
    Ok(rows.first().map(|row| row.text(0)).transpose()?)
}

/// The day with the most orders, the first of equals, and how many there were.
pub async fn busiest_day(models: &ReadModels) -> Result<Option<(String, u64)>, BoxError> {
    let rows = models.select(&BUSIEST_DAY, []).await?;
    rows.first().map(|row| Ok((row.text(0)?, row.number(1)?))).transpose()
}

/// The key finds a customer's orders by day; that an order comes once, it sees to as well, since its customer and day never change.
const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS search_orders (
        customer_id VARCHAR(100), date VARCHAR(10), order_id VARCHAR(100), amount BIGINT NOT NULL,
        PRIMARY KEY (customer_id, date, order_id)
    );";

/// An order that came twice is an error, and stops the consumer.
const ADD_ORDER: Insert = Insert {
    into: "INSERT INTO search_orders (order_id, customer_id, date, amount)",
    on_conflict: "",
    on_duplicate_key: "",
};

const ORDERS: Select = Select::same("SELECT count(*) FROM search_orders");

const LAST_ORDER: Select = Select {
    sql: "SELECT date FROM search_orders WHERE customer_id = $1 ORDER BY date DESC LIMIT 1",
    mysql: "SELECT date FROM search_orders WHERE customer_id = ? ORDER BY date DESC LIMIT 1",
};

const BUSIEST_DAY: Select =
    Select::same("SELECT date, count(*) AS orders FROM search_orders GROUP BY date ORDER BY orders DESC, date LIMIT 1");
