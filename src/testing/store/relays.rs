//! The state of relays: checkpoints, and the leases that elect one leader.

use std::sync::Arc;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use crate::error::{Error, ErrorKind};
use crate::id::mark::Mark;
use crate::id::{EventId, Fence, MAX_NAME_BYTES, Position};
use crate::store::log::relay::RelayStore;
use crate::testing::store::TIMEOUT;
use crate::testing::store::names::HOSTILE;

/// The store under test, shared with the tasks of a case.
type Relays = Arc<dyn RelayStore>;

/// A lease that does not expire during a case.
const LONG: Duration = Duration::from_hours(1);

/// A lease that expires during a case.
const SHORT: Duration = Duration::from_millis(50);

async fn acquire(store: &Relays, name: &str, holder: Uuid, length: Duration) -> Option<Fence> {
    store.acquire_lease(name, holder, length).await.unwrap_or_else(|error| panic!("{name:?}: {error}"))
}

async fn set(store: &Relays, relay: &str, position: u64, fence: u64) -> Result<(), Error> {
    store.advance(relay, Position::new(position).into(), Fence::new(fence)).await
}

async fn relayed(store: &Relays, relay: &str) -> u64 {
    store.mark(relay).await.expect("a relay's position can be read").position.get()
}

fn holders() -> [Uuid; 2] {
    [Uuid::now_v7(), Uuid::now_v7()]
}

/// A checkpoint only moves forward, and each relay has its own.
pub async fn a_relays_checkpoint_never_goes_backward(store: Relays) {
    assert_eq!(relayed(&store, "one").await, 0, "a relay that never ran");
    for (moved_to, expected) in [(5, 5), (3, 5), (5, 5), (9, 9)] {
        set(&store, "one", moved_to, 1).await.expect("a relay's position can be moved");
        assert_eq!(relayed(&store, "one").await, expected, "after a move to {moved_to}");
    }
    assert_eq!(relayed(&store, "two").await, 0, "another relay");
}

/// A former leader that has not noticed the loss of its lease cannot write once the new leader has written.
pub async fn a_smaller_fence_cannot_move_the_checkpoint(store: Relays) {
    for (position, fence) in [(5, 1), (5, 3), (7, 3), (6, 4)] {
        set(&store, "one", position, fence).await.expect("a fence that is not smaller may write");
    }
    assert_eq!(relayed(&store, "one").await, 7);
    for fence in [0, 1, 3] {
        let error = set(&store, "one", 9, fence).await.expect_err("a smaller fence is refused");
        let (fence, newest) = (Fence::new(fence), Fence::new(4));
        assert_eq!(*error.kind(), ErrorKind::Fenced { relay: "one".into(), fence, newest });
        assert_eq!(relayed(&store, "one").await, 7, "the checkpoint is unchanged");
    }
    set(&store, "two", 1, 0).await.expect("another relay has its own fences");
    set(&store, "one", 9, 4).await.expect("the newest fence still writes");
    assert_eq!(relayed(&store, "one").await, 9);
}

/// The log may have lost the event at the new position since a relay read it. Here, the log has no events.
pub async fn a_relay_never_moves_to_a_lost_event(store: Relays) {
    let lost_at = |position| Mark::new(Position::new(position), EventId::generate());
    for (stored, next) in [(0, 5), (5, 8), (8, 8)] {
        let error = store.advance("one", lost_at(7), Fence::new(2)).await.expect_err("the log does not have the event");
        assert!(error.is_history_changed(), "{error}");
        assert_eq!(relayed(&store, "one").await, stored, "the checkpoint is unchanged");
        if let Some(known) = store.relays().await.expect("relays can be listed") {
            assert_eq!(known.is_empty(), stored == 0, "a refused position makes no relay known: {known:?}");
        }
        set(&store, "one", next, 2).await.expect("a place without an event is not compared");
    }
    for position in [4, 8, 9] {
        let error = store.advance("one", lost_at(position), Fence::new(1)).await;
        let error = error.expect_err("the fence is smaller, and the event lost");
        assert!(!error.is_outage(), "{error}");
        assert_eq!(relayed(&store, "one").await, 8);
    }
}

