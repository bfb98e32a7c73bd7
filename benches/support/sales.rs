//! A read model in PostgreSQL: one row of sums per order, written with one statement per batch or per event.

use retell::{BoxError, Envelope, Projection, View, async_trait};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use crate::support::order::OrderEvent;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Statements {
    OneABatch,
    OneAnEvent,
}

/// The projection `sales`.
#[derive(Debug, Clone)]
pub(crate) struct Sales(pub(crate) Statements);

#[async_trait]
impl Projection for Sales {
    const NAME: &'static str = "sales";
    type Event = OrderEvent;
    type Tx = PgConnection;

    async fn apply(&self, tx: &mut PgConnection, event: Envelope<OrderEvent>) -> Result<(), BoxError> {
        Ok(add(tx, event.stream.aggregate_id().as_str(), &event.event).await?)
    }

    async fn apply_batch(&self, tx: &mut PgConnection, events: Vec<Envelope<OrderEvent>>) -> Result<(), BoxError> {
        match self.0 {
            Statements::OneABatch => {
                let ids = events.iter().map(|event| event.stream.aggregate_id().as_str());
                add_all(tx, ids.zip(events.iter().map(|event| &event.event))).await?;
            }
            Statements::OneAnEvent => {
                for event in events {
                    self.apply(tx, event).await?;
                }
            }
        }
        Ok(())
    }
}

/// The same read model as a view.
pub(crate) struct ViewOfSales;

#[derive(Debug, Default, Serialize, Deserialize, retell::Shape)]
pub(crate) struct Sale {
    events: i64,
    items: i64,
    cents: i64,
    grams: i64,
}

impl View for ViewOfSales {
    const NAME: &'static str = "sales";
    type Event = OrderEvent;
    type State = Sale;

    fn key(&self, event: &Envelope<OrderEvent>) -> Option<String> {
        Some(event.stream.aggregate_id().to_string())
    }

    fn apply(&self, sale: &mut Sale, event: Envelope<OrderEvent>) {
        let (items, cents, grams) = sums(&event.event);
        sale.events += 1;
        sale.items += items;
        sale.cents += cents;
        sale.grams += grams;
    }
}

/// Returns items, cents and grams.
pub(crate) fn sums(event: &OrderEvent) -> (i64, i64, i64) {
    match event {
        OrderEvent::Placed { items, total_cents, .. } => {
            (items.iter().map(|item| i64::from(item.quantity)).sum(), total_cents.cast_signed(), 0)
        }
        OrderEvent::Paid { cents, .. } => (0, -cents.cast_signed(), 0),
        OrderEvent::Shipped { weight_grams, .. } => (0, 0, i64::from(*weight_grams)),
    }
}

pub(crate) async fn add(tx: &mut PgConnection, id: &str, event: &OrderEvent) -> sqlx::Result<()> {
    let (items, cents, grams) = sums(event);
    sqlx::query(ADD).bind(id).bind(items).bind(cents).bind(grams).execute(tx).await.map(drop)
}

pub(crate) async fn add_all<'e>(
    tx: &mut PgConnection,
    events: impl Iterator<Item = (&'e str, &'e OrderEvent)>,
) -> sqlx::Result<()> {
    let (mut ids, mut items, mut cents, mut grams) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (id, event) in events {
        let sums = sums(event);
        ids.push(id);
        items.push(sums.0);
        cents.push(sums.1);
        grams.push(sums.2);
    }
    sqlx::query(ADD_ALL).bind(ids).bind(items).bind(cents).bind(grams).execute(tx).await.map(drop)
}

pub(crate) const TABLES: &str = "
    CREATE TABLE sales (
        id text COLLATE \"C\" PRIMARY KEY,
        events bigint NOT NULL,
        items bigint NOT NULL,
        cents bigint NOT NULL,
        grams bigint NOT NULL
    );
    CREATE TABLE by_hand_events (
        event_id uuid PRIMARY KEY,
        aggregate_id text NOT NULL,
        version bigint NOT NULL,
        payload bytea NOT NULL,
        UNIQUE (aggregate_id, version)
    );
    CREATE TABLE by_hand_checkpoint (position bigint NOT NULL);
    INSERT INTO by_hand_checkpoint VALUES (0);";

const ADD: &str = "
    INSERT INTO sales AS s VALUES ($1, 1, $2, $3, $4)
    ON CONFLICT (id) DO UPDATE SET events = s.events + 1, items = s.items + excluded.items, cents = s.cents + excluded.cents,
        grams = s.grams + excluded.grams";

const ADD_ALL: &str = "
    INSERT INTO sales AS s
    SELECT id, count(*), sum(items), sum(cents), sum(grams)
    FROM unnest($1::text[], $2::bigint[], $3::bigint[], $4::bigint[]) AS e (id, items, cents, grams) GROUP BY id
    ON CONFLICT (id) DO UPDATE SET events = s.events + excluded.events, items = s.items + excluded.items,
        cents = s.cents + excluded.cents, grams = s.grams + excluded.grams";
