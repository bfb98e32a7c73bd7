//! The log in every fixture. It never changes, because older releases have written it too.

use std::time::Duration;

use chrono::{DateTime, Utc};
use retell::codec::Codec;
use retell::event::{Metadata, NewEvent};
use retell::id::{CorrelationId, EventId, EventType};
use retell::store::mysql::MySqlReadModel;
use retell::store::postgres::PostgresReadModel;
use retell::store::sqlite::SqliteReadModel;
use retell::store::{Append, Outcome, ReadModel, Replay, Snapshot, Step, Work};
use retell::testing::store::{event_at, events, replayed, stream, whole_log};
use retell::{
    Claim, ClaimScope, ClaimValue, ErrorKind, EventReaderExt, ExpectedVersion, Fence, IdempotencyKey, Position,
    ProjectionName, StreamId, Version,
};
use uuid::Uuid;

use crate::databases::{Place, Store};

const FINGERPRINT: u64 = u64::MAX - 5;

/// The day that all recorded times are moved to.
pub(crate) const DAY: &str = "2024-01-01";

fn id(number: u128) -> Uuid {
    Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 + number)
}

fn event(number: u128, event_type: &str, payload: &[u8]) -> NewEvent {
    NewEvent::stored(
        EventId::from(id(number)),
        EventType::new(event_type).unwrap(),
        1,
        Codec::Json,
        payload.to_vec().into(),
    )
}

fn key(name: &str) -> IdempotencyKey {
    IdempotencyKey::new(name).unwrap()
}

fn projection() -> ProjectionName {
    ProjectionName::new("totals").unwrap()
}

fn order() -> StreamId {
    StreamId::parse("order", "zoë's 🦀").unwrap()
}

