//! Unique values: the stream that holds a value, the appends that are refused, and the state after a refusal.

use std::collections::HashMap;

use crate::claim::Claim;
use crate::error::ErrorKind;
use crate::id::{ClaimScope, ClaimValue, ExpectedVersion, IdempotencyKey, StreamId};
use crate::store::log::append::{Append, Outcome};
use crate::testing::store::{Store, append_at_once, event, events, log_of, refusal, stream, written};

/// Number of concurrent appends in one case.
const CONCURRENT: usize = 50;

const SCOPE: &str = "user.email";

fn reserve(value: &str) -> Claim {
    Claim::reserve(SCOPE, value).expect("a test's value is valid")
}

fn release(value: &str) -> Claim {
    Claim::release(SCOPE, value).expect("a test's value is valid")
}

fn claiming(id: &str, claims: impl IntoIterator<Item = Claim>) -> Append {
    Append::new(stream(id), ExpectedVersion::Any, events(1)).with_claims(claims)
}

async fn succeeds(store: &Store, append: Append) {
    let appended = store.append(append).await.expect("the append succeeds");
    assert_eq!(appended.outcome, Outcome::Written);
}

async fn holder_in(store: &Store, scope: &str, value: &str) -> Option<StreamId> {
    let (scope, value) = (ClaimScope::new(scope).expect("a scope"), ClaimValue::new(value).expect("a value"));
    store.holder(&scope, &value).await.expect("the holder of a value can be read")
}

async fn holder(store: &Store, value: &str) -> Option<StreamId> {
    holder_in(store, SCOPE, value).await
}

fn taken(value: &str, by: &str) -> ErrorKind {
    let scope = ClaimScope::new(SCOPE).expect("a scope");
    ErrorKind::Taken { scope, value: ClaimValue::new(value).expect("a value"), by: stream(by) }
}

/// One of the concurrent appends reserves the value. The others get an error that names the holder, and write nothing.
pub async fn one_of_fifty_concurrent_reservations_wins(store: Store) {
    let appends = (0..CONCURRENT).map(|n| claiming(&n.to_string(), [reserve("ada@example.org")])).collect();
    let outcomes = append_at_once(&store, appends).await;
    let log = log_of(&store).await;
    assert_eq!(log.len(), 1, "one registration is in the log");
    let winner = &log[0].stream;
    assert_eq!(holder(&store, "ada@example.org").await.as_ref(), Some(winner));
    let refusal = taken("ada@example.org", winner.aggregate_id().as_str());
    for (outcome, n) in outcomes.into_iter().zip(0..) {
        match outcome {
            Ok(appended) => assert_eq!((appended.outcome, &stream(&n.to_string())), (Outcome::Written, winner)),
            Err(error) => assert_eq!(*error.kind(), refusal, "{error}"),
        }
    }
}

/// Any stream can reserve a released value, including the stream that released it.
pub async fn a_released_value_can_be_reserved_by_another(store: Store) {
    for id in ["a", "b", "a"] {
        succeeds(&store, claiming(id, [reserve("x")])).await;
        assert_eq!(holder(&store, "x").await, Some(stream(id)));
        succeeds(&store, claiming(id, [release("x")])).await;
        assert_eq!(holder(&store, "x").await, None);
    }
}

/// A retried command, or an import that runs twice, does not conflict with itself.
pub async fn a_holder_can_reserve_its_value_again(store: Store) {
    for _ in 0..2 {
        succeeds(&store, claiming("a", [reserve("x")])).await;
    }
    assert_eq!(holder(&store, "x").await, Some(stream("a")));
    assert_eq!(refusal(&store, claiming("b", [reserve("x")])).await, taken("x", "a"));
}

/// Releasing a value that another stream holds does nothing. Neither does releasing a value that no stream holds.
pub async fn releasing_another_streams_value_does_nothing(store: Store) {
    succeeds(&store, claiming("a", [reserve("x")])).await;
    succeeds(&store, claiming("b", [release("x"), release("free")])).await;
    assert_eq!((holder(&store, "x").await, holder(&store, "free").await), (Some(stream("a")), None));
    assert_eq!(log_of(&store).await.len(), 2);
}

/// A stream replaces its value by another one, and two streams exchange their values.
pub async fn values_are_swapped_within_one_append(store: Store) {
    succeeds(&store, claiming("a", [reserve("x")])).await;
    succeeds(&store, claiming("a", [reserve("y"), release("x")])).await;
    assert_eq!((holder(&store, "x").await, holder(&store, "y").await), (None, Some(stream("a"))));
    succeeds(&store, claiming("b", [reserve("x")])).await;

    let swap = claiming("a", [reserve("x"), release("y")])
        .with_stream(stream("b"), ExpectedVersion::Any, events(1))
        .with_claims([reserve("y"), release("x")]);
    succeeds(&store, swap).await;
    assert_eq!((holder(&store, "x").await, holder(&store, "y").await), (Some(stream("a")), Some(stream("b"))));
}

