//! The spans and events of the library's work, each in one place. Names are few and never contain an id. No field holds a payload or the text of
//! an error of the program's own code.

use std::any::type_name;

use tracing::field::Empty;
use tracing::{Span, debug, debug_span, trace};

use crate::error::{Error, ErrorKind};

/// The value of `messaging.system` for the library's own log.
const SYSTEM: &str = "retell";

/// Awaits `$work` within `$span`. If no subscriber wants the span, the work is not wrapped: to move a large future would cost more than the rest.
macro_rules! within {
    ($span:expr, $work:expr) => {
        if $span.is_disabled() {
            $work.await
        } else {
            tracing::Instrument::instrument(Box::pin($work), $span.clone()).await
        }
    };
}

pub(crate) use within;

/// A command of type `C` on an aggregate.
pub(crate) fn execute<C>(aggregate_type: &str) -> Span {
    debug_span!(
        target: "retell::command",
        "execute",
        "retell.aggregate_type" = aggregate_type,
        "retell.command" = type_name::<C>(),
        "error.type" = Empty,
    )
}

/// The append of a command's events.
pub(crate) fn append(aggregate_type: &str, events: usize) -> Span {
    debug_span!(
        target: "retell::append",
        "append",
        "otel.kind" = "producer",
        "messaging.system" = SYSTEM,
        "messaging.operation.type" = "create",
        "messaging.batch.message_count" = events,
        "retell.aggregate_type" = aggregate_type,
        "error.type" = Empty,
    )
}

/// A commit of several appends. It is a trace of its own, since it belongs to none of them.
pub(crate) fn commit(appends: usize) -> Span {
    debug_span!(target: "retell::append", parent: None, "commit", "retell.appends" = appends, "retell.unlinked" = Empty)
}

/// A look for commits without a position. It runs before most reads of a server's log.
#[cfg(any(feature = "postgres", feature = "mysql"))]
pub(crate) fn sequence() -> Span {
    tracing::trace_span!(target: "retell::append", "sequence", "error.type" = Empty)
}

/// A page of the log on its way to the broker.
pub(crate) fn relay(events: usize) -> Span {
    debug_span!(
        target: "retell::relay",
        parent: None,
        "relay",
        "otel.kind" = "producer",
        "messaging.system" = SYSTEM,
        "messaging.operation.type" = "send",
        "messaging.batch.message_count" = events,
        "retell.unlinked" = Empty,
        "error.type" = Empty,
    )
}

/// Messages that a broker is given.
#[cfg(feature = "rabbitmq")]
pub(crate) fn send(exchange: &str, messages: usize) -> Span {
    debug_span!(
        target: "retell::rabbitmq",
        "send",
        "otel.kind" = "producer",
        "messaging.system" = "rabbitmq",
        "messaging.operation.type" = "send",
        "messaging.destination.name" = exchange,
        "messaging.batch.message_count" = messages,
        "error.type" = Empty,
    )
}

/// A batch of a worker.
pub(crate) fn process(projection: &str, events: usize) -> Span {
    debug_span!(
        target: "retell::worker",
        parent: None,
        "process",
        "otel.kind" = "consumer",
        "messaging.system" = SYSTEM,
        "messaging.operation.type" = "process",
        "messaging.batch.message_count" = events,
        "retell.projection" = projection,
        "retell.unlinked" = Empty,
        "error.type" = Empty,
    )
}

/// The retry of a parked aggregate.
pub(crate) fn retry(projection: &str) -> Span {
    debug_span!(target: "retell::worker", parent: None, "retry", "retell.projection" = projection)
}

/// The call of a handler in a transaction, which may run on another thread than the batch.
pub(crate) fn handle(batch: &Span, projection: &str, events: usize) -> Span {
    debug_span!(
        target: "retell::worker",
        parent: batch,
        "handle",
        "messaging.batch.message_count" = events,
        "retell.projection" = projection,
        "error.type" = Empty,
    )
}

/// Says that the work of `span` has failed.
pub(crate) fn failed(span: &Span, error: &Error) {
    if !span.is_disabled() {
        span.record("error.type", error_type(error.kind()));
    }
}

/// Says that frames are passed to the broker.
pub(crate) fn sent(page: &Span, frames: usize) {
    trace!(target: "retell::relay", parent: page, { frames }, "sending frames");
}

/// Says that the broker has brought messages.
pub(crate) fn received(projection: &str, messages: usize) {
    trace!(target: "retell::worker", { "retell.projection" = projection, messages }, "received frames");
}

/// Says that an event is handed to its handler.
pub(crate) fn event(call: &Span, event_type: &str, position: u64) {
    trace!(target: "retell::worker", parent: call, { "retell.event_type" = event_type, position }, "event");
}

/// Says that an aggregate stays parked.
pub(crate) fn failed_again(projection: &str, attempts: u32) {
    debug!(target: "retell::worker", { "retell.projection" = projection, attempts }, "the retry of a parked aggregate failed");
}

/// Says that a snapshot is saved.
pub(crate) fn snapshot_taken(aggregate_type: &str) {
    debug!(target: "retell::snapshot", { "retell.aggregate_type" = aggregate_type }, "saved a snapshot");
}

/// Says that a snapshot could not be read, so that all events were.
pub(crate) fn snapshot_refused(aggregate_type: &str) {
    debug!(target: "retell::snapshot", { "retell.aggregate_type" = aggregate_type }, "a snapshot does not decode");
}

/// Returns the name of a kind, without its values.
pub(crate) fn error_type(kind: &ErrorKind) -> String {
    let mut name = format!("{kind:?}");
    name.truncate(name.find(|c: char| !c.is_alphanumeric()).unwrap_or(name.len()));
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_type_of_an_error_has_none_of_its_values() {
        assert_eq!(error_type(&ErrorKind::Transient("append".into())), "Transient");
        assert_eq!(error_type(&ErrorKind::ReadOnly), "ReadOnly");
    }
}
