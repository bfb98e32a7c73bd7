//! Sums: what was sold each month, what each customer spent, what is in stock.

use std::collections::{BTreeMap, HashMap};
use std::num::TryFromIntError;

use retell::rusqlite::{self, Connection};
use retell::{BoxError, Envelope, EventUnion, Projection, async_trait};

use super::unsigned;
use crate::domain::Cents;
use crate::domain::inventory::InventoryEvent;
use crate::domain::order::OrderEvent;
use crate::domain::payment::PaymentEvent;
use crate::truth::{Customer, Month, month_of};

#[derive(Debug)]
pub struct Analytics;

#[derive(Debug, EventUnion)]
pub enum Traded {
    Order(OrderEvent),
    Inventory(InventoryEvent),
    Payment(PaymentEvent),
}

#[async_trait]
impl Projection for Analytics {
    type Event = Traded;
    type Tx = Connection;

    fn name(&self) -> &'static str {
        "analytics"
    }

    async fn setup(&self, db: &mut Connection) -> Result<(), BoxError> {
        Ok(db.execute_batch(TABLES)?)
    }

    async fn apply(&self, db: &mut Connection, event: Envelope<Traded>) -> Result<(), BoxError> {
        self.apply_batch(db, vec![event]).await
    }

    /// A month comes hundreds of times in a batch, and is written once.
    async fn apply_batch(&self, db: &mut Connection, events: Vec<Envelope<Traded>>) -> Result<(), BoxError> {
        let mut sums = Sums::default();
        for envelope in events {
            sums.add(envelope.event)?;
        }
        sums.write(db)
    }
}

/// What one batch adds up to.
#[derive(Debug, Default)]
struct Sums {
    /// Units ordered and cents paid.
    months: BTreeMap<String, (i64, i64)>,
    /// Orders and cents ordered.
    customers: HashMap<String, (i64, i64)>,
    /// What is left.
    stock: HashMap<String, i64>,
}

impl Sums {
    fn add(&mut self, event: Traded) -> Result<(), TryFromIntError> {
        match event {
            Traded::Order(OrderEvent::Created { user_id, items, total_amount, date, .. }) => {
                let units: i64 = items.iter().map(|item| i64::from(item.quantity)).sum();
                self.months.entry(month_of(date)).or_default().0 += units;
                let customer = self.customers.entry(user_id).or_default();
                customer.0 += 1;
                customer.1 += i64::try_from(total_amount.0)?;
            }
            Traded::Payment(PaymentEvent::Completed { amount, date, .. }) => {
                self.months.entry(month_of(date)).or_default().1 += i64::try_from(amount.0)?;
            }
            Traded::Inventory(
                InventoryEvent::Received { product_id, remaining_stock, .. }
                | InventoryEvent::Deducted { product_id, remaining_stock, .. },
            ) => {
                self.stock.insert(product_id, i64::try_from(remaining_stock)?);
            }
        }
        Ok(())
    }

    fn write(self, db: &Connection) -> Result<(), BoxError> {
        let mut month = db.prepare_cached(ADD_TO_MONTH)?;
        for (name, (units, revenue)) in self.months {
            month.execute((name, units, revenue))?;
        }
        let mut customer = db.prepare_cached(ADD_TO_CUSTOMER)?;
        for (id, (orders, revenue)) in self.customers {
            customer.execute((id, orders, revenue))?;
        }
        let mut stock = db.prepare_cached(SET_STOCK)?;
        for (product, left) in self.stock {
            stock.execute((product, left))?;
        }
        Ok(())
    }
}

/// What was sold each month.
pub fn months(db: &Connection) -> rusqlite::Result<BTreeMap<String, Month>> {
    db.prepare_cached(MONTHS)?
        .query_map([], |row| Ok((row.get(0)?, Month { units: unsigned(row, 1)?, revenue: Cents(unsigned(row, 2)?) })))?
        .collect()
}

/// How the customers did, all together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Customers {
    pub count: u64,
    pub repeat: u64,
    pub orders: u64,
    pub revenue: Cents,
}

pub fn customers(db: &Connection) -> rusqlite::Result<Customers> {
    db.prepare_cached(CUSTOMERS)?.query_row([], |row| {
        Ok(Customers {
            count: unsigned(row, 0)?,
            repeat: unsigned(row, 1)?,
            orders: unsigned(row, 2)?,
            revenue: Cents(unsigned(row, 3)?),
        })
    })
}

/// The customers who spent most, the first of equals first.
pub fn best_customers(db: &Connection, count: u32) -> rusqlite::Result<Vec<(String, Customer)>> {
    db.prepare_cached(BEST_CUSTOMERS)?
        .query_map([count], |row| {
            Ok((row.get(0)?, Customer { orders: unsigned(row, 1)?, revenue: Cents(unsigned(row, 2)?) }))
        })?
        .collect()
}

/// Pieces in stock, of all products.
pub fn stock_left(db: &Connection) -> rusqlite::Result<u64> {
    db.prepare_cached(STOCK_LEFT)?.query_row([], |row| unsigned(row, 0))
}

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS analytics_months (
        month TEXT PRIMARY KEY, units INTEGER NOT NULL, revenue INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS analytics_customers (
        customer_id TEXT PRIMARY KEY, orders INTEGER NOT NULL, revenue INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS analytics_stock (
        product_id TEXT PRIMARY KEY, pieces INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;";

const ADD_TO_MONTH: &str = "
    INSERT INTO analytics_months (month, units, revenue) VALUES (?1, ?2, ?3)
    ON CONFLICT (month) DO UPDATE SET units = units + excluded.units, revenue = revenue + excluded.revenue";

const ADD_TO_CUSTOMER: &str = "
    INSERT INTO analytics_customers (customer_id, orders, revenue) VALUES (?1, ?2, ?3)
    ON CONFLICT (customer_id) DO UPDATE SET orders = orders + excluded.orders, revenue = revenue + excluded.revenue";

const SET_STOCK: &str = "
    INSERT INTO analytics_stock (product_id, pieces) VALUES (?1, ?2)
    ON CONFLICT (product_id) DO UPDATE SET pieces = excluded.pieces";

const MONTHS: &str = "SELECT month, units, revenue FROM analytics_months";

const CUSTOMERS: &str = "
    SELECT count(*), coalesce(sum(orders > 1), 0), coalesce(sum(orders), 0), coalesce(sum(revenue), 0)
    FROM analytics_customers";

const BEST_CUSTOMERS: &str = "
    SELECT customer_id, orders, revenue FROM analytics_customers
    ORDER BY revenue DESC, CAST(customer_id AS INTEGER) LIMIT ?1";

const STOCK_LEFT: &str = "SELECT coalesce(sum(pieces), 0) FROM analytics_stock";
