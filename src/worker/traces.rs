//! The traces of a worker: which of its events are new enough to be linked, and the notices about parked aggregates.

use tracing::Span;

use crate::event::RecordedEvent;
use crate::notice::NoticeKind;
use crate::store::model::parking::{Parked, ParkedState};
use crate::store::model::read_model::ReadModel;
use crate::trace;
use crate::trace::span;
use crate::worker::runner::Runner;

impl<M: ReadModel, O> Runner<'_, M, O> {
    /// Whether the events are new, so that their traces may still be open.
    fn is_live(&self) -> bool {
        self.is_at_head && self.limit.is_none()
    }

    /// Returns the span of a batch.
    pub(super) fn span(&self, events: &[RecordedEvent]) -> Span {
        if events.is_empty() {
            return Span::none();
        }
        let span = span::process(self.name.as_str(), events.len());
        if self.is_live() {
            trace::link(&span, events.iter().map(|event| &event.event.metadata.extra));
        }
        span
    }

    /// Whether the handler of a single event runs in the trace of that event.
    pub(super) fn continues_traces(&self) -> bool {
        self.job.options.continues_traces && self.is_live()
    }

    /// Reports a parked aggregate whose retry has failed.
    pub(super) fn report_failed_again(&self, parked: &Parked) {
        match parked.state {
            ParkedState::Dead => self.job.reporter.notice(NoticeKind::Dead),
            ParkedState::Waiting => span::failed_again(self.name.as_str(), parked.attempts),
        }
    }

    /// Reports and counts aggregates that were parked.
    pub(super) fn report_parked(&self, parked: &[Parked]) {
        self.meter.parked();
        if let Some(first) = parked.iter().map(|parked| parked.from_position.get()).min() {
            self.job.reporter.notice(NoticeKind::Parked { aggregates: parked.len(), position: first });
        }
    }
}
