//! The identity of history: an event is named by its id, not by its place alone.

use crate::error::{ErrorKind, Result};
use crate::event::StoredEvent;
use crate::id::{EventId, ExpectedVersion, IdempotencyKey, Place, Position, StreamId, Version};
use crate::store::log::append::{Append, Outcome};
use crate::store::log::event_store::Snapshot;
use crate::store::log::reader::{Replay, UpTo, Visitor};
use crate::store::log::token::Token;
use crate::testing::store::{
    Replayed, Store, append_at_once, event, event_at, events, log_of, position_of, refusal, replay_of, replayed,
    stream, written,
};

const FINGERPRINT: u64 = 7;

/// Asserts that `refused` names the place of `stream` at `version` and the event that is not there.
fn assert_changed(refused: &ErrorKind, stream: &StreamId, version: u64, remembered: EventId) {
    let ErrorKind::HistoryChanged { place, remembered: named, .. } = refused else { panic!("{refused:?}") };
    assert_eq!(*place, Place::Stream(stream.clone(), Version::new(version)));
    assert_eq!(*named, Some(remembered));
}

/// An append that requires another last event writes nothing, whatever else it has. A version conflict is reported first.
pub async fn an_append_requires_the_last_event_of_each_stream(store: Store) {
    written(&store, &stream("a"), events(3)).await;
    written(&store, &stream("b"), events(1)).await;
    let (last, other) = (event_at(&store, &stream("a"), 3).await, EventId::generate());
    let at = |version| ExpectedVersion::Exact(Version::new(version));
    let one = || Append::new(stream("a"), at(3), events(1));
    let several = || Append::new(stream("b"), at(1), events(2)).with_stream(stream("a"), at(3), events(2));
    let keyed = || one().with_key(IdempotencyKey::new("pay").expect("a test's key is valid"));
    let any = || Append::new(stream("a"), ExpectedVersion::Any, events(1));
    for append in [one(), several(), keyed(), any()] {
        assert_changed(&refusal(&store, append.with_last_event(other)).await, &stream("a"), 3, other);
    }
    let earlier = event_at(&store, &stream("a"), 2).await;
    assert_changed(&refusal(&store, one().with_last_event(earlier)).await, &stream("a"), 3, earlier);
    let nothing = Append::new(stream("new"), ExpectedVersion::Any, events(1)).with_last_event(other);
    assert_changed(&refusal(&store, nothing).await, &stream("new"), 0, other);
    let late = Append::new(stream("a"), at(2), events(1)).with_last_event(other);
    assert!(matches!(refusal(&store, late).await, ErrorKind::Conflict { .. }), "the version is compared first");
    assert_eq!(log_of(&store).await.len(), 4, "a refused append writes nothing");

    let appended = store.append(several().with_last_event(last)).await.expect("the last event is the required one");
    assert_eq!(appended.versions, [Version::new(3), Version::new(5)]);
    let (next, key) = (appended.last_event, IdempotencyKey::new("pay").expect("a test's key is valid"));
    let append = Append::new(stream("a"), at(5), events(1)).with_last_event(next).with_key(key);
    let first = store.append(append.clone()).await.expect("a refused append does not use up its key");
    // The key is looked up first, so the event does not matter to a repeated call.
    let again = store.append(append.with_last_event(other)).await.expect("the first outcome");
    assert_eq!((again.outcome, again.commit), (Outcome::Repeated, first.commit));
    let single = Append::new(stream("a"), at(6), events(1)).with_last_event(first.last_event);
    store.append(single).await.expect("the last event is the required one");
}

/// As with conflicts, only the append at fault is refused.
pub async fn an_append_to_another_history_fails_no_other_append(store: Store) {
    let id = |number: usize| stream(&number.to_string());
    let mut appends = Vec::new();
    for number in 0..48 {
        let last = written(&store, &id(number), events(1)).await.last_event;
        let last = if number % 3 == 0 { EventId::generate() } else { last };
        appends.push(Append::new(id(number), ExpectedVersion::Exact(Version::new(1)), events(2)).with_last_event(last));
    }
    for (number, outcome) in append_at_once(&store, appends.clone()).await.into_iter().enumerate() {
        match outcome {
            Ok(appended) => assert_eq!((number % 3 != 0, appended.versions), (true, vec![Version::new(3)])),
            Err(error) => {
                assert_eq!(number % 3, 0, "{error}");
                let required = appends[number].streams()[0].last_event.expect("each append requires an event");
                assert_changed(error.kind(), &id(number), 1, required);
            }
        }
    }
    assert_eq!(log_of(&store).await.len(), 48 + 64);
}

