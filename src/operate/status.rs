//! How far relays and processors are.

use std::collections::BTreeMap;

use chrono::{DateTime, SubsecRound, Utc};

use crate::error::Result;
use crate::event::RecordedEvent;
use crate::id::mark::Mark;
use crate::id::{Generation, Position, ProjectionName};
use crate::operate::report::{
    Blocked, Count, Deadlines, DueDeadline, Generations, Head, Lag, List, MAX_BLOCKERS, MAX_DUE, MAX_PARKED,
    MAX_PROCESSORS, MAX_RELAYS, MAX_RELEASES, MAX_SKIPPED, Order, ParkedAggregate, ParkedCounts, Processor, RelayPlace,
    Report, ViewGeneration,
};
use crate::store::log::query::Filter;
use crate::store::log::reader::{EventReader, EventReaderExt};
use crate::store::log::relay::{RelayStatus, RelayStore};
use crate::store::model::checkpoint::{ProjectionState, ProjectionStatus};
use crate::store::model::deadlines::DeadlineStore;
use crate::store::model::parking::ParkedState;
use crate::store::model::processors::ProcessorKind;
use crate::store::model::views::{ViewId, ViewStore};

/// Reports how far the relays of `log` and the processors of `models` are, and what needs attention.
///
/// The [lag](Lag) in seconds is the age of the first event after a checkpoint, whether the processor wants the event or not: finding the first
/// one that it wants could mean to read the whole log.
///
/// # Examples
/// ```
/// use retell::prelude::*;
/// use retell::operate;
///
/// #[derive(Debug, Event)]
/// enum ShelfEvent {
///     #[event("shelf.filled")]
///     Filled { books: u32 },
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let log = MemoryStore::new();
/// log.append_events(("shelf", "1"), ExpectedVersion::NoStream, [ShelfEvent::Filled { books: 12 }]).await?;
/// let report = operate::status(&log, &log.read_model()).await?;
/// assert_eq!(report.head.position, Position::new(1));
/// assert!(report.processors.items.is_empty());
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
///
/// # Errors
/// A [read error](crate::Error#read-errors).
pub async fn status<L, M>(log: &L, models: &M) -> Result<Report>
where
    L: EventReader + RelayStore + ?Sized,
    M: ViewStore + DeadlineStore + ?Sized,
{
    status_of(log, log, models).await
}

/// Reports the commits that have no position, and the sessions that can block them. While a transaction blocks them, the end of the log cannot be
/// read, so [`status`] fails, and this does not.
///
/// # Examples
/// ```
/// use retell::operate;
/// use retell::prelude::*;
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let blocked = operate::blocked(&MemoryStore::new()).await?;
/// for blocker in &blocked.blockers.items {
///     println!("session {} has a transaction open for {} s", blocker.session, blocker.seconds);
/// }
/// assert_eq!(blocked.unsequenced, 0);
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
///
/// # Errors
/// A [read error](crate::Error#read-errors).
pub async fn blocked<L: EventReader + ?Sized>(log: &L) -> Result<Blocked> {
    let unsequenced = log.unsequenced().await?;
    let blockers = if unsequenced > 0 { log.blockers(MAX_BLOCKERS + 1).await? } else { Vec::new() };
    Ok(Blocked { unsequenced, blockers: List::first(blockers, MAX_BLOCKERS) })
}

/// Reports on a log whose reader and relays are separate handles.
pub(super) async fn status_of<L, R, M>(log: &L, relays_of: &R, models: &M) -> Result<Report>
where
    L: EventReader + ?Sized,
    R: RelayStore + ?Sized,
    M: ViewStore + DeadlineStore + ?Sized,
{
    let at = Utc::now().trunc_subsecs(6);
    let head = log.head().await?;
    let recorded_at = log.event_at(head).await?.map(|event| event.recorded_at);
    let end = End { at, head };
    let relays = match relays_of.relay_statuses(MAX_RELAYS + 1).await? {
        Some(statuses) => Some(relays(log, end, statuses).await?),
        None => None,
    };
    let listed = List::first(models.projections(MAX_PROCESSORS + 1).await?, MAX_PROCESSORS);
    let (mut items, mut deadlines) = (Vec::new(), Vec::new());
    for status in &listed.items {
        let processor = processor(log, models, end, status).await?;
        if !processor.is_retired() {
            deadlines.extend(due(models, at, &status.projection).await?);
        }
        items.push(processor);
    }
    let views = views(models, &items).await?;
    let Blocked { unsequenced, blockers } = blocked(log).await?;
    Ok(Report {
        at,
        head: Head { position: head, recorded_at },
        unsequenced,
        blockers,
        relays,
        processors: List { items, truncated: listed.truncated },
        views,
        deadlines,
    })
}

