//! The changes that an operator makes to a projection, and the record of them.

use std::fmt;

use chrono::{DateTime, SubsecRound, Utc};
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::id::{EventId, Generation, MAX_NAME_BYTES, Position, ProjectionName, StreamId, Version};
use crate::store::log::shapes::program_name;
use crate::store::model::checkpoint::ProjectionState;
use crate::store::model::processors::RegisteredProcessor;

/// The most bytes of the reason of an intervention.
const MAX_REASON_BYTES: usize = 4_096;

/// The operator of an intervention, and the reason for it.
///
/// # Examples
/// ```
/// use retell::store::By;
///
/// let by = By::new("ada", "the warehouse moves tonight");
/// assert!(by.check().is_ok());
/// assert!(By::new("ada", "").check().is_err());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct By {
    /// The name of the operator, 1 to 255 bytes.
    pub who: String,
    /// The reason, 1 to 4,096 bytes.
    pub reason: String,
}

impl By {
    /// Creates the operator `who` with their `reason`.
    pub fn new(who: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { who: who.into(), reason: reason.into() }
    }

    /// Creates the operator of a change that this program makes, with its `reason`.
    pub fn program(reason: impl Into<String>) -> Self {
        let mut who = format!("the program {}", program_name());
        who.truncate(who.floor_char_boundary(MAX_NAME_BYTES));
        Self::new(who, reason)
    }

    /// Checks that every store can keep the texts.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if a text is empty or too long, or contains NUL.
    pub fn check(&self) -> Result<()> {
        for (what, text, most) in [("operator", &self.who, MAX_NAME_BYTES), ("reason", &self.reason, MAX_REASON_BYTES)]
        {
            let problem = match text.len() {
                0 => "is empty".to_owned(),
                bytes if bytes > most => format!("has {bytes} bytes, at most {most} are allowed"),
                _ if text.contains('\0') => "contains a NUL character".to_owned(),
                _ => continue,
            };
            return Err(ErrorKind::Invalid(format!("the {what} of an intervention {problem}")).into());
        }
        Ok(())
    }
}

/// A change that an operator makes to a projection, as [`ReadModel::intervene`](crate::ReadModel::intervene) takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Intervention {
    /// Pauses the projection.
    Pause,
    /// Retires the projection: pauses it, and the pause is meant to be final.
    Retire,
    /// Ends a pause or a retirement.
    Resume,
    /// Makes a parked aggregate due, as [`retry_parked`](crate::ReadModel::retry_parked).
    RetryParked(StreamId),
    /// Skips the event that a parked aggregate fails on.
    SkipParked {
        /// The stream of the aggregate.
        stream: StreamId,
        /// The version of the event.
        version: Version,
        /// The id of the event, if it is known. Then only this event is skipped, even if the log is replaced by another one.
        event_id: Option<EventId>,
    },
    /// Withdraws a skip: the next replay of the log applies the event.
    WithdrawSkip {
        /// The stream of the aggregate.
        stream: StreamId,
        /// The version of the event.
        version: Version,
    },
    /// Removes a registration, as [`forget_processor`](crate::ReadModel::forget_processor).
    ForgetProcessor(RegisteredProcessor),
}

impl Intervention {
    /// Returns the action of the record.
    pub fn action(&self) -> Action {
        match self {
            Self::Pause => Action::Pause,
            Self::Retire => Action::Retire,
            Self::Resume => Action::Resume,
            Self::RetryParked(_) => Action::RetryParked,
            Self::SkipParked { .. } => Action::SkipParked,
            Self::WithdrawSkip { .. } => Action::WithdrawSkip,
            Self::ForgetProcessor(_) => Action::ForgetProcessor,
        }
    }

