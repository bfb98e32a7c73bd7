//! Traces: the [context](TraceContext) of a command travels in the metadata of its events, from where spans of other tasks and programs
//! find the trace.
//!
//! The library describes its work in spans and events of [`tracing`]. A span has no context of its own; a [`Propagation`] gives it one.
//! The feature `opentelemetry` brings `OpenTelemetry`, which uses the layer of `tracing-opentelemetry`. A program
//! [installs](install) it once. Then
//!
//! - a command that is executed in a trace writes its context into the metadata of its events, as `traceparent` and `tracestate`. A context that
//!   the program has set itself wins: see [`Context::with_trace_context`](crate::Context::with_trace_context).
//! - the commands of processes and reactions, and the steps of deadlines, continue the trace of the event that led to them.
//! - announced messages have the headers `traceparent` and `tracestate`.
//! - the span of a worker's batch has links to the contexts of its events, at most [`MAX_LINKS`]. While a projection catches up or is rebuilt,
//!   it has none, because the traces of old events have ended.
//!
//! Without a propagation, contexts in the metadata are still handed on.

pub(crate) mod context;
#[cfg(feature = "opentelemetry")]
mod opentelemetry;
pub(crate) mod span;

use std::collections::{BTreeMap, HashSet};
use std::sync::OnceLock;

use tracing::Span;

use crate::trace::context::{TRACEPARENT, TRACESTATE};

pub use context::{InvalidTraceContext, TraceContext};
#[cfg(feature = "opentelemetry")]
#[cfg_attr(docsrs, doc(cfg(feature = "opentelemetry")))]
pub use opentelemetry::OpenTelemetry;

/// The most links of one span, as in the default limits of OpenTelemetry. The field `retell.unlinked` counts the contexts that have no link.
pub const MAX_LINKS: usize = 128;

static PROPAGATION: OnceLock<Box<dyn Propagation>> = OnceLock::new();

/// Knows the trace contexts of spans.
///
/// # Examples
/// ```
/// use retell::trace::{self, Propagation, TraceContext};
/// use tracing::Span;
///
/// /// Continues one fixed trace.
/// struct Fixed;
///
/// impl Propagation for Fixed {
///     fn context_of(&self, _: &Span) -> Option<TraceContext> {
///         TraceContext::new(7, 1, 1).ok()
///     }
///
///     fn set_parent(&self, _: &Span, _: &TraceContext) {}
///
///     fn link(&self, _: &Span, _: &TraceContext) {}
/// }
///
/// trace::install(Fixed)?;
/// assert!(trace::install(Fixed).is_err());
/// # Ok::<(), trace::AlreadyInstalled>(())
/// ```
pub trait Propagation: Send + Sync + 'static {
    /// Returns the context of `span`, if it is in a trace.
    fn context_of(&self, span: &Span) -> Option<TraceContext>;

    /// Makes `span`, which was not entered yet, a child of the span that has `context`.
    fn set_parent(&self, span: &Span, context: &TraceContext);

    /// Adds a link from `span` to the span that has `context`.
    fn link(&self, span: &Span, context: &TraceContext);
}

/// A propagation was installed before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the process has a propagation of trace contexts already")]
pub struct AlreadyInstalled;

/// Installs the propagation of this process. Call it when the program starts, before the first command.
///
/// # Errors
/// [`AlreadyInstalled`] after the first call.
pub fn install(propagation: impl Propagation) -> Result<(), AlreadyInstalled> {
    PROPAGATION.set(Box::new(propagation)).map_err(|_| AlreadyInstalled)
}

fn propagation() -> Option<&'static dyn Propagation> {
    PROPAGATION.get().map(|propagation| &**propagation)
}

/// The entries of an event's metadata.
pub(crate) type Entries = BTreeMap<String, String>;

