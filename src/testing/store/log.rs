//! Reading the log: pages, filters, streams, the newest events, and events by time.

use std::collections::HashSet;

use chrono::TimeDelta;
use tokio::time::timeout;

use crate::event::{NewEvent, RecordedEvent};
use crate::id::mark::Mark;
use crate::id::{AggregateType, CorrelationId, EventId, EventType, Position, Version};
use crate::store::log::mark::changed;
use crate::store::log::query::{Filter, PAGE_BYTES, Page, Query};
use crate::store::log::reader::{EventReader, EventReaderExt};
use crate::testing::store::{Store, TIMEOUT, event, event_of, events, log_of, position_of, stream, stream_of, written};

/// Aggregate types of the mixed log, with similar names.
const KINDS: [&str; 3] = ["order", "Order", "order.line"];
/// Event types of the mixed log, with similar names.
const TYPES: [&str; 4] = ["placed", "Placed", "placed ", "place_"];

/// Writes events of every type to five aggregates of every type, and returns the log.
async fn mixed_log(store: &Store) -> Vec<RecordedEvent> {
    for number in 0..5 {
        for kind in KINDS {
            let sent = TYPES.iter().map(|event_type| event_of(event_type, "1")).collect();
            written(store, &stream_of(kind, &number.to_string()), sent).await;
        }
    }
    log_of(store).await
}

async fn page(store: &Store, after: u64, limit: usize, filter: &Filter) -> Page {
    store.read_all(Position::new(after), limit, filter).await.expect("the log can be read")
}

fn filter(kinds: &[&str], types: &[&str]) -> Filter {
    Filter {
        aggregate_types: kinds.iter().map(|kind| AggregateType::new(kind).expect("a valid name")).collect(),
        event_types: types.iter().map(|event_type| EventType::new(event_type).expect("a valid name")).collect(),
    }
}

/// Pages of any size return each event exactly once, in order.
pub async fn pages_cover_the_log_exactly_once(store: Store) {
    let log = mixed_log(&store).await;
    for limit in [1, 7, 60, 61, 10_000] {
        let mut seen = Vec::new();
        let mut after = 0;
        loop {
            let page = page(&store, after, limit, &Filter::all()).await;
            assert!(page.events.len() <= limit);
            if page.events.is_empty() {
                break;
            }
            assert_eq!(page.events.last().map(|event| event.position), Some(page.through));
            after = page.through.get();
            seen.extend(page.events);
        }
        assert_eq!(seen, log, "in pages of {limit}");
    }
}

/// Filters by aggregate type, by event type, and by both. Similar names, and names that look like SQL patterns, do not match.
pub async fn a_page_has_exactly_the_events_that_pass_the_filter(store: Store) {
    let log = mixed_log(&store).await;
    let filters = [
        (filter(&["order"], &[]), 20),
        (filter(&["order", "order.line", "unknown"], &[]), 40),
        (filter(&[], &["placed"]), 15),
        (filter(&[], &["placed ", "place_"]), 30),
        (filter(&["Order"], &["placed", "Placed"]), 10),
        (filter(&["%", "_rder"], &[]), 0),
        (filter(&["order"], &["pay"]), 0),
    ];
    for (filter, count) in filters {
        let expected: Vec<_> = log.iter().filter(|event| filter.passes(event)).cloned().collect();
        assert_eq!(expected.len(), count, "{filter:?}");
        assert_eq!(page(&store, 0, 1_000, &filter).await.events, expected, "{filter:?}");
        let some = page(&store, 10, 4, &filter).await.events;
        let expected = expected.iter().filter(|event| event.position > Position::new(10)).take(4);
        assert!(some.iter().eq(expected), "{filter:?} after 10, at most 4");
    }
}

