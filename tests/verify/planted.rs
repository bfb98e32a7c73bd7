//! A log with everything, and damage to it.

use std::collections::BTreeSet;

use retell::event::NewEvent;
use retell::operate::{self, Follower, Verdict};
use retell::store::{By, Parked, Snapshot, Step, Turn, Work};
use retell::{
    Append, Claim, Codec, CorrelationId, EventId, EventType, ExpectedVersion, Fence, IdempotencyKey, Mark, Metadata,
    Position, ProjectionName, ReadModel, StreamId, Uuid, Version,
};

use crate::databases::Place;
use crate::{Log, ids, verify};

/// The streams of the events, by position. The last but one commit has two events.
const STREAMS: [&str; 11] = ["a", "b", "a", "c", "a", "b", "a", "b", "d", "d", "a"];

pub(crate) fn id(position: u64) -> EventId {
    Uuid::from_u128(position.into()).into()
}

fn event(position: u64) -> NewEvent {
    let event_type = EventType::new("order.placed").unwrap();
    let event = NewEvent::stored(id(position), event_type, 1, Codec::Json, format!("{{\"n\":{position}}}").into());
    let correlation: CorrelationId = Uuid::from_u128(7).into();
    let metadata = Metadata::new().with_source("shop").with_entry("user", "ann").with_correlation(correlation);
    if position.is_multiple_of(2) { event.with_metadata(metadata) } else { event }
}

pub(crate) fn stream(name: &str) -> StreamId {
    StreamId::parse("order", name).unwrap()
}

fn nothing<Tx: ?Sized + 'static>() -> Work<Tx> {
    Box::new(|_| Box::pin(async { Ok(()) }))
}

/// Appends events up to position 11, with a claim, a key, a snapshot, a checkpoint, a relay, a reaction, and progress per aggregate.
pub(crate) async fn fill(log: &impl Log, models: &impl ReadModel) {
    for (position, name) in (1..).zip(STREAMS) {
        if position == 10 {
            continue;
        }
        let mut events = vec![event(position)];
        if position == 9 {
            events.push(event(10));
        }
        let scope = retell::ClaimScope::new("email").unwrap();
        let value = retell::ClaimValue::new("ann@example.com").unwrap();
        let claims = (position == 1).then_some(Claim::Reserve { scope, value });
        let mut append = Append::new(stream(name), ExpectedVersion::Any, events).with_claims(claims);
        if position == 7 {
            append = append.with_key(IdempotencyKey::new("request-7").unwrap());
        }
        log.append(append).await.unwrap();
        // Gives the commit its position before the next one.
        log.head().await.unwrap();
    }
    let snapshot = Snapshot::new(Version::new(2), id(3), 1, b"state".to_vec());
    log.save_snapshot(&stream("a"), snapshot).await.unwrap();
    let mark = Mark::new(Position::new(5), id(5));
    let step = Step::new(&ProjectionName::new("totals").unwrap(), Mark::START, mark);
    models.commit(step, nothing()).await.unwrap();
    log.advance("out", mark, Fence::new(1)).await.unwrap();
    remember(models).await;
}

/// Starts a reaction after 2, and applies events of two aggregates, of which one is parked.
async fn remember(models: &impl ReadModel) {
    let (mails, zones) = (ProjectionName::new("mails").unwrap(), ProjectionName::new("zones").unwrap());
    models.start_after(&mails, Mark::new(Position::new(2), id(2))).await.unwrap();
    models.begin(&zones, nothing()).await.unwrap();
    let apply: Turn<_> = Box::new(|_, rows| {
        for row in rows {
            let is_first = row.stream == stream("a");
            row.seen = Version::new(2);
            row.applied = Version::new(if is_first { 2 } else { 1 });
            row.seen_id = Some(id(if is_first { 3 } else { 6 }));
            row.parked = (!is_first).then(|| {
                Parked::new(stream("b"), Version::new(2), Position::new(6), "no such order", 3, retell::Utc::now())
            });
        }
        Box::pin(async { Ok(()) })
    });
    models.turn(&zones, 0, vec![stream("a"), stream("b")], apply).await.unwrap();
}

pub(crate) async fn whole_log_has_no_fault(log: &impl Log, models: &impl ReadModel, place: &Place) {
    let empty = verify(log, models).await;
    assert!(empty.is_whole() && empty.events == 0, "{empty:?}");
    fill(log, models).await;
    // The second one may be a part of an event that was split.
    let part = "X'00000000000050008000000000000001'";
    let part = if let Place::Postgres(_) = place { "'00000000-0000-5000-8000-000000000001'" } else { part };
    let handled = format!("INSERT INTO I (reaction, event_id) VALUES ('mails', #4), ('mails', {part})");
    place.run(&in_dialect(place, &handled)).await;
    let verified = verify(log, models).await;
    assert!(verified.is_whole(), "{verified:?}");
    assert_eq!((verified.events, verified.head.get(), verified.through.get()), (11, 11, 11));
    assert!(verified.unchecked.is_empty() && verified.seals.first.is_none(), "{verified:?}");
}

