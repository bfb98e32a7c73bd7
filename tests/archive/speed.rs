//! Measures how fast a log is exported and imported. Ignored, because it takes minutes.
//!
//! `RETELL_EVENTS=1000000 cargo test --release --workspace --all-features --test archive -- --ignored --nocapture speed`

use std::env;
use std::time::Instant;

use retell::event::NewEvent;
use retell::operate::ArchiveOptions;
use retell::{Append, Codec, EventId, EventType, ExpectedVersion};

use crate::home::Home;
use crate::hostile::stream;

/// The events of an append, all of one stream.
const APPENDED: u32 = 10;

async fn measure(home: Home, copy: Home) {
    let events: u32 = env::var("RETELL_EVENTS").map_or(100_000, |events| events.parse().unwrap());
    let event_type = EventType::new("order.placed").unwrap();
    let append = |number: u32| {
        let event = |place: u32| {
            let payload = format!(
                "{{\"customer\":\"{}\",\"city\":\"Bonn\",\"cents\":{},\"lines\":[{{\"sku\":\"sku-{}\",\"count\":{place}}}],\"note\":\"leave it at the door\"}}",
                EventId::generate(),
                number * 37,
                number * 7 + place,
            );
            NewEvent::stored(EventId::generate(), event_type.clone(), 1, Codec::Json, payload.into())
        };
        let events = (0..APPENDED).map(event).collect();
        home.log().append(Append::new(stream("order", &(number % 1_000).to_string()), ExpectedVersion::Any, events))
    };
    for first in (0..events / APPENDED).step_by(100) {
        futures::future::try_join_all((first..first + 100).map(append)).await.unwrap();
    }
    home.log().head().await.unwrap();
    let rate = |begun: Instant| f64::from(events) / begun.elapsed().as_secs_f64();
    for options in [ArchiveOptions::new(), ArchiveOptions::new().without_compression()] {
        let begun = Instant::now();
        let (exported, file) = home.export_with(options.clone()).await.unwrap();
        let per_event = file.len() as u64 / exported.rows.events;
        println!("{}: export {:.0} events/s, {per_event} bytes an event, {options:?}", home.name(), rate(begun));
        if options.compresses {
            let begun = Instant::now();
            copy.import(&file).await.unwrap();
            println!("{}: import {:.0} events/s", copy.name(), rate(begun));
        }
    }
}

#[tokio::test]
#[ignore = "measures"]
async fn speed_in_sqlite() {
    measure(Home::sqlite().await, Home::sqlite().await).await;
}

#[tokio::test]
#[ignore = "measures"]
async fn speed_in_postgres() {
    measure(Home::postgres().await, Home::postgres().await).await;
}

#[tokio::test]
#[ignore = "measures"]
async fn speed_in_mysql() {
    measure(Home::mysql().await, Home::mysql().await).await;
}
