//! The port of read models: a checkpoint and what a projection writes, in one transaction.

use async_trait::async_trait;
use futures::future::BoxFuture;

use crate::error::{ErrorKind, Result};
use crate::id::{Position, ProjectionName, StreamId};
use crate::store::model::parking::{Parking, Step};

/// What runs inside a projection's transaction.
pub type Work<Tx> = Box<dyn for<'t> FnOnce(&'t mut Tx) -> BoxFuture<'t, Result<()>> + Send>;

/// How the events of a projection get into its read model. Stored next to the checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ProjectionState {
    /// Workers apply the events and move the checkpoint. Every projection begins so.
    #[default]
    Running,
    /// Appends apply their own events on a database server, see [`inline`](crate::inline). The checkpoint is the head of the log, and
    /// workers are refused.
    Inline,
    /// The rows of this generation of a view are being deleted. The checkpoint is zero, and workers are refused until all rows are gone.
    Deleting,
}

impl ProjectionState {
    /// Refuses a worker.
    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    pub(crate) fn check_running(self, projection: &ProjectionName) -> Result<()> {
        let problem = match self {
            Self::Running => return Ok(()),
            Self::Inline => "is applied inline by the appends: a worker would apply its events twice",
            Self::Deleting => "is being deleted: delete the rest of it first",
        };
        Err(ErrorKind::Invalid(format!("projection {projection} {problem}")).into())
    }

    /// The state as drivers store it.
    #[cfg(feature = "mysql")]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Inline => "inline",
            Self::Deleting => "deleting",
        }
    }

    /// Reads a state as drivers store it.
    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    pub(crate) fn parse(stored: &str) -> Result<Self> {
        match stored {
            "running" => Ok(Self::Running),
            "inline" => Ok(Self::Inline),
            "deleting" => Ok(Self::Deleting),
            _ => Err(ErrorKind::Corrupt(format!("state {stored:?} of a projection")).into()),
        }
    }
}

/// Where projections keep their read models, each together with its checkpoint.
#[async_trait]
pub trait CheckpointStore: Send + Sync + 'static {
    /// What a projection writes through. May be a trait object: then one projection runs on several databases.
    type Tx: Send + ?Sized + 'static;

    /// Returns the position up to which a projection has applied everything, apart from what is parked: the head of the log if appends apply
    /// it inline, zero if it never ran or is being deleted.
    ///
    /// # Errors
    /// What reading met.
    async fn checkpoint(&self, projection: &ProjectionName) -> Result<Position>;

    /// Returns who applies a projection's events; [`ProjectionState::Running`] if it never ran.
    ///
    /// # Errors
    /// What reading met.
    async fn state(&self, projection: &ProjectionName) -> Result<ProjectionState>;

    /// The aggregates that a projection has parked. Their count of changes is at most as new as the rows: a [`Step`] that goes on from it
    /// and succeeds has known the rows as they were.
    ///
    /// # Errors
    /// What reading met.
    async fn parking(&self, projection: &ProjectionName) -> Result<Parking>;

    /// Has a parked aggregate tried again at once and with a fresh budget, also a dead one; by whichever process runs the projection, at
    /// its next sweep. Returns whether the aggregate was parked.
    ///
    /// # Errors
    /// What writing met.
    ///
    /// # Cancel safety
    /// A dropped call may still write.
    async fn retry_parked(&self, projection: &ProjectionName, stream: &StreamId) -> Result<bool>;

    /// Runs `work`, moves the checkpoint and changes the parking as the step says, in one transaction.
    ///
    /// # Errors
    /// What `work` returns, unless the database beneath it is the trouble: then [`ErrorKind::Transient`], [`ErrorKind::Full`] or
    /// [`ErrorKind::ReadOnly`] with that error as its cause. [`ErrorKind::CheckpointMoved`] if checkpoint or parking are not what the step
    /// begins with. [`ErrorKind::Invalid`] if the projection's [state](Self::state) is not [`ProjectionState::Running`]. Nothing was
    /// changed then.
    ///
    /// # Cancel safety
    /// A dropped call may still commit, but never in part.
    async fn advance(&self, step: Step, work: Work<Self::Tx>) -> Result<()>;

    /// Waits for the calls under way, then lets go of the database, for every handle of this read model. Later calls are refused. One that
    /// lies beside a log, such as [`SqliteStore::read_model`](crate::SqliteStore::read_model), shares the log's connections, and closes
    /// them. By default, as in memory, there is nothing to let go of.
    ///
    /// # Errors
    /// What closing met.
    async fn close(&self) -> Result<()> {
        Ok(())
    }
}