/// The end of the log, and when it was read.
#[derive(Clone, Copy)]
struct End {
    at: DateTime<Utc>,
    head: Position,
}

impl End {
    /// Returns how far a reader at `mark` is behind; `None` if the log does not have the event at its place.
    async fn lag(self, log: &(impl EventReader + ?Sized), mark: Mark) -> Result<Option<Lag>> {
        let next = match log.read_all(mark, 1, &Filter::all()).await {
            Ok(page) => page.events.into_iter().next(),
            Err(error) if error.is_history_changed() => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some(self.lag_to(mark.position, next.as_ref())))
    }

    fn lag_to(self, position: Position, next: Option<&RecordedEvent>) -> Lag {
        let events = self.head.since(position);
        // An event that was appended after the head was read is not counted, so its age is not, either.
        let next = next.filter(|_| events > 0);
        Lag { events, seconds: next.map_or(0, |next| self.age(next.recorded_at)) }
    }

    /// Returns the age of an event in whole seconds. The clock of the store may be ahead of the one of this process.
    fn age(self, recorded_at: DateTime<Utc>) -> u64 {
        (self.at - recorded_at).num_seconds().max(0).unsigned_abs()
    }
}

async fn relays(log: &(impl EventReader + ?Sized), end: End, statuses: Vec<RelayStatus>) -> Result<List<RelayPlace>> {
    let statuses = List::first(statuses, MAX_RELAYS);
    let mut items = Vec::new();
    for RelayStatus { relay, mark, leader } in statuses.items {
        let lag = end.lag(log, mark).await?;
        let history_changed = lag.is_none();
        items.push(RelayPlace { name: relay, position: mark.position, lag, history_changed, leader });
    }
    Ok(List { items, truncated: statuses.truncated })
}

async fn processor<L, M>(log: &L, models: &M, end: End, status: &ProjectionStatus) -> Result<Processor>
where
    L: EventReader + ?Sized,
    M: ViewStore + ?Sized,
{
    let name = &status.projection;
    let paused = models.paused(name).await?;
    let (lag, history_changed) = match status.state {
        _ if paused.as_ref().is_some_and(|pause| pause.retired) => (None, false),
        ProjectionState::Deleting => (None, false),
        // The appends move its checkpoint.
        ProjectionState::Inline => (Some(Lag { events: 0, seconds: 0 }), false),
        ProjectionState::Running => {
            let lag = end.lag(log, status.mark).await?;
            (lag, lag.is_none())
        }
    };
    let mut releases = models.processors(name).await?;
    let older = releases.len().saturating_sub(MAX_RELEASES);
    releases.drain(..older);
    Ok(Processor {
        name: name.clone(),
        kind: releases.last().map(|newest| newest.kind),
        state: status.state,
        order: if status.per_aggregate { Order::Aggregate } else { Order::Log },
        checkpoint: status.mark.position,
        lag,
        history_changed,
        releases: List { items: releases, truncated: older > 0 },
        parked: parked(log, models, end, name).await?,
        paused,
        skipped: List::first(models.skipped(name, None, MAX_SKIPPED + 1).await?, MAX_SKIPPED),
    })
}

async fn parked<L, M>(log: &L, models: &M, end: End, name: &ProjectionName) -> Result<ParkedCounts>
where
    L: EventReader + ?Sized,
    M: ViewStore + ?Sized,
{
    let rows = models.parked(name, None, MAX_PARKED + 1).await?;
    let count = |state| Count::of(&rows, MAX_PARKED, |parked| parked.state == state);
    let (waiting, dead) = (count(ParkedState::Waiting), count(ParkedState::Dead));
    let oldest = match rows.into_iter().next() {
        Some(parked) => {
            let recorded_at = log.event_at(parked.from_position).await?.map(|event| event.recorded_at);
            Some(ParkedAggregate::of(parked, recorded_at))
        }
        None => None,
    };
    let oldest_seconds = oldest.as_ref().and_then(|oldest| oldest.recorded_at).map(|time| end.age(time));
    Ok(ParkedCounts { waiting, dead, oldest, oldest_seconds })
}

