//! When a process manager is to be reminded: one row for each deadline that was set, until it has passed or does not matter any more.
//!
//! The rows are an index. What is pending stands in the stream of each process; a row too many is found out and removed, so a row may come
//! again, but none may be lost before its deadline is dealt with.

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use uuid::Uuid;

#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::id::{AggregateId, CorrelationId, ProjectionName};
use crate::store::model::read_model::ReadModel;

/// A deadline that a process has set.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Deadline {
    /// Its own id: a deadline of the same name that is set later is another one.
    pub id: Uuid,
    /// The process that has set it.
    pub key: AggregateId,
    /// What the process calls it.
    pub name: String,
    /// When it passes.
    pub at: DateTime<Utc>,
    /// The request that led to it.
    pub correlation_id: Option<CorrelationId>,
    /// How often it was tried in vain after that.
    pub attempts: u32,
}

impl Deadline {
    /// Creates a deadline before its first attempt, without a correlation id.
    pub fn new(id: Uuid, key: AggregateId, name: impl Into<String>, at: DateTime<Utc>) -> Self {
        Self { id, key, name: name.into(), at, correlation_id: None, attempts: 0 }
    }
}

/// A change of the rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeadlineChange {
    /// Adds a row, unless it is there.
    Set(Deadline),
    /// Takes a row away, if it is there.
    End(Uuid),
}

/// Keeps the deadlines of process managers, beside their checkpoints.
#[async_trait]
pub trait DeadlineStore: ReadModel {
    /// Changes rows within the transaction that moves the checkpoint.
    ///
    /// # Errors
    /// What writing met.
    async fn change_deadlines(
        &self,
        tx: &mut Self::Tx,
        process: &ProjectionName,
        changes: &[DeadlineChange],
    ) -> Result<()>;

    /// Changes rows in a transaction of its own.
    ///
    /// # Errors
    /// What writing met.
    ///
    /// # Cancel safety
    /// A dropped call may still commit, but never in part.
    async fn settle_deadlines(&self, process: &ProjectionName, changes: &[DeadlineChange]) -> Result<()>;

    /// The deadlines that have passed by `now`, the earliest first, at most `limit`.
    ///
    /// # Errors
    /// What reading met.
    async fn due_deadlines(&self, process: &ProjectionName, now: DateTime<Utc>, limit: usize) -> Result<Vec<Deadline>>;

    /// Has a deadline that could not be dealt with come again later, and counts the attempt. It keeps the error for people to read.
    ///
    /// # Errors
    /// What writing met.
    ///
    /// # Cancel safety
    /// A dropped call may still write.
    async fn postpone_deadline(
        &self,
        process: &ProjectionName,
        id: Uuid,
        until: DateTime<Utc>,
        error: &str,
    ) -> Result<()>;
}

/// Returns the deadlines that changes set, and the ids of those that have ended. A deadline that is set and ended by the same changes has ended.
pub fn parts(changes: &[DeadlineChange]) -> (Vec<&Deadline>, Vec<Uuid>) {
    let (mut set, mut ended) = (Vec::new(), Vec::new());
    for change in changes {
        match change {
            DeadlineChange::Set(deadline) => set.push(deadline),
            DeadlineChange::End(id) => ended.push(*id),
        }
    }
    set.retain(|deadline| !ended.contains(&deadline.id));
    (set, ended)
}

/// A row as the databases have it.
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub(crate) struct DeadlineColumns<'r> {
    pub(crate) id: Uuid,
    pub(crate) key: &'r str,
    pub(crate) name: &'r str,
    pub(crate) at: DateTime<Utc>,
    pub(crate) correlation_id: Option<Uuid>,
    pub(crate) attempts: i64,
}

#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
impl DeadlineColumns<'_> {
    pub(crate) fn parse(self) -> Result<Deadline> {
        let corrupt = |problem: String| ErrorKind::Corrupt(format!("deadline {}: {problem}", self.id));
        Ok(Deadline {
            id: self.id,
            key: AggregateId::new(self.key).map_err(|error| corrupt(error.to_string()))?,
            name: self.name.to_owned(),
            at: self.at,
            correlation_id: self.correlation_id.map(Into::into),
            attempts: u32::try_from(self.attempts).map_err(|_| corrupt(format!("{} attempts", self.attempts)))?,
        })
    }
}
