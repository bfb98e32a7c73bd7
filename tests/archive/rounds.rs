//! A log that goes through every store.

use retell::event::AnyEvent;
use retell::prelude::*;
use retell::store::Outcome;
use retell::{Append, Codec, ErrorKind, Version};
use serde_json::Value;

use crate::home::Home;
use crate::hostile::{event, fill, keyed, reserve, small, stream};

/// Returns the lines after the header.
pub(crate) fn body(file: &[u8]) -> &[u8] {
    let end = file.iter().position(|byte| *byte == b'\n').unwrap();
    &file[end + 1..]
}

/// Compares files without printing 20 MiB.
fn assert_same(one: &[u8], other: &[u8], what: &str) {
    let place = one.iter().zip(other).position(|(a, b)| a != b).unwrap_or(one.len().min(other.len()));
    let near = |file: &[u8]| {
        String::from_utf8_lossy(&file[place.saturating_sub(200)..file.len().min(place + 100)]).into_owned()
    };
    assert!(one == other, "{what}, byte {place}:\n{}\n{}", near(one), near(other));
}

async fn goes_round(first: Home, others: Vec<Home>) {
    fill(&first).await;
    let file = first.export().await;
    let mut before = file.clone();
    for home in others {
        let imported = home.import(&before).await.unwrap();
        let after = home.export().await;
        assert_same(body(&file), body(&after), home.name());
        let verified = home.verify().await;
        assert!(verified.is_whole(), "{}: {verified:?}", home.name());
        assert_eq!((verified.head, verified.events), (imported.head, imported.rows.events), "{}", home.name());
        assert_eq!(verified.seals.count, imported.rows.seals, "{}", home.name());
        assert!(imported.rows.seals > 3 && imported.rows.keys > 40 && imported.rows.claims > 10);
        assert_eq!((imported.rows.shapes, imported.rows.processors), (2, 2));
        before = after;
    }
}

#[tokio::test]
async fn log_of_sqlite_is_the_same_after_a_round() {
    let others = vec![Home::postgres().await, Home::mysql().await, Home::memory(), Home::sqlite().await];
    goes_round(Home::sqlite().await, others).await;
}

#[tokio::test]
async fn log_of_postgres_is_the_same_after_a_round() {
    let others = vec![Home::sqlite().await, Home::memory(), Home::mysql().await, Home::postgres().await];
    goes_round(Home::postgres().await, others).await;
}

#[tokio::test]
async fn log_of_mysql_is_the_same_after_a_round() {
    let others = vec![Home::memory(), Home::postgres().await, Home::sqlite().await, Home::mysql().await];
    goes_round(Home::mysql().await, others).await;
}

#[tokio::test]
async fn log_in_memory_is_the_same_after_a_round() {
    let others = vec![Home::mysql().await, Home::sqlite().await, Home::postgres().await, Home::memory()];
    goes_round(Home::memory(), others).await;
}

#[tokio::test]
async fn empty_log_is_copied() {
    let file = Home::postgres().await.export().await;
    for home in Home::all().await {
        assert_eq!(home.import(&file).await.unwrap().head.get(), 0, "{}", home.name());
        let append = Append::new(stream("order", "1"), ExpectedVersion::NoStream, vec![small(1)]);
        home.log().append(append).await.unwrap();
        assert_eq!(home.log().head().await.unwrap().get(), 1, "{}", home.name());
    }
}

/// The events of each aggregate type.
#[derive(Clone, Copy)]
struct Count;

impl View for Count {
    const NAME: &'static str = "count";
    type Event = AnyEvent;
    type State = u64;

    fn key(&self, event: &Envelope<AnyEvent>) -> Option<String> {
        Some(event.stream.aggregate_type().as_str().to_owned())
    }

    fn apply(&self, count: &mut u64, _: Envelope<AnyEvent>) {
        *count += 1;
    }
}

#[tokio::test]
async fn copied_log_goes_on() {
    let first = Home::sqlite().await;
    let appended = fill(&first).await;
    let file = first.export().await;
    let head = first.log().head().await.unwrap();
    for home in Home::all().await {
        let (log, name) = (home.log(), home.name());
        home.import(&file).await.unwrap();
        assert_eq!(log.head().await.unwrap(), head, "{name}");
        // The key answers with the first outcome, and is refused for another request.
        let again = log.append(keyed()).await.unwrap();
        assert_eq!((again.outcome, &again.versions), (Outcome::Repeated, &appended.versions), "{name}");
        assert_eq!(again.last_event, appended.last_event, "{name}");
        assert_eq!(
            log.position_of(again.token()).await.unwrap(),
            first.log().position_of(appended.token()).await.unwrap()
        );
        let other = Append::new(stream("order", "17"), ExpectedVersion::Any, vec![small(9_000)]);
        let reused = log.append(other.with_key(keyed().key().unwrap().clone())).await.unwrap_err();
        assert!(matches!(reused.kind(), ErrorKind::KeyReused(_)), "{name}: {reused}");
        // Values are taken, and released ones are free.
        let claiming = |number, value| {
            let append = Append::new(stream("account", "bob"), ExpectedVersion::Any, vec![small(number)]);
            append.with_claims([reserve(value)])
        };
        let taken = log.append(claiming(9_001, "ann@example.com")).await.unwrap_err();
        let ErrorKind::Taken { by, .. } = taken.kind() else { panic!("{name}: {taken}") };
        assert_eq!(*by, stream("order", "17"), "{name}");
        // Versions and ids continue.
        let stale = Append::new(stream("order", "17"), ExpectedVersion::Exact(Version::new(2)), vec![small(9_003)]);
        assert!(matches!(log.append(stale).await.unwrap_err().kind(), ErrorKind::Conflict { .. }), "{name}");
        let twice = Append::new(stream("order", "17"), ExpectedVersion::Any, vec![small(1_001)]);
        assert!(matches!(log.append(twice).await.unwrap_err().kind(), ErrorKind::DuplicateEvent(_)), "{name}");
        let next = Append::new(stream("order", "17"), ExpectedVersion::Exact(Version::new(3)), vec![small(9_004)]);
        let next = log.append(next).await.unwrap();
        log.head().await.unwrap();
        assert_eq!(log.position_of(next.token()).await.unwrap(), Some(head.next()), "{name}");
        log.append(claiming(9_002, "gone")).await.unwrap();
        log.head().await.unwrap();
        assert!(home.verify().await.is_whole(), "{name}");
        assert_eq!(home.viewed(Count, "counter").await, Some(200), "{name}");
    }
}

#[tokio::test]
async fn exported_line_is_readable() {
    let home = Home::memory();
    let event = event(Codec::Json, b"{\"a\":1}".to_vec(), 1);
    home.log().append(Append::new(stream("note", "1"), ExpectedVersion::NoStream, vec![event])).await.unwrap();
    let file = String::from_utf8(home.export().await).unwrap();
    let lines: Vec<Value> = file.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["retell_export"], 1);
    let event = &lines.iter().find(|line| line["event"]["position"] == 1).unwrap()["event"];
    assert_eq!((&event["payload"]["a"], &event["aggregate_type"]), (&Value::from(1), &Value::from("note")));
    assert!(event["recorded_at"].as_str().unwrap().ends_with('Z'));
    assert!(lines.last().unwrap()["end"]["sha256"].is_string());
}
