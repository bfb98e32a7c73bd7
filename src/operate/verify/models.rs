//! Compares what processors and callers remember with the log: idempotency keys, progress, and inboxes.

use futures::{StreamExt, TryStreamExt, stream};

use crate::error::Result;
use crate::id::Version;
use crate::operate::places::is_ahead;
use crate::operate::report::MAX_PROCESSORS;
use crate::operate::verify::found::Found;
use crate::store::log::fault::{Fault, FaultId};
use crate::store::log::inspect::Inspect;
use crate::store::log::query::Query;
use crate::store::log::reader::{EventReader, EventReaderExt};
use crate::store::model::listing::{HandledEvent, ProgressRow};
use crate::store::model::read_model::ReadModel;

/// Rows that are listed at once.
const PAGE: usize = 1_000;

/// Events that are looked up concurrently.
const CONCURRENT: usize = 8;

/// Adds the idempotency keys whose events are missing.
pub(super) async fn add_keys(
    log: &(impl Inspect + ?Sized),
    found: &mut Found,
    unchecked: &mut Vec<String>,
) -> Result<()> {
    let mut after = String::new();
    while !found.is_truncated {
        let Some(page) = log.keys(&after, PAGE).await? else {
            unchecked.push("idempotency keys".to_owned());
            return Ok(());
        };
        let Some(last) = page.last() else { return Ok(()) };
        after.clone_from(&last.key);
        for row in page.into_iter().filter(|row| !row.is_whole) {
            let fault =
                Fault::new(FaultId::KeyStray, format!("the log does not have the events of the key {}", row.key));
            found.add(match row.position {
                Some(position) => fault.with_positions(position, position),
                None => fault,
            });
        }
    }
    Ok(())
}

/// Adds the starts of reactions, the progress rows and the inbox rows that do not match the log.
pub(super) async fn add_models<L, M>(log: &L, models: &M, found: &mut Found, unchecked: &mut Vec<String>) -> Result<()>
where
    L: EventReader + ?Sized,
    M: ReadModel + ?Sized,
{
    for start in models.reactions(MAX_PROCESSORS).await?.into_iter().flatten() {
        if is_ahead(log, start.begins_after).await? {
            let detail = format!("{} starts after a place that is not in the log", start.reaction);
            let position = start.begins_after.position;
            found.add(Fault::new(FaultId::StartAhead, detail).with_positions(position, position));
        }
    }
    if !add_progress(log, models, found).await? {
        unchecked.push("progress of aggregates".to_owned());
    }
    if !add_handled(log, models, found).await? {
        unchecked.push("inboxes".to_owned());
    }
    Ok(())
}

/// Returns whether the read model lists its progress.
async fn add_progress<L, M>(log: &L, models: &M, found: &mut Found) -> Result<bool>
where
    L: EventReader + ?Sized,
    M: ReadModel + ?Sized,
{
    let mut after: Option<ProgressRow> = None;
    while !found.is_truncated {
        let Some(page) = models.list_progress(after.as_ref(), PAGE).await? else { return Ok(false) };
        // A closure over references would not be `Send` enough for a caller behind a port.
        let mut checks = Vec::new();
        for row in &page {
            checks.push(progress_fault(log, models, row));
        }
        let faults: Vec<_> = stream::iter(checks).buffered(CONCURRENT).try_collect().await?;
        faults.into_iter().flatten().for_each(|fault| found.add(fault));
        after = page.into_iter().next_back();
        if after.is_none() {
            break;
        }
    }
    Ok(true)
}

async fn progress_fault<L, M>(log: &L, models: &M, row: &ProgressRow) -> Result<Option<Fault>>
where
    L: EventReader + ?Sized,
    M: ReadModel + ?Sized,
{
    let ProgressRow { projection, stream, applied, seen, seen_id } = row;
    let fault = |id, problem: &str| {
        let (kind, aggregate) = (stream.aggregate_type().as_str(), stream.aggregate_id().as_str());
        let version = i64::try_from(seen.get()).unwrap_or(i64::MAX);
        Ok(Some(Fault::new(id, format!("{projection} {problem}")).with_stream(kind, aggregate, Some(version))))
    };
    if let Some(before) = seen.get().checked_sub(1) {
        let events = log.read_stream(stream, Version::new(before), 1).await?;
        let is_there =
            events.first().is_some_and(|event| event.version == *seen && seen_id.is_none_or(|id| id == event.event.id));
        if !is_there {
            return fault(FaultId::ProgressAhead, "has seen an event that is not in the log");
        }
    }
    let is_parked = seen > applied;
    if applied > seen || is_parked && models.parked(projection, Some(stream), 1).await?.is_empty() {
        return fault(FaultId::ProgressDamaged, "has not applied the event, and has not parked the aggregate");
    }
    Ok(None)
}

/// Returns whether the read model lists its inboxes.
async fn add_handled<L, M>(log: &L, models: &M, found: &mut Found) -> Result<bool>
where
    L: EventReader + ?Sized,
    M: ReadModel + ?Sized,
{
    let mut after: Option<HandledEvent> = None;
    while !found.is_truncated {
        let Some(page) = models.list_handled(after.as_ref(), PAGE).await? else { return Ok(false) };
        let mut checks = Vec::new();
        for row in &page {
            checks.push(is_missing(log, row));
        }
        let missing: Vec<bool> = stream::iter(checks).buffered(CONCURRENT).try_collect().await?;
        for (row, _) in page.iter().zip(missing).filter(|(row, is_missing)| *is_missing && !may_be_part(row)) {
            let detail = format!("{} has handled event {}, which is not in the log", row.reaction, row.event_id);
            found.add(Fault::new(FaultId::InboxStray, detail));
        }
        after = page.into_iter().next_back();
        if after.is_none() {
            break;
        }
    }
    Ok(true)
}

async fn is_missing<L: EventReader + ?Sized>(log: &L, row: &HandledEvent) -> Result<bool> {
    let page = log.read(Query::event(row.event_id)).await?;
    Ok(page.events.is_empty())
}

/// Returns whether the id may be derived from that of a stored event that was split. The id does not tell from which.
fn may_be_part(row: &HandledEvent) -> bool {
    row.event_id.as_uuid().get_version_num() == 5
}
