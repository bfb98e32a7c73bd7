//! Snapshots: they speed up a load and never change its result.

use crate::id::{StreamId, Version};
use crate::store::log::reader::{Replay, UpTo};
use crate::testing::store::{Snapshot, Store, event_at, events, log_of, replay_of, stream, written};

/// A fingerprint above `i64::MAX`, which a store with signed columns must convert.
const FINGERPRINT: u64 = u64::MAX - 5;

async fn save(store: &Store, stream: &StreamId, version: u64, fingerprint: u64, state: &str) {
    let snapshot =
        Snapshot::new(Version::new(version), event_at(store, stream, version).await, fingerprint, state.into());
    store.save_snapshot(stream, snapshot).await.expect("a snapshot can be saved");
}

/// Replays a stream. Returns the version and state of the snapshot, and the versions of the events.
async fn loaded(store: &Store, replay: Replay) -> (Option<(u64, String)>, Vec<u64>) {
    let seen = replay_of(store, &stream("a"), replay).await;
    let versions = seen.versions();
    let snapshot = seen.snapshot.map(|(version, state)| (version.get(), String::from_utf8_lossy(&state).into_owned()));
    (snapshot, versions)
}

const WITH_SNAPSHOT: Replay = Replay { snapshot: Some(FINGERPRINT), ..Replay::ALL };

/// The visitor receives the state of the snapshot, then the events after it, if any.
pub async fn a_matching_snapshot_replaces_the_events_up_to_it(store: Store) {
    written(&store, &stream("a"), events(5)).await;
    written(&store, &stream("b"), events(5)).await;
    for (version, tail) in [(1, vec![2, 3, 4, 5]), (3, vec![4, 5]), (5, vec![])] {
        save(&store, &stream("a"), version, FINGERPRINT, "state").await;
        assert_eq!(loaded(&store, WITH_SNAPSHOT).await, (Some((version, "state".into())), tail));
    }
    assert_eq!(replay_of(&store, &stream("b"), WITH_SNAPSHOT).await.versions(), [1, 2, 3, 4, 5], "another stream");
    save(&store, &stream("b"), 5, FINGERPRINT, "").await;
    assert_eq!(replay_of(&store, &stream("b"), WITH_SNAPSHOT).await.snapshot, Some((Version::new(5), Vec::new())));
}

/// A replay without the snapshot's fingerprint starts from the beginning. A snapshot is also ignored if the caller already has its version.
pub async fn a_snapshot_is_used_only_with_its_fingerprint(store: Store) {
    written(&store, &stream("a"), events(4)).await;
    save(&store, &stream("a"), 3, FINGERPRINT, "state").await;
    let all = (None, vec![1, 2, 3, 4]);
    assert_eq!(loaded(&store, Replay::ALL).await, all);
    for other in [0, 1, FINGERPRINT - 1, FINGERPRINT + 1, FINGERPRINT.cast_signed().unsigned_abs()] {
        assert_eq!(loaded(&store, Replay { snapshot: Some(other), ..Replay::ALL }).await, all, "{other}");
    }
    let after = |version| Replay { after: Version::new(version), ..WITH_SNAPSHOT };
    assert_eq!(loaded(&store, after(2)).await, (Some((3, "state".into())), vec![4]));
    assert_eq!(loaded(&store, after(3)).await, (None, vec![4]));
    assert_eq!(loaded(&store, after(4)).await, (None, vec![]));
}

/// A replay that ends before the snapshot's version starts from the beginning.
pub async fn a_snapshot_beyond_the_requested_end_is_ignored(store: Store) {
    written(&store, &stream("a"), events(4)).await;
    save(&store, &stream("a"), 3, FINGERPRINT, "state").await;
    let up_to = |version| Replay { up_to: UpTo::Version(Version::new(version)), ..WITH_SNAPSHOT };
    assert_eq!(loaded(&store, up_to(2)).await, (None, vec![1, 2]));
    assert_eq!(loaded(&store, up_to(3)).await, (Some((3, "state".into())), vec![]));
    assert_eq!(loaded(&store, up_to(4)).await, (Some((3, "state".into())), vec![4]));
}

/// A replay up to a time uses no snapshot whose last event was recorded later. A snapshot does not contain that time, so a store may also read
/// all events.
pub async fn a_replay_up_to_a_time_uses_no_later_snapshot(store: Store) {
    written(&store, &stream("a"), events(4)).await;
    save(&store, &stream("a"), 3, FINGERPRINT, "state").await;
    let last = log_of(&store).await.last().expect("a log with events").recorded_at;
    let by_now = loaded(&store, Replay { up_to: UpTo::Time(last), ..WITH_SNAPSHOT }).await;
    let allowed = [(None, vec![1, 2, 3, 4]), (Some((3, "state".into())), vec![4])];
    assert!(allowed.contains(&by_now), "{by_now:?}");
    let earlier = Replay { up_to: UpTo::Time(last - chrono::TimeDelta::days(1)), ..WITH_SNAPSHOT };
    assert_eq!(loaded(&store, earlier).await, (None, vec![]));
}

/// A save runs in the background, so saves may arrive in any order.
pub async fn an_older_snapshot_does_not_replace_a_newer_one(store: Store) {
    written(&store, &stream("a"), events(4)).await;
    save(&store, &stream("a"), 3, FINGERPRINT, "newer").await;
    save(&store, &stream("a"), 2, FINGERPRINT, "older").await;
    assert_eq!(loaded(&store, WITH_SNAPSHOT).await, (Some((3, "newer".into())), vec![4]));
    save(&store, &stream("a"), 4, FINGERPRINT, "newest").await;
    assert_eq!(loaded(&store, WITH_SNAPSHOT).await, (Some((4, "newest".into())), vec![]));
}

/// A new fingerprint means that the type of the state has changed, so versions are not compared.
pub async fn a_snapshot_of_another_fingerprint_replaces_the_old_one(store: Store) {
    written(&store, &stream("a"), events(4)).await;
    save(&store, &stream("a"), 3, FINGERPRINT, "old shape").await;
    save(&store, &stream("a"), 2, 7, "new shape").await;
    let new_shape = Replay { snapshot: Some(7), ..Replay::ALL };
    assert_eq!(loaded(&store, new_shape).await, (Some((2, "new shape".into())), vec![3, 4]));
    assert_eq!(loaded(&store, WITH_SNAPSHOT).await, (None, vec![1, 2, 3, 4]));
}
