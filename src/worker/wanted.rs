//! The events that a projection needs while workers of several releases run.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::{Error, ErrorKind, Result};
use crate::event::RecordedEvent;
use crate::id::{Position, ProjectionName};
use crate::notice::{self, NoticeKind};
use crate::store::log::query::Filter;
use crate::store::model::processors::RegisteredProcessor;
use crate::store::model::read_model::ReadModel;
use crate::store::model::skipped::{Skipped, Skips};

/// The events that a projection needs: those that this release reads, and those that only the newest one reads.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    own: RegisteredProcessor,
    /// The newest release, if it reads other events.
    newest: Option<RegisteredProcessor>,
    /// Lets all of these events pass, and perhaps others.
    query: Filter,
    /// The events that operators have skipped.
    skips: Skips,
    part: Arc<str>,
    /// The skipped events that were passed over.
    told: Arc<Mutex<HashSet<Position>>>,
}

impl Wanted {
    /// Creates the events of this release alone, which runs `own` as the projection `part`.
    pub(crate) fn by(part: &str, own: RegisteredProcessor) -> Self {
        Self {
            query: own.filter.clone(),
            own,
            newest: None,
            skips: Skips::default(),
            part: part.into(),
            told: Arc::default(),
        }
    }

    /// Registers this release, unless it is.
    ///
    /// # Errors
    /// [`ErrorKind::StateChanged`] if its states do not fit those of another release. Then it is not registered.
    pub(crate) async fn register(&self, models: &impl ReadModel, name: &ProjectionName) -> Result<()> {
        let known = models.processors(name).await?;
        if known.iter().any(|known| known.is_same(&self.own)) {
            return Ok(());
        }
        self.own.check_state(name, &known)?;
        models.register_processor(name, &self.own).await
    }

    /// Returns what is wanted by this release and the newest one that is registered, the last of `registered`, without the events that
    /// `skipped` skips.
    ///
    /// # Errors
    /// [`ErrorKind::StateChanged`] if another release, whose states do not fit, was registered before this one at the same moment.
    pub(crate) fn with(
        &self,
        name: &ProjectionName,
        mut registered: Vec<RegisteredProcessor>,
        skipped: Vec<Skipped>,
    ) -> Result<Self> {
        let before = registered.iter().take_while(|known| !known.is_same(&self.own)).count();
        self.own.check_state(name, &registered[..before])?;
        let (own, newest) = (self.own.clone(), registered.pop().filter(|newest| newest.filter != self.own.filter));
        let query = newest.as_ref().map_or_else(|| own.filter.clone(), |newest| own.filter.or(&newest.filter));
        let (part, told) = (self.part.clone(), self.told.clone());
        Ok(Self { own, newest, query, skips: Skips::of(skipped), part, told })
    }

    /// Returns the filter to read the log with.
    pub(crate) fn query(&self) -> &Filter {
        &self.query
    }

    /// Returns whether the event is wanted. The first time that a skip passes over an event is a notice.
    pub(crate) fn passes(&self, event: &RecordedEvent) -> bool {
        let is_read =
            self.own.filter.passes(event) || self.newest.as_ref().is_some_and(|newest| newest.filter.passes(event));
        is_read && !self.is_skipped(event)
    }

    fn is_skipped(&self, event: &RecordedEvent) -> bool {
        let is_skipped = self.skips.get(event).is_some();
        if is_skipped && self.told.lock().unwrap_or_else(PoisonError::into_inner).insert(event.position) {
            notice::send(&self.part, NoticeKind::Skipped { position: event.position.get() }, None);
        }
        is_skipped
    }

    /// Refuses an event that only the newest release reads.
    pub(crate) fn check(&self, event: &RecordedEvent) -> Result<()> {
        let Some(newest) = self.newest.as_ref().filter(|_| !self.own.filter.passes(event)) else { return Ok(()) };
        let event_type = event.event.event_type.clone();
        let cause = format!(
            "the release of {} that was registered at {} reads {event_type} in this projection, and this one does not; if that release was \
             rolled back permanently, call `ReadModel::forget_processor`",
            newest.program, newest.first_seen
        );
        Err(Error::with_source(ErrorKind::BehindDeploy(event_type), cause))
    }
}
