//! Seals: what they find, that nothing changes them, and that every store has the same.

use std::num::NonZeroU64;

use retell::operate::{self, SealOptions, VerifyOptions};
use retell::{CancellationToken, MemoryStore, Position, ReadModel};

use crate::databases::Place;
use crate::planted::{fill, in_dialect, stream, without_triggers};
use crate::{Log, ids, verify};

fn of(events: u64) -> SealOptions {
    SealOptions::new().with_events(NonZeroU64::new(events).unwrap())
}

pub(crate) async fn sealed_log_is_compared(log: &impl Log, models: &impl ReadModel, _: &Place) {
    assert_eq!(operate::seal(log, of(4)).await.unwrap().last, None);
    fill(log, models).await;
    let sealed = operate::seal(log, of(4)).await.unwrap();
    assert_eq!((sealed.seals, sealed.last.as_ref().map(|seal| seal.last.get())), (3, Some(11)));
    let again = operate::seal(log, of(4)).await.unwrap();
    assert_eq!((again.seals, again.last), (0, sealed.last));
    let verified = verify(log, models).await;
    assert!(verified.is_whole(), "{verified:?}");
    let seals = verified.seals;
    assert_eq!((seals.count, seals.first, seals.last), (3, Some(Position::new(1)), Some(Position::new(11))));
}

pub(crate) async fn each_change_of_a_sealed_event_is_found(log: &impl Log, models: &impl ReadModel, place: &Place) {
    fill(log, models).await;
    operate::seal(log, of(4)).await.unwrap();
    without_triggers(place).await;
    let changes = [
        ("payload", if matches!(place, Place::Postgres(_)) { "'\\x37'" } else { "X'37'" }),
        ("metadata", "'{}'"),
        ("event_type", "'order.shipped'"),
        ("schema_version", "2"),
        ("codec", "1"),
        ("causation_id", "#4"),
        ("correlation_id", "NULL"),
    ];
    let keep = "CREATE TABLE kept AS SELECT * FROM E WHERE event_id = #6";
    place.run(&in_dialect(place, keep)).await;
    for (column, value) in changes {
        place.run(&in_dialect(place, &format!("UPDATE E SET {column} = {value} WHERE event_id = #6"))).await;
        let verified = verify(log, models).await;
        assert_eq!(ids(&verified), ["seal-mismatch"].into(), "{column}: {verified:?}");
        let fault = &verified.faults[0];
        assert_eq!((fault.position, fault.through), (Some(Position::new(5)), Some(Position::new(8))));
        let undo = format!("UPDATE E SET {column} = (SELECT {column} FROM kept) WHERE event_id = #6");
        place.run(&in_dialect(place, &undo)).await;
        assert!(verify(log, models).await.is_whole(), "{column}");
    }
    // The last events are gone. Only a seal knows of them, if their places in the order are gone, too.
    place.run(&in_dialect(place, "DELETE FROM E WHERE event_id = #11")).await;
    match place {
        Place::Sqlite(_) => {}
        Place::Postgres(_) => place.run("DELETE FROM retell.log WHERE first_position = 11; DELETE FROM retell.commits WHERE commit_id = (SELECT max(commit_id) FROM retell.commits)").await,
        Place::MySql(_) => place.run("DELETE FROM retell_log WHERE first_position = 11; UPDATE retell_head SET position = 10").await,
    }
    assert_eq!(ids(&verify(log, models).await), ["seal-ahead"].into());
}

pub(crate) async fn changed_seals_are_found(log: &impl Log, models: &impl ReadModel, place: &Place) {
    fill(log, models).await;
    operate::seal(log, of(4)).await.unwrap();
    without_triggers(place).await;
    let (zeros, keep) = (
        if matches!(place, Place::Postgres(_)) { "'\\x00'" } else { "X'00'" },
        "CREATE TABLE kept AS SELECT * FROM D ",
    );
    let zeros = zeros.replace("00", &"00".repeat(32));
    place.run(&in_dialect(place, keep)).await;
    let cases = [
        (format!("UPDATE D SET digest = {zeros} WHERE first_position = 5"), vec!["seal-mismatch", "seal-chain"]),
        (format!("UPDATE D SET previous = {zeros} WHERE first_position = 5"), vec!["seal-mismatch", "seal-chain"]),
        ("DELETE FROM D WHERE first_position = 5".to_owned(), vec!["seal-gap"]),
        ("DELETE FROM D WHERE first_position = 1".to_owned(), vec!["seal-gap"]),
    ];
    for (plant, faults) in cases {
        place.run(&in_dialect(place, &plant)).await;
        let verified = verify(log, models).await;
        assert_eq!(ids(&verified), faults.into_iter().collect(), "{plant}: {verified:?}");
        place.run(&in_dialect(place, "DELETE FROM D ; INSERT INTO D SELECT * FROM kept")).await;
        assert!(verify(log, models).await.is_whole(), "{plant}");
    }
}