/// Claims apply in the order of the append's events.
pub async fn the_last_of_several_claims_on_one_value_wins(store: Store) {
    succeeds(&store, claiming("a", [reserve("x"), release("x"), release("y"), reserve("y")])).await;
    assert_eq!((holder(&store, "x").await, holder(&store, "y").await), (None, Some(stream("a"))));
    succeeds(&store, claiming("a", [release("y"), reserve("y")])).await;
    assert_eq!(holder(&store, "y").await, Some(stream("a")));
}

/// A refused append writes neither events of any stream nor its other claims.
pub async fn an_append_whose_value_is_taken_writes_nothing(store: Store) {
    succeeds(&store, claiming("a", [reserve("m")])).await;
    succeeds(&store, claiming("b", [reserve("own")])).await;
    let append = claiming("b", [reserve("c"), release("own")])
        .with_stream(stream("c"), ExpectedVersion::Any, events(2))
        .with_claims([reserve("m"), reserve("z")]);
    assert_eq!(refusal(&store, append).await, taken("m", "a"));
    for free in ["c", "z"] {
        assert_eq!(holder(&store, free).await, None, "{free}");
    }
    assert_eq!(holder(&store, "own").await, Some(stream("b")));
    assert_eq!(log_of(&store).await.len(), 2);
    // The values that the refused append claimed are free.
    succeeds(&store, claiming("d", [reserve("c"), reserve("z")])).await;
}

/// Only the appends that claim a taken value are refused, and not the others in their commit.
pub async fn a_taken_value_in_a_shared_commit_fails_no_other_append(store: Store) {
    succeeds(&store, claiming("first", [reserve("x")])).await;
    let append = |n: usize| match n % 3 {
        0 => claiming(&n.to_string(), [reserve("x")]),
        1 => claiming(&n.to_string(), [reserve(&n.to_string())]),
        _ => claiming(&n.to_string(), []),
    };
    let outcomes = append_at_once(&store, (0..CONCURRENT).map(append).collect()).await;
    for (outcome, n) in outcomes.into_iter().zip(0..) {
        match outcome {
            Ok(_) => assert_ne!(n % 3, 0, "append {n} reserved a value that another stream holds"),
            Err(error) => assert_eq!((n % 3, error.kind()), (0, &taken("x", "first"))),
        }
        let own = holder(&store, &n.to_string()).await;
        assert_eq!(own, (n % 3 == 1).then(|| stream(&n.to_string())));
    }
}

/// An append with both faults gets the conflict, because its writer must first reload. A refused append holds no value.
pub async fn a_conflict_is_reported_before_a_taken_value(store: Store) {
    succeeds(&store, claiming("a", [reserve("x")])).await;
    let outdated =
        Append::new(stream("b"), ExpectedVersion::Exists, events(1)).with_claims([reserve("x"), reserve("y")]);
    assert!(matches!(refusal(&store, outdated).await, ErrorKind::Conflict { .. }));
    assert_eq!(holder(&store, "y").await, None);
    assert_eq!(holder(&store, "x").await, Some(stream("a")));
}

/// An event that the log already contains refuses the whole append.
pub async fn an_append_with_a_duplicate_event_id_reserves_nothing(store: Store) {
    let known = event("{}");
    written(&store, &stream("a"), vec![known.clone()]).await;
    let append = Append::new(stream("b"), ExpectedVersion::Any, vec![known.clone()]).with_claims([reserve("x")]);
    assert_eq!(refusal(&store, append).await, ErrorKind::DuplicateEvent(known.id));
    assert_eq!(holder(&store, "x").await, None);
    succeeds(&store, claiming("c", [reserve("x")])).await;
}

/// The claims of a repeated append are neither checked nor applied again.
pub async fn a_repeated_append_ignores_the_current_holder_of_its_value(store: Store) {
    let key = IdempotencyKey::new("register a").expect("a key");
    let register = || claiming("a", [reserve("x"), release("y")]).with_key(key.clone());
    let first = store.append(register()).await.expect("the value is free");
    succeeds(&store, claiming("a", [release("x"), reserve("y")])).await;
    succeeds(&store, claiming("b", [reserve("x")])).await;
    let again = store.append(register()).await.expect("the first outcome");
    assert_eq!((again.outcome, again.commit, again.versions), (Outcome::Repeated, first.commit, first.versions));
    assert_eq!((holder(&store, "x").await, holder(&store, "y").await), (Some(stream("b")), Some(stream("a"))));
    assert_eq!(log_of(&store).await.len(), 3);
}

