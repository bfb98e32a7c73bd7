//! C12. A load of an old version starts from a snapshot along the way.

use std::sync::Arc;

use retell::store::{Replay, Snapshot};
use retell::testing::store::replayed;
use retell::{
    Aggregate, EventReaderExt, EventStore, ExpectedVersion, Repository, RepositoryOptions, StreamId, UpTo, Version,
};

use crate::counter::{Add, Counter, CounterEvent};
use crate::counting::Counting;
use crate::stores::{Log, every_store};

const EVENTS: u64 = 600;

/// Appends `EVENTS` events, five at a time, and waits for each snapshot. The event at version `n` adds `n`.
async fn fill(counters: &Repository<Counter>) {
    for first in (1..=EVENTS).step_by(5) {
        counters.execute("a", Add((first..first + 5).map(u64::cast_signed).collect())).await.unwrap();
        counters.flush().await;
    }
    assert_eq!(counters.snapshot_failures(), 0);
}

fn total(version: u64) -> i64 {
    (version * (version + 1) / 2).cast_signed()
}

#[tokio::test]
async fn load_of_an_old_version_replays_few_events() {
    for Log { name, events, .. } in every_store().await {
        fill(&Repository::<Counter>::new(events.clone())).await;
        let log = Counting::new(events);
        let counters = Repository::<Counter>::new(log.clone());
        for version in [1, 4, 5, 77, 200, 299, 300, 301, 433, 555, 599, 600] {
            let before = log.replayed();
            let loaded = counters.load_at("a", UpTo::Version(Version::new(version))).await.unwrap();
            assert_eq!((loaded.version.get(), loaded.state.total), (version, total(version)), "{name} {version}");
            let replayed = log.replayed() - before;
            // An eighth of the stream, and the events between two snapshots.
            assert!(replayed <= EVENTS / 8 + 5, "{name}: {replayed} events for version {version}");
        }
        let stream = StreamId::parse(Counter::TYPE, "a").unwrap();
        for version in [1, 200, 433, 600] {
            let event = log.read_stream(&stream, Version::new(version - 1), 1).await.unwrap().remove(0);
            let before = (log.replayed(), log.snapshots());
            let loaded = counters.load_at("a", UpTo::Time(event.recorded_at)).await.unwrap();
            // The clock of the log may give several events one time.
            assert!(loaded.version.get() >= version, "{name}");
            assert_eq!(loaded.state.total, total(loaded.version.get()), "{name}");
            let (replayed, snapshots) = (log.replayed() - before.0, log.snapshots() - before.1);
            assert!(replayed <= EVENTS / 8 + 5, "{name}: {replayed} events for the time of version {version}");
            assert!(version < 50 || snapshots == 1, "{name}");
        }
        let long_ago = UpTo::Time(retell::DateTime::UNIX_EPOCH);
        assert_eq!(counters.load_at("a", long_ago).await.unwrap().version, Version::ZERO, "{name}");
    }
}

#[tokio::test]
async fn only_the_newest_snapshot_stays_if_asked() {
    let options = RepositoryOptions::new().with_older_snapshots(0);
    for Log { name, events, .. } in every_store().await {
        fill(&Repository::<Counter>::new(events.clone()).with_options(options)).await;
        let log = Counting::new(events);
        let counters = Repository::<Counter>::new(log.clone());
        counters.load_at("a", UpTo::Version(Version::new(599))).await.unwrap();
        assert_eq!((log.replayed(), log.snapshots()), (599, 0), "{name}");
        counters.load("a").await.unwrap();
        assert_eq!((log.replayed(), log.snapshots()), (599, 1), "{name}");
    }
}

/// Appends `count` events, and returns their stream.
async fn counted(events: &Arc<dyn EventStore>, count: i64) -> StreamId {
    use retell::EventStoreExt;
    let stream = StreamId::parse("counter", "a").unwrap();
    let added = (1..=count).map(|amount| CounterEvent::Added { amount });
    events.append_events(stream.clone(), ExpectedVersion::Any, added).await.unwrap();
    stream
}

/// Saves a snapshot at each of `versions`.
async fn save(events: &Arc<dyn EventStore>, stream: &StreamId, versions: &[u64], fingerprint: u64, spacing: u64) {
    for &version in versions {
        let before = Version::new(version - 1);
        let id = events.read_stream(stream, before, 1).await.unwrap()[0].event.id;
        let snapshot = Snapshot::new(before.next(), id, fingerprint, version.to_string().into_bytes());
        events.save_snapshot(stream, snapshot.with_spacing(spacing)).await.unwrap();
    }
}

/// Returns the version of the snapshot that a load up to `version` starts from.
async fn start(events: &Arc<dyn EventStore>, stream: &StreamId, version: u64, fingerprint: u64) -> Option<u64> {
    let replay = Replay::ALL.with_up_to(UpTo::Version(Version::new(version))).with_snapshot(fingerprint);
    let seen = replayed(&**events, stream, replay).await.unwrap();
    let start = seen.snapshot.as_ref().map(|(start, state)| {
        assert_eq!(*state, start.get().to_string().into_bytes());
        start.get()
    });
    let first = start.map_or(1, |start| start + 1);
    assert!(seen.versions().into_iter().eq(first..=version), "no event is missing");
    start
}

#[tokio::test]
async fn snapshots_of_another_type_or_event_do_not_stay() {
    for Log { name, events, .. } in every_store().await {
        let stream = counted(&events, 40).await;
        save(&events, &stream, &[4, 8, 12, 16, 20], 1, 8).await;
        assert_eq!(start(&events, &stream, 40, 1).await, Some(20), "{name}");
        assert_eq!(start(&events, &stream, 19, 1).await, Some(16), "{name}");
        assert_eq!(start(&events, &stream, 15, 1).await, Some(8), "{name}: 12 is in the place of 8");
        assert_eq!(start(&events, &stream, 7, 1).await, Some(4), "{name}");
        // A late one is kept if its place is free, and never replaces the newest one.
        save(&events, &stream, &[30, 25], 1, 8).await;
        assert_eq!(start(&events, &stream, 29, 1).await, Some(25), "{name}");
        assert_eq!(start(&events, &stream, 40, 1).await, Some(30), "{name}");
        // One whose event is not in the log is not saved, and deletes nothing.
        let foreign = Snapshot::new(Version::new(31), retell::EventId::generate(), 1, b"31".to_vec());
        events.save_snapshot(&stream, foreign).await.unwrap();
        assert_eq!(start(&events, &stream, 40, 1).await, Some(30), "{name}");
        assert_eq!(start(&events, &stream, 7, 1).await, Some(4), "{name}");
        // A state of another type replaces them all.
        save(&events, &stream, &[9], u64::MAX, 8).await;
        assert_eq!(start(&events, &stream, 40, 1).await, None, "{name}");
        assert_eq!(start(&events, &stream, 40, u64::MAX).await, Some(9), "{name}");
    }
}
