//! The sessions of a database server that can keep commits from getting positions.

use serde::{Deserialize, Serialize};

/// A session with an open transaction that can keep commits from getting positions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Blocker {
    /// The server's id of the session, for `pg_terminate_backend` on PostgreSQL and `KILL` on MySQL.
    pub session: u64,
    /// The lock that its transaction holds.
    pub holds: Hold,
    /// The time since its transaction began, in whole seconds.
    pub seconds: u64,
    /// The address of its client; `None` for a local connection, or if the database user may not see it.
    pub client: Option<String>,
    /// The program, as it names itself to PostgreSQL; `None` if it does not.
    pub program: Option<String>,
    /// The state of its statement, as the server names it, such as `active` or `idle in transaction` on PostgreSQL, and `Query` or `Sleep` on
    /// MySQL; `None` if the database user may not see it.
    pub state: Option<String>,
}

/// The lock that a [`Blocker`] holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Hold {
    /// The lane of an append.
    Lane(u32),
    /// The lock of the session that assigns positions.
    Sequencer,
    /// Any lock: the server does not tell which.
    Unknown,
}

impl Blocker {
    /// Creates a session whose client, program and state are unknown.
    pub fn new(session: u64, holds: Hold, seconds: u64) -> Self {
        Self { session, holds, seconds, client: None, program: None, state: None }
    }
}
