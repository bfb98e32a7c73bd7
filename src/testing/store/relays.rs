//! What a relay keeps: its checkpoint, and the lease that lets one relay lead.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use crate::error::{Error, ErrorKind};
use crate::id::{Fence, MAX_NAME_BYTES, Position};
use crate::store::log::relay::RelayStore;
use crate::testing::store::PATIENCE;
use crate::testing::store::names::HOSTILE;

/// The store under test, shared with the tasks of a case.
type Relays = Arc<dyn RelayStore>;

/// Longer than any case runs.
const LONG: Duration = Duration::from_hours(1);

/// Soon over.
const SHORT: Duration = Duration::from_millis(50);

async fn take(store: &Relays, name: &str, holder: Uuid, length: Duration) -> Option<Fence> {
    store.acquire_lease(name, holder, length).await.unwrap_or_else(|error| panic!("{name:?}: {error}"))
}

async fn set(store: &Relays, relay: &str, position: u64, fence: u64) -> Result<(), Error> {
    store.advance(relay, Position::new(position), Fence::new(fence)).await
}

async fn relayed(store: &Relays, relay: &str) -> u64 {
    store.position(relay).await.expect("a relay's position can be read").get()
}

fn holders() -> [Uuid; 2] {
    [Uuid::now_v7(), Uuid::now_v7()]
}

/// It moves forward and never backward, and is no other relay's.
pub async fn a_relays_checkpoint_never_goes_backward(store: Relays) {
    assert_eq!(relayed(&store, "one").await, 0, "a relay that never ran");
    for (moved_to, expected) in [(5, 5), (3, 5), (5, 5), (9, 9)] {
        set(&store, "one", moved_to, 1).await.expect("a relay's position can be moved");
        assert_eq!(relayed(&store, "one").await, expected, "after a move to {moved_to}");
    }
    assert_eq!(relayed(&store, "two").await, 0, "another relay");
}

/// A relay that has lost its lease and does not know it cannot write any more, as soon as the next one has written something.
pub async fn a_smaller_fence_cannot_move_the_checkpoint(store: Relays) {
    for (position, fence) in [(5, 1), (5, 3), (7, 3), (6, 4)] {
        set(&store, "one", position, fence).await.expect("a fence that is no smaller may write");
    }
    assert_eq!(relayed(&store, "one").await, 7);
    for fence in [0, 1, 3] {
        let error = set(&store, "one", 9, fence).await.expect_err("a smaller fence is refused");
        let (fence, newest) = (Fence::new(fence), Fence::new(4));
        assert_eq!(*error.kind(), ErrorKind::Fenced { relay: "one".into(), fence, newest });
        assert_eq!(relayed(&store, "one").await, 7, "nothing was changed");
    }
    set(&store, "two", 1, 0).await.expect("another relay has fences of its own");
    set(&store, "one", 9, 4).await.expect("the newest fence still writes");
    assert_eq!(relayed(&store, "one").await, 9);
}

/// They are parsed by the store, and kept byte by byte.
pub async fn relays_and_leases_have_names_like_all_others(store: Relays) {
    let (longest, [holder, other]) = ("x".repeat(MAX_NAME_BYTES), holders());
    let names = || HOSTILE.into_iter().chain(["a", "A", "a ", &longest]).zip(1..);
    for (name, position) in names() {
        set(&store, name, position, 1).await.unwrap_or_else(|error| panic!("{name:?}: {error}"));
        assert_eq!(take(&store, name, holder, LONG).await, Some(Fence::new(1)), "{name:?} was never held");
    }
    for (name, position) in names() {
        assert_eq!(relayed(&store, name).await, position);
        assert_eq!(take(&store, name, other, LONG).await, None, "{name:?} is held");
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

/// A free one is taken, a held one is refused, and each change of holders raises the fence by one.
pub async fn a_lease_has_one_holder_and_a_larger_fence_for_the_next(store: Relays) {
    let [one, two] = holders();
    assert_eq!(take(&store, "lease", one, LONG).await, Some(Fence::new(1)), "nobody had it");
    assert_eq!(take(&store, "lease", two, LONG).await, None, "it is held");
    assert_eq!(take(&store, "another", two, LONG).await, Some(Fence::new(1)), "another lease");
    for (holder, next, fence) in [(one, two, 2), (two, one, 3)] {
        store.release_lease("lease", holder).await.expect("a lease can be given back");
        assert_eq!(take(&store, "lease", next, LONG).await, Some(Fence::new(fence)));
        assert_eq!(take(&store, "lease", holder, LONG).await, None);
    }
}

/// As often as it likes. The new length counts, from now on.
pub async fn a_holder_prolongs_its_lease_under_the_same_fence(store: Relays) {
    let [holder, other] = holders();
    for length in [SHORT, LONG, LONG] {
        assert_eq!(take(&store, "lease", holder, length).await, Some(Fence::new(1)));
    }
    let began = Instant::now();
    while began.elapsed() < SHORT * 2 {
        assert_eq!(take(&store, "lease", other, SHORT).await, None, "it lasts longer than the first length");
        sleep(SHORT / 10).await;
    }
}

/// Not before its end, and not under the old fence.
pub async fn a_lease_that_has_ended_is_taken_by_another(store: Relays) {
    let [holder, other] = holders();
    let began = Instant::now();
    assert_eq!(take(&store, "lease", holder, SHORT).await, Some(Fence::new(1)));
    let taken = async {
        loop {
            if let Some(fence) = take(&store, "lease", other, LONG).await {
                return fence;
            }
            sleep(SHORT / 10).await;
        }
    };
    assert_eq!(timeout(PATIENCE, taken).await.expect("it ends"), Fence::new(2));
    // The machine's clock and the database's may differ in what they call a millisecond.
    assert!(began.elapsed() + Duration::from_millis(2) >= SHORT, "it was held for its whole length");
    assert_eq!(take(&store, "lease", holder, LONG).await, None, "it is the other's now");
}

/// By its holder alone; and then it is nobody's, also not that holder's.
pub async fn a_lease_given_back_is_free_at_once(store: Relays) {
    let [holder, other] = holders();
    store.release_lease("lease", holder).await.expect("there is nothing to give back");
    assert_eq!(take(&store, "lease", holder, LONG).await, Some(Fence::new(1)));
    store.release_lease("lease", other).await.expect("what is not one's own stays");
    assert_eq!(take(&store, "lease", other, LONG).await, None);
    store.release_lease("lease", holder).await.expect("a lease can be given back");
    store.release_lease("lease", holder).await.expect("a second time does nothing");
    assert_eq!(take(&store, "lease", holder, LONG).await, Some(Fence::new(2)));
}

/// The others are told that it is held.
pub async fn of_sixteen_that_want_a_lease_at_once_one_gets_it(store: Relays) {
    for round in 1..=5 {
        let tasks: Vec<_> = (0..16)
            .map(|_| {
                let (store, holder) = (store.clone(), Uuid::now_v7());
                tokio::spawn(async move { (holder, take(&store, "lease", holder, LONG).await) })
            })
            .collect();
        let mut got = Vec::new();
        for task in tasks {
            let (holder, fence) = task.await.expect("taking a lease does not panic");
            got.extend(fence.map(|fence| (holder, fence)));
        }
        assert!(matches!(got[..], [(_, fence)] if fence == Fence::new(round)), "round {round}: {got:?}");
        store.release_lease("lease", got[0].0).await.expect("a lease can be given back");
    }
}
