//! The changes that an operator makes, each with its record.

use crate::error::Result;
use crate::id::{ProjectionName, StreamId, Version};
use crate::store::log::reader::{EventReader, EventReaderExt};
use crate::store::log::relay::RelayStore;
use crate::store::model::interventions::{AuditEntry, By, Intervention};
use crate::store::model::processors::RegisteredProcessor;
use crate::store::model::read_model::ReadModel;

/// The most records of one [`audit`].
pub const MAX_ENTRIES: usize = 1_000;

/// Pauses `processor`, as [`ReadModel::pause`]. Returns `false` if it was paused before.
///
/// # Examples
/// ```
/// use retell::operate;
/// use retell::prelude::*;
/// use retell::store::{By, Step};
/// use retell::{ProjectionName, ReadModel};
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let (models, totals) = (MemoryReadModel::new(), ProjectionName::new("totals")?);
/// let step = Step::new(&totals, Position::ZERO, Position::new(1));
/// models.commit(step, Box::new(|_| Box::pin(async { Ok(()) }))).await?;
/// assert!(operate::pause(&models, &totals, &By::new("ada", "the table is copied")).await?);
/// assert!(!operate::pause(&models, &totals, &By::new("bob", "the same")).await?);
/// assert!(operate::resume(&models, &totals, &By::new("ada", "the table is copied")).await?);
///
/// let audit = operate::audit(&models, 10, None).await?;
/// let actions: Vec<_> = audit.iter().map(|entry| (entry.action.as_str(), entry.by.who.as_str())).collect();
/// assert_eq!(actions, [("resume", "ada"), ("pause", "ada")]);
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
///
/// # Errors
/// The errors of [`ReadModel::intervene`].
///
/// # Cancel safety
/// A dropped call may still pause the processor.
pub async fn pause<M: ReadModel + ?Sized>(models: &M, processor: &ProjectionName, by: &By) -> Result<bool> {
    models.intervene(processor, Intervention::Pause, by).await
}

/// Retires `processor`, as [`ReadModel::retire`]. Returns `false` if it was retired before.
///
/// For a processor that no program has any more: [`status`](super::status()) no longer counts how far it is behind, and [`prune`](super::prune())
/// keeps no keys for it. Nothing is deleted.
///
/// # Examples
/// ```
/// use retell::operate;
/// use retell::prelude::*;
/// use retell::store::{By, Step};
/// use retell::{ProjectionName, ReadModel};
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let (log, totals) = (MemoryStore::new(), ProjectionName::new("totals")?);
/// let models = log.read_model();
/// let step = Step::new(&totals, Position::ZERO, Position::ZERO);
/// models.commit(step, Box::new(|_| Box::pin(async { Ok(()) }))).await?;
/// assert!(operate::retire(&models, &totals, &By::new("ada", "replaced by sums")).await?);
///
/// let report = operate::status(&log, &models).await?;
/// let totals = &report.processors.items[0];
/// assert!(totals.is_retired() && totals.lag.is_none());
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
///
/// # Errors
/// The errors of [`ReadModel::intervene`].
///
/// # Cancel safety
/// A dropped call may still retire the processor.
pub async fn retire<M: ReadModel + ?Sized>(models: &M, processor: &ProjectionName, by: &By) -> Result<bool> {
    models.intervene(processor, Intervention::Retire, by).await
}

/// Ends the pause or the retirement of `processor`, as [`ReadModel::resume`]. Returns `false` if it was neither paused nor retired.
///
/// # Errors
/// The errors of [`ReadModel::intervene`].
///
/// # Cancel safety
/// A dropped call may still resume the processor.
pub async fn resume<M: ReadModel + ?Sized>(models: &M, processor: &ProjectionName, by: &By) -> Result<bool> {
    models.intervene(processor, Intervention::Resume, by).await
}

