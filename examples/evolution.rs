//! One event through three releases: the newest one reads what the older ones have written. The log stays as it is.

use retell::prelude::*;

/// The first release counts whole dollars.
mod first {
    #[derive(retell::Event)]
    #[event("order.placed")]
    pub(crate) struct Placed(pub(crate) u64);
}

/// The second one counts cents.
mod second {
    #[derive(retell::Event)]
    #[event("order.placed", version = 2, upcast(dollars_to_cents))]
    pub(crate) struct Placed {
        pub(crate) cents: u64,
    }

    fn dollars_to_cents(dollars: u64) -> Placed {
        Placed { cents: dollars * 100 }
    }
}

/// The third one knows currencies.
mod third {
    #[derive(retell::Event)]
    #[event("order.placed", version = 3, upcast(dollars_to_cents, add_currency))]
    pub(crate) struct Placed {
        pub(crate) cents: u64,
        pub(crate) currency: String,
    }

    #[derive(retell::Value)]
    struct Second {
        cents: u64,
    }

    fn dollars_to_cents(dollars: u64) -> Second {
        Second { cents: dollars * 100 }
    }

    fn add_currency(Second { cents }: Second) -> Placed {
        Placed { cents, currency: "USD".into() }
    }
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let (store, order) = (SqliteStore::in_memory().await?, StreamId::parse("order", "1")?);
    let (first, second) = (first::Placed(9), second::Placed { cents: 950 });
    let third = third::Placed { cents: 250, currency: "EUR".into() };
    let events = vec![NewEvent::new(&first)?, NewEvent::new(&second)?, NewEvent::new(&third)?];
    store.append(Append::new(order, ExpectedVersion::Any, events)).await?;
    for stored in store.newest(&retell::EventType::new("order.placed")?, 3).await?.iter().rev() {
        let read = stored.decode::<third::Placed>()?.event;
        println!("version {}: {} cents, {}", stored.event.schema_version, read.cents, read.currency);
    }
    Ok(())
}
