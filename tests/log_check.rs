//! The lock against the shapes in the database, and the program against the events in the log.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use retell::prelude::*;
use retell::registry::{Difference, Lock, LogReport, Registry};
use retell::store::RegisteredShape;
use retell::{Bytes, Codec, DateTime, EventId, EventType, SqliteStore};

#[derive(Event)]
enum OrderEvent {
    #[event("order.placed", version = 2, upcast(placed_v1))]
    Placed {
        customer: String,
        #[serde(alias = "old")]
        new: u8,
    },
    #[event("order.weighed", codec = "compact")]
    Weighed(u32),
}

/// A diary may have events of the same name.
#[derive(Event)]
#[event("order.noted", aggregate = "order")]
struct Noted {
    note: String,
}

fn placed_v1(customer: String) -> OrderEvent {
    OrderEvent::Placed { customer, new: 0 }
}

const LOCK: &str = "\
[order.noted 1 json]
note: text

[order.placed 1 json]
= text

[order.placed 2 json]
customer: text
new|old: u8

[order.weighed 1 compact]
= u32
";

fn registry() -> Registry {
    Registry::new().with::<OrderEvent>().unwrap().with::<Noted>().unwrap()
}

fn shape(name: &str, version: u32, codec: Codec, shape: &str, seconds: i64) -> RegisteredShape {
    let first_seen = DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap();
    RegisteredShape::new(EventType::new(name).unwrap(), version, codec, shape, first_seen, "shop")
}

fn ids(differences: &[Difference]) -> Vec<String> {
    let told = |each: &Difference| {
        let RegisteredShape { event_type, version, .. } = &each.registered;
        format!("{event_type} {version}: {}", each.differs.id())
    };
    differences.iter().map(told).collect()
}

#[tokio::test]
async fn a_lock_fits_the_shapes_that_its_program_registers() {
    let store = MemoryStore::new();
    registry().register(&store).await.unwrap();
    let shapes = store.registered_shapes().await.unwrap();
    let lock: Lock = LOCK.parse().unwrap();
    assert_eq!(lock.compare(&shapes), []);
    assert_eq!(lock.compare(&[]), [], "a release may be ahead of the database");
    let steps = shape("process.stepped", 1, Codec::Json, "opaque", 0);
    assert_eq!(lock.compare(&[steps]), [], "the steps of processes are in no lock");
}

#[test]
fn a_version_that_the_lock_does_not_have_is_named() {
    let lock: Lock = LOCK.parse().unwrap();
    let registered = [
        shape("order.placed", 3, Codec::Json, "{customer: text}!", 0),
        shape("order.weighed", 1, Codec::Json, "u32", 0),
        shape("order.lost", 1, Codec::Json, "a later form <", 0),
    ];
    let found = lock.compare(&registered);
    assert_eq!(
        ids(&found),
        ["order.placed 3: E-NOT-LOCKED", "order.weighed 1: E-NOT-LOCKED", "order.lost 1: E-NOT-LOCKED"]
    );
    let block = "\n    [order.placed 3 json]\n    customer: text\n    !";
    let text = found[0].to_string();
    assert!(
        text.starts_with("order.placed 3 json: E-NOT-LOCKED: registered by shop at 2027-01-15 08:00:00 UTC\n")
            && text.ends_with(block),
        "{text}"
    );
    // The block can be added as it is.
    let added: Lock = format!("{LOCK}\n{}", block.replace("    ", "")).parse().unwrap();
    assert_eq!(added.compare(&registered[..1]), []);
    assert!(found[2].to_string().ends_with("[order.lost 1 json]\n    = a later form <"), "{}", found[2]);
}

