//! The deadlines of process managers: one row per deadline, from the time it is set until the process has handled or cancelled it.
//!
//! The rows are an index. The stream of each process records which deadlines are pending, so a process manager detects and removes a row
//! that is out of date. A row may therefore appear again, but no row may be lost before its deadline is handled.

use std::collections::HashSet;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use uuid::Uuid;

#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::id::{AggregateId, CorrelationId, EventId, ProjectionName};
use crate::store::model::read_model::ReadModel;
use crate::trace::context::TraceContext;

/// A deadline that a process instance has set.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Deadline {
    /// The id of the deadline. Setting a deadline of the same name again creates a new id.
    pub id: Uuid,
    /// The process instance that set the deadline.
    pub key: AggregateId,
    /// The name that the process gave the deadline.
    pub name: String,
    /// The time at which the deadline is due.
    pub at: DateTime<Utc>,
    /// The correlation id of the request that led to the deadline.
    pub correlation_id: Option<CorrelationId>,
    /// The event that led to the deadline.
    pub causation_id: Option<EventId>,
    /// The trace of that request. A store keeps it as text.
    pub trace: Option<TraceContext>,
    /// The number of failed attempts to handle the deadline.
    pub attempts: u32,
}

impl Deadline {
    /// Creates a deadline before its first attempt, without a correlation id, a cause and a trace.
    pub fn new(id: Uuid, key: AggregateId, name: impl Into<String>, at: DateTime<Utc>) -> Self {
        Self { id, key, name: name.into(), at, correlation_id: None, causation_id: None, trace: None, attempts: 0 }
    }
}

/// A change to the deadline rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeadlineChange {
    /// Adds a row, unless a row with this id exists.
    Set(Deadline),
    /// Deletes the row with this id, if it exists.
    End(Uuid),
}

/// Stores the deadlines of process managers, next to their checkpoints.
///
/// # Examples
/// ```
/// use chrono::Utc;
/// use retell::store::{Deadline, DeadlineChange, DeadlineStore};
/// use retell::{AggregateId, MemoryReadModel, ProjectionName, prelude::*};
/// use uuid::Uuid;
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let models = MemoryReadModel::new();
/// let process = ProjectionName::new("shipping")?;
/// let deadline = Deadline::new(Uuid::from_u128(1), AggregateId::new("order-1")?, "payment", Utc::now());
/// models.settle_deadlines(&process, &[DeadlineChange::Set(deadline.clone())]).await?;
/// assert_eq!(models.due_deadlines(&process, Utc::now(), 10).await?, [deadline]);
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
#[async_trait]
pub trait DeadlineStore: ReadModel {
    /// Makes `changes` in the transaction that moves the checkpoint.
    ///
    /// # Errors
    /// A [write error](crate::Error#write-errors), with the database's error as its source.
    async fn change_deadlines(
        &self,
        tx: &mut Self::Tx,
        process: &ProjectionName,
        changes: &[DeadlineChange],
    ) -> Result<()>;

    /// Makes `changes` in a separate transaction.
    ///
    /// # Errors
    /// A [write error](crate::Error#write-errors).
    ///
    /// # Cancel safety
    /// A dropped call may still commit, but never in part.
    async fn settle_deadlines(&self, process: &ProjectionName, changes: &[DeadlineChange]) -> Result<()>;

    /// Returns at most `limit` deadlines that are due at `now`, the earliest first.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn due_deadlines(&self, process: &ProjectionName, now: DateTime<Utc>, limit: usize) -> Result<Vec<Deadline>>;

    /// Makes a deadline due again at `until`, after an attempt to handle it failed, and counts the attempt. A database stores `error` for
    /// operators to read.
    ///
    /// # Errors
    /// A [write error](crate::Error#write-errors).
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

/// Splits `changes` into the deadlines to add and the ids of those to delete. A deadline that the same changes set and end is only deleted.
pub fn parts(changes: &[DeadlineChange]) -> (Vec<&Deadline>, Vec<Uuid>) {
    let (mut set, mut ended) = (Vec::new(), Vec::new());
    for change in changes {
        match change {
            DeadlineChange::Set(deadline) => set.push(deadline),
            DeadlineChange::End(id) => ended.push(*id),
        }
    }
    let gone: HashSet<_> = ended.iter().collect();
    set.retain(|deadline| !gone.contains(&deadline.id));
    (set, ended)
}

/// The columns of a deadline row, as every database stores them.
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub(crate) struct DeadlineColumns<'r> {
    pub(crate) id: Uuid,
    pub(crate) key: &'r str,
    pub(crate) name: &'r str,
    pub(crate) at: DateTime<Utc>,
    pub(crate) correlation_id: Option<Uuid>,
    pub(crate) causation_id: Option<Uuid>,
    pub(crate) trace: Option<&'r str>,
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
            causation_id: self.causation_id.map(Into::into),
            trace: self.trace.map(str::parse).transpose().map_err(|error| corrupt(format!("its trace: {error}")))?,
            attempts: u32::try_from(self.attempts).map_err(|_| corrupt(format!("{} attempts", self.attempts)))?,
        })
    }
}