/// Case, accents and trailing spaces are significant, in every database. Each scope has its own values.
pub async fn values_are_compared_byte_by_byte(store: Store) {
    let longest = "ü".repeat(127);
    let values = ["ada", "Ada", "ada ", " ada", "adá", "ad", "%", "a'; --", "🦀", &longest];
    for value in values {
        succeeds(&store, claiming(value, [reserve(value)])).await;
    }
    for value in values {
        assert_eq!(holder(&store, value).await, Some(stream(value)));
        assert_eq!(holder_in(&store, "User.email", value).await, None, "another scope");
    }
    let other = Claim::reserve("user.name", "ada").expect("a claim");
    succeeds(&store, claiming("b", [other])).await;
    assert_eq!(holder_in(&store, "user.name", "ada").await, Some(stream("b")));
    assert_eq!(holder(&store, "ada").await, Some(stream("ada")));
}

/// One append cannot claim a value for two streams, even if the value is free.
pub async fn an_append_that_claims_a_value_for_two_streams_is_refused(store: Store) {
    for (claim, problem) in [
        (reserve("x"), "append reserves user.email x for two streams"),
        (release("x"), "append releases user.email x for two streams"),
    ] {
        let append = claiming("a", [claim.clone()])
            .with_stream(stream("b"), ExpectedVersion::Any, events(1))
            .with_claims([claim]);
        assert_eq!(refusal(&store, append).await, ErrorKind::Invalid(problem.to_owned()));
    }
    assert!(log_of(&store).await.is_empty());
}

/// One append may claim more values than fit in one statement of some databases.
pub async fn one_append_claims_a_thousand_values(store: Store) {
    let names: Vec<_> = (0..1_000).map(|n| format!("value {n}")).collect();
    succeeds(&store, claiming("a", names.iter().map(|name| reserve(name)))).await;
    let append = claiming("b", names.iter().rev().map(|name| reserve(name)));
    assert_eq!(refusal(&store, append).await, taken("value 0", "a"));
    succeeds(&store, claiming("a", names[1..].iter().map(|name| release(name)))).await;
    succeeds(&store, claiming("b", names[1..].iter().map(|name| reserve(name)))).await;
    for name in names.iter().step_by(97).skip(1) {
        assert_eq!(holder(&store, name).await, Some(stream("b")));
    }
    assert_eq!(holder(&store, "value 0").await, Some(stream("a")));
}

/// Each append reserves all of its values, or is refused with the name of a value that is taken.
pub async fn appends_that_claim_overlapping_values_do_not_deadlock(store: Store) {
    let append = |n: usize| {
        let wanted = (0..6).map(|step| (n + step * (n % 5 + 1)) % 12);
        claiming(&n.to_string(), wanted.map(|number| reserve(&number.to_string())))
    };
    let outcomes = append_at_once(&store, (0..CONCURRENT).map(append).collect()).await;
    let mut won = 0;
    for outcome in outcomes {
        match outcome {
            Ok(_) => won += 1,
            Err(error) => assert!(error.is_taken(), "{error}"),
        }
    }
    assert!(won > 0, "at least one append succeeds");
    assert_eq!(log_of(&store).await.len(), won);
}

/// A reader in log order always sees the release of a value before the next reservation.
pub async fn a_value_has_one_holder_at_a_time_in_log_order(store: Store) {
    let turns = (0..16).map(|task| {
        let (store, id) = (store.clone(), format!("task {task}"));
        tokio::spawn(async move {
            for _ in 0..10 {
                let turn = |payload: &'static str, claim| {
                    Append::new(stream(&id), ExpectedVersion::Any, vec![event(payload)]).with_claims([claim])
                };
                match store.append(turn("reserve", reserve("x"))).await {
                    Ok(_) => drop(store.append(turn("release", release("x"))).await.expect("a release succeeds")),
                    Err(error) => assert!(error.is_taken(), "{error}"),
                }
            }
        })
    });
    for task in turns.collect::<Vec<_>>() {
        task.await.expect("a task does not panic");
    }
    let mut held: HashMap<&str, StreamId> = HashMap::new();
    let log = log_of(&store).await;
    for event in &log {
        match &event.event.payload[..] {
            b"reserve" => assert_eq!(held.insert("x", event.stream.clone()), None, "position {}", event.position),
            _ => assert_eq!(held.remove("x").as_ref(), Some(&event.stream), "position {}", event.position),
        }
    }
    assert!(log.len() > 2 && held.is_empty());
    assert_eq!(holder(&store, "x").await, None);
}
