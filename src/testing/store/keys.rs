//! Idempotency keys: a caller that lost the response can repeat its append.

use crate::error::ErrorKind;
use crate::id::{ExpectedVersion, IdempotencyKey, Version};
use crate::store::log::append::{Append, Appended, KeyedOutcome, Outcome};
use crate::store::log::fingerprint::Fingerprint;
use crate::testing::store::{Store, append_at_once, event, events, log_of, position_of, refusal, stream, written};

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
        let (streams, before) = (vec![stream("a"), stream("b")], vec![Version::ZERO; 2]);
        let kept = KeyedOutcome::new(streams, before, append().fingerprint(), repeated.clone());
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

/// The store refuses a known key with other events, and with another fingerprint. It compares no events if the caller has set a fingerprint.
pub async fn a_key_used_for_another_request_is_refused(store: Store) {
    let append = |payload: &'static str| {
        let several = vec![event("{}"), event(payload)];
        Append::new(stream("a"), ExpectedVersion::Any, several).with_key(key("pay"))
    };
    written(&store, &stream("a"), events(3)).await;
    let first = store.append(append(r#"{"a": 1, "b": 2}"#)).await.expect("the first append succeeds");
    // White space and the order of an object's entries do not count.
    let again = store.append(append(r#"{"b":2,"a":1}"#)).await.expect("the first outcome");
    assert_eq!((again.outcome, again.token()), (Outcome::Repeated, first.token()));
    let more = Append::new(stream("a"), ExpectedVersion::Any, vec![event("{}")]).with_key(key("pay"));
    let other = Fingerprint::of_request("pay", b"1");
    for other in [append(r#"{"a": 1, "b": 3}"#), append("no json"), more, append("{}").with_fingerprint(other)] {
        assert_eq!(refusal(&store, other).await, ErrorKind::KeyReused(key("pay")));
    }
    let kept = store.find_by_key(&key("pay")).await.expect("outcomes can be read").expect("the key has an outcome");
    assert_eq!((&kept.before[..], &kept.appended.versions[..]), (&[Version::new(3)][..], &[Version::new(5)][..]));

    let given = |payload: &'static str, request: &[u8]| {
        let append = Append::new(stream("b"), ExpectedVersion::NoStream, vec![event(payload)]).with_key(key("given"));
        append.with_fingerprint(Fingerprint::of_request("pay", request))
    };
    let first = store.append(given("1", b"1")).await.expect("the first append succeeds");
    let again = store.append(given("2", b"1")).await.expect("the first outcome");
    assert_eq!((again.outcome, again.token()), (Outcome::Repeated, first.token()));
    assert_eq!(refusal(&store, given("1", b"2")).await, ErrorKind::KeyReused(key("given")));
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