/// Returns the appends in log order.
fn appends() -> Vec<Append> {
    let mut compact = event(2, "account.renamed", &[0, 1, 0x7f, 0x80, 0xff]);
    (compact.codec, compact.schema_version) = (Codec::Compact, 3);
    let mut full = event(4, "order.placed", r#"{"to": "zoë 🦀", "quote": "it's"}"#.as_bytes());
    full.metadata = Metadata::new()
        .with_correlation(CorrelationId::from(id(1001)))
        .with_causation(EventId::from(id(3)))
        .with_source("billing 'n \"shipping\"")
        .with_entry("ip", "\u{1}\\ü");
    let one = || stream("1");
    vec![
        Append::new(
            one(),
            ExpectedVersion::NoStream,
            vec![event(1, "account.opened", br#"{"owner": "Ada"}"#), compact],
        ),
        Append::new(one(), ExpectedVersion::Exact(Version::new(2)), vec![event(3, "account.noted", b"{}")])
            .with_stream(order(), ExpectedVersion::NoStream, vec![full])
            .with_key(key("pay 'n go")),
        Append::new(stream("2"), ExpectedVersion::Any, vec![event(5, "account.opened", b"")]),
        // Nothing reads the log after this append, so on a server it has no position yet.
        Append::new(order(), ExpectedVersion::Exists, vec![event(6, "order.shipped", b"[1, 2]")]).with_key(key("ship")),
    ]
}

pub(crate) async fn write(place: &Place) {
    let store = place.open().await.unwrap();
    let appends = appends();
    let last = appends.len() - 1;
    for (append, number) in appends.into_iter().zip(0..) {
        if number == last {
            assert_eq!(store.events.head().await.unwrap(), Position::new(5));
        }
        store.events.append(append).await.unwrap();
    }
    let second = event_at(&*store.events, &stream("1"), 2).await;
    let snapshot = Snapshot::new(Version::new(2), second, FINGERPRINT, vec![0, 0xff, b'\'']);
    store.events.save_snapshot(&stream("1"), snapshot).await.unwrap();
    store.relays.advance("main", Position::new(3).into(), Fence::ZERO).await.unwrap();
    advance(place, Position::ZERO, Position::new(4)).await.unwrap();
    store.events.close().await.unwrap();
}

/// Moves the checkpoint of a projection in the log's own database.
async fn advance(place: &Place, from: Position, to: Position) -> retell::Result<()> {
    fn nothing<Tx: Send + 'static>() -> Work<Tx> {
        Box::new(|_| Box::pin(async { Ok(()) }))
    }
    match place {
        Place::Sqlite(path) => {
            SqliteReadModel::open(path).await?.commit(Step::new(&projection(), from, to), nothing()).await
        }
        Place::Postgres(url) => {
            PostgresReadModel::connect(url).await?.commit(Step::new(&projection(), from, to), nothing()).await
        }
        Place::MySql(url) => {
            MySqlReadModel::connect(url).await?.commit(Step::new(&projection(), from, to), nothing()).await
        }
    }
}

/// Checks that everything is there and that the log accepts new events.
pub(crate) async fn check(place: &Place) {
    let store = place.open().await.unwrap();
    check_events(&store).await;
    check_other_tables(&store).await;
    advance(place, Position::new(4), Position::new(6)).await.unwrap();
    check_append(&store).await;
    check_claims(&store).await;
    check_relay(&store).await;
    store.events.close().await.unwrap();
    // Opening it a second time finds nothing to migrate.
    assert_eq!(place.open().await.unwrap().events.head().await.unwrap(), Position::new(9));
}

async fn check_events(store: &Store) {
    let log = whole_log(&*store.events).await.unwrap();
    let appends = appends();
    let parts = appends.iter().flat_map(Append::streams);
    let expected: Vec<_> = parts.flat_map(|part| part.events.iter().map(|event| (&part.stream, event))).collect();
    assert_eq!(log.iter().map(|event| (&event.stream, &event.event)).collect::<Vec<_>>(), expected);
    assert_eq!(log.iter().map(|event| event.position.get()).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    assert_eq!(log.iter().map(|event| event.version.get()).collect::<Vec<_>>(), [1, 2, 3, 1, 1, 2]);
    let times: Vec<DateTime<Utc>> = log.iter().map(|event| event.recorded_at).collect();
    assert!(times.is_sorted() && times.iter().all(|time| time.date_naive().to_string() == DAY), "{times:?}");
    let payloads: Vec<_> = replayed(&*store.events, &stream("1"), Replay::ALL).await.unwrap().events;
    assert_eq!(
        payloads.iter().map(|(_, payload)| &payload[..]).collect::<Vec<_>>(),
        [&expected[0].1.payload[..], &expected[1].1.payload[..], b"{}"]
    );
    let newest = store.events.newest(&EventType::new("account.opened").unwrap(), 9).await.unwrap();
    assert_eq!(newest.iter().map(|event| event.position.get()).collect::<Vec<_>>(), [5, 1]);
}

/// Checks snapshots, keys, checkpoints and relays.
async fn check_other_tables(store: &Store) {
    let from_snapshot = Replay::ALL.with_snapshot(FINGERPRINT);
    let seen = replayed(&*store.events, &stream("1"), from_snapshot).await.unwrap();
    assert_eq!((seen.snapshot.clone(), seen.versions()), (Some((Version::new(2), vec![0, 0xff, b'\''])), vec![3]));
    for append in appends() {
        let Some(key) = append.key().cloned() else { continue };
        let kept = store.events.find_by_key(&key).await.unwrap().unwrap();
        assert!(kept.streams.iter().eq(append.stream_ids()));
        let again = store.events.append(append).await.unwrap();
        assert_eq!((again.outcome, &again), (Outcome::Repeated, &kept.appended));
        let position = store.events.position_of(again.token()).await.unwrap();
        assert_eq!(position, Some(Position::new(if key.as_str() == "ship" { 6 } else { 4 })));
    }
    assert_eq!(store.relays.position("main").await.unwrap(), Position::new(3));
}

/// Checks that a relay from a release without leases can continue: such relays wrote with the lowest fence.
async fn check_relay(store: &Store) {
    store.relays.advance("main", Position::new(4).into(), Fence::ZERO).await.unwrap();
    let taken = store.relays.acquire_lease("main", id(1), Duration::from_hours(1)).await.unwrap();
    assert_eq!(taken, Some(Fence::new(1)));
    store.relays.advance("main", Position::new(5).into(), Fence::new(1)).await.unwrap();
    assert!(store.relays.advance("main", Position::new(6).into(), Fence::ZERO).await.is_err());
    assert_eq!(store.relays.position("main").await.unwrap(), Position::new(5));
}

fn reserve() -> Claim {
    Claim::reserve("user.email", "zoë@example.org").unwrap()
}

/// Checks that a log from a release without unique values has none reserved.
async fn check_claims(store: &Store) {
    let (scope, value) = (ClaimScope::new("user.email").unwrap(), ClaimValue::new("zoë@example.org").unwrap());
    assert_eq!(store.events.holder(&scope, &value).await.unwrap(), Some(stream("3")));
    let late = Append::new(stream("4"), ExpectedVersion::NoStream, events(1)).with_claims([reserve()]);
    let error = store.events.append(late).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Taken { scope, value, by: stream("3") });
}

async fn check_append(store: &Store) {
    let stale = Append::new(order(), ExpectedVersion::Exact(Version::new(1)), events(1));
    let error = store.events.append(stale).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Conflict { actual, .. } if actual.get() == 2), "{error}");
    let known = Append::new(stream("3"), ExpectedVersion::Any, vec![event(3, "account.noted", b"{}")]);
    assert!(matches!(store.events.append(known).await.unwrap_err().kind(), ErrorKind::DuplicateEvent(_)));
    let next = Append::new(order(), ExpectedVersion::Exact(Version::new(2)), events(1))
        .with_stream(stream("3"), ExpectedVersion::NoStream, events(2))
        .with_claims([reserve()])
        .with_key(key("next"));
    let appended = store.events.append(next).await.unwrap();
    assert_eq!((appended.outcome, &appended.versions[..]), (Outcome::Written, &[3, 2].map(Version::new)[..]));
    let log = whole_log(&*store.events).await.unwrap();
    assert_eq!(log.iter().map(|event| event.position.get()).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
    assert_eq!(store.events.position_of(appended.token()).await.unwrap(), Some(Position::new(9)));
    let day = log[8].recorded_at.date_naive().to_string();
    assert_ne!(day, DAY);
}
