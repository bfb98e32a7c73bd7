//! Finds orders: by customer, and by day.

use retell::rusqlite::{self, Connection, OptionalExtension};
use retell::{BoxError, Envelope, Projection, async_trait};

use super::unsigned;
use crate::domain::order::OrderEvent;

#[derive(Debug)]
pub struct Search;

#[async_trait]
impl Projection for Search {
    type Event = OrderEvent;
    type Tx = Connection;

    fn name(&self) -> &'static str {
        "search"
    }

    async fn setup(&self, db: &mut Connection) -> Result<(), BoxError> {
        Ok(db.execute_batch(TABLES)?)
    }

    async fn apply(&self, db: &mut Connection, event: Envelope<OrderEvent>) -> Result<(), BoxError> {
        let OrderEvent::Created { order_id, user_id, total_amount, date, .. } = event.event;
        let mut add = db.prepare_cached(ADD_ORDER)?;
        add.execute((order_id, user_id, date.to_string(), i64::try_from(total_amount.0)?))?;
        Ok(())
    }
}

/// All orders there are.
pub fn orders(db: &Connection) -> rusqlite::Result<u64> {
    db.prepare_cached(ORDERS)?.query_row([], |row| unsigned(row, 0))
}

/// The day of a customer's last order.
pub fn last_order(db: &Connection, customer_id: &str) -> rusqlite::Result<Option<String>> {
    db.prepare_cached(LAST_ORDER)?.query_row([customer_id], |row| row.get(0)).optional()
}

/// The day with the most orders, the first of equals, and how many there were.
pub fn busiest_day(db: &Connection) -> rusqlite::Result<Option<(String, u64)>> {
    db.prepare_cached(BUSIEST_DAY)?.query_row([], |row| Ok((row.get(0)?, unsigned(row, 1)?))).optional()
}

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS search_orders (
        order_id TEXT PRIMARY KEY, customer_id TEXT NOT NULL, date TEXT NOT NULL, amount INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS search_orders_customer ON search_orders (customer_id, date);
    CREATE INDEX IF NOT EXISTS search_orders_date ON search_orders (date);";

/// Binds: order, customer, date, cents.
const ADD_ORDER: &str = "INSERT INTO search_orders (order_id, customer_id, date, amount) VALUES (?1, ?2, ?3, ?4)";

const ORDERS: &str = "SELECT count(*) FROM search_orders";

const LAST_ORDER: &str = "SELECT date FROM search_orders WHERE customer_id = ?1 ORDER BY date DESC LIMIT 1";

const BUSIEST_DAY: &str = "
    SELECT date, count(*) AS orders FROM search_orders GROUP BY date ORDER BY orders DESC, date LIMIT 1";
