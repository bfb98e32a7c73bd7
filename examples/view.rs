//! A read model without SQL: what each customer owes, from the events of all invoices, found by city.

use retell::prelude::*;

#[derive(Event)]
#[event("invoice.sent")]
struct Sent {
    customer: String,
    city: String,
    cents: u64,
}

struct Debts;

impl View for Debts {
    const NAME: &'static str = "debts";
    type Event = Sent;
    /// The last city, and cents.
    type State = (String, u64);

    fn key(&self, event: &Envelope<Sent>) -> Option<String> {
        Some(event.event.customer.clone())
    }

    fn apply(&self, (city, sum): &mut (String, u64), event: Envelope<Sent>) {
        *city = event.event.city;
        *sum += event.event.cents;
    }

    fn fields(&self, (city, _): &(String, u64)) -> Fields {
        Fields::new().with("city", city)
    }
}

#[tokio::main]
async fn main() -> retell::Result<()> {
    let (log, models) = (SqliteStore::in_memory().await?, SqliteReadModel::in_memory().await?);
    for (customer, city, cents) in [("ada", "Bonn", 500), ("bob", "Kiel", 70), ("cy", "Bonn", 9), ("ada", "Kiel", 1)] {
        let sent = NewEvent::new(&Sent { customer: customer.into(), city: city.into(), cents })?;
        let invoice = StreamId::parse("invoice", &cents.to_string())?;
        log.append(Append::new(invoice, ExpectedVersion::NoStream, vec![sent])).await?;
    }
    Worker::view(Debts, log, models.clone()).catch_up().await?;
    println!("{:?}", Views::new(&Debts, models).find("city", "Kiel", Paging::first(10)).await?.rows);
    Ok(())
}
