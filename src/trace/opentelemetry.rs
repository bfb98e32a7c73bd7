//! Trace contexts by OpenTelemetry.

use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::trace::Propagation;
use crate::trace::context::TraceContext;

/// Uses the contexts of the program's `tracing_opentelemetry` layer. A span that the layer does not record has none.
///
/// # Examples
/// ```
/// use retell::trace::{self, OpenTelemetry};
///
/// trace::install(OpenTelemetry)?;
/// # Ok::<(), trace::AlreadyInstalled>(())
/// ```
#[derive(Debug, Clone, Copy, Default)]
pub struct OpenTelemetry;

impl Propagation for OpenTelemetry {
    fn context_of(&self, span: &Span) -> Option<TraceContext> {
        let context = span.context();
        let found = context.span();
        let found = found.span_context();
        let flags = found.trace_flags().to_u8();
        let ids = (u128::from_be_bytes(found.trace_id().to_bytes()), u64::from_be_bytes(found.span_id().to_bytes()));
        let known = TraceContext::new(ids.0, ids.1, flags).ok()?;
        let state = found.trace_state().header();
        Some(known.clone().with_state(&state).unwrap_or(known))
    }

    fn set_parent(&self, span: &Span, context: &TraceContext) {
        let parent = opentelemetry::Context::new().with_remote_span_context(remote(context));
        // A span that the layer does not know has no parent.
        drop(span.set_parent(parent));
    }

    fn link(&self, span: &Span, context: &TraceContext) {
        span.add_link(remote(context));
    }
}

fn remote(context: &TraceContext) -> SpanContext {
    let (trace, span) = (context.trace_id().to_be_bytes(), context.span_id().to_be_bytes());
    let state = context.tracestate().and_then(|state| state.parse::<TraceState>().ok()).unwrap_or_default();
    SpanContext::new(
        TraceId::from_bytes(trace),
        SpanId::from_bytes(span),
        TraceFlags::new(context.flags()),
        true,
        state,
    )
}
