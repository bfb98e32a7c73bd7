//! Builds a view anew, beside the rows that readers see, and switches them over when it is complete.
//!
//! A view says which [`generation`](View::generation) of its rows its fold keeps. The program whose fold has changed has a larger one, and can
//! run beside the program before it: each one's workers keep rows of their own, under a checkpoint of their own, and [`Views`](crate::Views)
//! of both read the generation that is live. Deploying it takes these steps:
//!
//! 1. [`Rebuild::run`] brings the new generation up to where the live one is, as fast as the log can be read.
//! 2. Workers of the new program ([`Worker::view`](crate::Worker::view)) keep it there.
//! 3. [`Rebuild::diff`] compares the two, and [`Rebuild::switch`] shows the new one to all readers at once.
//!    [`Rebuild::switch_back`] takes that back; as long as the old program's workers run, without a loss.
//! 4. When these are stopped, [`Rebuild::drop_old`] takes the old rows away.
//!
//! A view has no side effects, so there is nothing to hold back while it is built.

mod build;
mod cache;
mod diff;
mod job;
mod options;
mod plan;
mod progress;

use std::fmt;
use std::sync::Arc;

use futures::FutureExt;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::error::{ErrorKind, Result};
use crate::id::{Generation, Position};
use crate::rebuild::build::{Build, PAGE_EVENTS};
use crate::rebuild::job::Job;
use crate::store::log::reader::EventReader;
use crate::store::model::parking::{ParkingChange, Step};
use crate::store::model::read_model::Work;
use crate::store::model::views::{Switch, ViewId, ViewStore};
use crate::view::View;

pub use diff::{Diff, Difference};
pub use options::RebuildOptions;
pub use plan::Plan;
pub use progress::Progress;

/// Attempts to switch while the live generation moves on. Each of them catches up, so that few are ever needed.
const SWITCHES: usize = 100;

/// Builds the rows of a view's [`generation`](View::generation), compares them and makes them live.
pub struct Rebuild<V, M> {
    job: Job<V, M>,
}

impl<V: View, M> fmt::Debug for Rebuild<V, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rebuild").field("view", &self.job.view.name()).finish_non_exhaustive()
    }
}

impl<V: View, M: ViewStore + Clone> Rebuild<V, M> {
    /// Creates a rebuild of `view`, reading from `reader` into `models`.
    pub fn new(view: V, reader: impl EventReader, models: M) -> Self {
        let (options, progress) = (RebuildOptions::new(), watch::Sender::new(Progress::default()));
        Self { job: Job { view: Arc::new(view), reader: Arc::new(reader), models, options, progress } }
    }

    /// Other settings.
    pub fn with_options(mut self, options: RebuildOptions) -> Self {
        self.job.options = options;
        self
    }

