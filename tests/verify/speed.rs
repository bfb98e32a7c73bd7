//! Measures how fast a log is sealed and verified. Ignored, because it takes minutes.
//!
//! `RETELL_EVENTS=1000000 cargo test --workspace --all-features --test verify -- --ignored --nocapture speed`

use std::env;
use std::time::Instant;

use retell::event::NewEvent;
use retell::operate::{self, SealOptions, VerifyOptions};
use retell::{Append, Codec, EventId, EventType, ExpectedVersion, ReadModel, StreamId};

use crate::Log;
use crate::databases::{Database, Place};

/// The events of an append, all of one stream.
const APPENDED: u32 = 10;

async fn measure(name: &str, log: &impl Log, models: &impl ReadModel) {
    let events: u32 = env::var("RETELL_EVENTS").map_or(100_000, |events| events.parse().unwrap());
    let event_type = EventType::new("order.placed").unwrap();
    let payload = format!("{{\"text\":\"{}\"}}", "x".repeat(180));
    let append = |number: u32| {
        let stream = StreamId::parse("order", &(number % (events / 100)).to_string()).unwrap();
        let event =
            || NewEvent::stored(EventId::generate(), event_type.clone(), 1, Codec::Json, payload.clone().into());
        log.append(Append::new(stream, ExpectedVersion::Any, (0..APPENDED).map(|_| event()).collect()))
    };
    for first in (0..events / APPENDED).step_by(100) {
        futures::future::try_join_all((first..first + 100).map(append)).await.unwrap();
    }
    let rate = |begun: Instant| f64::from(events) / begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    log.head().await.unwrap();
    let plain = Instant::now();
    let verified = operate::verify(log, models, VerifyOptions::new()).await.unwrap();
    println!("{name}: verify without seals {:.0} events/s, positions {:?}", rate(plain), plain - begun);
    assert!(verified.is_whole(), "{verified:?}");
    let begun = Instant::now();
    let sealed = operate::seal(log, SealOptions::new()).await.unwrap();
    println!("{name}: seal {:.0} events/s, {} seals", rate(begun), sealed.seals);
    let begun = Instant::now();
    let verified = operate::verify(log, models, VerifyOptions::new()).await.unwrap();
    println!("{name}: verify {:.0} events/s", rate(begun));
    assert!(verified.is_whole() && verified.seals.count == sealed.seals, "{verified:?}");
}

#[tokio::test]
#[ignore = "measures"]
async fn speed_in_sqlite() {
    let database = Database::sqlite();
    let Place::Sqlite(path) = &database.place else { unreachable!("a SQLite file") };
    let log = retell::SqliteStore::open(path).await.unwrap();
    let models = retell::SqliteReadModel::open(path).await.unwrap();
    measure("SQLite", &log, &models).await;
}

#[tokio::test]
#[ignore = "measures"]
async fn speed_in_postgres() {
    let database = Database::postgres().await;
    let Place::Postgres(url) = &database.place else { unreachable!("a database on PostgreSQL") };
    let log = retell::PostgresStore::connect(url).await.unwrap();
    measure("PostgreSQL", &log, &log.read_model()).await;
}