/// A page below the byte limit has fewer than `limit` events only if no later event passes the filter.
pub async fn only_the_last_filtered_page_may_be_short(store: Store) {
    let log = mixed_log(&store).await;
    for filter in [filter(&["order"], &[]), filter(&[], &["placed"]), filter(&["order.line"], &["placed"])] {
        let expected: Vec<_> = log.iter().filter(|event| filter.passes(event)).cloned().collect();
        for limit in [1, 2, 3, 5, 9] {
            let (mut seen, mut after) = (Vec::new(), 0);
            while seen.len() < expected.len() {
                let page = page(&store, after, limit, &filter).await;
                assert_eq!(
                    page.events.len(),
                    limit.min(expected.len() - seen.len()),
                    "{filter:?}, {limit} after {after}"
                );
                after = page.through.get();
                seen.extend(page.events);
            }
            assert_eq!(seen, expected, "{filter:?}, in pages of {limit}");
        }
    }
}

/// `through` lets a reader with a sparse filter skip events that do not pass, and never covers an event that was not read.
pub async fn a_page_reports_how_far_it_has_read(store: Store) {
    let head = mixed_log(&store).await.len() as u64;
    let none = filter(&["unknown"], &[]);
    let lines = filter(&["order.line"], &["placed"]);
    let through = async |after, limit, filter: &Filter| page(&store, after, limit, filter).await.through.get();
    assert_eq!(through(0, 10, &none).await, head, "no event passes");
    assert_eq!(through(head - 1, 10, &none).await, head);
    assert_eq!(through(0, 1, &lines).await, 9, "the page is full at the first line");
    assert_eq!(through(9, 1, &lines).await, 21);
    assert_eq!(through(9, 5, &lines).await, head, "four lines come after the first");
    assert_eq!(through(0, 10, &Filter::all()).await, 10);
    for filter in [Filter::all(), none, lines] {
        assert_eq!(page(&store, 5, 0, &filter).await, Page::new(vec![], Position::new(5)), "limit 0");
        for after in [head, head + 1, head + 1_000] {
            let beyond = Page::new(vec![], Position::new(after));
            assert_eq!(page(&store, after, 10, &filter).await, beyond);
        }
    }
}

/// Every page knows the event that it ends with, whether that passes the filter or not. A reader that continues after a page's mark reads on if
/// the log has this event at this position, and otherwise gets an error, also if the log ends before it.
pub async fn a_mark_of_another_history_is_refused(store: Store) {
    let log = mixed_log(&store).await;
    let (head, none) = (log.len() as u64, filter(&["unknown"], &[]));
    let sparse = filter(&["order.line"], &["placed"]);
    for filter in [Filter::all(), none, sparse] {
        for after in [0, 1, 7, head - 1, head] {
            let known =
                log.iter().rfind(|event| event.position.get() <= after).map_or(Mark::START, RecordedEvent::mark);
            for limit in [1, 3, 1_000] {
                let page = store.read_all(known, limit, &filter).await.expect("the log has this mark");
                let through = log.iter().find(|event| event.position == page.through);
                let expected = through.map_or(known, RecordedEvent::mark);
                assert_eq!(page.mark(), expected, "{filter:?}, {limit} after {after}");
                if after > 0 {
                    let other = Mark::new(known.position, EventId::generate());
                    let error = store.read_all(other, limit, &filter).await.expect_err("another event is there");
                    assert_eq!(*error.kind(), changed(other, known.event_id).kind().clone(), "{filter:?}");
                }
            }
        }
        for beyond in [head + 1, head + 7_000] {
            let beyond = Mark::new(Position::new(beyond), EventId::generate());
            let error = store.read_all(beyond, 10, &filter).await.expect_err("the log ends before");
            assert_eq!(*error.kind(), changed(beyond, None).kind().clone(), "{filter:?}");
        }
    }
}

/// A paging reader holds a bounded part of the log in memory. A page has at least one event, even if that event exceeds the byte limit.
pub async fn a_page_of_large_events_ends_when_it_is_full(store: Store) {
    let large = PAGE_BYTES / 4 + 1;
    for (number, size) in [large, 3, large, large, large, large, PAGE_BYTES - 1024, 1, large].into_iter().enumerate() {
        written(&store, &stream(&number.to_string()), vec![event(vec![b'1'; size])]).await;
    }
    for filter in [Filter::all(), filter(&["account"], &[])] {
        let mut after = 0;
        for (limit, expected) in [(9, 5), (9, 7), (1, 8), (9, 9), (9, 9)] {
            let page = page(&store, after, limit, &filter).await;
            let positions: Vec<u64> = page.events.iter().map(|event| event.position.get()).collect();
            assert_eq!(positions, (after + 1..=expected).collect::<Vec<_>>(), "{filter:?} after {after}");
            assert_eq!(page.through.get(), expected);
            after = expected;
        }
    }
}

