//! How a transaction of a worker ends, and what a failed one means: the projection's failure, or trouble of the store beneath it.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tracing::Span;

use crate::backoff::Delays;
use crate::error::{BoxError, Error, ErrorKind, Result};
use crate::event::RecordedEvent;
use crate::id::mark::Mark;
use crate::id::{ProjectionName, StreamId, Version};
use crate::panics::catch_in;
use crate::store::log::reader::{EventReader, EventReaderExt};
use crate::store::model::parking::Parked;
use crate::trace;
use crate::trace::span::{self, within};
use crate::worker::handler::Call;
use crate::worker::options::WorkerOptions;

/// A transaction that is lost after its handler took at least this long counts against its events. A shorter one is lost for another reason.
const SLOW_CALL: Duration = Duration::from_secs(1);

/// How a transaction ended.
pub(super) enum Outcome {
    Committed,
    /// Another worker has moved the checkpoint, or this worker is stopped.
    Interrupted,
    /// The projection cannot apply the events, or they cannot be decoded.
    Failed(Error),
    /// The log does not have, or does not show, an event that is needed from it.
    Unread(Error),
}

/// An event that a transaction moves the row of its aggregate over.
#[derive(Debug, Clone)]
pub(super) struct Moved {
    pub(super) mark: Mark,
    pub(super) stream: StreamId,
    pub(super) version: Version,
}

impl Moved {
    pub(super) fn over(event: &RecordedEvent) -> Self {
        Self { mark: event.mark(), stream: event.stream.clone(), version: event.version }
    }
}

/// How a transaction ended and what it reports, unless the worker has to end.
pub(super) type Attempted = Result<(Outcome, Report)>;

/// The report of a transaction, however it ends.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// How many events it applies.
    pub(super) planned: usize,
    /// The first of them.
    pub(super) first: Option<RecordedEvent>,
    /// With order per aggregate, the events of the batch that move a row.
    pub(super) moved: Vec<Moved>,
    /// Whether there are more events than it was allowed to apply.
    pub(super) has_rest: bool,
    /// The parked state of the aggregate that it retries.
    pub(super) parked: Option<Parked>,
    /// Whether the log could not be read.
    pub(super) unread: bool,
    /// How long the handler took.
    pub(super) took: Duration,
}

impl Report {
    pub(super) fn of(part: &[&RecordedEvent]) -> Self {
        let first = part.first().map(|first| RecordedEvent::clone(first));
        Self { planned: part.len(), first, ..Self::default() }
    }
}

/// Reads the next events of a parked aggregate after a version, at most `most`, and the one after them if there are more.
pub(super) async fn read_parked(
    reader: &dyn EventReader,
    stream: &StreamId,
    after: Version,
    most: usize,
) -> Result<(Vec<RecordedEvent>, Option<RecordedEvent>)> {
    let mut events = reader.read_stream(stream, after, most.saturating_add(1)).await?;
    if !follow(after, &events) {
        return Err(ErrorKind::Corrupt(format!("{stream}: a version is missing after {after}")).into());
    }
    let rest = if events.len() > most { events.pop() } else { None };
    Ok((events, rest))
}

/// Whether these are the events after a version, with none left out.
pub(super) fn follow(version: Version, events: &[RecordedEvent]) -> bool {
    events.iter().zip(version.get() + 1..).all(|(event, due)| event.version.get() == due)
}

/// Counts the attempts at one transaction.
pub(super) struct Attempts {
    delays: Delays,
    blamed: usize,
    retries: usize,
    /// Whether a transaction was lost after its handler was slow.
    is_lost: bool,
}

impl Attempts {
    pub(super) fn new(options: &WorkerOptions, delays: Delays) -> Self {
        Self { delays, blamed: 0, retries: options.retries, is_lost: false }
    }