#[test]
fn another_shape_is_named_if_the_lock_does_not_read_it() {
    let lock: Lock = LOCK.parse().unwrap();
    let own = shape("order.placed", 2, Codec::Json, "{customer: text, new|old: u8}", 10);
    let older = shape("order.placed", 2, Codec::Json, "{customer: text, new: u8, note: text?}", 0);
    let newer = shape("order.placed", 2, Codec::Json, "{customer: text, new: u8, tip: u8?}", 20);
    let broken = shape("order.placed", 2, Codec::Json, "{customer: u64, new: u8}", 0);
    let unknown = shape("order.placed", 2, Codec::Json, "a later form <", 0);
    let compact = shape("order.weighed", 1, Codec::Compact, "u64", 0);
    for (registered, expected) in [
        (vec![own.clone(), older.clone()], vec![]),
        (vec![older.clone()], vec![]),
        (vec![own.clone(), newer.clone()], vec!["order.placed 2: W-SHAPE-NEWER"]),
        // The lock's own release is not deployed yet: nothing says which one is newer.
        (vec![newer], vec![]),
        (vec![broken.clone()], vec!["order.placed 2: E-TYPE-CHANGED"]),
        (vec![unknown], vec![]),
        (vec![compact], vec!["order.weighed 1: E-COMPACT-CHANGED"]),
    ] {
        assert_eq!(ids(&lock.compare(&registered)), expected, "{registered:?}");
    }
    let text = lock.compare(std::slice::from_ref(&broken))[0].to_string();
    assert!(text.contains("E-TYPE-CHANGED at customer: u64 became text: registered by shop at"), "{text}");
    assert!(text.ends_with("raise `version` and write an upcaster"), "{text}");
    // The lock knows that such a change was allowed.
    let allowed = LOCK.replace("new|old: u8\n", "new|old: u8\nallowed E-TYPE-CHANGED at customer: never written\n");
    assert_eq!(allowed.parse::<Lock>().unwrap().compare(&[broken]), []);
}

async fn store() -> (tempfile::TempDir, SqliteStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = SqliteStore::open(folder.path().join("log.db")).await.unwrap();
    (folder, store)
}

async fn append(store: &SqliteStore, stream: (&str, &str), name: &str, version: u32, codec: Codec, payload: &[u8]) {
    let payload = Bytes::copy_from_slice(payload);
    let event = NewEvent::stored(EventId::generate(), EventType::new(name).unwrap(), version, codec, payload);
    let stream = StreamId::try_from(stream).unwrap();
    store.append(Append::new(stream, ExpectedVersion::Any, vec![event])).await.unwrap();
}

fn problems(report: &LogReport) -> Vec<String> {
    let text = |problem: &retell::registry::LogProblem| problem.to_string().lines().next().unwrap().to_owned();
    report.problems.iter().map(text).collect()
}

#[tokio::test]
async fn a_log_that_the_program_reads_has_no_problem() {
    let (_folder, store) = store().await;
    registry().register(&store).await.unwrap();
    let empty = registry().check_log(&store, 100).await.unwrap();
    assert_eq!((empty.kinds.len(), empty.problems.len(), empty.newest), (0, 0, 100));
    store.register_shapes(&[shape("order.placed", 1, Codec::Json, "text", 0)]).await.unwrap();
    append(&store, ("order", "1"), "order.placed", 1, Codec::Json, b"\"ada\"").await;
    for payload in [
        r#"{"customer":"ada","new":1}"#,
        r#"{"customer":"ada","old":1,"tip":2,"x":0}"#,
        r#"{"customer":"a","new":1,"tip":3}"#,
    ] {
        append(&store, ("order", "2"), "order.placed", 2, Codec::Json, payload.as_bytes()).await;
    }
    append(&store, ("order", "3"), "order.weighed", 1, Codec::Compact, &[7]).await;
    append(&store, ("saga", "1"), "process.stepped", 1, Codec::Json, b"{}").await;
    let report = registry().check_log(&store, 100).await.unwrap();
    assert_eq!(
        report.to_string(),
        "the log, by at most 100 of the newest events of each type:\n\
         order.placed 1 json: 1 event\n\
         order.placed 2 json: 3 events, field tip is not read and still stored in 2, field x is not read and still stored in 1\n\
         order.weighed 1 compact: 1 event"
    );
}