async fn due<M>(models: &M, at: DateTime<Utc>, process: &ProjectionName) -> Result<Option<Deadlines>>
where
    M: DeadlineStore + ?Sized,
{
    let rows = models.due_deadlines(process, at, MAX_DUE + 1).await?;
    let due = Count::of(&rows, MAX_DUE, |_| true);
    let oldest = rows.into_iter().next().map(|first| DueDeadline {
        key: first.key,
        name: first.name,
        at: first.at,
        attempts: first.attempts,
    });
    Ok(oldest.map(|oldest| Deadlines { process: process.clone(), due, oldest }))
}

async fn views<M>(models: &M, processors: &[Processor]) -> Result<Vec<Generations>>
where
    M: ViewStore + ?Sized,
{
    let mut views: BTreeMap<ProjectionName, (bool, Vec<ViewGeneration>)> = BTreeMap::new();
    for Processor { name, kind, .. } in processors {
        let Some((view, generation)) = generation_of(name) else { continue };
        let (is_view, generations) = views.entry(view).or_default();
        *is_view |= *kind == Some(ProcessorKind::View) || generation != ViewId::FIRST;
        generations.push(ViewGeneration { generation, processor: name.clone() });
    }
    let mut found = Vec::new();
    for (view, (is_view, mut generations)) in views {
        let live = models.live_generation(&view).await?;
        if is_view || live != ViewId::FIRST {
            generations.sort_by_key(|one| one.generation);
            found.push(Generations { view, live, generations });
        }
    }
    Ok(found)
}

/// Returns the view and the generation that a processor is called after; `None` if no view can have the name.
fn generation_of(processor: &ProjectionName) -> Option<(ProjectionName, Generation)> {
    let (view, generation) = match processor.as_str().split_once('@') {
        Some((view, number)) => (view, number.parse().ok()?),
        None => (processor.as_str(), ViewId::FIRST),
    };
    let id = ViewId::new(view, generation).ok()?;
    (id.projection() == processor).then(|| (id.view().clone(), generation))
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::codec::Codec;
    use crate::event::NewEvent;
    use crate::id::{EventId, EventType, StreamId, Version};

    fn event(recorded_at: DateTime<Utc>) -> RecordedEvent {
        let event_type = EventType::new("order.placed").expect("a valid name");
        let event = NewEvent::stored(EventId::generate(), event_type, 1, Codec::Json, "{}".into());
        let stream = StreamId::parse("order", "1").expect("a valid stream");
        RecordedEvent::new(Position::new(4), stream, Version::new(1), recorded_at, event)
    }

    #[test]
    fn lag_is_the_age_of_the_next_event() {
        let end = End { at: Utc::now(), head: Position::new(9) };
        let old = event(end.at - TimeDelta::milliseconds(90_900));
        assert_eq!(end.lag_to(Position::new(3), Some(&old)), Lag { events: 6, seconds: 90 });
        assert_eq!(end.lag_to(Position::new(9), Some(&old)), Lag { events: 0, seconds: 0 });
        assert_eq!(end.lag_to(Position::new(12), None), Lag { events: 0, seconds: 0 });
        let future = event(end.at + TimeDelta::seconds(5));
        assert_eq!(end.lag_to(Position::new(3), Some(&future)), Lag { events: 6, seconds: 0 });
    }

    #[test]
    fn generation_is_read_from_the_name() {
        let of = |name: &str| {
            let found = generation_of(&ProjectionName::new(name).expect("a valid name"));
            found.map(|(view, generation)| (view.as_str().to_owned(), generation.get()))
        };
        assert_eq!(of("orders"), Some(("orders".into(), 1)));
        assert_eq!(of("orders@12"), Some(("orders".into(), 12)));
        for other in ["orders@1", "orders@02", "orders@", "orders@x", "@2", "a@b@2"] {
            assert_eq!(of(other), None, "{other}");
        }
    }
}