/// Reads the context from metadata. A `tracestate` that is invalid is left out, as the W3C demands.
pub(crate) fn read(entries: &Entries) -> Option<TraceContext> {
    let context = TraceContext::parse(entries.get(TRACEPARENT)?, None).ok()?;
    let state = entries.get(TRACESTATE).map(|state| context.clone().with_state(state));
    Some(state.and_then(Result::ok).unwrap_or(context))
}

/// Writes a context into metadata.
pub(crate) fn write(entries: &mut Entries, context: &TraceContext) {
    entries.insert(TRACEPARENT.to_owned(), context.traceparent());
    match context.tracestate() {
        Some(state) => drop(entries.insert(TRACESTATE.to_owned(), state.to_owned())),
        None => drop(entries.remove(TRACESTATE)),
    }
}

/// Puts the span of a command into its trace, and the context into the metadata of the command's events. A context in the metadata stays as it is.
/// Otherwise the trace is that of the `cause`, or else the current one.
pub(crate) fn stamp(span: &Span, cause: Option<&TraceContext>, entries: &mut Entries) {
    let Some(propagation) = propagation() else {
        if let Some(cause) = cause.filter(|_| !entries.contains_key(TRACEPARENT)) {
            write(entries, cause);
        }
        return;
    };
    if entries.contains_key(TRACEPARENT) {
        if let Some(context) = read(entries).filter(|_| !span.is_disabled()) {
            propagation.set_parent(span, &context);
        }
        return;
    }
    let context = if let Some(cause) = cause {
        if !span.is_disabled() {
            propagation.set_parent(span, cause);
        }
        propagation.context_of(span).or_else(|| Some(cause.clone()))
    } else {
        propagation.context_of(span).or_else(|| propagation.context_of(&Span::current()))
    };
    if let Some(context) = context {
        write(entries, &context);
    }
}

/// Links the span of a batch to the contexts of its events.
pub(crate) fn link<'e>(span: &Span, events: impl Iterator<Item = &'e Entries>) {
    let Some(propagation) = propagation().filter(|_| !span.is_disabled()) else { return };
    let mut known = HashSet::new();
    for context in events.filter_map(read) {
        // The events of one command share its context.
        if known.insert((context.trace_id(), context.span_id())) && known.len() <= MAX_LINKS {
            propagation.link(span, &context);
        }
    }
    if known.len() > MAX_LINKS {
        span.record("retell.unlinked", known.len() - MAX_LINKS);
    }
}

/// Makes the span of a handler the child of its event's span.
pub(crate) fn follow(span: &Span, entries: &Entries) {
    if let Some(propagation) = propagation().filter(|_| !span.is_disabled())
        && let Some(context) = read(entries)
    {
        propagation.set_parent(span, &context);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // No test of this program installs a propagation.
    #[test]
    fn without_a_propagation_a_context_is_handed_on() {
        let cause = TraceContext::new(7, 8, 1).unwrap().with_state("rojo=1").unwrap();
        let mut entries = Entries::new();
        stamp(&Span::none(), None, &mut entries);
        assert!(entries.is_empty());
        stamp(&Span::none(), Some(&cause), &mut entries);
        assert_eq!(read(&entries), Some(cause.clone()));
        let given = TraceContext::new(1, 2, 0).unwrap();
        write(&mut entries, &given);
        stamp(&Span::none(), Some(&cause), &mut entries);
        assert_eq!((read(&entries), entries.len()), (Some(given), 1));
    }

    #[test]
    fn a_broken_tracestate_does_not_break_the_trace() {
        let parent = TraceContext::new(7, 8, 1).unwrap().traceparent();
        let entries = [(TRACEPARENT, &*parent), (TRACESTATE, "broken")].map(|(name, text)| (name.into(), text.into()));
        assert_eq!(read(&entries.into()), TraceContext::new(7, 8, 1).ok());
        assert_eq!(read(&[(TRACEPARENT.to_owned(), "broken".to_owned())].into()), None);
    }
}