/// The byte limit applies only to pages of the log: a short page of a stream would look like the end of the stream.
pub async fn large_events_of_a_stream_are_read_up_to_the_limit(store: Store) {
    let account = stream("1");
    for _ in 0..3 {
        written(&store, &account, vec![event(vec![b'1'; PAGE_BYTES / 2])]).await;
    }
    let read = store.read_stream(&account, Version::ZERO, 4).await.expect("a stream can be read");
    assert_eq!(read.len(), 3);
}

/// `through` is the greatest position in the page.
pub async fn a_page_of_any_query_reports_its_greatest_position(store: Store) {
    let log = mixed_log(&store).await;
    let (order, placed) = (stream_of("order", "3"), EventType::new("placed").expect("a valid name"));
    let early = log[0].recorded_at - TimeDelta::days(1);
    for limit in [0, 1, 3] {
        for query in [Query::stream(&order, Version::ZERO), Query::newest(&placed), Query::recorded_after(early)] {
            let page = store.read(query.with_limit(limit)).await.expect("the log can be read");
            assert_eq!(page.events.len(), limit, "{query:?}");
            let greatest = page.events.iter().map(|event| event.position).max();
            assert_eq!(page.through, greatest.unwrap_or(Position::ZERO), "{query:?}");
        }
    }
}

/// The events of a stream equal those of the log in every field. Events of streams with similar names are not returned.
pub async fn a_stream_is_read_whole_and_in_order(store: Store) {
    let log = mixed_log(&store).await;
    for kind in KINDS {
        let order = stream_of(kind, "3");
        let expected: Vec<_> = log.iter().filter(|event| event.stream == order).cloned().collect();
        assert_eq!(expected.len(), TYPES.len());
        let read = store.read_stream(&order, Version::ZERO, 100).await.expect("a stream can be read");
        assert_eq!(read, expected);
    }
    let unknown = store.read_stream(&stream_of("order", "unknown"), Version::ZERO, 100).await;
    assert_eq!(unknown.expect("an unknown stream is empty"), []);
}

/// [`read_stream`](EventReaderExt::read_stream) returns at most `limit` events. The limit may split an append, and the version may be beyond
/// the end of the stream.
pub async fn read_stream_returns_at_most_limit_events_after_a_version(store: Store) {
    let account = stream("1");
    written(&store, &account, events(5)).await;
    written(&store, &stream("2"), events(3)).await;
    written(&store, &account, events(2)).await;
    let cases: [(u64, usize, &[u64]); 7] = [
        (0, 100, &[1, 2, 3, 4, 5, 6, 7]),
        (0, 3, &[1, 2, 3]),
        (3, 3, &[4, 5, 6]),
        (6, 3, &[7]),
        (7, 3, &[]),
        (u64::MAX, usize::MAX, &[]),
        (0, 0, &[]),
    ];
    for (after, limit, expected) in cases {
        let read = store.read_stream(&account, Version::new(after), limit).await.expect("a stream can be read");
        let versions: Vec<_> = read.iter().map(|event| event.version.get()).collect();
        assert_eq!(versions, expected, "at most {limit} after {after}");
    }
}

/// Only events of exactly the requested type are returned, newest first.
pub async fn the_newest_events_of_a_type_come_newest_first(store: Store) {
    let log = mixed_log(&store).await;
    let placed = EventType::new("placed").expect("a valid name");
    let expected: Vec<_> = log.into_iter().rev().filter(|event| event.event.event_type == placed).collect();
    for limit in [0, 1, 3, 15, 16] {
        let newest = store.newest(&placed, limit).await.expect("the newest events can be read");
        assert_eq!(newest, expected[..limit.min(15)], "at most {limit}");
    }
    let unknown = EventType::new("pay").expect("a valid name");
    assert_eq!(store.newest(&unknown, 10).await.expect("the newest events can be read"), []);
}

