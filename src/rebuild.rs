//! Builds a new generation of a view next to the rows that readers see, and makes it live when it is complete.
//!
//! A view declares the [`generation`](View::generation) of the rows its fold keeps. A program whose fold has changed has a larger
//! generation and can run next to the previous program: the workers of each keep their own rows under their own checkpoint, and
//! [`Views`](crate::Views) of both read the live generation. Deploy it in these steps:
//!
//! 1. [`Rebuild::run`] brings the new generation up to the live one, as fast as the log can be read.
//! 2. Workers of the new program ([`Worker::view`](crate::Worker::view)) keep it there.
//! 3. [`Rebuild::diff`] compares the two, and [`Rebuild::switch`] shows the new one to all readers at once. [`Rebuild::switch_back`]
//!    reverts that, without loss as long as the workers of the old program run.
//! 4. After the workers of the old program have stopped, [`Rebuild::drop_old`] deletes the old rows.
//!
//! A view has no side effects, so a build suppresses nothing.

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
use crate::id::Generation;
use crate::id::mark::Mark;
use crate::notice::{self, NoticeKind};
use crate::rebuild::build::{Build, PAGE_EVENTS};
use crate::rebuild::job::Job;
use crate::store::log::reader::EventReader;
use crate::store::model::interventions::By;
use crate::store::model::names;
use crate::store::model::read_model::Work;
use crate::store::model::views::{Switch, ViewId, ViewStore};
use crate::view::View;

pub use diff::{Diff, Difference};
pub use options::RebuildOptions;
pub use plan::Plan;
pub use progress::Progress;

/// Maximum number of attempts to switch while the live generation advances. Each attempt catches up, so few are needed.
const MAX_SWITCH_ATTEMPTS: usize = 100;

