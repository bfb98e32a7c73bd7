//! The view, reader and models of a rebuild.

use std::sync::Arc;

use tokio::sync::watch;

use crate::error::Result;
use crate::id::mark::Mark;
use crate::id::{Position, ProjectionName};
use crate::rebuild::options::RebuildOptions;
use crate::rebuild::progress::Progress;
use crate::shape::types::Type;
use crate::store::log::mark::{changed, remembered_by};
use crate::store::log::reader::{EventReader, EventReaderExt};
use crate::store::model::interventions::By;
use crate::store::model::processors::{ProcessorKind, RegisteredProcessor};
use crate::store::model::views::{ViewId, ViewStore};
use crate::view::View;

/// Rows deleted per transaction.
const DELETED_ROWS: usize = 10_000;

/// The inputs of a rebuild.
pub(super) struct Job<V, M> {
    pub(super) view: Arc<V>,
    pub(super) reader: Arc<dyn EventReader>,
    pub(super) models: M,
    pub(super) options: RebuildOptions,
    /// The operator of the changes to generations.
    pub(super) by: By,
    pub(super) progress: watch::Sender<Progress>,
}

impl<V: View, M: ViewStore + Clone> Job<V, M> {
    /// Deletes a generation, in bounded transactions.
    pub(super) async fn delete_generation(&self, id: &ViewId) -> Result<()> {
        while !self.models.delete_generation_by(id, DELETED_ROWS, &self.by).await? {}
        Ok(())
    }

    /// Returns the view as this program runs it.
    pub(super) fn processor(&self) -> Result<RegisteredProcessor> {
        let (filter, state) = (self.view.filter()?, Type::of::<V::State>());
        Ok(RegisteredProcessor::of_this_program(ProcessorKind::View, filter, Some(&state)))
    }

    /// Removes the registrations of releases whose states do not fit: none of their states is left.
    pub(super) async fn forget_other_states(&self, projection: &ProjectionName) -> Result<()> {
        let own = self.processor()?;
        for other in self.models.processors(projection).await? {
            if own.check_state(projection, std::slice::from_ref(&other)).is_err() {
                self.models.forget_processor(projection, &other).await?;
            }
        }
        Ok(())
    }

    /// Checks that the log has the place that the generation has reached.
    pub(super) async fn check(&self, kept: Mark) -> Result<()> {
        let id = self.id()?;
        let named = |error| remembered_by(error, || format!("projection {}", id.projection()), "call `Rebuild::reset`");
        self.reader.check(kept).await.map_err(named)?;
        if kept.event_id.is_none() && kept.position > self.reader.head().await? {
            return Err(named(changed(kept, None)));
        }
        Ok(())
    }

    pub(super) fn id(&self) -> Result<ViewId> {
        ViewId::new(self.view.name(), self.view.generation())
    }

    /// Returns the generation that readers see.
    pub(super) async fn live(&self) -> Result<ViewId> {
        let live = self.models.live_generation(self.id()?.view()).await?;
        ViewId::new(self.view.name(), live)
    }

    pub(super) async fn live_checkpoint(&self) -> Result<Position> {
        Ok(self.models.mark(self.live().await?.projection()).await?.position)
    }
}
