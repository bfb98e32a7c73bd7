//! Appends: the events they write, and the appends that a store refuses.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::FutureExt;

use crate::codec::Codec;
use crate::error::ErrorKind;
use crate::event::Metadata;
use crate::id::{CorrelationId, EventId, ExpectedVersion, Position, Version};
use crate::store::log::append::{Append, Outcome};
use crate::store::log::event_store::MAX_PAYLOAD_BYTES;
use crate::store::log::reader::Replay;
use crate::testing::store::{
    Store, append_at_once, event, event_of, events, log_of, position_of, refusal, replay_of, stream, written,
};

/// Number of concurrent appends in one case: enough to share commits.
const CONCURRENT: u64 = 48;

/// Every field of an event is read back unchanged, with any payload.
pub async fn appended_events_are_read_back_with_every_field(store: Store) {
    let mut sent = vec![
        event(Bytes::new()),
        event((0..=u8::MAX).collect::<Vec<u8>>()),
        event(vec![0; 1_000_000]),
        event_of("grüße.gesendet", r#"{"to": "zoë 🦀"}"#),
    ];
    sent[1].codec = Codec::Compact;
    sent[1].schema_version = u32::from(u16::MAX);
    sent[2].metadata.correlation_id = Some(CorrelationId::generate());
    sent[3].metadata = Metadata {
        correlation_id: Some(CorrelationId::generate()),
        causation_id: Some(EventId::generate()),
        source: Some("billing 'n \"shipping\"".into()),
        extra: BTreeMap::from([("ip".into(), String::new()), ("\n\u{1}".into(), "ü\\".into())]),
    };
    let account = stream("1");
    let appended = written(&store, &account, sent.clone()).await;
    assert_eq!(appended.versions, [Version::new(4)]);

    let log = log_of(&store).await;
    assert_eq!(log.iter().map(|recorded| recorded.event.clone()).collect::<Vec<_>>(), sent);
    assert!(log.iter().all(|recorded| recorded.stream == account));
    assert_eq!(log.iter().map(|recorded| recorded.version.get()).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let payloads: Vec<_> = replay_of(&store, &account, Replay::ALL).await.events.into_iter().map(|(_, p)| p).collect();
    assert_eq!(payloads, sent.iter().map(|event| event.payload.to_vec()).collect::<Vec<_>>());
}

/// Tries each expectation on streams at versions 0, 1 and 2. A conflict reports the expected and the actual version, and writes nothing.
pub async fn an_append_conflicts_exactly_when_its_expectation_fails(store: Store) {
    let exactly = |version| ExpectedVersion::Exact(Version::new(version));
    let expectations =
        [ExpectedVersion::Any, ExpectedVersion::NoStream, ExpectedVersion::Exists, exactly(0), exactly(1), exactly(2)];
    for (number, expected) in expectations.into_iter().enumerate() {
        for actual in [0, 1, 2] {
            let account = stream(&format!("{number} at {actual}"));
            if actual > 0 {
                written(&store, &account, events(actual)).await;
            }
            let append = Append::new(account.clone(), expected, events(1));
            let actual = Version::new(actual);
            let now = if expected.allows(actual) {
                let appended = store.append(append).await.expect("the stream has the expected version");
                position_of(&*store, &appended).await;
                assert_eq!(appended.versions, [actual.next()], "{expected} at {actual}");
                actual.next()
            } else {
                let conflict = ErrorKind::Conflict { stream: account.clone(), expected, actual };
                assert_eq!(refusal(&store, append).await, conflict);
                actual
            };
            let seen = replay_of(&store, &account, Replay::ALL).await;
            assert_eq!(seen.versions(), (1..=now.get()).collect::<Vec<_>>(), "{expected} at {actual}");
        }
    }
}

/// An append returns the new version of each stream, in the order of its streams.
pub async fn an_append_to_several_streams_returns_a_version_for_each(store: Store) {
    written(&store, &stream("b"), events(2)).await;
    let append = Append::new(stream("b"), ExpectedVersion::Exact(Version::new(2)), events(1))
        .with_stream(stream("a"), ExpectedVersion::NoStream, events(3))
        .with_stream(stream("c"), ExpectedVersion::Any, events(1));
    let appended = store.append(append).await.expect("all streams have the expected versions");
    position_of(&*store, &appended).await;
    assert_eq!(appended.versions, [3, 3, 1].map(Version::new));
    let order: Vec<_> = log_of(&store).await.iter().skip(2).map(|e| e.stream.aggregate_id().to_string()).collect();
    assert_eq!(order, ["b", "a", "a", "a", "c"]);
}

/// An append to several streams is atomic.
pub async fn a_conflict_in_the_second_stream_writes_nothing(store: Store) {
    let first = written(&store, &stream("b"), events(1)).await;
    let append = Append::new(stream("a"), ExpectedVersion::Any, events(2))
        .with_stream(stream("b"), ExpectedVersion::NoStream, events(1))
        .with_stream(stream("c"), ExpectedVersion::Any, events(1));
    let (expected, actual) = (ExpectedVersion::NoStream, first.versions[0]);
    assert_eq!(refusal(&store, append).await, ErrorKind::Conflict { stream: stream("b"), expected, actual });
    assert_eq!(log_of(&store).await.len(), 1);
    // The refused append left no trace: its streams start at version 1.
    assert_eq!(written(&store, &stream("a"), events(1)).await.versions, [Version::new(1)]);
}

/// Each append in a shared commit has its own outcome.
pub async fn a_conflict_in_a_shared_commit_fails_no_other_append(store: Store) {
    let appends = (0..CONCURRENT).map(|number| {
        let append = Append::new(stream(&format!("{number} a")), ExpectedVersion::NoStream, events(1));
        match number % 3 {
            2 => append,
            _ => append.with_stream(stream(&format!("{number} b")), ExpectedVersion::Exists, events(1)),
        }
    });
    for (number, outcome) in append_at_once(&store, appends.collect()).await.into_iter().enumerate() {
        match outcome {
            Ok(_) => assert_eq!(number % 3, 2, "append {number} conflicts"),
            Err(error) => assert!(number % 3 != 2 && error.is_conflict(), "append {number}: {error}"),
        }
    }
    assert_eq!(log_of(&store).await.len(), 16);
}

/// Optimistic concurrency: the other writers get a conflict.
pub async fn one_of_racing_appends_at_one_version_wins(store: Store) {
    for version in (0..5).map(Version::new) {
        let race = (0..CONCURRENT).map(|_| Append::new(stream("1"), ExpectedVersion::Exact(version), events(1)));
        let outcomes = append_at_once(&store, race.collect()).await;
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1, "winners at version {version}");
        for error in outcomes.into_iter().filter_map(Result::err) {
            let (expected, actual) = (ExpectedVersion::Exact(version), version.next());
            assert_eq!(*error.kind(), ErrorKind::Conflict { stream: stream("1"), expected, actual });
        }
    }
    assert_eq!(log_of(&store).await.len(), 5);
}

/// A stream without events in an append is invalid.
pub async fn an_append_without_events_is_refused(store: Store) {
    let append = Append::new(stream("a"), ExpectedVersion::Any, events(1)).with_stream(
        stream("b"),
        ExpectedVersion::Any,
        Vec::new(),
    );
    assert!(matches!(refusal(&store, append).await, ErrorKind::Invalid(_)));
    assert_eq!(log_of(&store).await, []);
}

/// Two expectations for one stream would be ambiguous.
pub async fn an_append_that_names_a_stream_twice_is_refused(store: Store) {
    let append = Append::new(stream("a"), ExpectedVersion::Any, events(1)).with_stream(
        stream("a"),
        ExpectedVersion::Any,
        events(1),
    );
    assert!(matches!(refusal(&store, append).await, ErrorKind::Invalid(problem) if problem.contains("account/a")));
    assert_eq!(log_of(&store).await, []);
}

/// The error names the event. An event of exactly the limit is read back whole.
pub async fn an_event_over_the_size_limit_is_refused(store: Store) {
    let bytes = MAX_PAYLOAD_BYTES + 1;
    let append = Append::new(stream("a"), ExpectedVersion::Any, vec![event("1"), event(vec![b'x'; bytes])]);
    match refusal(&store, append).await {
        ErrorKind::TooLarge { what, bytes: found, limit } => {
            assert_eq!((found, limit), (bytes, MAX_PAYLOAD_BYTES));
            assert!(what.contains("account.noted") && what.contains("account/a"), "{what}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(log_of(&store).await, []);
    written(&store, &stream("a"), vec![event(vec![b'x'; MAX_PAYLOAD_BYTES])]).await;
    assert_eq!(log_of(&store).await[0].event.payload.len(), MAX_PAYLOAD_BYTES);
}

/// The name `source` is reserved in the extra entries, because the metadata has a field for it.
pub async fn a_reserved_metadata_entry_is_refused(store: Store) {
    let mut note = event("1");
    note.metadata.extra.insert("source".into(), "elsewhere".into());
    let append = Append::new(stream("a"), ExpectedVersion::Any, vec![event("1"), note]);
    assert!(matches!(refusal(&store, append).await, ErrorKind::Invalid(problem) if problem.contains("source")));
    assert_eq!(log_of(&store).await, []);
}

/// The store refuses an event id twice in one stream of an append, across its streams, and across appends.
pub async fn an_event_id_is_accepted_once(store: Store) {
    let (one, two) = (event("1"), event("2"));
    let duplicate = ErrorKind::DuplicateEvent(one.id);
    let within = Append::new(stream("a"), ExpectedVersion::Any, vec![one.clone(), two.clone(), one.clone()]);
    assert_eq!(refusal(&store, within).await, duplicate);
    let across_streams = Append::new(stream("a"), ExpectedVersion::Any, vec![one.clone()]).with_stream(
        stream("b"),
        ExpectedVersion::Any,
        vec![two.clone(), one.clone()],
    );
    assert_eq!(refusal(&store, across_streams).await, duplicate);
    assert_eq!(log_of(&store).await, []);

    written(&store, &stream("a"), vec![one.clone()]).await;
    let again = Append::new(stream("b"), ExpectedVersion::Any, vec![two.clone(), one.clone()]);
    assert_eq!(refusal(&store, again).await, duplicate);
    let conflict_too = Append::new(stream("b"), ExpectedVersion::Any, vec![one.clone()]).with_stream(
        stream("a"),
        ExpectedVersion::NoStream,
        events(1),
    );
    assert!(matches!(refusal(&store, conflict_too).await, ErrorKind::Conflict { .. }), "a conflict is reported first");
    assert_eq!(log_of(&store).await.len(), 1);
    // The other event of the refused append can be appended later.
    written(&store, &stream("b"), vec![two]).await;
}

/// As with conflicts, only the append at fault is refused.
pub async fn a_duplicate_event_in_a_shared_commit_fails_no_other_append(store: Store) {
    let taken = event("1");
    written(&store, &stream("taken"), vec![taken.clone()]).await;
    let appends = (0..CONCURRENT).map(|number| {
        let mut sent = events(2);
        if number % 3 == 0 {
            sent.push(taken.clone());
        }
        Append::new(stream(&number.to_string()), ExpectedVersion::NoStream, sent)
    });
    for (number, outcome) in append_at_once(&store, appends.collect()).await.into_iter().enumerate() {
        match outcome {
            Ok(appended) => assert_eq!((number % 3 != 0, appended.versions), (true, vec![Version::new(2)])),
            Err(error) => assert_eq!((number % 3, error.kind()), (0, &ErrorKind::DuplicateEvent(taken.id))),
        }
    }
    assert_eq!(log_of(&store).await.len(), 1 + 64);
}

/// A dropped append is written completely or not at all, and other appends succeed.
pub async fn a_dropped_append_leaves_the_store_usable(store: Store) {
    for _ in 0..CONCURRENT {
        let append = Append::new(stream("dropped"), ExpectedVersion::Any, events(2));
        drop(store.append(append).now_or_never());
    }
    let appended = written(&store, &stream("kept"), events(1)).await;
    assert_eq!(appended.versions, [Version::new(1)]);
    let last = written(&store, &stream("dropped"), events(1)).await.versions[0];
    assert_eq!(last.get() % 2, 1, "version {last}: an append was written in part");
    let seen = replay_of(&store, &stream("dropped"), Replay::ALL).await;
    assert_eq!(seen.versions(), (1..=last.get()).collect::<Vec<_>>());
}

/// Closing the store twice succeeds.
pub async fn a_closed_store_refuses_appends(store: Store) {
    let appended = written(&store, &stream("a"), events(1)).await;
    assert_eq!(appended.outcome, Outcome::Written);
    assert_eq!(store.head().await.expect("an open store has a head"), Position::new(1));
    for _ in 0..2 {
        store.close().await.expect("closing succeeds");
        let append = Append::new(stream("a"), ExpectedVersion::Any, events(1));
        assert!(matches!(refusal(&store, append).await, ErrorKind::Closed(_)));
    }
}