    /// Waits after an attempt that failed, whose handler took `took`. Returns `None` if the transaction must be retried.
    ///
    /// # Errors
    /// `failed` itself if another attempt cannot help.
    pub(super) async fn after(
        &mut self,
        failed: Error,
        took: Duration,
        stop: &CancellationToken,
    ) -> Result<Option<Outcome>> {
        if is_own(&failed) || is_undecodable(&failed) || failed.is_behind_deploy() {
            return Ok(Some(Outcome::Failed(failed)));
        }
        if !failed.is_outage() {
            return Err(failed);
        }
        // A lost connection is retried without counting it as a failure of the projection. If only this projection's statements keep failing,
        // as one does that always takes too long, it counts.
        self.blamed += usize::from(failed.is_transient() && is_beneath_projection(&failed));
        if self.blamed > self.retries {
            return Ok(Some(Outcome::Failed(failed)));
        }
        // A server ends a transaction that is idle for too long. That is its answer to a slow handler, and it would be the same each time.
        if took >= SLOW_CALL && failed.is_transient() {
            if self.is_lost {
                let kind = ErrorKind::Transient(format!("keep a transaction while its handler runs for {took:.1?}"));
                return Ok(Some(Outcome::Failed(Error::with_source(kind, failed))));
            }
            self.is_lost = true;
            // The time of the handler is no outage, so it does not count toward the limit of catching up.
            return Ok(if self.delays.pause_for(&failed, stop).await { None } else { Some(Outcome::Interrupted) });
        }
        match self.delays.pause_after(failed, stop).await {
            Ok(()) => Ok(None),
            Err(_) if stop.is_cancelled() => Ok(Some(Outcome::Interrupted)),
            Err(failed) => Err(failed),
        }
    }
}

/// Makes the error of a projection that fails on a batch whose first event is `first`.
pub(super) fn failure(name: &ProjectionName, first: &RecordedEvent) -> impl FnOnce(BoxError) -> Error + Send + use<> {
    let (projection, position, event_type) = (name.clone(), first.position, first.event.event_type.clone());
    move |source| Error::with_source(ErrorKind::Projection { projection, position, event_type }, source)
}

/// Returns the span of a call within `batch`. The call with a single event may be in the trace of that event.
pub(super) fn call_span(
    batch: &Span,
    name: &ProjectionName,
    events: &[&RecordedEvent],
    continues_traces: bool,
) -> Span {
    let span = span::handle(batch, name.as_str(), events.len());
    if let ([event], true) = (events, continues_traces) {
        trace::follow(&span, &event.event.metadata.extra);
    }
    for event in events {
        span::event(&span, event.event.event_type.as_str(), event.position.get());
    }
    span
}

/// Makes the call of a projection, and measures it. A panic, and a call that takes longer than `limit`, are its failure on the batch.
pub(super) async fn apply<Tx: Send + ?Sized + 'static>(
    call: Call<Tx>,
    tx: &mut Tx,
    limit: Duration,
    failed: impl FnOnce(BoxError) -> Error,
    span: Span,
) -> (Result<()>, Duration) {
    let began = Instant::now();
    let call = catch_in(async { call(tx).await });
    let applied = match within!(span, timeout(limit, call)) {
        Ok(Ok(applied)) => applied,
        Ok(Err(panicked)) => Err(panicked.into()),
        Err(_) => Err(format!("the handler did not return within {limit:?} and was dropped").into()),
    };
    let applied = applied.map_err(failed);
    if let Err(error) = &applied {
        span::failed(&span, error);
    }
    (applied, began.elapsed())
}

/// Whether the projection itself failed, and not the store beneath it.
fn is_own(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Projection { .. })
}

/// Whether the store failed while the projection worked on it.
fn is_beneath_projection(error: &Error) -> bool {
    let source = std::error::Error::source(error);
    source.and_then(|source| source.downcast_ref::<Error>()).is_some_and(is_own)
}

/// Whether the projection failed because a state that it has stored cannot be read: a row of a view, or the steps of a process.
pub(super) fn is_unreadable(error: &Error) -> bool {
    is_own(error) && error.chain().skip(1).any(|cause| cause.downcast_ref::<Error>().is_some_and(Error::is_corrupt))
}

pub(super) fn is_undecodable(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Undecodable { .. } | ErrorKind::UnknownSchema { .. } | ErrorKind::UnknownEventType { .. }
    )
}