    /// Returns the target of the record: the projection, and the aggregate and version if there are any.
    pub fn target(&self, projection: &ProjectionName) -> String {
        match self {
            Self::Pause | Self::Retire | Self::Resume => projection.to_string(),
            Self::RetryParked(stream) => format!("{projection} {stream}"),
            Self::SkipParked { stream, version, .. } | Self::WithdrawSkip { stream, version } => {
                format!("{projection} {stream} {version}")
            }
            Self::ForgetProcessor(processor) => format!("{projection} {}", processor.stored()),
        }
    }

    /// Returns whether the workers must read the projection's rows again: a store then increments
    /// [`Parking::changes`](crate::store::Parking::changes).
    pub fn counts(&self) -> bool {
        !matches!(self, Self::RetryParked(_))
    }

    /// Returns the pause that this change begins in place of `before`; `None` if `before` stays. Only a retirement replaces a pause, and nothing
    /// replaces a retirement.
    pub fn pause_after(&self, before: Option<&Pause>, by: &By) -> Option<Pause> {
        let pause = match self {
            Self::Pause => Pause::now(by),
            Self::Retire => Pause::now(by).with_retired(true),
            _ => return None,
        };
        before.is_none_or(|before| pause.retired && !before.retired).then_some(pause)
    }
}

/// The kind of a change in the [audit](AuditEntry).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Action {
    /// A projection was paused.
    Pause,
    /// A projection was retired.
    Retire,
    /// A pause or a retirement was ended.
    Resume,
    /// A parked aggregate was made due.
    RetryParked,
    /// An event of a parked aggregate was skipped.
    SkipParked,
    /// A skip was withdrawn.
    WithdrawSkip,
    /// The registration of a release was removed.
    ForgetProcessor,
    /// Old idempotency keys were deleted.
    PruneKeys,
    /// Rows of an inbox were deleted.
    PruneInbox,
    /// Rows of commits that have positions were deleted.
    PruneCommits,
    /// A projection was moved to another position.
    Reset,
    /// Readers of a view were switched to another generation.
    Switch,
    /// The deletion of a generation of a view has begun.
    DeleteGeneration,
    /// A relay was moved to another position.
    ResetRelay,
    /// Tables were created or updated.
    Migrate,
}

impl Action {
    const ALL: [Self; 15] = [
        Self::Pause,
        Self::Retire,
        Self::Resume,
        Self::RetryParked,
        Self::SkipParked,
        Self::WithdrawSkip,
        Self::ForgetProcessor,
        Self::PruneKeys,
        Self::PruneInbox,
        Self::PruneCommits,
        Self::Reset,
        Self::Switch,
        Self::DeleteGeneration,
        Self::ResetRelay,
        Self::Migrate,
    ];

