//! Measures loads of one aggregate, and reads of the whole log.

use std::time::Instant;

use retell::repository::RepositoryOptions;
use retell::store::{Append, Snapshot};
use retell::{Aggregate, AggregateId, Apply, EventReaderExt, EventStore, ExpectedVersion, Filter, Repository, Version};

use crate::database::Database;
use crate::support::by_hand::State;
use crate::support::order::{KeptOrder, Order, OrderEvent};
use crate::{new_event, report, stream, to_new_stream};

const LENGTHS: [u64; 5] = [10, 100, 1_000, 10_000, 100_000];

/// Events per append while a stream is filled.
const FILL: u64 = 10_000;

/// Number of events after the snapshot.
const TAIL: u64 = 50;

impl Database {
    /// Measures loads of aggregates of each length in `LENGTHS`, not cached, without snapshots. Measures the second longest also while it
    /// is cached and up to date, and from a snapshot of that version with `TAIL` events after it.
    pub(crate) async fn loads(&self) {
        let store = self.store().await;
        let uncached = RepositoryOptions::new().with_cached_aggregates(0);
        let orders = Repository::<Order>::over(store.clone()).with_options(uncached);
        for length in LENGTHS {
            let id = format!("of-{length}");
            fill(&*store, &id, 0..length).await;
            self.copy_to_plain(&id, 0).await;
            let by_hand = async || drop(self.load_by_hand(&id, 0).await);
            let ours = async || drop(orders.load(&*id).await.unwrap());
            turns(&format!("load of {length}"), rounds(length), by_hand, ours).await;
        }

        let (length, id) = (LENGTHS[3], format!("of-{}", LENGTHS[3]));
        let cached = Repository::<Order>::over(store.clone());
        let by_hand = async || drop(self.load_by_hand(&id, length).await);
        turns("load, cached", rounds(1), by_hand, async || drop(cached.load(&*id).await.unwrap())).await;

        let kept = Repository::<KeptOrder>::over(store.clone()).with_options(uncached);
        let loaded = kept.load(&*id).await.unwrap();
        let state = loaded.state.to_snapshot().unwrap();
        self.save_snapshot_by_hand(&id, length, &state).await;
        let snapshot =
            Snapshot::new(Version::new(length), loaded.last_event().unwrap(), KeptOrder::fingerprint(), state);
        store.save_snapshot(&stream(AggregateId::new(&*id).unwrap()), snapshot).await.unwrap();
        fill(&*store, &id, length..length + TAIL).await;
        self.copy_to_plain(&id, length).await;
        let by_hand = async || drop(self.load_from_snapshot_by_hand(&id).await);
        turns("load from a snapshot", rounds(TAIL), by_hand, async || drop(kept.load(&*id).await.unwrap())).await;
    }

    /// Loads the state of a snapshot and the events after it.
    async fn load_from_snapshot_by_hand(&self, id: &str) -> State {
        let (version, state) = self.load_snapshot_by_hand(id).await;
        let mut state: State = serde_json::from_slice(&state).unwrap();
        self.fold_by_hand(&mut state, id, version).await;
        state
    }

    /// Reads 50,000 events in commits of `events` each, decodes and folds them. The hand-written side streams the plain table with all
    /// columns of an event.
    pub(crate) async fn read_all(&self, events: u64) {
        const EVENTS: u64 = 50_000;
        let store = self.store().await;
        let from = store.head().await.unwrap();
        for _ in 0..EVENTS / events {
            store.append(to_new_stream(0..events)).await.unwrap();
        }
        store.head().await.unwrap();
        self.copy_all_to_plain(from).await;
        let (mut by_hand, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            let began = Instant::now();
            drop(self.all_by_hand().await);
            by_hand.push(began.elapsed().as_secs_f64());
            let began = Instant::now();
            let (mut counter, mut position) = (Order::default(), from);
            loop {
                let page = store.read_all(position, 1_000, &Filter::all()).await.unwrap();
                if page.through == position {
                    break;
                }
                for event in &page.events {
                    Apply::apply(&mut counter, event.decode::<OrderEvent>().unwrap().event);
                }
                position = page.through;
            }
            ours.push(began.elapsed().as_secs_f64());
        }
        report(&format!("read_all, commits of {events}"), by_hand, ours);
    }
}

/// Returns enough rounds for a steady median.
fn rounds(events: u64) -> usize {
    usize::try_from(200_000 / events).unwrap().clamp(7, 500)
}

/// Measures both sides in turn.
async fn turns(what: &str, rounds: usize, by_hand: impl AsyncFn(), ours: impl AsyncFn()) {
    let mut times: [Vec<f64>; 2] = Default::default();
    // Create statements before the clock starts.
    by_hand().await;
    ours().await;
    for _ in 0..rounds {
        let began = Instant::now();
        by_hand().await;
        times[0].push(began.elapsed().as_secs_f64());
        let began = Instant::now();
        ours().await;
        times[1].push(began.elapsed().as_secs_f64());
    }
    let [by_hand, ours] = times;
    report(what, by_hand, ours);
}

async fn fill(store: &dyn EventStore, id: &str, numbers: std::ops::Range<u64>) {
    let mut first = numbers.start;
    while first < numbers.end {
        let end = numbers.end.min(first + FILL);
        let (id, events) = (AggregateId::new(id).unwrap(), (first..end).map(new_event).collect());
        store.append(Append::new(stream(id), ExpectedVersion::Exact(Version::new(first)), events)).await.unwrap();
        first = end;
    }
}
