//! Decodes and folds events in memory: the CPU cost between stored bytes and a state.
//!
//! - `by_hand`: match the type, `serde_json::from_slice` into a struct of that type, change the state.
//! - `json`: the derived `Event::decode` and `apply` on the same bytes. Target: at least 0.95 times the speed of `by_hand`.
//! - `compact`: the same with `codec = "compact"`. Target: at least 2.2 times the speed of `by_hand`.
//!
//! ```sh
//! cargo bench -p retell-benches --bench replay
//! ```
#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

mod support;

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput};
use retell::{Aggregate, Event};

use support::by_hand::State;
use support::order::{CompactEvent, CompactOrder, Order, OrderEvent, Stored};

fn main() {
    let mut criterion = support::criterion();
    replay(&mut criterion);
    criterion.final_summary();
}

fn replay(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("replay");
    for events in [10, 1_000, 100_000] {
        let json: Vec<_> = (0..events).map(|n| Stored::encode(&OrderEvent::numbered(n))).collect();
        let compact: Vec<_> = (0..events).map(|n| Stored::encode(&CompactEvent::numbered(n))).collect();
        group.throughput(Throughput::Elements(events));
        group.bench_function(BenchmarkId::new("by_hand", events), |b| b.iter(|| by_hand(black_box(&json))));
        group.bench_function(BenchmarkId::new("json", events), |b| b.iter(|| fold::<Order>(black_box(&json))));
        group.bench_function(BenchmarkId::new("compact", events), |b| {
            b.iter(|| fold::<CompactOrder>(black_box(&compact)));
        });
    }
    group.finish();
}

fn by_hand(events: &[Stored]) -> State {
    let mut state = State::default();
    for event in events {
        state.fold(&event.event_type, &event.payload).unwrap();
    }
    state
}

fn fold<A: Aggregate>(events: &[Stored]) -> A {
    let mut state = A::default();
    for event in events {
        state.apply(A::Event::decode(event.borrow()).unwrap());
    }
    state
}
