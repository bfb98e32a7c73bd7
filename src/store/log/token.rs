//! Tokens, with which a caller reads its own writes.

use serde::{Deserialize, Serialize};

use crate::id::CommitId;

/// Identifies the events of one append, so that a caller can read its own writes: see [`wait_for`](crate::projection::wait_for). The default
/// token identifies no events, so every projection has applied it.
///
/// # Examples
/// ```
/// use retell::{Token, prelude::*};
///
/// #[derive(Event)]
/// #[event("shoe.sold")]
/// struct Sold {
///     cents: u64,
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let log = MemoryStore::new();
/// let appended = log.append_events(("shoe", "1"), ExpectedVersion::NoStream, [Sold { cents: 500 }]).await?;
///
/// // The client gets the token in a cookie and returns it with its next request, perhaps to another process.
/// let cookie = serde_json::to_string(&appended.token())?;
/// let token: Token = serde_json::from_str(&cookie)?;
/// assert_eq!(log.position_of(token.commit()).await?, Some(Position::new(1)));
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
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
