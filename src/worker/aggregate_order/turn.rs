//! A transaction of order per aggregate: finds the events to apply while it holds the rows, and applies them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::Utc;
use futures::FutureExt;
use tracing::Span;

use crate::error::{ErrorKind, Result};
use crate::event::RecordedEvent;
use crate::id::{EventId, Position, ProjectionName, StreamId, Version};
use crate::metrics::worker::WorkerMeter;
use crate::store::log::mark::changed_stream;
use crate::store::log::reader::{EventReader, EventReaderExt};
use crate::store::model::parking::ParkedState;
use crate::store::model::progress::{Progress, Turn};
use crate::store::model::read_model::ReadModel;
use crate::worker::due::Due;
use crate::worker::handler::Handler;
use crate::worker::parking::from_event;
use crate::worker::runner::{Group, Runner, of_projection};
use crate::worker::transaction::{Moved, Report, apply, call_span, failure, follow, read_parked};
use crate::worker::wanted::Wanted;

/// One attempt at a transaction, and its report: it may end on another thread.
pub(super) struct Attempt<Tx: Send + ?Sized + 'static> {
    projection: Arc<dyn Handler<Tx>>,
    name: ProjectionName,
    reader: Arc<dyn EventReader>,
    wanted: Arc<Wanted>,
    /// No event up to here is wanted.
    begins_after: Position,
    longest_call: Duration,
    due: Due,
    /// The span of the batch.
    span: Span,
    continues_traces: bool,
    report: Mutex<Report>,
    meter: Arc<WorkerMeter>,
}

impl<Tx: Send + ?Sized + 'static> Attempt<Tx> {
    pub(super) fn of<M: ReadModel<Tx = Tx>, O>(runner: &Runner<'_, M, O>) -> Arc<Self> {
        Arc::new(Self {
            projection: runner.job.projection.clone(),
            name: runner.name.clone(),
            reader: runner.job.reader.clone(),
            wanted: runner.wanted.clone(),
            begins_after: runner.begins_after.position,
            longest_call: runner.job.options.longest_call,
            due: runner.job.options.due(),
            span: Span::current(),
            continues_traces: runner.continues_traces(),
            report: Mutex::default(),
            meter: runner.meter.clone(),
        })
    }

    pub(super) fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies the events of a group that are not applied yet, at most `most`, except for the aggregates `passed_over`.
    pub(super) fn apply_group(self: Arc<Self>, group: Group, passed_over: Vec<StreamId>, most: usize) -> Turn<Tx> {
        Box::new(move |tx, rows| {
            async move {
                let mut plan = Plan { attempt: &self, most, events: Vec::new(), moved: Vec::new() };
                for event in group.iter().filter(|event| !passed_over.contains(&event.stream)) {
                    // The aggregate of every event has its row.
                    let Ok(place) = rows.binary_search_by(|row| row.stream.cmp(&event.stream)) else { continue };
                    if !self.unread_if_failed(plan.take(&mut rows[place], event).await)? {
                        self.report().has_rest = true;
                        break;
                    }
                }
                self.report().moved = plan.moved;
                self.apply(tx, &plan.events).await
            }
            .boxed()
        })
    }

    /// Applies the next events of a parked aggregate, at most `most`, and none after `head`.
    pub(super) fn retry(self: Arc<Self>, most: usize, head: Position) -> Turn<Tx> {
        Box::new(move |tx, rows| {
            async move {
                let Some(row) = rows.first_mut() else { return Ok(()) };
                let Some(parked) = row.parked.clone() else { return Ok(()) };
                self.report().parked = Some(parked.clone());
                if parked.state == ParkedState::Dead || !self.due.is_due(parked.next_at, Utc::now()) {
                    // The retry of another worker was faster.
                    return Ok(());
                }
                // The log is read under the lock: an event that arrives later must find the row as this leaves it.
                let (mut events, rest) = self.unread_if_failed(self.read_parked(row, most, head).await)?;
                row.applied = events.last().map_or(row.applied, |last| last.version);
                match &rest {
                    Some(next) if next.version > row.seen => {
                        (row.seen, row.seen_id) = (next.version, Some(next.event.id));
                    }
                    Some(_) => {}
                    None => (row.seen, row.seen_id) = (row.applied, events.last().map(|last| last.event.id)),
                }
                row.parked = rest.map(|next| from_event(parked, &next));
                events.retain(|event| self.wants(event));
                self.apply(tx, &events).await?;
                let mut report = self.report();
                (report.has_rest, report.parked) = (row.parked.is_some(), row.parked.clone());
                Ok(())
            }
            .boxed()
        })
    }

    /// Applies events that are wanted.
    async fn apply(&self, tx: &mut Tx, events: &[RecordedEvent]) -> Result<()> {
        let Some(first) = events.first() else { return Ok(()) };
        {
            let mut report = self.report();
            (report.planned, report.first) = (events.len(), Some(first.clone()));
        }
        events.iter().try_for_each(|event| self.wanted.check(event))?;
        let borrowed: Vec<_> = events.iter().collect();
        let call = self.projection.clone().decode(&borrowed)?;
        for event in events {
            self.meter.upcasts.decoded(event.event.event_type.as_str(), event.event.schema_version);
        }
        let failed = failure(&self.name, first);
        let span = call_span(&self.span, &self.name, &borrowed, self.continues_traces);
        let (applied, took) = apply(call, tx, self.longest_call, failed, span).await;
        self.report().took = took;
        applied
    }

    fn wants(&self, event: &RecordedEvent) -> bool {
        event.position > self.begins_after && self.wanted.passes(event)
    }

    fn unread_if_failed<T>(&self, read: Result<T>) -> Result<T> {
        self.report().unread |= read.is_err();
        read
    }

    /// Checks that the log has the event that the row has seen. An event with the same version has arrived that is another one: it, or what the
    /// row has seen, is of a history that the log has lost.
    async fn check_seen(&self, row: &Progress, seen: EventId) -> Result<()> {
        let before = Version::new(row.seen.get().saturating_sub(1));
        let found = self.reader.read_stream(&row.stream, before, 1).await?;
        let Some(found) = found.first().map(|event| event.event.id) else {
            return Err(ErrorKind::Transient(format!("read {}: version {} is not there", row.stream, row.seen)).into());
        };
        if found == seen {
            return Ok(());
        }
        Err(of_projection(&self.name, changed_stream(&row.stream, row.seen, seen, Some(found))))
    }

    /// Reads the next `limit` events of an aggregate, after the one that the row has seen.
    async fn read_missing(&self, row: &Progress, limit: usize) -> Result<Vec<RecordedEvent>> {
        let (stream, applied) = (&row.stream, row.applied);
        let before = Version::new(applied.get().saturating_sub(u64::from(row.seen_id.is_some())));
        let known = usize::from(before < applied);
        let mut found = self.reader.read_stream(stream, before, limit.saturating_add(known)).await?;
        if let (Some(seen), Some(first)) = (row.seen_id, found.first())
            && first.version == applied
        {
            if first.event.id != seen {
                let error = changed_stream(stream, applied, seen, Some(first.event.id));
                return Err(of_projection(&self.name, error));
            }
            found.remove(0);
        }
        if found.len() < limit || !follow(applied, &found) {
            return Err(ErrorKind::Transient(format!("read {stream}: versions are missing after {applied}")).into());
        }
        Ok(found)
    }

    /// Reads the next events of a parked aggregate. Events after `head` may be ones that a release has registered since this one looked.
    async fn read_parked(
        &self,
        row: &Progress,
        most: usize,
        head: Position,
    ) -> Result<(Vec<RecordedEvent>, Option<RecordedEvent>)> {
        let (stream, seen) = (&row.stream, row.seen);
        let (mut events, mut rest) = read_parked(&*self.reader, stream, row.applied, most).await?;
        let known = events.partition_point(|event| event.position <= head);
        if known < events.len() {
            rest = events.drain(known..).next();
        }
        if events.is_empty() {
            return Err(ErrorKind::Transient(format!("read {stream}: the log ends at {head} here")).into());
        }
        // A replica may lag behind what was passed over.
        if rest.is_none() && events.last().is_none_or(|last| last.version < seen) {
            return Err(ErrorKind::Transient(format!("read {stream}: version {seen} is not there")).into());
        }
        Ok((events, rest))
    }
}

