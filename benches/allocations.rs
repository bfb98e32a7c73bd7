//! Counts the allocations of a replayed event: those of the event itself, and none for passing it out of the store.
//!
//! Allocations are counted for the whole process, so a custom `main` runs the tests one after the other.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::hint::black_box;

use dhat::{Alloc, HeapStats, Profiler};
use libtest_mimic::{Arguments, Trial};
use retell::event::NewEvent;
use retell::repository::RepositoryOptions;
use retell::store::Append;
use retell::{Event, EventStore, ExpectedVersion, MemoryStore, Repository, SqliteStore, StreamId};
use tokio::runtime::Runtime;

use support::by_hand::{Paid, Placed, Shipped, State};
use support::order::{CompactEvent, Order, OrderEvent, Stored};

#[global_allocator]
static ALLOCATOR: Alloc = Alloc;

const EVENTS: u64 = 1_000;

fn main() {
    let mut arguments = Arguments::from_args();
    arguments.test_threads = Some(1);
    let tests = [
        test("json_decoding_allocates_like_hand_written", json_decoding_allocates_like_hand_written),
        test("compact_decoding_allocates_like_hand_written", compact_decoding_allocates_like_hand_written),
        test("memory_load_allocates_only_for_its_events", memory_load_allocates_only_for_its_events),
        test("sqlite_load_allocates_only_for_its_events", sqlite_load_allocates_only_for_its_events),
    ];
    libtest_mimic::run(&arguments, tests.into()).exit()
}

fn test(name: &str, body: fn()) -> Trial {
    Trial::test(name, move || {
        body();
        Ok(())
    })
}

fn json_decoding_allocates_like_hand_written() {
    let events = stored(OrderEvent::numbered);
    let by_hand = allocations(|| {
        for event in &events {
            match &*event.event_type {
                "order.placed" => drop(black_box(serde_json::from_slice::<Placed>(&event.payload).unwrap())),
                "order.paid" => drop(black_box(serde_json::from_slice::<Paid>(&event.payload).unwrap())),
                _ => drop(black_box(serde_json::from_slice::<Shipped>(&event.payload).unwrap())),
            }
        }
    });
    assert_eq!(decoding::<OrderEvent>(&events), by_hand);
}

fn compact_decoding_allocates_like_hand_written() {
    let events = stored(CompactEvent::numbered);
    let by_hand = allocations(|| {
        for event in &events {
            match &*event.event_type {
                "order.placed" => drop(black_box(postcard::from_bytes::<Placed>(&event.payload).unwrap())),
                "order.paid" => drop(black_box(postcard::from_bytes::<Paid>(&event.payload).unwrap())),
                _ => drop(black_box(postcard::from_bytes::<Shipped>(&event.payload).unwrap())),
            }
        }
    });
    assert_eq!(decoding::<CompactEvent>(&events), by_hand);
}

fn memory_load_allocates_only_for_its_events() {
    longer_load_allocates_only_for_its_events(&MemoryStore::new());
}

fn sqlite_load_allocates_only_for_its_events() {
    let directory = support::directory();
    let store = Runtime::new().unwrap().block_on(SqliteStore::open(directory.path().join("log.db"))).unwrap();
    longer_load_allocates_only_for_its_events(&store);
}

/// Compares a load of twice as many events, so that the fixed allocations of a load cancel out. Stores allocate buffers for chunks of
/// events; 1 % is allowed for those.
fn longer_load_allocates_only_for_its_events(store: &(impl EventStore + Clone)) {
    let runtime = Runtime::new().unwrap();
    let orders =
        Repository::<Order>::new(store.clone()).with_options(RepositoryOptions::new().with_cached_aggregates(0));
    for (id, events) in [("first", 3 * EVENTS), ("short", EVENTS), ("long", 2 * EVENTS)] {
        runtime.block_on(append(store, id, events));
    }
    let load = |id: &str| runtime.block_on(orders.load(id)).unwrap();
    // The first use of a store creates threads and statements, which must not be counted.
    load("first");
    let short = allocations(|| assert_eq!(load("short").version.get(), EVENTS));
    let long = allocations(|| assert_eq!(load("long").version.get(), 2 * EVENTS));
    let events = stored(OrderEvent::numbered);
    let by_hand = allocations(|| {
        let mut state = State::default();
        for event in &events {
            state.fold(&event.event_type, &event.payload).unwrap();
        }
    });
    assert!(long - short <= by_hand + by_hand / 100, "{} allocations, by hand {by_hand}", long - short);
}

async fn append(store: &impl EventStore, id: &str, events: u64) {
    let stream = StreamId::parse("order", id).unwrap();
    let events = (0..events).map(|n| NewEvent::new(&OrderEvent::numbered(n)).unwrap());
    store.append(Append::new(stream, ExpectedVersion::NoStream, events.collect())).await.unwrap();
}

fn stored<E: Event>(numbered: fn(u64) -> E) -> Vec<Stored> {
    (0..EVENTS).map(|number| Stored::encode(&numbered(number))).collect()
}

fn decoding<E: Event>(events: &[Stored]) -> u64 {
    allocations(|| {
        for event in events {
            drop(black_box(E::decode(event.borrow()).unwrap()));
        }
    })
}

/// Counts the allocations of `work`; each reallocation counts as one.
fn allocations(work: impl FnOnce()) -> u64 {
    let _profiler = Profiler::builder().testing().build();
    work();
    HeapStats::get().total_blocks
}
