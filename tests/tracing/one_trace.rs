//! From a request to the read model.

use std::collections::BTreeSet;
use std::env;
use std::time::Duration;

use opentelemetry_sdk::trace::SpanData;
use retell::broker::rabbitmq::topology::Topology;
use retell::rusqlite::Connection;
use retell::{
    App, BoxError, Envelope, Projection, RabbitMqBroker, RabbitMqOptions, Repository, SqliteReadModel, SqliteStore,
    Uuid, Worker, WorkerOptions, async_trait,
};
use tracing::{Instrument, info_span};

use crate::collector::{attribute, collect, named, of_trace, trace_of, until};
use crate::support::{Add, Counter, CounterEvent};

const PATIENCE: Duration = Duration::from_mins(5);

struct Rows;

#[async_trait]
impl Projection for Rows {
    const NAME: &'static str = "rows";
    type Event = CounterEvent;
    type Tx = Connection;

    async fn setup(&self, db: &mut Connection) -> Result<(), BoxError> {
        Ok(db.execute_batch("CREATE TABLE IF NOT EXISTS rows (position INTEGER)")?)
    }

    async fn apply(&self, db: &mut Connection, event: Envelope<CounterEvent>) -> Result<(), BoxError> {
        let _row = info_span!("row").entered();
        db.execute("INSERT INTO rows VALUES (?1)", [i64::try_from(event.position.get())?])?;
        Ok(())
    }
}

/// Returns the only span called `name`.
fn one<'s>(spans: &'s [SpanData], name: &str) -> &'s SpanData {
    let found: Vec<_> = spans.iter().filter(|span| span.name == name).collect();
    assert_eq!(found.len(), 1, "{name}: {spans:#?}");
    found[0]
}

fn links_to(span: &SpanData, other: &SpanData) -> bool {
    span.links.links.iter().any(|link| link.span_context.span_id() == other.span_context.span_id())
}

#[tokio::test(flavor = "multi_thread")]
async fn one_trace_leads_from_a_request_to_the_read_model() {
    collect();
    let url = env::var("AMQP_URL").expect("AMQP_URL is not set: tests/run.sh starts a RabbitMQ");
    let topology = Topology::new().with_prefix(&format!("traces-{}.", Uuid::now_v7()));
    let broker = RabbitMqBroker::new(RabbitMqOptions::new(&url).unwrap().with_topology(topology)).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let log = SqliteStore::open(directory.path().join("log.db")).await.unwrap();
    let models = SqliteReadModel::open(directory.path().join("models.db")).await.unwrap();
    let worker = Worker::new(Rows, log.clone(), models.clone());
    let worker = worker.with_options(WorkerOptions::new().with_traces_of_events());
    let running = App::new(log.clone(), models).worker(worker).with_shared_broker(broker.clone(), "traces").start();
    let counters = Repository::<Counter>::new(log);
    let mut sent = 0;
    // While the projection catches up with the log after its start, it continues no trace.
    let trace = loop {
        let request = info_span!("request");
        let trace = trace_of(&request);
        let executed = counters.execute("a", Add(vec![1])).instrument(request).await.unwrap();
        sent += 1;
        running.wait_for(&executed, PATIENCE).await.unwrap();
        until(|| (named("row").len() == sent).then_some(())).await;
        if of_trace(trace).iter().any(|span| span.name == "row") {
            break trace;
        }
    };
    let spans = until(|| Some(of_trace(trace)).filter(|spans| spans.iter().any(|span| span.name == "handle"))).await;
    let (request, execute, append) = (one(&spans, "request"), one(&spans, "execute"), one(&spans, "append"));
    let (handle, row) = (one(&spans, "handle"), one(&spans, "row"));
    for (span, parent) in [(execute, request), (append, execute), (handle, execute), (row, handle)] {
        assert_eq!(span.parent_span_id, parent.span_context.span_id(), "{} -> {}", span.name, parent.name);
    }
    assert!(handle.parent_span_is_remote, "it was found in the metadata of the event");
    for name in ["commit", "relay", "process"] {
        let linked = until(|| named(name).into_iter().find(|span| links_to(span, execute))).await;
        assert_ne!(linked.span_context.trace_id(), trace, "{name} is a trace of its own");
        if name == "relay" {
            let id = linked.span_context.span_id();
            let sent = until(|| named("send").into_iter().find(|span| span.parent_span_id == id)).await;
            assert_eq!(attribute(&sent, "messaging.system").as_deref(), Some("rabbitmq"));
        }
    }
    assert_eq!(attribute(append, "messaging.batch.message_count").as_deref(), Some("1"));
    let names: BTreeSet<_> = spans.iter().map(|span| span.name.to_string()).collect();
    assert_eq!(names, ["append", "execute", "handle", "request", "row"].map(String::from).into());
    running.stop().await.unwrap();
    broker.close().await.unwrap();
}

#[tokio::test]
async fn a_refused_command_says_so_in_its_span() {
    collect();
    let request = info_span!("refused request");
    let trace = trace_of(&request);
    let counters = Repository::<Counter>::new(retell::MemoryStore::new());
    counters.execute("a", Add(vec![-1])).instrument(request).await.unwrap_err();
    let spans = of_trace(trace);
    assert_eq!(attribute(one(&spans, "execute"), "error.type").as_deref(), Some("Rejected"));
}