    /// How far [`run`](Self::run) is, as it goes on.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.job.progress.subscribe()
    }

    /// How many events there are to fold, and how long that takes. Writes nothing.
    ///
    /// # Errors
    /// What reading met.
    pub async fn plan(&self) -> Result<Plan> {
        Plan::of(&self.job).await
    }

    /// Builds the generation in log order, from where it is until it has got as far as the one that readers see. Readers do not see it before
    /// [`switch`](Self::switch); where it is the live one itself, as the first is, they see it grow.
    ///
    /// An event that fails has its aggregate parked, as a worker does it. Workers of the generation may run meanwhile, and another build of it
    /// as well: the checkpoint lets one of them commit, and the others begin again from there.
    ///
    /// Ends sooner when told to stop, with everything written that was folded. Called again, also after a crash, it goes on from the last
    /// transaction.
    ///
    /// # Errors
    /// [`ErrorKind::CheckpointAhead`] for a read model of another log, [`ErrorKind::Invalid`] for a view whose workers have order per aggregate:
    /// such a generation is built by them. Otherwise what log or read model met if trying again cannot help.
    ///
    /// # Cancel safety
    /// May be dropped at any time: an open transaction is committed whole or not at all.
    pub async fn run(&self, stop: CancellationToken) -> Result<()> {
        Build::to_end(&self.job, stop).await
    }

    /// Compares the generation with the one that readers see, page by page: the first `limit` rows that differ, and how many there are.
    ///
    /// # Errors
    /// What reading met.
    pub async fn diff(&self, limit: usize) -> Result<Diff> {
        Diff::of(&self.job, limit).await
    }

    /// Shows this generation to readers, to all of them at once. Returns the one they saw before.
    ///
    /// What they see never goes backward: the live generation stands still while the two checkpoints are compared. Where it is ahead by no
    /// more than a moment, the rest is built first; so it may go on, and writers, too.
    ///
    /// # Errors
    /// [`ErrorKind::BehindLive`] if there is more to build than that: [`run`](Self::run) does it. Otherwise as that.
    ///
    /// # Cancel safety
    /// A dropped call may still switch.
    pub async fn switch(&self) -> Result<Generation> {
        let id = self.job.id()?;
        for _ in 1..SWITCHES {
            match self.job.models.promote(&id, Switch::IfCaughtUp).await {
                Err(error) if is_close(error.kind()) => Build::to_head(&self.job).await?,
                switched => return switched,
            }
        }
        self.job.models.promote(&id, Switch::IfCaughtUp).await
    }

    /// Shows readers another generation again: the one that [`switch`](Self::switch) has returned. If its workers were stopped meanwhile, rows are
    /// as old as that until they run again. Returns the generation that readers saw before.
    ///
    /// # Errors
    /// [`ErrorKind::BehindLive`] if that generation is not there any more. Otherwise what writing met.
    ///
    /// # Cancel safety
    /// A dropped call may still switch.
    pub async fn switch_back(&self, to: Generation) -> Result<Generation> {
        self.job.models.promote(&ViewId::new(self.job.view.name(), to)?, Switch::Force).await
    }

    /// Takes away a generation that readers do not see, in bounded transactions: rows, checkpoint, and what it has parked. Stop its workers
    /// first: one that is started later begins it anew.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if it is live. Otherwise what writing met.
    ///
    /// # Cancel safety
    /// May be dropped at any time. Until it was called to its end, nothing goes on from what is left.
    pub async fn drop_old(&self, old: Generation) -> Result<()> {
        self.job.delete_generation(&ViewId::new(self.job.view.name(), old)?).await
    }

    /// Gives the build up: [`drop_old`](Self::drop_old) of this generation.
    ///
    /// # Errors
    /// As [`drop_old`](Self::drop_old).
    ///
    /// # Cancel safety
    /// As [`drop_old`](Self::drop_old).
    pub async fn cancel(&self) -> Result<()> {
        self.job.delete_generation(&self.job.id()?).await
    }

    /// Empties this generation, also where it is live, so that it begins anew, in one transaction. Readers see it grow again. Workers that run go on
    /// from the beginning.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a view whose workers have order per aggregate: they would not notice. Otherwise what writing met.
    ///
    /// # Cancel safety
    /// A dropped call may still empty it.
    pub async fn reset(&self) -> Result<()> {
        let id = self.job.id()?;
        loop {
            let at = self.job.models.checkpoint(id.projection()).await?;
            let parking = self.job.models.parking(id.projection()).await?;
            let released = parking.parked.into_iter().map(|parked| ParkingChange::Release(parked.stream)).collect();
            let step = Step::new(id.projection(), at, Position::ZERO).with_parking(parking.changes, released);
            let (models, id) = (self.job.models.clone(), id.clone());
            let clear: Work<M::Tx> = Box::new(move |tx| async move { models.clear_rows(tx, &id).await }.boxed());
            match self.job.models.commit(step, clear).await {
                // A worker was faster. It commits once in a while, and this is tried at once.
                Err(error) if matches!(error.kind(), ErrorKind::CheckpointMoved { .. }) => {}
                done => return done,
            }
        }
    }
}

/// Whether a generation is behind by no more than is built in a moment.
fn is_close(kind: &ErrorKind) -> bool {
    matches!(kind, ErrorKind::BehindLive { checkpoint, live, .. } if live.since(*checkpoint) <= PAGE_EVENTS as u64)
}