/// The events that a transaction applies.
struct Plan<'a, Tx: Send + ?Sized + 'static> {
    attempt: &'a Attempt<Tx>,
    most: usize,
    events: Vec<RecordedEvent>,
    /// The events of the group that move a row.
    moved: Vec<Moved>,
}

impl<Tx: Send + ?Sized + 'static> Plan<'_, Tx> {
    /// Adds an event, after the events that are missing before it. Returns whether there was room for all of them.
    async fn take(&mut self, row: &mut Progress, event: &RecordedEvent) -> Result<bool> {
        if let Some(seen) = row.seen_id.filter(|seen| event.version == row.seen && event.event.id != *seen) {
            self.attempt.check_seen(row, seen).await?;
        }
        if event.version <= row.seen {
            return Ok(true);
        }
        if row.parked.is_some() {
            (row.seen, row.seen_id) = (event.version, Some(event.event.id));
            self.moved.push(Moved::over(event));
            return Ok(true);
        }
        while row.applied.next() < event.version {
            let missing = event.version.get() - row.applied.get() - 1;
            let limit = usize::try_from(missing).unwrap_or(usize::MAX).min(self.most - self.events.len());
            if limit == 0 {
                return Ok(false);
            }
            for found in self.attempt.read_missing(row, limit).await? {
                self.push(row, &found);
            }
        }
        if self.events.len() >= self.most {
            return Ok(false);
        }
        self.push(row, event);
        self.moved.push(Moved::over(event));
        Ok(true)
    }

    fn push(&mut self, row: &mut Progress, event: &RecordedEvent) {
        (row.applied, row.seen, row.seen_id) = (event.version, event.version, Some(event.event.id));
        if self.attempt.wants(event) {
            self.events.push(event.clone());
        }
    }
}
