//! What an operator asks of a log on a database server.

use std::time::Duration;

use crate::error::Result;
use crate::id::{Position, ProjectionName};
use crate::store::model::checkpoint::ProjectionState;
use crate::store::server::convert::from_sql;

/// How a log is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// The last position given out.
    pub head: Position,
    /// Commits that are visible and have no position yet. More than a few for more than a moment: nobody reads the log's end.
    pub unsequenced: u64,
    /// The transactions that hold something now.
    pub open: OpenTransactions,
    /// The projections whose read models are in the log's database, and how many positions each is behind. An inline projection is never
    /// behind. A generation of a view that is being deleted is not listed.
    pub projections: Vec<(ProjectionName, u64)>,
}

/// The transactions that hold something now, as far as the store's user may see them.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenTransactions {
    /// Longest first.
    Seen(Vec<OpenTransaction>),
    /// The user has not got the right to see other sessions' transactions.
    NotGranted,
}

impl OpenTransactions {
    /// Those that could be seen, longest first.
    pub fn seen(&self) -> &[OpenTransaction] {
        match self {
            Self::Seen(transactions) => transactions,
            Self::NotGranted => &[],
        }
    }
}

/// A transaction that holds something.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenTransaction {
    /// The server's number of the session: PostgreSQL's `pg_terminate_backend` takes it, and MySQL's `KILL`.
    pub session: u64,
    /// The lane it holds, on PostgreSQL.
    pub lane: Option<u32>,
    /// What it runs, or on PostgreSQL has last run. Empty where the server does not say.
    pub query: String,
    /// How long it has been open.
    pub age: Duration,
}

impl Health {
    /// `checkpoints` are names, positions and states.
    pub(crate) fn new(
        (head, unsequenced): (i64, i64),
        open: OpenTransactions,
        checkpoints: Vec<(String, i64, String)>,
    ) -> Result<Self> {
        let head = Position::new(from_sql(head, "position")?);
        let projection = |(name, position, state): (String, i64, String)| {
            let position = Position::new(from_sql(position, "position")?);
            let behind = match ProjectionState::parse(&state)? {
                ProjectionState::Running => head.since(position),
                ProjectionState::Inline => 0,
                ProjectionState::Deleting => return Ok(None),
            };
            Ok(Some((ProjectionName::new(name)?, behind)))
        };
        let projections =
            checkpoints.into_iter().filter_map(|row| projection(row).transpose()).collect::<Result<_>>()?;
        Ok(Self { head, unsequenced: from_sql(unsequenced, "count")?, open, projections })
    }
}