/// Each event type that the log has an event of is found once, in the order of bytes.
pub async fn each_event_type_of_the_log_is_found_once(store: Store) {
    assert_eq!(store.event_types().await.expect("event types can be listed"), []);
    mixed_log(&store).await;
    let names = |types: Vec<EventType>| types.iter().map(|each| each.as_str().to_owned()).collect::<Vec<_>>();
    let found = names(store.event_types().await.expect("event types can be listed"));
    assert_eq!(found, ["Placed", "place_", "placed", "placed "]);
    // A name between two others, before the first, and after the last.
    for name in ["plac\u{e9}", "placed\u{1}", "P"] {
        written(&store, &stream("a"), vec![event_of(name, "1")]).await;
    }
    let found = names(store.event_types().await.expect("event types can be listed"));
    assert_eq!(found, ["P", "Placed", "place_", "placed", "placed\u{1}", "placed ", "plac\u{e9}"]);
    for (after, expected) in [("", "P"), ("Q", "place_"), ("placed", "placed\u{1}"), ("placed!", "plac\u{e9}")] {
        let after = EventType::new(after).ok();
        let next = store.next_event_type(after.as_ref()).await.expect("an event type can be found");
        assert_eq!(next.as_ref().map(EventType::as_str), Some(expected), "after {after:?}");
    }
    let last = EventType::new("plac\u{e9}").expect("a valid name");
    assert_eq!(store.next_event_type(Some(&last)).await.expect("an event type can be found"), None);
}

/// Only events recorded after the time are returned, not those recorded exactly at it.
pub async fn events_recorded_after_a_time_come_in_log_order(store: Store) {
    // Several events may share one microsecond.
    let mut times = HashSet::new();
    while times.len() < 5 {
        written(&store, &stream("a"), events(3)).await;
        times.extend(log_of(&store).await.iter().map(|event| event.recorded_at));
        assert!(times.len() < 1000);
    }
    let log = log_of(&store).await;
    let before = log[0].recorded_at - TimeDelta::days(1);
    let late = log[log.len() - 1].recorded_at + TimeDelta::days(1);
    for time in times.into_iter().chain([before, late]) {
        let expected: Vec<_> = log.iter().filter(|event| event.recorded_at > time).cloned().collect();
        for limit in [0, 1, 4, 1_000] {
            let seen = store.recorded_after(time, limit).await.expect("events can be read by time");
            assert_eq!(seen, expected[..limit.min(expected.len())], "after {time}, at most {limit}");
        }
    }
}

/// Each event is found by its id and by its position, also in the middle of a commit.
pub async fn an_event_is_found_by_its_id_and_by_its_position(store: Store) {
    for count in [1, 3] {
        written(&store, &stream("a"), events(count)).await;
    }
    let log = log_of(&store).await;
    for event in &log {
        let found = store.event(event.event.id).await.expect("an event can be found");
        assert_eq!(found.as_ref(), Some(event));
        let found = store.event_at(event.position).await.expect("an event can be found");
        assert_eq!(found.as_ref(), Some(event));
        let none = store.read(Query::event(event.event.id).with_limit(0)).await.expect("an event can be found");
        assert_eq!(none.events, []);
    }
    assert_eq!(store.event(EventId::generate()).await.expect("an unknown event is no error"), None);
    for position in [Position::ZERO, log[3].position.next(), Position::new(1_000)] {
        assert_eq!(store.event_at(position).await.expect("a free position is no error"), None, "{position}");
    }
}

/// Returns an event with a correlation id.
fn event_of_chain(id: CorrelationId) -> NewEvent {
    let mut event = event("1");
    event.metadata.correlation_id = Some(id);
    event
}

async fn positions_of_chain(store: &Store, id: CorrelationId) -> Vec<u64> {
    let events = store.read_chain(id, Position::ZERO, 100).await.expect("a chain can be read");
    events.iter().map(|event| event.position.get()).collect()
}

