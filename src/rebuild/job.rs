//! The view, reader and models of a rebuild.

use std::sync::Arc;

use tokio::sync::watch;

use crate::error::Result;
use crate::id::Position;
use crate::rebuild::options::RebuildOptions;
use crate::rebuild::progress::Progress;
use crate::store::log::reader::EventReader;
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
    pub(super) progress: watch::Sender<Progress>,
}

impl<V: View, M: ViewStore + Clone> Job<V, M> {
    /// Deletes a generation, in bounded transactions.
    pub(super) async fn delete_generation(&self, id: &ViewId) -> Result<()> {
        while !self.models.delete_generation(id, DELETED_ROWS).await? {}
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
        self.models.checkpoint(self.live().await?.projection()).await
    }
}
