//! A reaction: a mail to each customer whose order was placed. Its row is written once, the mail is sent at least once.

use retell::prelude::*;

#[derive(Event)]
#[event("order.placed")]
struct Placed {
    email: String,
}

struct Confirmation;

#[async_trait]
impl Reaction for Confirmation {
    const NAME: &'static str = "confirmation";
    type Event = Placed;
    type Tx = rusqlite::Connection;

    async fn setup(&self, db: &mut rusqlite::Connection) -> Result<(), BoxError> {
        Ok(db.execute_batch("CREATE TABLE IF NOT EXISTS mails (order_id TEXT, email TEXT)")?)
    }

    async fn react(&self, db: &mut rusqlite::Connection, event: Envelope<Placed>) -> Result<(), BoxError> {
        // Here a mail server would get `event.id` as its idempotency key: after a crash it is asked again.
        println!("mail to {}", event.event.email);
        db.execute("INSERT INTO mails VALUES (?1, ?2)", (event.stream.aggregate_id().as_str(), event.event.email))?;
        Ok(())
    }
}

async fn place(log: &SqliteStore, order: &str, email: &str) -> Result<(), BoxError> {
    let placed = NewEvent::new(&Placed { email: email.to_owned() })?;
    log.append(Append::new(StreamId::parse("order", order)?, ExpectedVersion::NoStream, vec![placed])).await?;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let (log, models) = (SqliteStore::in_memory().await?, SqliteReadModel::in_memory().await?);
    place(&log, "1", "ada@x.org").await?;
    place(&log, "2", "bob@y.org").await?;
    let worker = Worker::reaction(Confirmation, StartFrom::Beginning, log, models.clone()).with_rate(10);
    worker.catch_up().await?;
    let mails: u32 = models.query(|db| db.query_row("SELECT count(*) FROM mails", [], |row| row.get(0))).await?;
    println!("{mails} rows");
    Ok(())
}
