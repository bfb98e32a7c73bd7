//! The events that a projection needs while workers of several releases run.

use crate::error::{Error, ErrorKind, Result};
use crate::event::RecordedEvent;
use crate::id::ProjectionName;
use crate::store::log::query::Filter;
use crate::store::model::processors::RegisteredProcessor;
use crate::store::model::read_model::ReadModel;

/// The events that a projection needs: those that this release reads, and those that only the newest one reads.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// With sorted names, as the registered filters.
    own: Filter,
    /// The newest release, if it reads other events.
    newest: Option<RegisteredProcessor>,
    /// Lets all of these events pass, and perhaps others.
    query: Filter,
}

impl Wanted {
    /// Creates the events of this release alone.
    pub(crate) fn by(own: Filter) -> Self {
        let own = own.sorted();
        Self { query: own.clone(), own, newest: None }
    }

    /// Returns what is wanted by this release and the newest one that is registered, the last of `registered`.
    pub(crate) fn with(&self, registered: Vec<RegisteredProcessor>) -> Self {
        let newest = registered.into_iter().next_back().filter(|newest| newest.filter != self.own);
        let query = newest.as_ref().map_or_else(|| self.own.clone(), |newest| self.own.or(&newest.filter));
        Self { own: self.own.clone(), newest, query }
    }

    /// Returns the filter to read the log with.
    pub(crate) fn query(&self) -> &Filter {
        &self.query
    }

    pub(crate) fn passes(&self, event: &RecordedEvent) -> bool {
        self.own.passes(event) || self.newest.as_ref().is_some_and(|newest| newest.filter.passes(event))
    }

    /// Refuses an event that only the newest release reads.
    pub(crate) fn check(&self, event: &RecordedEvent) -> Result<()> {
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

/// Registers which events this release reads.
pub(crate) async fn register(models: &impl ReadModel, name: &ProjectionName, filter: Filter) -> Result<()> {
    let own = RegisteredProcessor::of_this_program(filter);
    if models.processors(name).await?.iter().any(|known| known.filter == own.filter) {
        return Ok(());
    }
    models.register_processor(name, &own).await
}
