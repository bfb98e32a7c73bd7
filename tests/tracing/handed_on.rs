//! Which context is in the metadata of an event, and where it goes from there.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use futures::future::ready;
use retell::broker::envelope::{Announcement, HeaderValue};
use retell::broker::{Announced, Announcer, Confirm};
use retell::process::{CommandFailure, Effects, Process, ProcessManager};
use retell::trace::TraceContext;
use retell::{
    AggregateId, CancellationToken, Context, Envelope, EventReaderExt, Filter, MemoryStore, Position, RecordedEvent,
    Relay, Repository, Result, SqliteReadModel, async_trait,
};
use tracing::{Instrument, info_span};

use crate::collector::{collect, notices, trace_of};
use crate::support::{Add, Counter, CounterEvent};

async fn all(log: &MemoryStore) -> Vec<RecordedEvent> {
    log.read_all(Position::ZERO, 100, &Filter::all()).await.unwrap().events
}

/// Adds to another counter, at once and after a deadline.
struct Doubling(Repository<Counter>);

#[async_trait]
impl Process for Doubling {
    const NAME: &'static str = "doubling";
    type Event = CounterEvent;
    type State = ();
    type Command = i64;

    fn key(&self, event: &Envelope<CounterEvent>) -> Option<AggregateId> {
        let id = event.stream.aggregate_id();
        (id.as_str() == "a").then(|| id.clone())
    }

    fn on_event(&self, (): &mut (), event: &Envelope<CounterEvent>, effects: &mut Effects<i64>) {
        effects.send(1).set_deadline("later", event.recorded_at);
    }

    fn on_deadline(&self, (): &mut (), _: &str, effects: &mut Effects<i64>) {
        effects.send(2);
    }

    async fn execute(&self, _: &AggregateId, command: i64, context: Context) -> Result<(), CommandFailure> {
        self.0.execute_with("b", Add(vec![command]), context).await?;
        Ok(())
    }
}

#[tokio::test]
async fn a_process_and_its_deadline_continue_the_trace() {
    collect();
    let (log, directory) = (MemoryStore::new(), tempfile::tempdir().unwrap());
    let models = SqliteReadModel::open(directory.path().join("models.db")).await.unwrap();
    let counters = Repository::<Counter>::new(log.clone());
    let request = info_span!("request");
    let trace = trace_of(&request);
    counters.execute("a", Add(vec![1])).instrument(request).await.unwrap();
    let caught_up = ProcessManager::new(Doubling(counters), log.clone(), models).catch_up().await.unwrap();
    assert!(caught_up.is_complete());
    let events = all(&log).await;
    let streams: Vec<_> = events.iter().map(|event| event.stream.to_string()).collect();
    assert_eq!(streams, ["counter/a", "doubling/a", "counter/b", "doubling/a", "counter/b"]);
    let contexts: Vec<_> = events.iter().map(|event| event.event.metadata.trace_context().unwrap()).collect();
    for context in &contexts {
        assert_eq!(context.trace_id().to_be_bytes(), trace.to_bytes(), "{contexts:?}");
    }
    let spans: BTreeSet<_> = contexts.iter().map(TraceContext::span_id).collect();
    assert_eq!(spans.len(), 5, "each command has its own span");
}

#[tokio::test]
async fn a_context_in_the_metadata_wins_over_the_current_one() {
    collect();
    let log = MemoryStore::new();
    let counters = Repository::<Counter>::new(log.clone());
    let given = TraceContext::new(7, 8, 1).unwrap().with_state("rojo=1").unwrap();
    let contexts = [
        Context::new().with_trace_context(&given),
        Context::new().with_entry("traceparent", given.traceparent()),
        Context::new().with_entry("traceparent", "of another kind"),
    ];
    for context in contexts {
        counters.execute_with("a", Add(vec![1]), context).instrument(info_span!("request")).await.unwrap();
    }
    let events = all(&log).await;
    let entries =
        |name: &str| events.iter().map(|event| event.event.metadata.extra.get(name).cloned()).collect::<Vec<_>>();
    let parent = Some(given.traceparent());
    assert_eq!(entries("traceparent"), [parent.clone(), parent, Some("of another kind".into())]);
    assert_eq!(entries("tracestate"), [Some("rojo=1".into()), None, None]);
}

/// Keeps the headers of the messages.
#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<(&'static str, HeaderValue)>>>);

#[async_trait]
impl Announcer for Kept {
    async fn announce(&self, events: &[RecordedEvent]) -> Result<Confirm<Announced>> {
        for event in events {
            self.0.lock().unwrap().extend(Announcement::from_event(event)?.headers);
        }
        Ok(ready(Ok(Announced::default())).boxed())
    }
}

#[tokio::test]
async fn announced_messages_have_the_context_as_headers() {
    collect();
    let (log, kept) = (MemoryStore::new(), Kept::default());
    let counters = Repository::<Counter>::new(log.clone());
    let given = TraceContext::new(7, 9, 1).unwrap().with_state("rojo=1").unwrap();
    counters.execute_with("a", Add(vec![1]), Context::new().with_trace_context(&given)).await.unwrap();
    counters.execute("a", Add(vec![1])).instrument(info_span!("request")).await.unwrap();
    let relay = Relay::announcing(log.clone(), kept.clone()).with_checkpoint(log.clone(), "headers");
    let (stop, mut published) = (CancellationToken::new(), relay.published());
    let (ended, ()) = tokio::join!(relay.run(stop.clone()), async {
        published.wait_for(|position| position.get() == 2).await.unwrap();
        stop.cancel();
    });
    ended.unwrap();
    let won = (tracing::Level::INFO, "headers: the relay has the lease and publishes".to_owned());
    assert_eq!(notices("headers"), [won]);
    let stored = all(&log).await[1].event.metadata.trace_context().unwrap();
    let headers = kept.0.lock().unwrap().clone();
    let text = |text: String| HeaderValue::Text(text);
    let traces: Vec<_> = headers.into_iter().filter(|(name, _)| name.starts_with("trace")).collect();
    let expected = [
        ("traceparent", text(given.traceparent())),
        ("tracestate", text("rojo=1".into())),
        ("traceparent", text(stored.traceparent())),
    ];
    assert_eq!(traces, expected);
}