#[tokio::test]
async fn only_the_newest_events_are_decoded() {
    let (_folder, store) = store().await;
    registry().register(&store).await.unwrap();
    append(&store, ("order", "1"), "order.noted", 1, Codec::Json, b"damaged").await;
    for _ in 0..3 {
        append(&store, ("order", "1"), "order.noted", 1, Codec::Json, br#"{"note":"x"}"#).await;
    }
    let newest = registry().check_log(&store, 3).await.unwrap();
    assert_eq!((newest.problems.len(), newest.kinds[0].events, newest.newest), (0, 3, 3));
    let all = registry().check_log(&store, 4).await.unwrap();
    assert_eq!((problems(&all).len(), all.kinds[0].events), (1, 4));
    assert!(problems(&all)[0].starts_with(
        "order.noted: E-UNDECODABLE: 1 of version 1 json, the newest one in order/1 at version 1: cannot decode the payload: "
    ));
    // The event types are checked in any case.
    append(&store, ("order", "1"), "order.lost", 1, Codec::Json, b"1").await;
    let none = registry().check_log(&store, 0).await.unwrap();
    assert_eq!(problems(&none), ["order.lost: E-EVENT-UNKNOWN"]);
}

#[tokio::test]
async fn each_problem_of_a_stored_event_is_named() {
    let (_folder, store) = store().await;
    store.register_shapes(&[shape("order.placed", 2, Codec::Json, "{}", 0)]).await.unwrap();
    append(&store, ("order", "1"), "order.placed", 3, Codec::Json, b"{}").await;
    append(&store, ("order", "2"), "order.placed", 2, Codec::Json, b"{}").await;
    append(&store, ("order", "3"), "order.placed", 2, Codec::Json, b"[]").await;
    append(&store, ("order", "4"), "order.weighed", 1, Codec::Json, b"8").await;
    append(&store, ("order", "5"), "order.weighed", 1, Codec::Compact, b"").await;
    append(&store, ("diary", "1"), "order.noted", 1, Codec::Json, b"null").await;
    append(&store, ("order", "6"), "order.lost", 1, Codec::Json, b"1").await;
    append(&store, ("order", "7"), "order.lost", 1, Codec::Json, b"1").await;
    let report = registry().check_log(&store, 100).await.unwrap();
    let found = problems(&report);
    let expected = [
        "order.lost: E-EVENT-UNKNOWN: the newest one is in order/7",
        "order.lost: E-NOT-REGISTERED: version 1 json",
        "order.noted: E-EVENT-UNKNOWN: the newest one is in diary/1",
        "order.noted: E-NOT-REGISTERED: version 1 json",
        "order.placed: E-UNDECODABLE: 2 of version 2 json, the newest one in order/3 at version 1: cannot decode the payload",
        "order.placed: E-NOT-REGISTERED: version 3 json",
        "order.placed: E-VERSION-UNKNOWN: 1 of version 3, and the program knows 1 to 2",
        "order.weighed: E-NOT-REGISTERED: version 1 json",
        "order.weighed: E-NOT-REGISTERED: version 1 compact",
        "order.weighed: E-UNDECODABLE: 1 of version 1 compact, the newest one in order/5 at version 1: cannot decode the payload",
    ];
    assert_eq!(found.len(), expected.len(), "{report}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}\n{expected}");
    }
    assert!(report.problems.iter().all(|problem| problem.fault.cure().len() > 20));
}

/// The check can run against a log in use.
#[tokio::test]
async fn the_check_writes_nothing() {
    let (folder, store) = store().await;
    append(&store, ("order", "1"), "order.placed", 2, Codec::Json, b"{}").await;
    let reader = SqliteStore::open(folder.path().join("log.db")).await.unwrap();
    let report = registry().check_log(&reader, 100).await.unwrap();
    assert_eq!(report.problems.len(), 2, "{report}");
    assert_eq!(store.registered_shapes().await.unwrap(), []);
    assert_eq!(store.head().await.unwrap(), Position::new(1));
}