pub(crate) async fn stopped_verification_continues(log: &impl Log, models: &impl ReadModel, _: &Place) {
    for _ in 0..70 {
        let events = (0..20).map(|n| {
            let event_type = retell::EventType::new("order.placed").unwrap();
            let id = retell::EventId::generate();
            retell::NewEvent::stored(id, event_type, 1, retell::Codec::Json, format!("{n}").into())
        });
        let append = retell::Append::new(stream("long"), retell::ExpectedVersion::Any, events.collect());
        log.append(append).await.unwrap();
    }
    for _ in 0..600 {
        let event_type = retell::EventType::new("order.placed").unwrap();
        let event =
            retell::NewEvent::stored(retell::EventId::generate(), event_type, 1, retell::Codec::Json, "{}".into());
        log.append(retell::Append::new(stream("short"), retell::ExpectedVersion::Any, vec![event])).await.unwrap();
    }
    operate::seal(log, of(300)).await.unwrap();
    let (mut after, mut events, mut runs) = (Position::ZERO, 0, 0);
    loop {
        // Each run is stopped after its first page.
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let options = VerifyOptions::new().with_after(after).with_stop(stop);
        let options = options.with_progress(move |through, head| {
            assert!(through <= head && head == Position::new(2_000));
            stopped.cancel();
        });
        let verified = operate::verify(log, models, options).await.unwrap();
        assert!(verified.faults.is_empty(), "{verified:?}");
        (events, runs) = (events + verified.events, runs + 1);
        if verified.is_complete {
            break;
        }
        assert!(verified.through > after, "{verified:?}");
        assert_eq!(verified.through.get() % 300, 0, "a run continues at the beginning of a seal");
        after = verified.through;
    }
    assert!(runs > 1 && events >= 2_000, "{runs} runs over {events} events");
    // In the middle of a seal, the verification compares from the next one on.
    let verified = operate::verify(log, models, VerifyOptions::new().with_after(Position::new(450))).await.unwrap();
    assert!(verified.is_whole(), "{verified:?}");
    assert_eq!((verified.seals.first, verified.events), (Some(Position::new(601)), 1_550));
}

pub(crate) async fn seal_cannot_be_changed(log: &impl Log, models: &impl ReadModel, place: &Place) {
    fill(log, models).await;
    let last = operate::seal(log, of(20)).await.unwrap().last.unwrap();
    let other = retell::store::Seal::new(last.first, last.last, last.digest, last.digest, last.sealed_at);
    log.add_seal(&other).await.unwrap();
    assert_eq!(log.last_seal().await.unwrap(), Some(last));
    for change in ["UPDATE D SET last_position = 5", "DELETE FROM D "] {
        let refused = place.try_run(&in_dialect(place, change)).await;
        assert!(refused.unwrap_err().contains("seals are immutable"), "{change}");
    }
}

pub(crate) async fn digest_is_the_same_in_every_store(log: &impl Log, models: &impl ReadModel, place: &Place) {
    let memory = MemoryStore::new();
    fill(&memory, &memory.read_model()).await;
    fill(log, models).await;
    without_triggers(place).await;
    // Each store sets the times of its events.
    for position in 1..=11 {
        let page = retell::EventReaderExt::event_at(&memory, Position::new(position)).await.unwrap().unwrap();
        let time = match place {
            Place::Sqlite(_) => page.recorded_at.timestamp_micros().to_string(),
            Place::Postgres(_) => format!("'{}'", page.recorded_at.to_rfc3339()),
            Place::MySql(_) => format!("'{}'", page.recorded_at.naive_utc()),
        };
        place
            .run(&in_dialect(place, &format!("UPDATE E SET recorded_at = {time} WHERE event_id = #{position} ")))
            .await;
    }
    let ours = operate::seal(log, of(5)).await.unwrap().last.unwrap();
    let theirs = operate::seal(&memory, of(5)).await.unwrap().last.unwrap();
    assert_eq!((ours.first, ours.last, ours.digest), (theirs.first, theirs.last, theirs.digest));
}
