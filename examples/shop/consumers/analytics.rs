//! Sums: units and revenue of each month, and the pieces in stock.

use std::collections::{BTreeMap, HashMap};
use std::marker::PhantomData;
use std::num::TryFromIntError;

use retell::{BoxError, Envelope, EventUnion, Projection, async_trait};

use crate::database::{Database, Insert, Row, Select};
use crate::domain::Cents;
use crate::domain::inventory::InventoryEvent;
use crate::domain::order::{Item, OrderEvent};
use crate::domain::payment::PaymentEvent;
use crate::read_models::ReadModels;
use crate::truth::{Month, month_of};

pub const NAME: &str = "analytics";

pub struct Analytics<D>(pub PhantomData<fn() -> D>);

#[derive(Debug, EventUnion)]
pub enum Traded {
    Order(OrderEvent),
    Inventory(InventoryEvent),
    Payment(PaymentEvent),
}

#[async_trait]
impl<D: Database> Projection for Analytics<D> {
    const NAME: &'static str = NAME;
    type Event = Traded;
    type Tx = D;

    async fn setup(&self, db: &mut D) -> Result<(), BoxError> {
        db.create(TABLES).await
    }

    async fn apply(&self, db: &mut D, event: Envelope<Traded>) -> Result<(), BoxError> {
        self.apply_batch(db, vec![event]).await
    }

    /// Sums up the batch first: a month occurs hundreds of times in a batch and is written once.
    async fn apply_batch(&self, db: &mut D, events: Vec<Envelope<Traded>>) -> Result<(), BoxError> {
        let mut sums = Sums::default();
        for envelope in events {
            sums.add(envelope.event)?;
        }
        sums.write(db).await
    }
}

/// The sums of one batch.
#[derive(Debug, Default)]
struct Sums {
    /// Units ordered and cents paid.
    months: BTreeMap<String, (i64, i64)>,
    /// Remaining pieces of each product.
    stock: HashMap<String, i64>,
}

impl Sums {
    fn add(&mut self, event: Traded) -> Result<(), TryFromIntError> {
        match event {
            Traded::Order(OrderEvent::Created { items, date, .. }) => {
                self.months.entry(month_of(date)).or_default().0 += units(&items);
            }
            Traded::Order(OrderEvent::Cancelled { items, date, .. }) => {
                self.months.entry(month_of(date)).or_default().0 -= units(&items);
            }
            Traded::Order(OrderEvent::Confirmed { .. }) => {}
            Traded::Payment(PaymentEvent::Completed { amount, date, .. }) => {
                self.months.entry(month_of(date)).or_default().1 += i64::try_from(amount.0)?;
            }
            Traded::Inventory(
                InventoryEvent::Received { product_id, remaining_stock, .. }
                | InventoryEvent::Deducted { product_id, remaining_stock, .. }
                | InventoryEvent::Released { product_id, remaining_stock, .. },
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
        let stock = self.stock.into_iter().map(|(product, pieces)| Row::from([product.into(), pieces.into()]));
        db.insert(&SET_STOCK, stock.collect()).await
    }
}

fn units(items: &[Item]) -> i64 {
    items.iter().map(|item| i64::from(item.quantity)).sum()
}

/// Returns units and revenue of each month.
pub async fn months(models: &impl ReadModels) -> Result<BTreeMap<String, Month>, BoxError> {
    let rows = models.select(&MONTHS, Row::default()).await?;
    rows.iter().map(|row| Ok((row.text(0)?, Month { units: row.number(1)?, revenue: Cents(row.number(2)?) }))).collect()
}

/// Returns the pieces in stock, over all products.
pub async fn stock_left(models: &impl ReadModels) -> Result<u64, BoxError> {
    let rows = models.select(&STOCK, Row::default()).await?;
    rows.iter().map(|row| Ok(row.number(0)?)).sum()
}

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS analytics_months (
        month VARCHAR(7) PRIMARY KEY, units BIGINT NOT NULL, revenue BIGINT NOT NULL
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

const SET_STOCK: Insert = Insert {
    into: "INSERT INTO analytics_stock (product_id, pieces)",
    on_conflict: "ON CONFLICT (product_id) DO UPDATE SET pieces = excluded.pieces",
    on_duplicate_key: "ON DUPLICATE KEY UPDATE pieces = VALUES(pieces)",
};

const MONTHS: Select = Select::same("SELECT month, units, revenue FROM analytics_months");

const STOCK: Select = Select::same("SELECT pieces FROM analytics_stock");