/// A chain has the events with its correlation id. It has the event whose id it is, unless that one belongs to another chain.
pub async fn a_chain_has_the_events_of_one_request(store: Store) {
    let (own, bare, other) = (event("1"), event("1"), CorrelationId::generate());
    let (own_chain, bare_chain) = (CorrelationId::from(own.id), CorrelationId::from(bare.id));
    let mut own = own;
    own.metadata.correlation_id = Some(own_chain);
    let moved = event_of_chain(other);
    let moved_id = CorrelationId::from(moved.id);
    written(&store, &stream("a"), vec![own, event_of_chain(own_chain), bare]).await;
    written(&store, &stream("b"), vec![event_of_chain(bare_chain), moved, event_of_chain(moved_id)]).await;
    written(&store, &stream("a"), vec![event_of_chain(own_chain), event("1")]).await;
    assert_eq!(positions_of_chain(&store, own_chain).await, [1, 2, 7]);
    assert_eq!(positions_of_chain(&store, bare_chain).await, [3, 4]);
    assert_eq!(positions_of_chain(&store, other).await, [5]);
    assert_eq!(positions_of_chain(&store, moved_id).await, [6]);
    assert_eq!(positions_of_chain(&store, CorrelationId::generate()).await, [0; 0]);
    let log = log_of(&store).await;
    let chain = store.read_chain(own_chain, Position::ZERO, 100).await.expect("a chain can be read");
    assert_eq!(chain, [log[0].clone(), log[1].clone(), log[6].clone()], "with all of their fields");
}

/// A page of a chain has at most `limit` events after a position, in log order.
pub async fn a_chain_is_read_in_pages_and_in_log_order(store: Store) {
    let chain = CorrelationId::generate();
    for number in 0..12 {
        let sent = vec![event_of_chain(chain), event("1"), event_of_chain(chain)];
        written(&store, &stream(&(11 - number).to_string()), sent).await;
    }
    let expected: Vec<_> = log_of(&store).await.into_iter().filter(|event| event.position.get() % 3 != 2).collect();
    for limit in [1, 2, 5, 24, 25] {
        let mut found = Vec::new();
        loop {
            let after = found.last().map_or(Position::ZERO, |event: &RecordedEvent| event.position);
            let page = store.read_chain(chain, after, limit).await.expect("a chain can be read");
            assert!(page.len() <= limit);
            if page.is_empty() {
                break;
            }
            found.extend(page);
        }
        assert_eq!(found, expected, "in pages of {limit}");
    }
    assert_eq!(store.read_chain(chain, Position::ZERO, 0).await.expect("a chain can be read"), []);
    let beyond = store.read_chain(chain, Position::new(u64::MAX), 5).await;
    assert_eq!(beyond.expect("a position beyond the log is no error"), []);
}

/// Reading an empty log is not an error.
pub async fn an_empty_log_has_nothing_to_read(store: Store) {
    assert_eq!(store.head().await.expect("the head can be read"), Position::ZERO);
    assert_eq!(page(&store, 0, 10, &Filter::all()).await, Page::new(vec![], Position::ZERO));
    assert_eq!(page(&store, 0, 10, &filter(&["order"], &[])).await.through, Position::ZERO);
    let placed = EventType::new("placed").expect("a valid name");
    assert_eq!(store.newest(&placed, 10).await.expect("the newest events can be read"), []);
    assert_eq!(store.event_at(Position::ZERO).await.expect("an event can be found"), None);
    let time = chrono::Utc::now() - TimeDelta::days(1);
    assert_eq!(store.recorded_after(time, 10).await.expect("events can be read by time"), []);
}

/// A reader can wait for new events instead of polling.
pub async fn new_events_are_signaled(store: Store) {
    let mut heads = store.watch_head();
    for number in 1..=3 {
        let appended = written(&store, &stream("a"), vec![event("1")]).await;
        let position = position_of(&*store, &appended).await;
        assert_eq!(position, Position::new(number));
        let signal = timeout(TIMEOUT, heads.wait_for(|head| *head >= position)).await;
        signal.expect("the new head is signaled soon").expect("the store is open");
    }
}
