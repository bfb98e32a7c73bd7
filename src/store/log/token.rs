//! Reading one's own writes.

use serde::{Deserialize, Serialize};

use crate::id::CommitId;

/// Stands for an append's events, to read one's own writes: see [`wait_for`](crate::projection::wait_for). The default stands for no
/// events at all, which every projection has applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(CommitId);

impl Token {
    pub(crate) fn of(commit: CommitId) -> Self {
        Self(commit)
    }

    /// The commit it stands for.
    pub fn commit(self) -> CommitId {
        self.0
    }
}