/// Damage, how to undo it, and the names of the faults that it makes.
struct Damage {
    plant: &'static str,
    undo: &'static str,
    faults: &'static [&'static str],
}

const fn damage(plant: &'static str, undo: &'static str, faults: &'static [&'static str]) -> Damage {
    Damage { plant, undo, faults }
}

/// Statements with `E` for the table of events, and so on. See [`in_dialect`].
const DAMAGES: [Damage; 14] = [
    // The versions 2 and 3 of a stream change places.
    damage(
        "UPDATE E SET version = 99 WHERE event_id = #3; UPDATE E SET version = 2 WHERE event_id = #5;
         UPDATE E SET version = 3 WHERE event_id = #3",
        "UPDATE E SET version = 99 WHERE event_id = #3; UPDATE E SET version = 3 WHERE event_id = #5;
         UPDATE E SET version = 2 WHERE event_id = #3; UPDATE S SET event_id = #3",
        &["version-order", "snapshot-ahead", "progress-ahead"],
    ),
    damage(
        "UPDATE E SET version = 9 WHERE event_id = #11",
        "UPDATE E SET version = 5 WHERE event_id = #11",
        &["version-missing"],
    ),
    damage(
        "UPDATE E SET codec = 9 WHERE event_id = #4",
        "UPDATE E SET codec = 0 WHERE event_id = #4",
        &["row-damaged"],
    ),
    damage(
        "UPDATE E SET metadata = '[]' WHERE event_id = #5",
        "UPDATE E SET metadata = NULL WHERE event_id = #5",
        &["row-damaged"],
    ),
    damage("UPDATE C SET aggregate_id = 'gone'", "UPDATE C SET aggregate_id = 'a'", &["claim-stray"]),
    damage("UPDATE S SET version = 50", "UPDATE S SET version = 2", &["snapshot-ahead"]),
    damage("UPDATE P SET position = 50", "UPDATE P SET position = 5", &["checkpoint-ahead"]),
    damage("UPDATE R SET event_id = #4", "UPDATE R SET event_id = #5", &["relay-ahead"]),
    damage(
        "UPDATE K SET commit_id = commit_id + 900000",
        "UPDATE K SET commit_id = commit_id - 900000",
        &["key-stray"],
    ),
    damage("UPDATE B SET begins_after = 50", "UPDATE B SET begins_after = 2", &["start-ahead"]),
    damage(
        "INSERT INTO I (reaction, event_id) VALUES ('mails', #99)",
        "DELETE FROM I WHERE event_id = #99",
        &["inbox-stray"],
    ),
    damage(
        "UPDATE G SET seen_id = #4 WHERE aggregate_id = 'a'",
        "UPDATE G SET seen_id = #3 WHERE aggregate_id = 'a'",
        &["progress-ahead"],
    ),
    damage(
        "UPDATE G SET seen = 9, applied = 9, seen_id = NULL WHERE aggregate_id = 'b'",
        "UPDATE G SET seen = 2, applied = 1, seen_id = #6 WHERE aggregate_id = 'b'",
        &["progress-ahead"],
    ),
    damage(
        "UPDATE G SET applied = 1 WHERE aggregate_id = 'a'",
        "UPDATE G SET applied = 2 WHERE aggregate_id = 'a'",
        &["progress-damaged"],
    ),
];

