//! Collects all spans and notices of the process in memory.

use std::fmt::Debug;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use opentelemetry::trace::{TraceContextExt, TraceId, TracerProvider};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use retell::trace::{self, OpenTelemetry};
use tracing::field::{Field, Visit};
use tracing::{Level, Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

const PATIENCE: Duration = Duration::from_mins(5);

static SPANS: OnceLock<InMemorySpanExporter> = OnceLock::new();
static NOTICES: Mutex<Vec<(Level, String)>> = Mutex::new(Vec::new());

/// Keeps the notices that `tracing` gets.
struct Notices;

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
}

impl<S: Subscriber> Layer<S> for Notices {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut message = Message(String::new());
        event.record(&mut message);
        NOTICES.lock().unwrap().push((*event.metadata().level(), message.0));
    }
}

/// Collects from now on.
pub(crate) fn collect() {
    SPANS.get_or_init(|| {
        let exporter = InMemorySpanExporter::default();
        // The library itself keeps to 128 links.
        let provider =
            SdkTracerProvider::builder().with_max_links_per_span(1_000).with_simple_exporter(exporter.clone());
        let layer = tracing_opentelemetry::layer().with_tracer(provider.build().tracer("tests"));
        let ours = filter_fn(|metadata| ["retell", "traces"].iter().any(|of| metadata.target().starts_with(of)));
        let notices = Notices.with_filter(filter_fn(|metadata| metadata.target() == "retell::notice"));
        let subscriber = tracing_subscriber::registry().with(layer.with_filter(ours)).with(notices);
        tracing::subscriber::set_global_default(subscriber).unwrap();
        trace::install(OpenTelemetry).unwrap();
        exporter
    });
}

/// Returns all spans that have ended.
pub(crate) fn spans() -> Vec<SpanData> {
    SPANS.get().unwrap().get_finished_spans().unwrap()
}

/// Returns the ended spans called `name`.
pub(crate) fn named(name: &str) -> Vec<SpanData> {
    spans().into_iter().filter(|span| span.name == name).collect()
}

/// Returns the ended spans of a trace.
pub(crate) fn of_trace(trace: TraceId) -> Vec<SpanData> {
    spans().into_iter().filter(|span| span.span_context.trace_id() == trace).collect()
}

pub(crate) fn trace_of(span: &Span) -> TraceId {
    span.context().span().span_context().trace_id()
}

/// Returns the value of an attribute.
pub(crate) fn attribute(span: &SpanData, name: &str) -> Option<String> {
    let found = span.attributes.iter().find(|attribute| attribute.key.as_str() == name);
    found.map(|attribute| attribute.value.as_str().into_owned())
}

/// Returns the level and the text of the notices about `part`.
pub(crate) fn notices(part: &str) -> Vec<(Level, String)> {
    let of_part = format!("{part}: ");
    NOTICES.lock().unwrap().iter().filter(|(_, text)| text.starts_with(&of_part)).cloned().collect()
}

/// Waits until `found` returns something.
pub(crate) async fn until<T>(mut found: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < end, "not found within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
