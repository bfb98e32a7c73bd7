//! An export while programs append.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use retell::event::NewEvent;
use retell::operate::ArchiveOptions;
use retell::testing::store::whole_log;
use retell::{
    Append, Claim, ClaimScope, ClaimValue, Codec, ErrorKind, EventId, EventStore, EventType, ExpectedVersion, Position,
};

use crate::home::{Home, Log};
use crate::hostile::{key, stream};

/// The streams, each with a value that it reserves and releases in turn.
const STREAMS: u64 = 4;

/// The exports of each store.
const EXPORTS: u64 = 5;

fn claim(stream: u64, number: u64) -> Claim {
    let value = format!("v{stream}");
    let claim = if number.is_multiple_of(2) { Claim::reserve("live", value) } else { Claim::release("live", value) };
    claim.unwrap()
}

async fn append(log: &dyn Log, name: u64, number: u64) {
    let event_type = EventType::new("live.changed").unwrap();
    let event = NewEvent::stored(EventId::generate(), event_type, 1, Codec::Json, number.to_string().into());
    let append = Append::new(stream("live", &name.to_string()), ExpectedVersion::Any, vec![event]);
    let append = append.with_claims([claim(name, number)]).with_key(key(&format!("{name}-{number}")));
    log.append(append).await.unwrap();
}

async fn write(log: &dyn Log, name: u64, done: &AtomicBool) {
    let mut number = 0;
    while !done.load(Ordering::Relaxed) {
        append(log, name, number).await;
        number += 1;
        tokio::time::sleep(Duration::from_millis(3)).await;
    }
}

/// Compares the claims and keys of a copy with those that its events imply.
async fn check(file: &[u8], head: Position, store: &str) {
    let copy = Home::memory();
    copy.import(file).await.unwrap();
    let Home::Memory(log) = &copy else { unreachable!("a log in memory") };
    let events = whole_log(log).await.unwrap();
    assert_eq!(events.len() as u64, head.get(), "{store}");
    let mut last = BTreeMap::new();
    for event in &events {
        let number: u64 = std::str::from_utf8(&event.event.payload).unwrap().parse().unwrap();
        last.insert(event.stream.aggregate_id().to_string(), number);
        let name = key(&format!("{}-{number}", event.stream.aggregate_id()));
        let kept = log.find_by_key(&name).await.unwrap().unwrap_or_else(|| panic!("{store}: {name} is missing"));
        assert_eq!(kept.appended.last_event, event.event.id, "{store}");
    }
    for (name, number) in last {
        let value = ClaimValue::new(format!("v{name}")).unwrap();
        let holder = log.holder(&ClaimScope::new("live").unwrap(), &value).await.unwrap();
        assert_eq!(holder.is_some(), number.is_multiple_of(2), "{store}: the claim of {name} at {head}");
        let next = log.find_by_key(&key(&format!("{name}-{}", number + 1))).await.unwrap();
        assert_eq!(next, None, "{store}: a key of an event after {head}");
    }
}

async fn exports_are_of_one_head(home: Home) {
    let (log, done) = (home.log(), AtomicBool::new(false));
    let writers = futures::future::join_all((0..STREAMS).map(|name| write(log, name, &done)));
    let exporting = async {
        let mut before = Position::ZERO;
        let mut exports = 0;
        while exports < EXPORTS {
            let (exported, file) = match home.export_with(ArchiveOptions::new()).await {
                Ok(exported) => exported,
                Err(error) if matches!(error.kind(), ErrorKind::Transient(_)) => continue,
                Err(error) => panic!("{}: {error:#}", home.name()),
            };
            check(&file, exported.head, home.name()).await;
            // An export of a log in memory never waits, so the writers would not get their turn.
            tokio::time::sleep(Duration::from_millis(10)).await;
            if exported.head > before {
                exports += 1;
                before = exported.head;
            }
        }
        done.store(true, Ordering::Relaxed);
    };
    tokio::join!(writers, exporting);
}

#[tokio::test]
async fn exports_of_sqlite_are_of_one_head() {
    exports_are_of_one_head(Home::sqlite().await).await;
}

#[tokio::test]
async fn exports_of_postgres_are_of_one_head() {
    exports_are_of_one_head(Home::postgres().await).await;
}

#[tokio::test]
async fn exports_of_mysql_are_of_one_head() {
    exports_are_of_one_head(Home::mysql().await).await;
}

#[tokio::test]
async fn exports_of_memory_are_of_one_head() {
    exports_are_of_one_head(Home::memory()).await;
}

/// Programs that append to the empty log of an import wait, and their events come after it.
async fn appends_during_an_import_come_after_it(home: Home) {
    let first = Home::memory();
    for number in 0..2_000 {
        append(first.log(), number % STREAMS, number).await;
    }
    let file = first.export().await;
    let log = home.log();
    let (imported, ()) = tokio::join!(home.import(&file), async {
        for name in STREAMS..2 * STREAMS {
            append(log, name, 0).await;
        }
    });
    log.head().await.unwrap();
    let events = whole_log(log).await.unwrap();
    match imported {
        Ok(imported) => {
            assert_eq!(imported.head.get(), 2_000, "{}", home.name());
            assert_eq!(events.len() as u64, 2_000 + STREAMS, "{}", home.name());
            let late = events[2_000..].iter().all(|event| event.event.payload == "0");
            assert!(late, "{}", home.name());
        }
        // The first append was faster.
        Err(error) => {
            assert!(matches!(error.kind(), ErrorKind::NotEmpty(_)), "{}: {error:#}", home.name());
            assert_eq!(events.len() as u64, STREAMS, "{}", home.name());
        }
    }
    assert!(home.verify().await.is_whole(), "{}", home.name());
}

#[tokio::test]
async fn appends_during_an_import_are_in_order() {
    for home in Home::all().await {
        appends_during_an_import_come_after_it(home).await;
    }
}
