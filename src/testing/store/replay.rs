//! Replays: the events of one stream in version order.

use std::collections::HashSet;

use futures::FutureExt;

use crate::error::{Error, ErrorKind, Result};
use crate::event::StoredEvent;
use crate::id::{EventId, ExpectedVersion, StreamId, Version};
use crate::store::log::append::Append;
use crate::store::log::reader::{Replay, UpTo, Visitor};
use crate::testing::store::{
    Replayed, Store, event, events, log_of, position_of, replay_of, replayed, stream, stream_of, written,
};

/// Replays every combination of start and end.
pub async fn replay_returns_the_requested_versions_in_order(store: Store) {
    for _ in 0..2 {
        written(&store, &stream("a"), events(3)).await;
        written(&store, &stream("b"), events(2)).await;
    }
    for after in 0..=8 {
        let all = Replay::after(Version::new(after));
        assert_eq!(replay_of(&store, &stream("a"), all).await.versions(), (after + 1..=6).collect::<Vec<_>>());
        for last in (0..=8).chain([u64::MAX]) {
            let some = Replay { up_to: UpTo::Version(Version::new(last)), ..all };
            let expected: Vec<_> = (after + 1..=last.min(6)).collect();
            assert_eq!(replay_of(&store, &stream("a"), some).await.versions(), expected, "after {after} to {last}");
        }
    }
    let nothing = Replay::after(Version::new(u64::MAX));
    assert_eq!(replay_of(&store, &stream("a"), nothing).await, Replayed::default());
}

/// A replay up to a time is exact to the microsecond, and includes every event of that microsecond.
pub async fn replay_up_to_a_time_includes_events_of_that_time(store: Store) {
    let mut times = HashSet::new();
    // Several events may share one microsecond, so append until the times differ.
    while times.len() < 3 {
        written(&store, &stream("a"), events(2)).await;
        times.extend(log_of(&store).await.iter().map(|event| event.recorded_at));
        assert!(times.len() < 1000);
    }
    let log = log_of(&store).await;
    for time in times {
        let seen = replay_of(&store, &stream("a"), Replay { up_to: UpTo::Time(time), ..Replay::ALL }).await;
        let expected = log.iter().filter(|event| event.recorded_at <= time).count() as u64;
        assert_eq!(seen.versions(), (1..=expected).collect::<Vec<_>>(), "up to {time}");
    }
    let before = log[0].recorded_at - chrono::TimeDelta::microseconds(1);
    let seen = replay_of(&store, &stream("a"), Replay { up_to: UpTo::Time(before), ..Replay::ALL }).await;
    assert_eq!(seen, Replayed::default());
}

/// A replay of an unknown stream succeeds without calling the visitor.
pub async fn replay_of_an_unknown_stream_returns_nothing(store: Store) {
    written(&store, &stream("a"), events(1)).await;
    let with_snapshot = Replay { snapshot: Some(1), ..Replay::ALL };
    for replay in [Replay::ALL, Replay::after(Version::new(1)), with_snapshot] {
        assert_eq!(replay_of(&store, &stream("unknown"), replay).await, Replayed::default());
        assert_eq!(replay_of(&store, &stream_of("unknown", "a"), replay).await, Replayed::default());
    }
}