    /// Returns the stored form of the action.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pause => "pause",
            Self::Retire => "retire",
            Self::Resume => "resume",
            Self::RetryParked => "retry_parked",
            Self::SkipParked => "skip_parked",
            Self::WithdrawSkip => "withdraw_skip",
            Self::ForgetProcessor => "forget_processor",
            Self::PruneKeys => "prune_keys",
            Self::PruneInbox => "prune_inbox",
            Self::PruneCommits => "prune_commits",
            Self::Reset => "reset",
            Self::Switch => "switch",
            Self::DeleteGeneration => "delete_generation",
            Self::ResetRelay => "reset_relay",
            Self::Migrate => "migrate",
        }
    }

    /// Parses the stored form of an action.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if `stored` is not the stored form of an action.
    pub fn parse(stored: &str) -> Result<Self> {
        let known = Self::ALL.into_iter().find(|action| action.as_str() == stored);
        known.ok_or_else(|| ErrorKind::Corrupt(format!("unknown action {stored:?}")).into())
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The record of an intervention. It is written in the transaction of the change, and never changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AuditEntry {
    /// Its number. Later records have greater numbers, and numbers may be missing.
    pub id: u64,
    /// When the change was made, by the clock of the program, to the microsecond.
    pub at: DateTime<Utc>,
    /// The operator and their reason.
    #[serde(flatten)]
    pub by: By,
    /// The change.
    pub action: Action,
    /// The changed part: the projection, relay or tables, and the aggregate and version, the position, the generation or the number of the schema if
    /// there are any.
    pub target: String,
    /// The number of changed rows.
    pub count: u64,
}

impl AuditEntry {
    /// Creates the record of a change to `target`, made now. A store sets its number.
    pub fn new(action: Action, target: impl Into<String>, by: &By) -> Self {
        let at = Utc::now().trunc_subsecs(6);
        Self { id: 0, at, by: by.clone(), action, target: target.into(), count: 1 }
    }

    /// Sets the number of changed rows.
    pub fn with_count(mut self, rows: u64) -> Self {
        self.count = rows;
        self
    }

    /// Creates the record of a projection that is moved to `to`.
    pub fn reset(projection: &ProjectionName, to: Position, by: &By) -> Self {
        Self::new(Action::Reset, format!("{projection} to position {to}"), by)
    }

    /// Creates the record of readers of `view` that are switched to another generation.
    pub fn switch(view: &ProjectionName, from: Generation, to: Generation, by: &By) -> Self {
        Self::new(Action::Switch, format!("{view} from generation {from} to {to}"), by)
    }

    /// Creates the record of a generation, by the name of its projection, whose deletion begins.
    pub fn delete_generation(projection: &ProjectionName, by: &By) -> Self {
        Self::new(Action::DeleteGeneration, projection.as_str(), by)
    }

    /// Creates the record of a relay that is moved to `to`.
    pub fn reset_relay(relay: &str, to: Position, by: &By) -> Self {
        Self::new(Action::ResetRelay, format!("{relay} to position {to}"), by)
    }
}

/// The pause of a projection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Pause {
    /// When it began, by the clock of the program, to the microsecond.
    pub since: DateTime<Utc>,
    /// The operator and their reason.
    #[serde(flatten)]
    pub by: By,
    /// Whether it is meant to be final, because no program has the projection any more.
    pub retired: bool,
}

impl Pause {
    /// Creates a pause from its parts.
    pub fn new(since: DateTime<Utc>, by: By) -> Self {
        Self { since, by, retired: false }
    }

    /// Creates a pause that begins now.
    pub fn now(by: &By) -> Self {
        Self::new(Utc::now().trunc_subsecs(6), by.clone())
    }

    /// Sets whether the pause is meant to be final.
    pub fn with_retired(self, retired: bool) -> Self {
        Self { retired, ..self }
    }

    /// Returns the error of a call that a pause of `projection` refuses.
    pub fn refuse(self, projection: &ProjectionName) -> Error {
        let Self { since, by: By { who, reason }, retired } = self;
        ErrorKind::Paused { projection: projection.clone(), since, who, reason, retired }.into()
    }
}

impl fmt::Display for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.by.who, self.by.reason)
    }
}

/// Refuses to pause or retire a projection that no worker runs.
///
/// # Errors
/// [`ErrorKind::Invalid`] if appends apply the projection, or if it is being deleted.
pub fn check_pausable(projection: &ProjectionName, state: ProjectionState) -> Result<()> {
    let problem = match state {
        ProjectionState::Running => return Ok(()),
        ProjectionState::Inline => "is applied inline by the appends: it cannot be paused or retired",
        ProjectionState::Deleting => "is being deleted: it cannot be paused or retired",
    };
    Err(ErrorKind::Invalid(format!("projection {projection} {problem}")).into())
}

/// The columns of a record: number, time, operator, action, target, reason, count.
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub(crate) type AuditColumns = (i64, DateTime<Utc>, String, String, String, String, i64);

/// Parses a stored record.
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub(crate) fn audit_entry((id, at, who, action, target, reason, count): AuditColumns) -> Result<AuditEntry> {
    let (id, count, by) = (id.unsigned_abs(), count.unsigned_abs(), By::new(who, reason));
    Ok(AuditEntry { id, at, by, action: Action::parse(&action)?, target, count })
}
