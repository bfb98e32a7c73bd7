//! A read model that never lags: what is on stock, changed in the transaction of the append itself.

use retell::prelude::*;

#[derive(Event)]
enum Stock {
    #[event("stock.received")]
    Received { item: String, count: u64 },
    #[event("stock.sold")]
    Sold { item: String, count: u64 },
}

struct OnStock;

impl View for OnStock {
    const NAME: &'static str = "on_stock";
    type Event = Stock;
    type State = u64;

    fn key(&self, event: &Envelope<Stock>) -> Option<String> {
        let (Stock::Received { item, .. } | Stock::Sold { item, .. }) = &event.event;
        Some(item.clone())
    }

    fn apply(&self, on_stock: &mut u64, event: Envelope<Stock>) {
        match event.event {
            Stock::Received { count, .. } => *on_stock += count,
            Stock::Sold { count, .. } => *on_stock = on_stock.saturating_sub(count),
        }
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