/// A reset moves the position backward or forward, and the leader of that time can neither move it again nor keep its lease.
pub async fn a_reset_relay_is_at_the_given_place_and_has_no_leader(store: Relays) {
    let ([holder, other], id) = (holders(), EventId::generate());
    let fence = acquire(&store, "one", holder, LONG).await.expect("the lease is free");
    let far = Mark::from(Position::new(9));
    store.advance("one", far, fence).await.expect("the leader may write");
    assert_eq!(store.mark("one").await.expect("a relay's position can be read"), far);
    for to in [Mark::new(Position::new(4), id), Mark::START, Mark::new(Position::new(12), id)] {
        store.reset("one", to).await.expect("a relay can be reset");
        assert_eq!(store.mark("one").await.expect("a relay's position can be read"), to);
        let error = store.advance("one", far, fence).await.expect_err("the leader of that time is fenced");
        assert!(matches!(error.kind(), ErrorKind::Fenced { .. }), "{error}");
    }
    let next = acquire(&store, "one", other, LONG).await.expect("the lease has ended");
    store.advance("one", Position::new(13).into(), next).await.expect("the next leader may write");
    store.advance("two", Position::new(3).into(), Fence::ZERO).await.expect("another relay may write");
    store.reset("two", Mark::START).await.expect("another relay can be reset");
    assert_eq!(relayed(&store, "one").await, 13, "another relay");
}

/// The name of a relay that never ran is misspelt. Stores that cannot list their relays accept every name.
pub async fn a_relay_that_never_ran_is_an_error(store: Relays) {
    let ([holder, _], misspelt) = (holders(), "mian of the suite");
    assert!(acquire(&store, "leads", holder, LONG).await.is_some());
    set(&store, "main", 3, 1).await.expect("a relay's position can be moved");
    let Some(known) = store.relays().await.expect("relays can be listed") else { return };
    assert_eq!(known, ["leads", "main"]);
    let errors = [store.position(misspelt).await.err(), store.reset(misspelt, Mark::START).await.err()];
    for error in errors {
        let error = error.expect("the name is refused");
        assert_eq!(*error.kind(), ErrorKind::UnknownRelay { relay: misspelt.into(), known: known.clone() });
    }
    assert_eq!(store.relays().await.expect("relays can be listed"), Some(known), "nothing was written");
    assert_eq!(relayed(&store, misspelt).await, 0, "a new relay starts at the beginning of the log");
    assert_eq!(store.position("main").await.expect("a known name"), Position::new(3));
    assert_eq!(store.position("leads").await.expect("a known name"), Position::ZERO);
}

/// The store validates these names and keeps them byte by byte.
pub async fn relay_and_lease_names_follow_the_rules_of_names(store: Relays) {
    let (longest, [holder, other]) = ("x".repeat(MAX_NAME_BYTES), holders());
    let names = || HOSTILE.into_iter().chain(["a", "A", "a ", &longest]).zip(1..);
    for (name, position) in names() {
        set(&store, name, position, 1).await.unwrap_or_else(|error| panic!("{name:?}: {error}"));
        assert_eq!(acquire(&store, name, holder, LONG).await, Some(Fence::new(1)), "{name:?} was never held");
    }
    for (name, position) in names() {
        assert_eq!(relayed(&store, name).await, position);
        assert_eq!(acquire(&store, name, other, LONG).await, None, "{name:?} is held");
    }
    for refused in ["", "a\0", &*"x".repeat(MAX_NAME_BYTES + 1), &*"x".repeat(64 * 1024)] {
        let errors = [
            store.position(refused).await.err(),
            set(&store, refused, 1, 1).await.err(),
            store.acquire_lease(refused, holder, LONG).await.err(),
            store.release_lease(refused, holder).await.err(),
        ];
        for error in errors {
            let error = error.expect("the name is refused");
            assert!(matches!(error.kind(), ErrorKind::Invalid(_)), "{error}");
        }
    }
}

/// A free lease can be acquired, a held one cannot, and each new holder gets a fence that is greater by one.
pub async fn each_new_holder_of_a_lease_gets_a_greater_fence(store: Relays) {
    let [one, two] = holders();
    assert_eq!(acquire(&store, "lease", one, LONG).await, Some(Fence::new(1)), "the lease was never held");
    assert_eq!(acquire(&store, "lease", two, LONG).await, None, "the lease is held");
    assert_eq!(acquire(&store, "another", two, LONG).await, Some(Fence::new(1)), "another lease");
    for (holder, next, fence) in [(one, two, 2), (two, one, 3)] {
        store.release_lease("lease", holder).await.expect("a holder can release its lease");
        assert_eq!(acquire(&store, "lease", next, LONG).await, Some(Fence::new(fence)));
        assert_eq!(acquire(&store, "lease", holder, LONG).await, None);
    }
}

/// A holder can renew its lease any number of times. Each renewal sets a new length, counted from the call.
pub async fn a_holder_renews_its_lease_under_the_same_fence(store: Relays) {
    let [holder, other] = holders();
    for length in [SHORT, LONG, LONG] {
        assert_eq!(acquire(&store, "lease", holder, length).await, Some(Fence::new(1)));
    }
    let began = Instant::now();
    while began.elapsed() < SHORT * 2 {
        assert_eq!(acquire(&store, "lease", other, SHORT).await, None, "the renewed lease outlasts its first length");
        sleep(SHORT / 10).await;
    }
}

