//! Sums: what was sold each month, what each customer spent, what is in stock.

use std::collections::{BTreeMap, HashMap};
use std::num::TryFromIntError;

use retell::{BoxError, Envelope, EventUnion, Projection, async_trait};

use crate::database::{Database, Insert, Row, Select};
use crate::domain::Cents;
use crate::domain::inventory::InventoryEvent;
use crate::domain::order::OrderEvent;
use crate::domain::payment::PaymentEvent;
use crate::read_models::ReadModels;
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
    type Tx = dyn Database;

    fn name(&self) -> &'static str {
        "analytics"
    }

    async fn setup(&self, db: &mut Self::Tx) -> Result<(), BoxError> {
        db.create(TABLES).await
    }

    async fn apply(&self, db: &mut Self::Tx, event: Envelope<Traded>) -> Result<(), BoxError> {
        self.apply_batch(db, vec![event]).await
    }

    /// A month comes hundreds of times in a batch, and is written once.
    async fn apply_batch(&self, db: &mut Self::Tx, events: Vec<Envelope<Traded>>) -> Result<(), BoxError> {
        let mut sums = Sums::default();
        for envelope in events {
            sums.add(envelope.event)?;
        }
        sums.write(db).await
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

    async fn write(self, db: &mut dyn Database) -> Result<(), BoxError> {
        let months = self
            .months
            .into_iter()
            .map(|(month, (units, revenue))| Row::from([month.into(), units.into(), revenue.into()]));
        db.insert(&ADD_TO_MONTH, months.collect()).await?;
        let customers = self
            .customers
            .into_iter()
            .map(|(id, (orders, revenue))| Row::from([id.into(), orders.into(), revenue.into()]));
        db.insert(&ADD_TO_CUSTOMER, customers.collect()).await?;
        let stock = self.stock.into_iter().map(|(product, pieces)| Row::from([product.into(), pieces.into()]));
        db.insert(&SET_STOCK, stock.collect()).await
    }
}

/// What was sold each month.
pub async fn months(models: &ReadModels) -> Result<BTreeMap<String, Month>, BoxError> {
    let rows = models.select(&MONTHS, []).await?;
    rows.iter().map(|row| Ok((row.text(0)?, Month { units: row.number(1)?, revenue: Cents(row.number(2)?) }))).collect()
}

/// How the customers did, all together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Customers {
    pub count: u64,
    pub repeat: u64,
    pub orders: u64,
    pub revenue: Cents,
}

pub async fn customers(models: &ReadModels) -> Result<Customers, BoxError> {
    let rows = models.select(&CUSTOMERS, []).await?;
    let sums = rows.first().ok_or("no sums")?;
    Ok(Customers {
        count: sums.number(0)?,
        repeat: sums.number(1)?,
        orders: sums.number(2)?,
        revenue: Cents(sums.number(3)?),
    })
}

/// The customers who spent most, the first of equals first.
pub async fn best_customers(models: &ReadModels, count: u32) -> Result<Vec<(String, Customer)>, BoxError> {
    let rows = models.select(&BEST_CUSTOMERS, [i64::from(count).into()]).await?;
    rows.iter()
        .map(|row| Ok((row.text(0)?, Customer { orders: row.number(1)?, revenue: Cents(row.number(2)?) })))
        .collect()
}

/// Pieces in stock, of all products.
pub async fn stock_left(models: &ReadModels) -> Result<u64, BoxError> {
    let rows = models.select(&STOCK, []).await?;
    rows.iter().map(|row| Ok(row.number(0)?)).sum()
}

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS analytics_months (
        month VARCHAR(7) PRIMARY KEY, units BIGINT NOT NULL, revenue BIGINT NOT NULL
    );
    CREATE TABLE IF NOT EXISTS analytics_customers (
        customer_id VARCHAR(100) PRIMARY KEY, orders BIGINT NOT NULL, revenue BIGINT NOT NULL
    );
    CREATE TABLE IF NOT EXISTS analytics_stock (
        product_id VARCHAR(100) PRIMARY KEY, pieces BIGINT NOT NULL
    );";

const ADD_TO_MONTH: Insert = Insert {
    into: "INSERT INTO analytics_months (month, units, revenue)",
    on_conflict: "
        ON CONFLICT (month) DO UPDATE SET
        units = analytics_months.units + excluded.units, revenue = analytics_months.revenue + excluded.revenue",
    on_duplicate_key: "
        ON DUPLICATE KEY UPDATE units = units + VALUES(units), revenue = revenue + VALUES(revenue)",
};

const ADD_TO_CUSTOMER: Insert = Insert {
    into: "INSERT INTO analytics_customers (customer_id, orders, revenue)",
    on_conflict:
        "
        ON CONFLICT (customer_id) DO UPDATE SET
        orders = analytics_customers.orders + excluded.orders, revenue = analytics_customers.revenue + excluded.revenue",
    on_duplicate_key: "
        ON DUPLICATE KEY UPDATE orders = orders + VALUES(orders), revenue = revenue + VALUES(revenue)",
};

const SET_STOCK: Insert = Insert {
    into: "INSERT INTO analytics_stock (product_id, pieces)",
    on_conflict: "ON CONFLICT (product_id) DO UPDATE SET pieces = excluded.pieces",
    on_duplicate_key: "ON DUPLICATE KEY UPDATE pieces = VALUES(pieces)",
};

const MONTHS: Select = Select::same("SELECT month, units, revenue FROM analytics_months");

/// A sum is a number of another type in the servers, so it is made ours again.
const CUSTOMERS: Select = Select {
    sql: "
        SELECT count(*), count(CASE WHEN orders > 1 THEN 1 END),
            CAST(coalesce(sum(orders), 0) AS BIGINT), CAST(coalesce(sum(revenue), 0) AS BIGINT)
        FROM analytics_customers",
    mysql: "
        SELECT count(*), count(CASE WHEN orders > 1 THEN 1 END),
            CAST(coalesce(sum(orders), 0) AS SIGNED), CAST(coalesce(sum(revenue), 0) AS SIGNED)
        FROM analytics_customers",
};

/// An id has five digits, with zeros before it, or more: so the shorter one is the lower number.
const BEST_CUSTOMERS: Select = Select {
    sql: "
        SELECT customer_id, orders, revenue FROM analytics_customers
        ORDER BY revenue DESC, length(customer_id), customer_id LIMIT $1",
    mysql: "
        SELECT customer_id, orders, revenue FROM analytics_customers
        ORDER BY revenue DESC, length(customer_id), customer_id LIMIT ?",
};

const STOCK: Select = Select::same("SELECT pieces FROM analytics_stock");
