//! The events that a projection needs while workers of several releases run.

use crate::error::{Error, ErrorKind, Result};
use crate::event::RecordedEvent;
use crate::id::ProjectionName;
use crate::store::log::query::Filter;
use crate::store::model::processors::RegisteredProcessor;
use crate::store::model::read_model::ReadModel;
use crate::store::model::skipped::{Skipped, Skips};
use crate::worker::job::Job;

/// The events that a projection needs: those that this release reads, and those that only the newest one reads.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    own: Filter,
    /// The newest release, if it reads other events.
    newest: Option<RegisteredProcessor>,
    /// Lets all of these events pass, and perhaps others.
    query: Filter,
    /// The events that operators have skipped.
    skips: Skips,
}

impl Wanted {
    /// Creates the events of this release alone.
    pub(super) fn by(own: Filter) -> Self {
        Self { query: own.clone(), own, newest: None, skips: Skips::default() }
    }

    /// Returns what is wanted by this release and the newest one that is registered, the last of `registered`, without the events that
    /// `skipped` skips.
    pub(super) fn with(&self, registered: Vec<RegisteredProcessor>, skipped: Vec<Skipped>) -> Self {
        let own = RegisteredProcessor::of_this_program(self.own.clone());
        let newest = registered.into_iter().next_back().filter(|newest| newest.filter != own.filter);
        let query = newest.as_ref().map_or_else(|| self.own.clone(), |newest| self.own.or(&newest.filter));
        Self { own: self.own.clone(), newest, query, skips: Skips::of(skipped) }
    }

    /// Returns the filter to read the log with.
    pub(super) fn query(&self) -> &Filter {
        &self.query
    }

    pub(super) fn passes(&self, event: &RecordedEvent) -> bool {
        let is_read = self.own.passes(event) || self.newest.as_ref().is_some_and(|newest| newest.filter.passes(event));
        is_read && self.skips.get(event).is_none()
    }

    /// Refuses an event that only the newest release reads.
    pub(super) fn check(&self, event: &RecordedEvent) -> Result<()> {
        let Some(newest) = self.newest.as_ref().filter(|_| !self.own.passes(event)) else { return Ok(()) };
        let event_type = event.event.event_type.clone();
        let cause = format!(
            "the release of {} that was registered at {} reads {event_type} in this projection, and this one does not; if that release was \
             rolled back permanently, call `ReadModel::forget_processor`",
            newest.program, newest.first_seen
        );
        Err(Error::with_source(ErrorKind::BehindDeploy(event_type), cause))
    }
}

impl<M: ReadModel> Job<M> {
    /// Registers which events this release reads.
    pub(super) async fn register(&self, name: &ProjectionName) -> Result<()> {
        let own = RegisteredProcessor::of_this_program(self.projection.filter()?);
        if self.models.processors(name).await?.iter().any(|known| known.filter == own.filter) {
            return Ok(());
        }
        self.models.register_processor(name, &own).await
    }
}
