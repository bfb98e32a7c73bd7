//! The health of a log on a database server, for operators.

use std::time::Duration;

use chrono::{DateTime, Utc};

use crate::error::Result;
use crate::id::{Position, ProjectionName};
use crate::store::log::clock::far_ahead;
use crate::store::model::checkpoint::ProjectionState;
use crate::store::server::convert::from_sql;

/// The health of a log: its head, its backlog, its open transactions and the lag of its projections.
///
/// # Examples
/// ```
/// use std::time::Duration;
///
/// use retell::store::Health;
///
/// /// Lists the sessions whose transactions have been open for more than a minute.
/// fn slow_sessions(health: &Health) -> Vec<u64> {
///     let slow = health.open.seen().iter().filter(|transaction| transaction.age > Duration::from_mins(1));
///     slow.map(|transaction| transaction.session).collect()
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// The last assigned position.
    pub head: Position,
    /// The number of commits that are visible and have no position yet. If it stays above a few, no reader reads the end of the log.
    pub unsequenced: u64,
    /// The time of the newest event if it is more than a minute ahead of this process's clock. One of the two clocks is, or was, wrong: events
    /// appended later have the right time again, but a deadline that counts from this event comes late.
    pub future_event: Option<DateTime<Utc>>,
    /// The open transactions that can delay the log.
    pub open: OpenTransactions,
    /// The projections whose read models are in the database of the log, and the number of positions that each is behind. An inline
    /// projection is never behind. A generation of a view that is being deleted, and a retired
    /// projection, are not listed.
    pub projections: Vec<(ProjectionName, u64)>,
}

/// The open transactions that can delay the log, if the database user of the store may see them: on PostgreSQL those that hold a lane, on
/// MySQL and MariaDB those of other sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum OpenTransactions {
    /// The transactions, the longest first.
    Seen(Vec<OpenTransaction>),
    /// The database user has no right to see the transactions of other sessions.
    NotGranted,
}

impl OpenTransactions {
    /// Returns the visible transactions, the longest first.
    pub fn seen(&self) -> &[OpenTransaction] {
        match self {
            Self::Seen(transactions) => transactions,
            Self::NotGranted => &[],
        }
    }
}

/// An open transaction that can delay the log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenTransaction {
    /// The server's id of the session, for `pg_terminate_backend` on PostgreSQL and `KILL` on MySQL.
    pub session: u64,
    /// The lane that the transaction holds, on PostgreSQL.
    pub lane: Option<u32>,
    /// The current statement; on PostgreSQL the current or the last one. Empty if the server does not report it.
    pub query: String,
    /// The time since the transaction began.
    pub age: Duration,
}

impl Health {
    /// Creates the health from stored values. `checkpoints` holds the name, the position and the state of each projection.
    pub(crate) fn new(
        (head, unsequenced, newest): (i64, i64, Option<DateTime<Utc>>),
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
        let (unsequenced, future_event) = (from_sql(unsequenced, "count")?, newest.and_then(far_ahead));
        Ok(Self { head, unsequenced, future_event, open, projections })
    }
}
