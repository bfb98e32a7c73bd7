//! The state of a projection: it says who moves the checkpoint.

use crate::error::{ErrorKind, Result};
use crate::id::ProjectionName;

/// How the events of a projection get into its read model. Stored next to the checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum ProjectionState {
    /// Workers apply the events and move the checkpoint. Every projection begins so.
    #[default]
    Running,
    /// Appends apply their own events on a database server, see [`inline`](mod@crate::inline). The checkpoint is the head of the log, and
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
            Self::Deleting => "is being deleted: delete the rest of it first",
        };
        Err(ErrorKind::Invalid(format!("projection {projection} {problem}")).into())
    }

    /// Returns the state as a store keeps it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Inline => "inline",
            Self::Deleting => "deleting",
        }
    }

    /// Reads a state as a store keeps it.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] for any other text.
    pub fn parse(stored: &str) -> Result<Self> {
        match stored {
            "running" => Ok(Self::Running),
            "inline" => Ok(Self::Inline),
            "deleting" => Ok(Self::Deleting),
            _ => Err(ErrorKind::Corrupt(format!("state {stored:?} of a projection")).into()),
        }
    }
}
