//! The order of the log.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::task::JoinSet;

use crate::event::RecordedEvent;
use crate::id::{EventId, ExpectedVersion, Position, Version};
use crate::store::log::append::Append;
use crate::store::log::query::Filter;
use crate::store::log::reader::EventReaderExt;
use crate::testing::store::{
    Store, TIMEOUT, append_at_once, assert_contiguous, event, events, log_of, position_of, stream, written,
};

/// Number of concurrent writers.
const WRITERS: u64 = 16;

/// Number of appends of each writer.
const APPENDS: u64 = 12;

/// The events of an append are contiguous, and a later commit has greater positions.
pub async fn positions_are_contiguous_and_in_commit_order(store: Store) {
    let appends = (0..64).map(|number| {
        Append::new(stream(&format!("a{number}")), ExpectedVersion::Any, events(1 + number % 3)).with_stream(
            stream(&format!("b{number}")),
            ExpectedVersion::Any,
            events(1),
        )
    });
    let appends: Vec<_> = appends.collect();
    let outcomes = append_at_once(&store, appends.clone()).await;
    let log = log_of(&store).await;
    assert_contiguous(&log);
    assert_eq!(store.head().await.expect("the head can be read"), log.last().expect("a log with events").position);

    let mut commits: Vec<_> = outcomes
        .into_iter()
        .zip(&appends)
        .map(|(outcome, append)| (outcome.expect("an append that expects no version succeeds").token(), append))
        .collect();
    commits.sort_by_key(|(token, _)| token.commit());
    let in_commit_order = commits.iter().flat_map(|(_, append)| append.streams()).flat_map(|part| &part.events);
    assert!(log.iter().map(|recorded| recorded.event.id).eq(in_commit_order.map(|event| event.id)));
    for (token, append) in &commits {
        let last = append.streams()[1].events[0].id;
        let position =
            store.position_of(*token).await.expect("positions can be read").expect("the commit has a position");
        assert_eq!(log[usize::try_from(position.get()).expect("a short log") - 1].event.id, last);
    }
}

/// In the log, each version of a stream comes after the previous version.
pub async fn versions_of_a_stream_are_contiguous_under_concurrent_appends(store: Store) {
    let appends = (0..64)
        .map(|number| Append::new(stream(&(number % 4).to_string()), ExpectedVersion::Any, events(1 + number % 2)));
    for outcome in append_at_once(&store, appends.collect()).await {
        outcome.expect("an append that expects no version never conflicts");
    }
    let mut versions: HashMap<_, Version> = HashMap::new();
    for RecordedEvent { stream, version, .. } in log_of(&store).await {
        let last = versions.entry(stream).or_default();
        assert_eq!(version, last.next());
        *last = version;
    }
    assert_eq!(versions.len(), 4);
    assert_eq!(versions.into_values().map(Version::get).sum::<u64>(), 96);
}

/// The log respects real-time order between any two writers.
pub async fn an_acknowledged_append_precedes_every_later_append(store: Store) {
    let clock = Arc::new(AtomicU64::new(0));
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let (store, clock) = (store.clone(), clock.clone());
        writers.spawn(async move {
            let mut spans = Vec::new();
            for number in 0..APPENDS {
                let note = event("1");
                let id = note.id;
                // Every third append goes to a stream that all writers share.
                let to = if number % 3 == 0 { stream("shared") } else { stream(&format!("{writer}-{number}")) };
                let began = clock.fetch_add(1, Ordering::SeqCst);
                let append = Append::new(to, ExpectedVersion::Any, vec![note]);
                let appended = store.append(append).await.expect("the append succeeds");
                let ended = clock.fetch_add(1, Ordering::SeqCst);
                position_of(&*store, &appended).await;
                spans.push((id, began, ended));
            }
            spans
        });
    }
    let spans: Vec<(EventId, u64, u64)> = writers.join_all().await.into_iter().flatten().collect();
    let positions: HashMap<_, _> = log_of(&store).await.iter().map(|event| (event.event.id, event.position)).collect();
    for (first, _, ended) in &spans {
        for (second, began, _) in &spans {
            assert!(ended > began || positions[first] < positions[second], "{second} overtook {first}");
        }
    }
}

/// A reader that pages during concurrent writes sees positions 1, 2, 3 and so on, and never a gap that is filled later.
pub async fn a_reader_never_sees_a_gap(store: Store) {
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let store = store.clone();
        writers.spawn(async move {
            for number in 0..APPENDS {
                let own = stream(&format!("{writer}-{number}"));
                let append = Append::new(stream(&writer.to_string()), ExpectedVersion::Any, events(2)).with_stream(
                    own,
                    ExpectedVersion::NoStream,
                    events(1),
                );
                store.append(append).await.expect("the append succeeds");
            }
        });
    }
    let total = Position::new(WRITERS * APPENDS * 3);
    let reading = async {
        let mut last = Position::ZERO;
        while last < total {
            let page = store.read_all(last, 7, &Filter::all()).await.expect("the log can be read");
            for event in &page.events {
                assert_eq!(event.position, last.next(), "a gap after {last}");
                last = event.position;
            }
            assert_eq!(page.through, last);
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(TIMEOUT, reading).await.expect("the reader reaches the end");
    writers.join_all().await;
    assert_eq!(store.head().await.expect("the head can be read"), total);
}

/// Times never decrease along a stream. Along the log they may: on a server, commits of different streams may overlap.
pub async fn recorded_times_never_decrease_along_a_stream(store: Store) {
    let began = chrono::Utc::now();
    written(&store, &stream("0"), events(1)).await;
    let appends = (0..64).map(|n| Append::new(stream(&(n % 8).to_string()), ExpectedVersion::Any, events(2)));
    for outcome in append_at_once(&store, appends.collect()).await {
        outcome.expect("the append succeeds");
    }
    let log = log_of(&store).await;
    assert_eq!(log.len(), 129);
    for number in 0..8 {
        let stream = stream(&number.to_string());
        let times: Vec<_> = log.iter().filter(|event| event.stream == stream).map(|event| event.recorded_at).collect();
        assert!(times.is_sorted(), "{stream}: {times:?}");
    }
    let times: Vec<_> = log.iter().map(|event| event.recorded_at).collect();
    // The clock of a database server may differ from the local one, but by less than a day.
    assert!((times[0] - began).num_hours().abs() < 24, "{} is not close to the current time", times[0]);
}
