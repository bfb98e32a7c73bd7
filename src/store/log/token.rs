//! Tokens, with which a caller reads its own writes.

use serde::{Deserialize, Serialize};

use crate::id::CommitId;

/// Identifies the events of one append, so that a caller can read its own writes: see [`wait_for`](crate::projection::wait_for). The default
/// token identifies no events, so every projection has applied it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Token(CommitId);

impl Token {
    pub(crate) fn of(commit: CommitId) -> Self {
        Self(commit)
    }

    /// Returns the commit that the token identifies.
    pub fn commit(self) -> CommitId {
        self.0
    }
}