/// Builds the rows of a view's [`generation`](View::generation), compares them and makes them live.
///
/// # Examples
/// ```
/// use retell::{Generation, prelude::*};
///
/// /// Counts the events of each stream, in a generation that a release of the program chooses.
/// struct Activity(Generation);
///
/// impl View for Activity {
///     const NAME: &'static str = "activity";
///     type Event = AnyEvent;
///     type State = u64;
///
///     fn generation(&self) -> Generation {
///         self.0
///     }
///
///     fn key(&self, event: &Envelope<AnyEvent>) -> Option<String> {
///         Some(event.stream.to_string())
///     }
///
///     fn apply(&self, events: &mut u64, _: Envelope<AnyEvent>) {
///         *events += 1;
///     }
/// }
///
/// #[derive(Event)]
/// #[event("shoe.sold")]
/// struct Sold {
///     cents: u64,
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let (log, models) = (MemoryStore::new(), MemoryReadModel::new());
/// log.append_events(("shoe", "1"), ExpectedVersion::NoStream, [Sold { cents: 500 }]).await?;
/// let old = Activity(Generation::new(1));
/// Worker::view(old, log.clone(), models.clone()).catch_up().await?;
///
/// let rebuild = Rebuild::new(Activity(Generation::new(2)), log, models);
/// println!("{} events to fold", rebuild.plan().await?.events);
/// rebuild.run(CancellationToken::new()).await?;
/// let diff = rebuild.diff(10).await?;
/// assert_eq!((diff.same, diff.different), (1, 0));
/// let replaced = rebuild.switch().await?;
/// rebuild.drop_old(replaced).await?;
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
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
        if let Ok(id) = ViewId::new(view.name(), view.generation()) {
            names::add(id.projection().as_str());
        }
        let (options, progress) = (RebuildOptions::new(), watch::Sender::new(Progress::default()));
        let by = By::program(format!("rebuild of {}", view.name()));
        Self { job: Job { view: Arc::new(view), reader: Arc::new(reader), models, options, by, progress } }
    }

    /// Records switches, resets and deletions of generations as changes by this operator. Without one, they are changes by this program.
    pub fn with_operator(mut self, by: By) -> Self {
        self.job.by = by;
        self
    }

    /// Replaces the settings.
    pub fn with_options(mut self, options: RebuildOptions) -> Self {
        self.job.options = options;
        self
    }

    /// Watches the progress of [`run`](Self::run).
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.job.progress.subscribe()
    }

    /// Estimates how many events the build folds and how long that takes. Writes nothing.
    ///
    /// # Errors
    /// Returns a [read error](crate::Error#read-errors).
    pub async fn plan(&self) -> Result<Plan> {
        Plan::of(&self.job).await
    }

    /// Builds the generation in log order from its checkpoint until it has caught up with the live generation. Readers do not see it before
    /// [`switch`](Self::switch), unless it is the live generation, as the first one is: then they see it grow.
    ///
    /// Parks the aggregate of an event that fails, as a worker does. Workers of the generation and other builds of it may run at the same
    /// time: the checkpoint lets one of them commit, and the others continue from there.
    ///
    /// Ends early when `stop` is cancelled, after it has written everything it folded. A later call, even after a crash, continues from the
    /// last transaction.
    ///
    /// # Errors
    /// [`ErrorKind::HistoryChanged`] for a read model of another log, [`ErrorKind::Invalid`] for a view whose workers have order per
    /// aggregate: the workers build such a generation, [`ErrorKind::BehindDeploy`] at an event that only a newer release of the view reads:
    /// everything before it is written. Otherwise a [read](crate::Error#read-errors) or [write
    /// error](crate::Error#write-errors) that is not transient.
    ///
    /// # Cancel safety
    /// May be dropped at any time: an open transaction commits completely or not at all.
    pub async fn run(&self, stop: CancellationToken) -> Result<()> {
        Build::to_end(&self.job, stop).await
    }

    /// Compares the generation with the live one, page by page. Returns the first `limit` rows that differ and the number of rows that
    /// differ.
    ///
    /// # Errors
    /// Returns a [read error](crate::Error#read-errors).
    pub async fn diff(&self, limit: usize) -> Result<Diff> {
        Diff::of(&self.job, limit).await
    }

    /// Makes this generation live for all readers at once. Returns the generation that was live before.
    ///
    /// Readers never go backward: the live generation is locked while the two checkpoints are compared. If the live generation is slightly
    /// ahead, the rest is built first, so its workers and the writers may keep running.
    ///
    /// # Errors
    /// [`ErrorKind::BehindLive`] if more is missing than is built in a moment: call [`run`](Self::run) first. Otherwise as
    /// [`run`](Self::run).
    ///
    /// # Cancel safety
    /// A dropped call may still switch.
    pub async fn switch(&self) -> Result<Generation> {
        let id = self.job.id()?;
        // Rows of another history are not shown, however far they are.
        self.job.check(self.job.models.mark(id.projection()).await?).await?;
        for _ in 1..MAX_SWITCH_ATTEMPTS {
            match self.promote(&id, Switch::IfCaughtUp).await {
                Err(error) if is_close(error.kind()) => Build::to_head(&self.job).await?,
                switched => return switched,
            }
        }
        self.promote(&id, Switch::IfCaughtUp).await
    }

    async fn promote(&self, id: &ViewId, switch: Switch) -> Result<Generation> {
        let replaced = self.job.models.promote_by(id, switch, &self.job.by).await?;
        let generation = id.generation();
        if replaced != generation {
            notice::send(self.job.view.name(), NoticeKind::GenerationSwitched { generation }, None);
        }
        Ok(replaced)
    }

    /// Makes generation `to` live again: the one that [`switch`](Self::switch) returned. If its workers have stopped since, its rows are
    /// that old until they run again. Returns the generation that was live before.
    ///
    /// # Errors
    /// [`ErrorKind::BehindLive`] if that generation no longer exists, otherwise a [write error](crate::Error#write-errors).
    ///
    /// # Cancel safety
    /// A dropped call may still switch.
    pub async fn switch_back(&self, to: Generation) -> Result<Generation> {
        self.promote(&ViewId::new(self.job.view.name(), to)?, Switch::Force).await
    }

    /// Deletes generation `old` in bounded transactions: its rows, its checkpoint and its parked aggregates. Stop its workers first: a
    /// worker that starts later builds it from the beginning.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if `old` is live, otherwise a [write error](crate::Error#write-errors).
    ///
    /// # Cancel safety
    /// May be dropped at any time. No worker or build uses a generation whose deletion is unfinished; call this again to finish it.
    pub async fn drop_old(&self, old: Generation) -> Result<()> {
        self.job.delete_generation(&ViewId::new(self.job.view.name(), old)?).await
    }

    /// Abandons the build: deletes this generation as [`drop_old`](Self::drop_old).
    ///
    /// # Errors
    /// As [`drop_old`](Self::drop_old).
    ///
    /// # Cancel safety
    /// As [`drop_old`](Self::drop_old).
    pub async fn cancel(&self) -> Result<()> {
        self.job.delete_generation(&self.job.id()?).await
    }

    /// Deletes all rows of this generation, even if it is live, and moves its checkpoint back to the beginning, in one transaction. Readers
    /// see it grow again, and running workers continue from the beginning. Stop the workers first if they have order per aggregate.
    ///
    /// Call this after a worker has stopped with [`ErrorKind::HistoryChanged`].
    ///
    /// # Errors
    /// The errors of [`ReadModel::reset`](crate::ReadModel::reset).
    ///
    /// # Cancel safety
    /// A dropped call may still delete the rows.
    pub async fn reset(&self) -> Result<()> {
        let id = self.job.id()?;
        let (models, projection) = (self.job.models.clone(), id.projection().clone());
        let clear: Work<M::Tx> = Box::new(move |tx| async move { models.clear_rows(tx, &id).await }.boxed());
        self.job.models.reset_by(&projection, Mark::START, clear, &self.job.by).await?;
        self.job.forget_other_states(&projection).await
    }
}

/// Returns whether a generation is behind by no more than one page of events.
fn is_close(kind: &ErrorKind) -> bool {
    matches!(kind, ErrorKind::BehindLive { checkpoint, live, .. } if live.since(*checkpoint) <= PAGE_EVENTS as u64)
}
