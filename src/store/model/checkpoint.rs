//! The state of a projection, which determines whether workers or appends move its checkpoint.

use crate::error::{ErrorKind, Result};
use crate::id::ProjectionName;

/// How the events of a projection get into its read model. A store keeps it next to the checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ProjectionState {
    /// Workers apply the events and move the checkpoint. Every projection begins in this state.
    #[default]
    Running,
    /// Appends on a database server apply their own events, see [`inline`](mod@crate::inline). The checkpoint is the head of the log, and
    /// workers are refused.
    Inline,
    /// The rows of this generation of a view are being deleted. The checkpoint is zero, and workers are refused until all rows are gone.
    Deleting,
}

impl ProjectionState {
    /// Refuses a worker unless the projection is running.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if its events are applied inline or its rows are being deleted.
    pub fn check_running(self, projection: &ProjectionName) -> Result<()> {
        let problem = match self {
            Self::Running => return Ok(()),
            Self::Inline => "is applied inline by the appends: a worker would apply its events twice",
            Self::Deleting => "is being deleted: finish the deletion first",
        };
        Err(ErrorKind::Invalid(format!("projection {projection} {problem}")).into())
    }

    /// Returns the stored form of the state.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Inline => "inline",
            Self::Deleting => "deleting",
        }
    }

    /// Parses the stored form of a state.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if `stored` is not the stored form of a state.
    pub fn parse(stored: &str) -> Result<Self> {
        match stored {
            "running" => Ok(Self::Running),
            "inline" => Ok(Self::Inline),
            "deleting" => Ok(Self::Deleting),
            _ => Err(ErrorKind::Corrupt(format!("unknown projection state {stored:?}")).into()),
        }
    }
}