/// The visitor gets nothing of a stream that does not have the event that the caller continues after.
pub async fn a_replay_after_another_event_is_refused(store: Store) {
    written(&store, &stream("a"), events(4)).await;
    let time = log_of(&store).await[0].recorded_at - chrono::TimeDelta::days(1);
    let second = event_at(&store, &stream("a"), 2).await;
    let after = |version| Replay::after(Version::new(version));
    for (up_to, rest) in [
        (UpTo::Head, vec![3, 4]),
        (UpTo::Version(Version::new(3)), vec![3]),
        (UpTo::Version(Version::new(1)), vec![]),
        (UpTo::Time(time), vec![]),
    ] {
        let known = after(2).with_after_event(second).with_up_to(up_to);
        assert_eq!(replay_of(&store, &stream("a"), known).await.versions(), rest, "{up_to:?}");
        for (version, unknown) in [(2, EventId::generate()), (3, second), (5, EventId::generate())] {
            let mut seen = Replayed::default();
            let replay = after(version).with_after_event(unknown).with_up_to(up_to);
            let error = store.replay(&stream("a"), replay, &mut seen).await.expect_err("another event is there");
            assert_changed(error.kind(), &stream("a"), version, unknown);
            assert_eq!(seen, Replayed::default());
        }
    }
    let last = event_at(&store, &stream("a"), 4).await;
    let end = after(4).with_after_event(last);
    assert_eq!(replay_of(&store, &stream("a"), end).await, Replayed::default());
    let error = replayed(&*store, &stream("unknown"), end).await.expect_err("the stream has no events");
    assert_changed(error.kind(), &stream("unknown"), 4, last);
}

/// The versions and the ids that a replay passes.
#[derive(Default)]
struct Ids(Vec<(Version, EventId)>);

impl Visitor for Ids {
    fn snapshot(&mut self, version: Version, id: EventId, _: &[u8]) -> Result<()> {
        self.0.push((version, id));
        Ok(())
    }

    fn event(&mut self, version: Version, id: EventId, _: StoredEvent<'_>) -> Result<()> {
        self.0.push((version, id));
        Ok(())
    }
}

/// A caller that keeps a state also keeps the id of its last event, whether the state comes from events or from a snapshot.
pub async fn a_replay_passes_the_id_of_each_event(store: Store) {
    written(&store, &stream("a"), events(3)).await;
    let all: Vec<_> = log_of(&store).await.iter().map(|event| (event.version, event.event.id)).collect();
    let mut ids = Ids::default();
    store.replay(&stream("a"), Replay::ALL, &mut ids).await.expect("the stream can be replayed");
    assert_eq!(ids.0, all);
    let snapshot = Snapshot::new(all[1].0, all[1].1, FINGERPRINT, Vec::new());
    store.save_snapshot(&stream("a"), snapshot).await.expect("a snapshot can be saved");
    let mut ids = Ids::default();
    let from_snapshot = Replay::ALL.with_snapshot(FINGERPRINT);
    store.replay(&stream("a"), from_snapshot, &mut ids).await.expect("the stream can be replayed");
    assert_eq!(ids.0, all[1..]);
}

/// A snapshot of an event that the log does not have, or has elsewhere, is not saved and does not replace another one.
pub async fn a_snapshot_of_an_event_not_in_the_log_is_ignored(store: Store) {
    written(&store, &stream("a"), events(4)).await;
    let ids: Vec<_> = log_of(&store).await.iter().map(|event| event.event.id).collect();
    let save = async |version, id, state: &str| {
        let snapshot = Snapshot::new(Version::new(version), id, FINGERPRINT, state.into());
        store.save_snapshot(&stream("a"), snapshot).await.expect("it is no error");
    };
    let replay = async || replay_of(&store, &stream("a"), Replay::ALL.with_snapshot(FINGERPRINT)).await;
    for (version, id) in [(3, EventId::generate()), (3, ids[3]), (9, ids[3])] {
        save(version, id, "wrong").await;
        assert_eq!(replay().await.snapshot, None);
    }
    save(2, ids[1], "right").await;
    save(3, EventId::generate(), "wrong").await;
    let kept = replay().await;
    assert_eq!(kept.snapshot, Some((Version::new(2), b"right".to_vec())));
    assert_eq!(kept.versions(), [3, 4]);
}

/// A token stands for events, not for a number that other events may get.
pub async fn a_token_of_another_event_has_no_position(store: Store) {
    let several = Append::new(stream("a"), ExpectedVersion::Any, events(2)).with_stream(
        stream("b"),
        ExpectedVersion::Any,
        vec![event("last")],
    );
    let key = IdempotencyKey::new("pay").expect("a test's key is valid");
    let last = several.last_new_event().expect("the append has events");
    let appended = store.append(several.clone().with_key(key.clone())).await.expect("the append succeeds");
    let position = position_of(&*store, &appended).await;
    assert_eq!((position, appended.last_event), (Position::new(3), last));
    let other = EventId::generate();
    let error = store.position_of(Token::new(appended.commit, other)).await.expect_err("another event is there");
    let ErrorKind::HistoryChanged { place, remembered, .. } = error.kind() else { panic!("{error:?}") };
    assert_eq!((place, *remembered), (&Place::Log(position), Some(other)));
    assert_eq!(store.position_of(Token::default()).await.expect("positions can be read"), Some(Position::ZERO));

    // A repeated call returns the token of the first one, although its own events have new ids.
    let retry = Append::new(stream("a"), ExpectedVersion::Any, events(2)).with_stream(
        stream("b"),
        ExpectedVersion::Any,
        vec![event("last")],
    );
    let repeated = store.append(retry.with_key(key.clone())).await.expect("the first outcome");
    assert_eq!((repeated.outcome, repeated.token()), (Outcome::Repeated, appended.token()));
    let kept = store.find_by_key(&key).await.expect("outcomes can be read").expect("the key has an outcome");
    assert_eq!(kept.appended.token(), appended.token());
}
