//! A read model that never lags: what is on stock, changed in the transaction of the append itself.

use retell::event::NewEvent;
use retell::inline::inline;
use retell::store::Append;
use retell::view::ViewProjection;
use retell::{Envelope, Event, EventStore, ExpectedVersion, SqliteStore, StreamId, View, Views};

#[derive(Event)]
enum Stock {
    #[event("stock.received")]
    Received { item: String, count: u64 },
    #[event("stock.sold")]
    Sold { item: String, count: u64 },
}

struct OnStock;

impl View for OnStock {
    type Event = Stock;
    type State = u64;

    fn name(&self) -> &'static str {
        "on_stock"
    }

    fn key(&self, event: &Envelope<Stock>) -> Option<String> {
        let (Stock::Received { item, .. } | Stock::Sold { item, .. }) = &event.event;
        Some(item.clone())
    }

    fn apply(&self, on_stock: &mut Option<u64>, event: Envelope<Stock>) {
        let before = on_stock.unwrap_or_default();
        *on_stock = Some(match event.event {
            Stock::Received { count, .. } => before + count,
            Stock::Sold { count, .. } => before.saturating_sub(count),
        });
    }
}

#[tokio::main]
async fn main() -> retell::Result<()> {
    let log = SqliteStore::in_memory().await?;
    let models = log.read_model();
    let log = inline(log, ViewProjection::new(OnStock, models.clone())).await?;
    let views = Views::new(&OnStock, models);
    let events = [
        Stock::Received { item: "tea".into(), count: 12 },
        Stock::Sold { item: "tea".into(), count: 5 },
        Stock::Received { item: "milk".into(), count: 3 },
    ];
    for event in events {
        let event = NewEvent::new(&event)?;
        log.append(Append::new(StreamId::parse("shelf", "1")?, ExpectedVersion::Any, vec![event])).await?;
        println!("tea {:?}, milk {:?}", views.get("tea").await?, views.get("milk").await?);
    }
    Ok(())
}