/// Skips the event on which `processor` has parked an aggregate, as [`ReadModel::skip_parked`], and notes its id from `log`. Returns `false` if
/// it is skipped already.
///
/// # Errors
/// [`NotParked`](crate::ErrorKind::NotParked) if the aggregate is not parked from exactly `version`, otherwise the errors of
/// [`ReadModel::intervene`] and a [read error](crate::Error#read-errors) of `log`.
///
/// # Cancel safety
/// A dropped call may still skip the event.
pub async fn skip_parked<L, M>(
    log: &L,
    models: &M,
    processor: &ProjectionName,
    (stream, version): (&StreamId, Version),
    by: &By,
) -> Result<bool>
where
    L: EventReader + ?Sized,
    M: ReadModel + ?Sized,
{
    let before = Version::new(version.get().saturating_sub(1));
    let found = log.read_stream(stream, before, 1).await?;
    let event_id = found.first().filter(|event| event.version == version).map(|event| event.event.id);
    let skip = Intervention::SkipParked { stream: stream.clone(), version, event_id };
    models.intervene(processor, skip, by).await
}

/// Withdraws the skip of an event: the next [`reset`](ReadModel::reset) or build of `processor` applies it. Changes nothing before, because the
/// later events of the aggregate are applied. Returns `false` if the event is not skipped.
///
/// # Errors
/// The errors of [`ReadModel::intervene`].
///
/// # Cancel safety
/// A dropped call may still withdraw the skip.
pub async fn withdraw_skip<M: ReadModel + ?Sized>(
    models: &M,
    processor: &ProjectionName,
    stream: &StreamId,
    version: Version,
    by: &By,
) -> Result<bool> {
    models.intervene(processor, Intervention::WithdrawSkip { stream: stream.clone(), version }, by).await
}

/// Makes a parked aggregate due, as [`ReadModel::retry_parked`], and records it. Returns `false` if the aggregate is not parked.
///
/// # Errors
/// The errors of [`ReadModel::intervene`].
///
/// # Cancel safety
/// A dropped call may still make the aggregate due.
pub async fn retry_parked<M: ReadModel + ?Sized>(
    models: &M,
    processor: &ProjectionName,
    stream: &StreamId,
    by: &By,
) -> Result<bool> {
    models.intervene(processor, Intervention::RetryParked(stream.clone()), by).await
}

/// Removes the registration of a release, as [`ReadModel::forget_processor`], and records it. Returns `false` if it is not registered.
///
/// # Errors
/// The errors of [`ReadModel::intervene`].
///
/// # Cancel safety
/// A dropped call may still remove the registration.
pub async fn forget_processor<M: ReadModel + ?Sized>(
    models: &M,
    processor: &ProjectionName,
    release: &RegisteredProcessor,
    by: &By,
) -> Result<bool> {
    models.intervene(processor, Intervention::ForgetProcessor(release.clone()), by).await
}

/// Returns the last `limit` records of what operators have changed, at most [`MAX_ENTRIES`], the newest first. To read on, pass the number of
/// the last one as `before`.
///
/// # Errors
/// A [read error](crate::Error#read-errors).
pub async fn audit<M: ReadModel + ?Sized>(models: &M, limit: usize, before: Option<u64>) -> Result<Vec<AuditEntry>> {
    models.audit(limit.min(MAX_ENTRIES), before).await
}

/// Returns the last `limit` records of the read models and of the log, at most [`MAX_ENTRIES`], the newest first. The log records the resets of
/// relays. If both share a database, each record is listed once.
///
/// # Errors
/// A [read error](crate::Error#read-errors).
pub async fn audit_with_log<L, M>(log: &L, models: &M, limit: usize) -> Result<Vec<AuditEntry>>
where
    L: RelayStore + ?Sized,
    M: ReadModel + ?Sized,
{
    let limit = limit.min(MAX_ENTRIES);
    let mut entries = models.audit(limit, None).await?;
    for entry in log.relay_audit(limit, None).await? {
        if !entries.contains(&entry) {
            entries.push(entry);
        }
    }
    entries.sort_by_key(|entry| std::cmp::Reverse((entry.at, entry.id)));
    entries.truncate(limit);
    Ok(entries)
}
