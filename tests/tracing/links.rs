//! The links of a batch.

use opentelemetry_sdk::trace::SpanData;
use retell::prelude::*;
use retell::trace::{MAX_LINKS, TraceContext};
use retell::{Generation, Metadata, Uuid, WorkerOptions};

use crate::collector::{attribute, collect, named, until};
use crate::support::CounterEvent;

struct Total(&'static str, Generation);

impl View for Total {
    const NAME: &'static str = "total";
    type Event = CounterEvent;
    type State = i64;

    fn name(&self) -> &str {
        self.0
    }

    fn generation(&self) -> Generation {
        self.1
    }

    fn key(&self, _: &Envelope<CounterEvent>) -> Option<String> {
        Some("all".into())
    }

    fn apply(&self, total: &mut i64, event: Envelope<CounterEvent>) {
        if let CounterEvent::Added { amount } = event.event {
            *total += amount;
        }
    }
}

/// Appends `count` events, each with a trace of its own.
async fn append(log: &MemoryStore, count: usize) -> Position {
    let traced = |_| {
        let trace = TraceContext::new(Uuid::now_v7().as_u128(), 1, 1).unwrap();
        let added = NewEvent::new(&CounterEvent::Added { amount: 1 }).unwrap();
        added.with_metadata(Metadata::new().with_trace_context(&trace))
    };
    let stream = StreamId::parse("counter", "a").unwrap();
    log.append(Append::new(stream, ExpectedVersion::Any, (0..count).map(traced).collect())).await.unwrap();
    log.head().await.unwrap()
}

/// Returns the spans of the batches of `projection`.
fn batches(projection: &str) -> Vec<SpanData> {
    let of_projection = |span: &SpanData| attribute(span, "retell.projection").as_deref() == Some(projection);
    named("process").into_iter().filter(of_projection).collect()
}

fn events(batches: &[SpanData]) -> usize {
    let count = |span| attribute(span, "messaging.batch.message_count").unwrap().parse::<usize>().unwrap();
    batches.iter().map(count).sum()
}

fn links(batches: &[SpanData]) -> Vec<usize> {
    batches.iter().map(|span| span.links.links.len()).collect()
}

#[tokio::test]
async fn a_batch_has_at_most_128_links() {
    collect();
    let (log, models) = (MemoryStore::new(), MemoryReadModel::new());
    let worker = Worker::view(Total("linked", Generation::new(1)), log.clone(), models);
    let (stop, mut applied) = (CancellationToken::new(), worker.applied());
    let (ended, ()) = tokio::join!(worker.run(stop.clone()), async {
        let mut sent = 0;
        // The events of the first batches may be older than the worker.
        let last = loop {
            let head = append(&log, 200).await;
            sent += 200;
            applied.wait_for(|position| *position >= head).await.unwrap();
            let batches = until(|| Some(batches("linked")).filter(|batches| events(batches) == sent)).await;
            let last = batches.last().unwrap().clone();
            if !last.links.links.is_empty() {
                break last;
            }
        };
        assert_eq!(last.links.links.len(), MAX_LINKS);
        assert_eq!(events(std::slice::from_ref(&last)), 200);
        assert_eq!(attribute(&last, "retell.unlinked").as_deref(), Some("72"));
        stop.cancel();
    });
    ended.unwrap();
}

#[tokio::test]
async fn a_worker_that_catches_up_has_no_links() {
    collect();
    let (log, models) = (MemoryStore::new(), MemoryReadModel::new());
    let head = append(&log, 100).await;
    let options = WorkerOptions::new().with_batch_events(10).with_traces_of_events();
    let worker =
        |name| Worker::view(Total(name, Generation::new(1)), log.clone(), models.clone()).with_options(options);
    worker("caught up").catch_up().await.unwrap();
    let started = worker("started late");
    let (stop, mut applied) = (CancellationToken::new(), started.applied());
    let (ended, ()) = tokio::join!(started.run(stop.clone()), async {
        applied.wait_for(|position| *position >= head).await.unwrap();
        stop.cancel();
    });
    ended.unwrap();
    for name in ["caught up", "started late"] {
        let batches = until(|| Some(batches(name)).filter(|batches| events(batches) == 100)).await;
        assert_eq!(links(&batches), [0; 10], "{name}");
    }
}

#[tokio::test]
async fn a_rebuild_has_no_links() {
    collect();
    let (log, models) = (MemoryStore::new(), MemoryReadModel::new());
    append(&log, 100).await;
    Worker::view(Total("rebuilt", Generation::new(1)), log.clone(), models.clone()).catch_up().await.unwrap();
    let rebuild = Rebuild::new(Total("rebuilt", Generation::new(2)), log.clone(), models.clone());
    rebuild.run(CancellationToken::new()).await.unwrap();
    rebuild.switch().await.unwrap();
    let rows = Views::new(&Total("rebuilt", Generation::new(2)), models).get("all").await.unwrap();
    assert_eq!(rows, Some(100));
    let batches = named("process").into_iter().filter(|span| {
        attribute(span, "retell.projection").is_some_and(|projection| projection.starts_with("rebuilt"))
    });
    assert!(batches.collect::<Vec<_>>().iter().all(|span| span.links.links.is_empty()));
    let notices = crate::collector::notices("rebuilt");
    assert_eq!(notices, [(tracing::Level::INFO, "rebuilt: readers see generation 2".to_owned())]);
}