/// Damage to the order of the log, in databases that keep it in a table of its own.
const COMMIT_DAMAGES: [Damage; 3] = [
    damage(
        "UPDATE L SET events = 3 WHERE first_position = 9",
        "UPDATE L SET events = 2 WHERE first_position = 9",
        &["commit-mismatch"],
    ),
    damage(
        "UPDATE L SET events = 1 WHERE first_position = 9",
        "UPDATE L SET events = 2 WHERE first_position = 9",
        &["commit-mismatch", "event-missing"],
    ),
    damage(
        "INSERT INTO E (commit_id, ordinal, event_id, aggregate_type, aggregate_id, version, event_type, schema_version, codec, recorded_at, payload)
         VALUES (999999, 1, #99, 'order', 'z', 1, 'order.placed', 1, 0, '2026-01-01', '')",
        "DELETE FROM E WHERE commit_id = 999999",
        &["event-stray"],
    ),
];

/// Damage that stays, so it comes last.
const LAST: [Damage; 3] = [
    damage("DELETE FROM E WHERE event_id = #4", "", &["event-missing"]),
    damage("DELETE FROM E WHERE event_id = #6", "", &["event-missing", "version-missing", "progress-ahead"]),
    damage(
        "UPDATE E SET event_id = #1 WHERE event_id = #2",
        "",
        &["event-missing", "version-missing", "index-missing", "id-twice", "progress-ahead", "start-ahead"],
    ),
];

/// Writes a statement in the dialect of a database: tables by their letters, and `#4` as the id of the event at position 4.
pub(crate) fn in_dialect(place: &Place, sql: &str) -> String {
    let is_postgres = matches!(place, Place::Postgres(_));
    let tables = [
        ("E", "events"),
        ("L", "log"),
        ("C", "reservations"),
        ("S", "snapshots"),
        ("P", "checkpoints"),
        ("R", "relays"),
        ("D", "seals"),
        ("K", "keys"),
        ("B", "reactions"),
        ("I", "inbox"),
        ("G", "progress"),
    ];
    let mut sql = format!(" {sql} ");
    for (letter, table) in tables {
        let name = if is_postgres { format!(" retell.{table} ") } else { format!(" retell_{table} ") };
        sql = sql.replace(&format!(" {letter} "), &name);
    }
    for position in (1..=99_u128).rev() {
        let id = Uuid::from_u128(position);
        let id = if is_postgres { format!("'{id}'") } else { format!("X'{}'", id.simple()) };
        sql = sql.replace(&format!("#{position}"), &id);
    }
    sql
}

/// Removes the triggers that keep events and seals unchanged.
pub(crate) async fn without_triggers(place: &Place) {
    let sql = match place {
        Place::Postgres(_) => {
            "ALTER TABLE retell.events DISABLE TRIGGER USER; ALTER TABLE retell.seals DISABLE TRIGGER USER"
        }
        _ => {
            "DROP TRIGGER retell_events_no_update; DROP TRIGGER retell_events_no_delete;
             DROP TRIGGER retell_seals_no_update; DROP TRIGGER retell_seals_no_delete"
        }
    };
    place.run(sql).await;
}

pub(crate) async fn each_fault_is_found_by_its_name(log: &impl Log, models: &impl ReadModel, place: &Place) {
    fill(log, models).await;
    without_triggers(place).await;
    let expect = async |damage: &Damage| {
        place.run(&in_dialect(place, damage.plant)).await;
        let verified = verify(log, models).await;
        let expected: BTreeSet<_> = damage.faults.iter().copied().collect();
        assert_eq!(ids(&verified), expected, "{}: {verified:#?}", damage.plant);
        assert!(verified.is_complete && !verified.is_whole());
        if !damage.undo.is_empty() {
            place.run(&in_dialect(place, damage.undo)).await;
            let verified = verify(log, models).await;
            assert!(verified.is_whole(), "{}: {verified:#?}", damage.undo);
        }
    };
    for damage in &DAMAGES {
        expect(damage).await;
    }
    let is_server = !matches!(place, Place::Sqlite(_));
    if is_server {
        for damage in &COMMIT_DAMAGES {
            expect(damage).await;
        }
    }
    if let Place::Postgres(_) = place {
        let plant = "UPDATE E SET recorded_at = recorded_at + interval '1 hour' WHERE event_id = #3";
        let undo = "UPDATE E SET recorded_at = recorded_at - interval '1 hour' WHERE event_id = #3";
        expect(&damage(plant, undo, &["commit-mismatch"])).await;
    }
    let [one, two, twice] = &LAST;
    expect(one).await;
    expect(two).await;
    place
        .run(match place {
            Place::Sqlite(_) => "DROP INDEX retell_events_id",
            Place::Postgres(_) => "ALTER TABLE retell.events DROP CONSTRAINT events_id",
            Place::MySql(_) => "ALTER TABLE retell_events DROP INDEX events_id",
        })
        .await;
    expect(twice).await;
}

pub(crate) async fn place_ahead_is_set_back(log: &impl Log, models: &impl ReadModel, place: &Place) {
    fill(log, models).await;
    let places = operate::after_restore(log, models).await.unwrap();
    assert_eq!(places.ahead().count(), 0, "{places:?}");
    place.run(&in_dialect(place, "UPDATE P SET event_id = NULL")).await;
    let places = operate::after_restore(log, models).await.unwrap();
    assert_eq!(places.processors.items[0].verdict, Verdict::Unknown);
    place.run(&in_dialect(place, "UPDATE P SET event_id = #4; UPDATE R SET position = 50")).await;
    let places = operate::after_restore(log, models).await.unwrap();
    let ahead: Vec<_> = places.ahead().map(|place| place.follower.clone()).collect();
    let totals = Follower::Processor(ProjectionName::new("totals").unwrap());
    assert_eq!(ahead, [totals, Follower::Relay("out".into())]);
    let by = By::new("ada", "restored");
    for follower in &ahead {
        assert_eq!(operate::set_back(log, models, follower, &by).await.unwrap(), Position::new(11));
        // A second call changes nothing.
        assert_eq!(operate::set_back(log, models, follower, &by).await.unwrap(), Position::new(11));
    }
    let places = operate::after_restore(log, models).await.unwrap();
    assert_eq!(places.ahead().count(), 0, "{places:?}");
    assert_eq!(log.mark("out").await.unwrap().event_id, Some(id(11)));
    let audit = operate::audit_with_log(log, models, 10).await.unwrap();
    let targets: Vec<_> = audit.iter().map(|entry| (entry.target.as_str(), &entry.by)).collect();
    assert_eq!(targets, [("out to position 11", &by), ("totals to position 11", &by)]);
}
