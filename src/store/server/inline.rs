//! Inline projections on database servers: their set-up, and their application in the transaction of a round of appends.

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{SubsecRound, Utc};
use futures::FutureExt;

use crate::error::{Error, ErrorKind, Result};
use crate::event::RecordedEvent;
use crate::id::{Position, ProjectionName, Version};
use crate::store::log::append::{Append, Appended, Outcome};
use crate::store::log::inline::{Inline, Inlines, apply, set_up};
use crate::store::log::mark::remembered_by;
use crate::store::log::reader::{EventReader, EventReaderExt};
use crate::store::model::checkpoint::ProjectionState;
use crate::store::model::names;
use crate::store::model::read_model::{ReadModel, Work};
use crate::store::model::work::of_work;

/// Returns the events that a round has written. They have no positions yet, and their time is approximately the time of the commit.
pub(crate) fn written(round: &[&Append], results: &[Result<Appended>]) -> Vec<RecordedEvent> {
    let recorded_at = Utc::now().trunc_subsecs(6);
    let mut written = Vec::new();
    for (append, appended) in round.iter().zip(results) {
        let Ok(Appended { versions, outcome: Outcome::Written, .. }) = appended else { continue };
        for (part, last) in append.streams().iter().zip(versions) {
            let first = last.get() - part.events.len() as u64 + 1;
            written.extend(part.events.iter().zip(first..).map(|(event, version)| RecordedEvent {
                position: Position::ZERO,
                stream: part.stream.clone(),
                version: Version::new(version),
                recorded_at,
                event: event.clone(),
            }));
        }
    }
    written
}

/// Applies the inline projections to the events of a round, in the transaction of the round.
pub(crate) async fn apply_inline<Tx: Send + 'static>(
    inlines: &Inlines<Tx>,
    tx: &mut Tx,
    round: &[&Append],
    results: &[Result<Appended>],
) -> Result<()> {
    if inlines.is_empty() {
        return Ok(());
    }
    let written = written(round, results);
    for inline in inlines.iter() {
        apply(&**inline, tx, &written).await?;
    }
    Ok(())
}

/// A read model in the database of the log, whose projections can be applied inline.
#[async_trait]
pub(crate) trait InlineModels: ReadModel {
    /// Runs `work` and sets the state of the projection to [`ProjectionState::Inline`], in one transaction. From then on views lock their
    /// rows, as in per-aggregate order.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the projection has begun in log order or is being deleted.
    async fn begin_inline(&self, projection: &ProjectionName, work: Work<Self::Tx>) -> Result<()>;
}

/// Sets up an inline projection. From then on workers of this projection are refused.
pub(crate) async fn begin_inline<M: InlineModels>(
    models: &M,
    log: &impl EventReader,
    inline: Arc<dyn Inline<M::Tx>>,
) -> Result<()> {
    let projection = inline.projection().clone();
    names::add(projection.as_str());
    let refused = |problem: String| ErrorKind::Invalid(format!("projection {projection} {problem}")).into();
    if models.state(&projection).await? == ProjectionState::Running {
        let (checkpoint, head) = (models.mark(&projection).await?, log.head().await?);
        log.check(checkpoint)
            .await
            .map_err(|error| remembered_by(error, || format!("projection {projection}"), "reset it"))?;
        if checkpoint.position != head {
            return Err(refused(format!(
                "is at position {} and the log ends at {head}: let a worker catch up before it is applied inline",
                checkpoint.position
            )));
        }
        if !models.parking(&projection).await?.parked.is_empty() {
            return Err(refused("has parked aggregates: release them before it is applied inline".into()));
        }
    }
    let work: Work<M::Tx> = Box::new(move |tx| async move { set_up(&*inline, tx).await }.boxed());
    models.begin_inline(&projection, work).await
}

/// Classifies the error of a projection's work. If the first database error in its chain is of a kind that the database caused, the
/// projection is not at fault.
pub(crate) fn classify_work(error: Error, kind: fn(&sqlx::Error, &str) -> ErrorKind) -> Error {
    of_work(error, |cause| Some(kind(cause.downcast_ref()?, "apply events")))
}
