//! Names and text: every store keeps them byte by byte, or refuses them by the same rules.

use std::collections::BTreeMap;

use crate::error::{Error, ErrorKind};
use crate::event::NewEvent;
use crate::id::{
    AggregateId, AggregateType, EventType, ExpectedVersion, IdempotencyKey, MAX_NAME_BYTES, Position, ProjectionName,
    StreamId, Version,
};
use crate::store::log::append::{Append, Outcome};
use crate::store::log::query::Filter;
use crate::store::log::reader::{EventReaderExt, Replay};
use crate::testing::store::{Store, event, event_of, log_of, position_of, replay_of, stream_of};

/// Text that has a meaning in some database, or that a database might change.
pub(super) const HOSTILE: [&str; 24] = [
    "'; DROP TABLE retell_events; --",
    "\"; DELETE FROM retell_keys; --",
    "' OR '1'='1",
    "') ON CONFLICT DO NOTHING; --",
    "'||(SELECT version())||'",
    "\\'; SELECT 1; #",
    "/* */ UNION SELECT NULL --",
    "$1",
    "$$; SELECT 1; $$",
    "?1",
    ":name",
    "{schema}",
    "%s%n",
    "{\"a\": 1}",
    "[1, 2]",
    "{a,\"b\"}",
    "\\N",
    "\\x00",
    "\u{0008}\u{001a}\u{007f}",
    "trailing ",
    "TRAILING ",
    "zoë 🦀 \u{202e}olleh",
    "e\u{301}",
    "é",
];

/// Names of streams, types and keys, metadata and payloads may contain SQL. The store keeps the text unchanged, and a name matches only itself.
pub async fn text_that_looks_like_sql_is_stored_as_text(store: Store) {
    let key = |text: &str| IdempotencyKey::new(text).expect("a valid name");
    let mut sent: Vec<(StreamId, NewEvent)> = Vec::new();
    for text in HOSTILE {
        let mut note = event_of(text, text.as_bytes());
        note.metadata.source = Some(text.into());
        note.metadata.extra = BTreeMap::from([(text.into(), text.into())]);
        let account = stream_of(text, text);
        let append = || Append::new(account.clone(), ExpectedVersion::Any, vec![note.clone()]).with_key(key(text));
        let first = store.append(append()).await.unwrap_or_else(|error| panic!("{text:?}: {error}"));
        position_of(&*store, &first).await;
        assert_eq!(first.versions, [Version::new(1)], "{text:?}");
        let again = store.append(append()).await.unwrap_or_else(|error| panic!("{text:?}: {error}"));
        assert_eq!((again.outcome, again.commit), (Outcome::Repeated, first.commit), "{text:?}");
        let kept = store.find_by_key(&key(text)).await.expect("outcomes can be read").expect("the key was used");
        assert_eq!(kept.streams, std::slice::from_ref(&account));
        sent.push((account, note));
    }
    let log: Vec<_> = log_of(&store).await.into_iter().map(|event| (event.stream, event.event)).collect();
    assert_eq!(log, sent);
    for (place, (account, note)) in sent.iter().enumerate() {
        let position = Position::new(place as u64 + 1);
        let payload = (Version::new(1), note.payload.to_vec());
        assert_eq!(replay_of(&store, account, Replay::ALL).await.events, [payload]);
        let newest = store.newest(&note.event_type, 10).await.expect("the newest can be read");
        assert_eq!(newest.iter().map(|event| event.position).collect::<Vec<_>>(), [position], "{account}");
        let by_type = Filter { event_types: vec![note.event_type.clone()], ..Filter::default() };
        let by_kind = Filter { aggregate_types: vec![account.aggregate_type().clone()], ..Filter::default() };
        for filter in [by_type, by_kind] {
            let page = store.read_all(Position::ZERO, 100, &filter).await.expect("the log can be read");
            assert_eq!(page.events.iter().map(|event| event.position).collect::<Vec<_>>(), [position], "{account}");
        }
    }
}

/// Unlike names, metadata and payloads may contain NUL.
pub async fn metadata_and_payloads_keep_every_character(store: Store) {
    let every: String =
        (0..=0x2FFF).chain(0xD7F0..=0x1_0100).chain(0x10_FFF0..=0x10_FFFF).filter_map(char::from_u32).collect();
    let mut note = event(every.clone());
    note.metadata.source = Some("\0".into());
    note.metadata.extra =
        BTreeMap::from([("\0".into(), "a\0b".into()), (String::new(), every.clone()), (every, String::new())]);
    let append = Append::new(stream_of("account", "1"), ExpectedVersion::Any, vec![note.clone()]);
    let appended = store.append(append).await.expect("the append succeeds");
    position_of(&*store, &appended).await;
    let log: Vec<_> = log_of(&store).await.into_iter().map(|event| event.event).collect();
    assert!(log == [note], "the store changed a character");
}

/// The limit counts bytes. A longer name, an empty name, or a name with a NUL never reaches a store.
pub async fn names_are_kept_up_to_their_limit_and_refused_beyond_it(store: Store) {
    for (longest, one_more) in
        [("x".repeat(MAX_NAME_BYTES), "x"), ("é".repeat(127) + "x", "é"), ("🦀".repeat(63) + "éx", "🦀")]
    {
        assert_eq!(longest.len(), MAX_NAME_BYTES);
        let account = stream_of(&longest, &longest);
        let key = IdempotencyKey::new(&longest).expect("a name of the greatest length");
        let append = Append::new(account.clone(), ExpectedVersion::NoStream, vec![event_of(&longest, "1")]);
        let appended = store.append(append.with_key(key.clone())).await.expect("the append succeeds");
        position_of(&*store, &appended).await;
        assert_eq!(replay_of(&store, &account, Replay::ALL).await.versions(), [1]);
        let kept = store.find_by_key(&key).await.expect("outcomes can be read").expect("the key was used");
        assert_eq!(kept.streams, std::slice::from_ref(&account));
        let last = log_of(&store).await.pop().expect("a log with events");
        assert_eq!((last.stream, last.event.event_type.as_str()), (account, longest.as_str()));

        let kib_64 = one_more.repeat(64 * 1024 / one_more.len());
        for refused in [longest.clone() + one_more, kib_64, "a\0".into(), "\0".into(), String::new()] {
            let errors = [
                AggregateType::new(&refused).err(),
                AggregateId::new(&refused).err(),
                EventType::new(&refused).err(),
                IdempotencyKey::new(&refused).err(),
                ProjectionName::new(&refused).err(),
                StreamId::parse(&refused, "1").err(),
                StreamId::parse("account", &refused).err(),
            ];
            for error in errors {
                let error = Error::from(error.expect("the name is refused"));
                assert!(matches!(error.kind(), ErrorKind::Invalid(_)), "{error}");
            }
        }
    }
}