/// Names compare byte by byte and are never part of an SQL statement.
pub async fn streams_with_similar_names_are_distinct(store: Store) {
    let longest = "x".repeat(255);
    let as_long = format!("{}y", "x".repeat(254));
    #[rustfmt::skip]
    let names = [
        "a", "A", "a ", " a", "a\t", "ab", "a%", "a_", "%", "_", "á", "a\u{301}", "ß", "ss", "İ", "i", "I", "ı",
        "a/b", "a\\", "a'", "a\"", "a`", "a;", "a--", "'; DROP TABLE retell_events; --", "' OR '1'='1", "$1", "?1",
        "null", "NULL", "0", "00", "0.0", "-0", "🦀", "🦀🦀", "\u{feff}a", "a\u{200b}", "\n", "\r\n", &longest, &as_long,
    ];
    let mut streams: Vec<StreamId> = Vec::new();
    for name in names {
        // Aggregate types are names too, and no text separates the type from the id.
        streams.extend([stream_of("t", name), stream_of(name, "t")]);
    }
    streams.extend([stream_of("a/b", "c"), stream_of("a", "b/c"), stream_of("ta", "b"), stream_of("t", "ab c")]);
    assert_eq!(streams.iter().collect::<HashSet<_>>().len(), streams.len(), "the streams of this test are distinct");
    for stream in &streams {
        let append = Append::new(stream.clone(), ExpectedVersion::NoStream, vec![event(stream.to_string())]);
        let appended = store.append(append).await.unwrap_or_else(|error| panic!("{stream:?}: {error}"));
        position_of(&*store, &appended).await;
    }
    for stream in &streams {
        let expected = vec![(Version::new(1), stream.to_string().into_bytes())];
        assert_eq!(replay_of(&store, stream, Replay::ALL).await.events, expected, "{stream:?}");
    }
    assert!(log_of(&store).await.iter().map(|event| &event.stream).eq(&streams), "the log keeps every name");
}

/// A visitor that fails at one version.
struct FailsAt {
    at: Version,
    seen: u64,
}

impl Visitor for FailsAt {
    fn snapshot(&mut self, _: Version, _: EventId, _: &[u8]) -> Result<()> {
        panic!("no snapshot was asked for");
    }

    fn event(&mut self, version: Version, _: EventId, _: StoredEvent<'_>) -> Result<()> {
        assert!(version <= self.at, "the replay continued after an error");
        self.seen += 1;
        if version == self.at { Err(Error::new(ErrorKind::TimedOut("enough".into()))) } else { Ok(()) }
    }
}

/// The visitor may fail at the first, a middle or the last event of a long stream.
pub async fn a_visitors_error_ends_the_replay_and_is_returned(store: Store) {
    const LENGTH: u64 = 1_000;
    written(&store, &stream("a"), (0..LENGTH).map(|_| event(vec![b'x'; 1_000])).collect()).await;
    for at in [1, 2, 500, LENGTH] {
        let mut visitor = FailsAt { at: Version::new(at), seen: 0 };
        let error = store.replay(&stream("a"), Replay::ALL, &mut visitor).await.expect_err("the visitor's error");
        assert_eq!((error.kind(), visitor.seen), (&ErrorKind::TimedOut("enough".into()), at));
    }
    assert_eq!(replay_of(&store, &stream("a"), Replay::ALL).await.events.len(), 1_000);
}

/// A stream may be longer than any buffer between the database and the visitor.
pub async fn a_long_stream_arrives_complete_and_in_order(store: Store) {
    const LENGTH: u64 = 5_000;
    let payload = |number: u64| format!("{number:01024}");
    for first in (1..=LENGTH).step_by(1_000) {
        written(&store, &stream("a"), (first..first + 1_000).map(|number| event(payload(number))).collect()).await;
    }
    let seen = replay_of(&store, &stream("a"), Replay::ALL).await;
    assert_eq!(seen.versions(), (1..=LENGTH).collect::<Vec<_>>());
    for (version, stored) in &seen.events {
        assert_eq!(*stored, payload(version.get()).into_bytes(), "version {version}");
    }
}

/// Dropping more replays than a store has connections leaves every connection usable.
pub async fn a_dropped_replay_leaves_the_store_usable(store: Store) {
    written(&store, &stream("a"), (0..2_000).map(|_| event(vec![b'x'; 1_000])).collect()).await;
    for _ in 0..100 {
        drop(replayed(&*store, &stream("a"), Replay::ALL).now_or_never());
    }
    assert_eq!(replay_of(&store, &stream("a"), Replay::ALL).await.events.len(), 2_000);
    written(&store, &stream("a"), events(1)).await;
}
