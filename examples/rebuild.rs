//! Rebuilds a view whose fold has changed, next to the rows that readers see, compares the two, and switches readers.

use retell::Generation;
use retell::prelude::*;

#[derive(Event)]
#[event("shoe.sold")]
struct Sold {
    customer: String,
    cents: u64,
}

/// The amount that each customer has spent. Its first generation counted gifts, too.
struct Spent(u64);

impl View for Spent {
    const NAME: &'static str = "spent";
    type Event = Sold;
    type State = u64;

    fn generation(&self) -> Generation {
        Generation::new(self.0)
    }

    fn key(&self, event: &Envelope<Sold>) -> Option<String> {
        (self.0 == 1 || event.event.cents > 0).then(|| event.event.customer.clone())
    }

    fn apply(&self, spent: &mut u64, event: Envelope<Sold>) {
        *spent += event.event.cents;
    }
}

#[tokio::main]
async fn main() -> retell::Result<()> {
    let (log, models) = (SqliteStore::in_memory().await?, SqliteReadModel::in_memory().await?);
    for (number, (customer, cents)) in [("ada", 500), ("bob", 0), ("cy", 9), ("ada", 1)].into_iter().enumerate() {
        let sold = NewEvent::new(&Sold { customer: customer.into(), cents })?;
        let shoe = StreamId::parse("shoe", &number.to_string())?;
        log.append(Append::new(shoe, ExpectedVersion::NoStream, vec![sold])).await?;
    }
    Rebuild::new(Spent(1), log.clone(), models.clone()).run(CancellationToken::new()).await?;
    let (views, rebuild) = (Views::new(&Spent(1), models.clone()), Rebuild::new(Spent(2), log, models));
    println!("to fold: {} events", rebuild.plan().await?.events);
    rebuild.run(CancellationToken::new()).await?;
    let differences = rebuild.diff(10).await?.differences;
    println!("differ: {:?}, readers see {:?}", differences[0].key, views.get("bob").await?);
    let old = rebuild.switch().await?;
    println!("switched from {old}, readers see {:?}", views.get("bob").await?);
    rebuild.drop_old(old).await
}
