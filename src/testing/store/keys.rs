//! Idempotency keys: a caller that lost the response can repeat its append.

use crate::error::ErrorKind;
use crate::id::{ExpectedVersion, IdempotencyKey, Version};
use crate::store::log::append::{Append, Appended, KeyedOutcome, Outcome};
use crate::testing::store::{Store, append_at_once, events, log_of, position_of, refusal, stream, written};

fn key(name: &str) -> IdempotencyKey {
    IdempotencyKey::new(name).expect("a test's key is valid")
}

/// A repeated append returns its first outcome, even after later appends to the stream.
pub async fn a_repeated_key_returns_the_first_outcome_and_writes_nothing(store: Store) {
    let append = || {
        Append::new(stream("a"), ExpectedVersion::NoStream, events(2))
            .with_stream(stream("b"), ExpectedVersion::NoStream, events(1))
            .with_key(key("pay 7"))
    };
    let first = store.append(append()).await.expect("the first append succeeds");
    position_of(&*store, &first).await;
    assert_eq!((first.outcome, &first.versions), (Outcome::Written, &vec![Version::new(2), Version::new(1)]));
    written(&store, &stream("a"), events(1)).await;

    let repeated = Appended { outcome: Outcome::Repeated, ..first };
    for _ in 0..2 {
        assert_eq!(store.append(append()).await.expect("the first outcome"), repeated);
        let kept = KeyedOutcome { streams: vec![stream("a"), stream("b")], appended: repeated.clone() };
        assert_eq!(store.find_by_key(&key("pay 7")).await.expect("outcomes can be read"), Some(kept));
    }
    assert_eq!(log_of(&store).await.len(), 4);
}

/// The store refuses a known key with other streams, with fewer streams, and with the same streams in another order.
pub async fn a_key_used_for_other_streams_is_refused(store: Store) {
    let append = |ids: [&str; 2]| {
        Append::new(stream(ids[0]), ExpectedVersion::Any, events(1))
            .with_stream(stream(ids[1]), ExpectedVersion::Any, events(1))
            .with_key(key("pay"))
    };
    let first = store.append(append(["a", "b"])).await.expect("the first append succeeds");
    position_of(&*store, &first).await;
    let fewer = Append::new(stream("a"), ExpectedVersion::Any, events(1)).with_key(key("pay"));
    for other in [append(["a", "c"]), append(["b", "a"]), fewer] {
        assert_eq!(refusal(&store, other).await, ErrorKind::KeyReused(key("pay")));
    }
    assert_eq!(log_of(&store).await.len(), 2);
}

/// A retry may overtake the call that it repeats.
pub async fn concurrent_appends_under_one_key_write_once(store: Store) {
    let appends =
        (0..32).map(|_| Append::new(stream("a"), ExpectedVersion::NoStream, events(2)).with_key(key("pay"))).collect();
    let outcomes: Vec<_> =
        append_at_once(&store, appends).await.into_iter().map(|o| o.expect("every caller gets the outcome")).collect();
    assert_eq!(outcomes.iter().filter(|appended| appended.outcome == Outcome::Written).count(), 1);
    assert!(outcomes.iter().all(|a| a.commit == outcomes[0].commit && a.versions == [Version::new(2)]));
    assert_eq!(log_of(&store).await.len(), 2);
}

/// A refused append wrote nothing, so it has no outcome to repeat and its key is free.
pub async fn a_refused_append_does_not_consume_its_key(store: Store) {
    let append = |expected| Append::new(stream("a"), expected, events(1)).with_key(key("pay"));
    assert!(matches!(refusal(&store, append(ExpectedVersion::Exists)).await, ErrorKind::Conflict { .. }));
    assert_eq!(store.find_by_key(&key("pay")).await.expect("outcomes can be read"), None);
    let appended = store.append(append(ExpectedVersion::NoStream)).await.expect("the key is free");
    assert_eq!(appended.outcome, Outcome::Written);
}

/// A key that differs in case or by a space is a different key.
pub async fn an_unknown_key_has_no_outcome(store: Store) {
    let append = Append::new(stream("a"), ExpectedVersion::Any, events(1)).with_key(key("Pay"));
    store.append(append).await.expect("the append succeeds");
    for unknown in ["pay", "Pay ", "P%", "other"] {
        assert_eq!(store.find_by_key(&key(unknown)).await.expect("outcomes can be read"), None, "{unknown:?}");
    }
}