/// Another holder can acquire the lease only after its end, and gets a greater fence.
pub async fn an_expired_lease_can_be_acquired_by_another_holder(store: Relays) {
    let [holder, other] = holders();
    let began = Instant::now();
    assert_eq!(acquire(&store, "lease", holder, SHORT).await, Some(Fence::new(1)));
    let acquired = async {
        loop {
            if let Some(fence) = acquire(&store, "lease", other, LONG).await {
                return fence;
            }
            sleep(SHORT / 10).await;
        }
    };
    assert_eq!(timeout(TIMEOUT, acquired).await.expect("the lease expires"), Fence::new(2));
    // The local clock and the database's clock may round differently.
    assert!(began.elapsed() + Duration::from_millis(2) >= SHORT, "the lease was held for its whole length");
    assert_eq!(acquire(&store, "lease", holder, LONG).await, None, "the lease has another holder");
}

/// Only its holder can release a lease. A later acquisition by the same holder gets a greater fence.
pub async fn a_released_lease_is_free_immediately(store: Relays) {
    let [holder, other] = holders();
    store.release_lease("lease", holder).await.expect("releasing a free lease does nothing");
    assert_eq!(acquire(&store, "lease", holder, LONG).await, Some(Fence::new(1)));
    store.release_lease("lease", other).await.expect("releasing another holder's lease does nothing");
    assert_eq!(acquire(&store, "lease", other, LONG).await, None);
    store.release_lease("lease", holder).await.expect("a holder can release its lease");
    store.release_lease("lease", holder).await.expect("releasing it again does nothing");
    assert_eq!(acquire(&store, "lease", holder, LONG).await, Some(Fence::new(2)));
}

/// One of the concurrent contenders gets the lease. The others get `None`.
pub async fn one_of_sixteen_contenders_gets_the_lease(store: Relays) {
    for round in 1..=5 {
        let tasks: Vec<_> = (0..16)
            .map(|_| {
                let (store, holder) = (store.clone(), Uuid::now_v7());
                tokio::spawn(async move { (holder, acquire(&store, "lease", holder, LONG).await) })
            })
            .collect();
        let mut got = Vec::new();
        for task in tasks {
            let (holder, fence) = task.await.expect("acquiring a lease does not panic");
            got.extend(fence.map(|fence| (holder, fence)));
        }
        assert!(matches!(got[..], [(_, fence)] if fence == Fence::new(round)), "round {round}: {got:?}");
        store.release_lease("lease", got[0].0).await.expect("a holder can release its lease");
    }
}

/// Relays are listed by name up to the limit: a relay that has only a position, one that has only the lease, and one whose lease has ended.
pub async fn a_listed_relay_has_its_place_and_its_leader(store: Relays) {
    let Some(none) = store.relay_statuses(10).await.expect("relays can be listed") else { return };
    assert_eq!(none, []);
    let [holder, other] = holders();
    let began = Utc::now();
    acquire(&store, "leads", holder, LONG).await.expect("the lease is free");
    acquire(&store, "ended", other, Duration::from_millis(1)).await.expect("the lease is free");
    acquire(&store, "released", other, LONG).await.expect("the lease is free");
    store.release_lease("released", other).await.expect("a holder can release its lease");
    set(&store, "Main", 3, 1).await.expect("a relay's position can be moved");
    set(&store, "leads", 7, 1).await.expect("a relay's position can be moved");
    let listed =
        async |limit| store.relay_statuses(limit).await.expect("relays can be listed").expect("they can still");
    let all = timeout(TIMEOUT, async {
        loop {
            let all = listed(10).await;
            if all.iter().all(|relay| relay.relay != "ended" || relay.leader.is_none()) {
                return all;
            }
            sleep(SHORT).await;
        }
    });
    let all = all.await.expect("the short lease ends");
    let places: Vec<_> = all.iter().map(|relay| (relay.relay.as_str(), relay.mark.position.get())).collect();
    assert_eq!(places, [("Main", 3), ("ended", 0), ("leads", 7), ("released", 0)]);
    let leaders: Vec<_> = all.iter().filter_map(|relay| Some((relay.relay.as_str(), relay.leader?.holder))).collect();
    assert_eq!(leaders, [("leads", holder)]);
    let ends_at = all[2].leader.expect("it leads").ends_at;
    // The clock of a database may differ from the one of the test.
    assert!((ends_at - began - TimeDelta::hours(1)).abs() < TimeDelta::minutes(30), "{began} {ends_at}");
    assert_eq!(listed(2).await, all[..2]);
    assert_eq!(listed(0).await, []);
}
