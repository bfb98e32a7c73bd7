//! One transaction: lock the rows, find out what is to be applied, apply it.

use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Envelope, RecordedEvent};
use crate::id::{Position, ProjectionName, StreamId, Version};
use crate::projection::Projection;
use crate::store::log::query::Filter;
use crate::store::log::reader::{EventReader, EventReaderExt};
use crate::store::model::parking::Parked;
use crate::store::model::parking::ParkingChange;
use crate::store::model::progress::{Progress, Turn};
use crate::store::model::read_model::ReadModel;
use crate::worker::apply::{failure, is_beneath_projection, is_own, is_undecodable};
use crate::worker::parallel::ParallelRun;

/// What became of a transaction.
pub(super) enum Outcome {
    /// It is committed.
    Committed(Report),
    /// The worker is told to stop.
    Interrupted,
    /// The projection cannot apply the events, or they cannot be decoded.
    Failed(Error, Report),
    /// The log does not have, or does not show, what is needed from it.
    Unread(Error),
}

/// What a transaction says of itself, however it ends.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// How many events it applies.
    pub(super) planned: usize,
    /// The first of them.
    pub(super) first: Option<RecordedEvent>,
    /// There are more than it was allowed to apply.
    pub(super) has_rest: bool,
    /// Reading the log failed.
    pub(super) unread: bool,
    /// What is parked afterwards: of a retry.
    pub(super) parked: Option<Parked>,
}

/// Where a transaction leaves its report: it may end on another thread.
pub(super) type Reported = Arc<Mutex<Report>>;

pub(super) fn report(reported: &Reported, write: impl FnOnce(&mut Report)) {
    write(&mut reported.lock().unwrap_or_else(PoisonError::into_inner));
}

/// What a transaction needs of the worker.
pub(super) struct Needs<P> {
    pub(super) projection: Arc<P>,
    pub(super) name: ProjectionName,
    pub(super) reader: Arc<dyn EventReader>,
    pub(super) filter: Filter,
    /// Up to here no event is wanted.
    pub(super) begins_after: Position,
}

impl<P: Projection> Needs<P> {
    pub(super) fn wants(&self, event: &RecordedEvent) -> bool {
        event.position > self.begins_after && self.filter.passes(event)
    }

    /// Applies events that are wanted.
    pub(super) async fn apply(&self, tx: &mut P::Tx, events: &[RecordedEvent], reported: &Reported) -> Result<()> {
        report(reported, |report| (report.planned, report.first) = (events.len(), events.first().cloned()));
        let Some(first) = events.first() else { return Ok(()) };
        let decoded: Vec<Envelope<P::Event>> = events.iter().map(RecordedEvent::decode).collect::<Result<_>>()?;
        self.projection.apply_batch(tx, decoded).await.map_err(failure(&self.name, first))
    }
}

impl<P, M> ParallelRun<'_, P, M>
where
    P: Projection,
    M: ReadModel<Tx = P::Tx>,
{
    pub(super) fn needs(&self) -> Arc<Needs<P>> {
        let (projection, reader) = (self.worker.projection.clone(), self.worker.reader.clone());
        let (name, filter, begins_after) = (self.name.clone(), self.filter.clone(), self.begins_after);
        Arc::new(Needs { projection, name, reader, filter, begins_after })
    }

    /// A single event is tried again in place: most failures are over at once. Not while there is an outage, whose every probe would take as
    /// long, nor where decoding fails, since that depends on nothing but the event. What the log does not show yet it may show in a moment.
    pub(super) async fn try_turn(
        &mut self,
        events: &Arc<[RecordedEvent]>,
        passed_over: Vec<StreamId>,
        most: usize,
    ) -> Result<Outcome> {
        let needs = self.needs();
        let mut delays = self.worker.options.delays().take(self.worker.options.retries);
        loop {
            if !self.worker.may_go_on(&self.stop).await {
                return Ok(Outcome::Interrupted);
            }
            let work = |reported| turn(needs.clone(), events.clone(), passed_over.clone(), most, reported);
            let streams: Vec<_> = events.iter().map(|event| event.stream.clone()).collect();
            let outcome = self.transact(&streams, work).await?;
            let may_pass = match &outcome {
                Outcome::Failed(error, report) => {
                    report.planned == 1 && !self.breaker.is_open() && !is_undecodable(error)
                }
                Outcome::Unread(error) => error.is_transient(),
                _ => false,
            };
            let Some(delay) = delays.next().filter(|_| may_pass) else { return broken_log(outcome) };
            self.pause(Some(delay)).await;
            if self.stop.is_cancelled() {
                return Ok(Outcome::Interrupted);
            }
        }
    }

    /// Tries a transaction until the store has taken it.
    pub(super) async fn transact(
        &mut self,
        streams: &[StreamId],
        work: impl Fn(Reported) -> Turn<P::Tx>,
    ) -> Result<Outcome> {
        let mut delays = self.worker.options.delays();
        let mut blamed = 0;
        loop {
            let reported = Reported::default();
            let done = self.worker.models.turn(&self.name, streams.to_vec(), work(reported.clone())).await;
            let report = std::mem::take(&mut *reported.lock().unwrap_or_else(PoisonError::into_inner));
            match done {
                Ok(()) => return Ok(Outcome::Committed(report)),
                Err(error) if report.unread => return Ok(Outcome::Unread(error)),
                Err(error) if is_own(&error) || is_undecodable(&error) => return Ok(Outcome::Failed(error, report)),
                Err(error) if error.is_transient() => {
                    // A connection that breaks under the projection's hands is not its fault. Again and again only there, it is.
                    blamed += usize::from(is_beneath_projection(&error));
                    if blamed > self.worker.options.retries {
                        return Ok(Outcome::Failed(error, report));
                    }
                    self.pause(delays.next()).await;
                    if self.stop.is_cancelled() {
                        return Ok(Outcome::Interrupted);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Parks aggregates that have failed, unless another worker has applied their events meanwhile. Returns whether it got to it.
    pub(super) async fn park(&mut self, failed: Vec<Parked>) -> Result<bool> {
        let streams: Vec<_> = failed.iter().map(|parked| parked.stream.clone()).collect();
        let changes: Vec<_> = failed.iter().cloned().map(ParkingChange::Park).collect();
        let failed: Arc<[Parked]> = failed.into();
        let outcome = self.amend(&streams, move |row| {
            if row.parked.is_none()
                && let Some(parked) = failed.iter().find(|parked| parked.stream == row.stream)
            {
                set_aside(row, parked.clone());
            }
        });
        let done = matches!(outcome.await?, Outcome::Committed(_));
        // Of one that is not parked after all, the retry finds nothing to do.
        self.lot.take(0, &changes);
        Ok(done)
    }

    /// Changes rows without the projection.
    pub(super) async fn amend(
        &mut self,
        streams: &[StreamId],
        change: impl Fn(&mut Progress) + Clone + Send + 'static,
    ) -> Result<Outcome> {
        let work = |_| -> Turn<P::Tx> {
            let change = change.clone();
            Box::new(move |_, rows| {
                rows.iter_mut().for_each(change);
                async { Ok(()) }.boxed()
            })
        };
        self.transact(streams, work).await
    }
}

/// Parks an aggregate from the event that failed, unless that is applied. What is between the last applied event and that one was not wanted.
pub(super) fn set_aside(row: &mut Progress, parked: Parked) {
    if row.applied < parked.from_version {
        row.applied = Version::new(parked.from_version.get() - 1);
        row.seen = row.seen.max(parked.from_version);
        row.parked = Some(parked);
    }
}

/// A damaged log ends the worker. One that lags behind does not.
fn broken_log(outcome: Outcome) -> Result<Outcome> {
    match outcome {
        Outcome::Unread(error) if !error.is_transient() => Err(error),
        outcome => Ok(outcome),
    }
}

fn turn<P: Projection>(
    needs: Arc<Needs<P>>,
    events: Arc<[RecordedEvent]>,
    passed_over: Vec<StreamId>,
    most: usize,
    reported: Reported,
) -> Turn<P::Tx> {
    Box::new(move |tx, rows| {
        async move {
            let mut plan = Plan { needs: &needs, most, events: Vec::new() };
            for event in events.iter().filter(|event| !passed_over.contains(&event.stream)) {
                // Every event's aggregate has its row.
                let Ok(place) = rows.binary_search_by(|row| row.stream.cmp(&event.stream)) else { continue };
                match plan.take(&mut rows[place], event).await {
                    Ok(true) => {}
                    Ok(false) => {
                        report(&reported, |report| report.has_rest = true);
                        break;
                    }
                    Err(error) => {
                        report(&reported, |report| report.unread = true);
                        return Err(error);
                    }
                }
            }
            needs.apply(tx, &plan.events, &reported).await
        }
        .boxed()
    })
}

/// What a transaction applies, as it comes together.
struct Plan<'n, P> {
    needs: &'n Needs<P>,
    most: usize,
    events: Vec<RecordedEvent>,
}

impl<P: Projection> Plan<'_, P> {
    /// Takes up an event, after what is missing before it. Returns whether there was room for all of that.
    async fn take(&mut self, row: &mut Progress, event: &RecordedEvent) -> Result<bool> {
        if event.version <= row.seen {
            return Ok(true);
        }
        if row.parked.is_some() {
            row.seen = event.version;
            return Ok(true);
        }
        while row.applied.next() < event.version {
            let missing = event.version.get() - row.applied.get() - 1;
            let room = self.most - self.events.len();
            let limit = usize::try_from(missing).unwrap_or(usize::MAX).min(room);
            if limit == 0 {
                return Ok(false);
            }
            for found in missing_events(&*self.needs.reader, row, limit).await? {
                self.push(row, &found);
            }
        }
        if self.events.len() >= self.most {
            return Ok(false);
        }
        self.push(row, event);
        Ok(true)
    }

    fn push(&mut self, row: &mut Progress, event: &RecordedEvent) {
        (row.applied, row.seen) = (event.version, event.version);
        if self.needs.wants(event) {
            self.events.push(event.clone());
        }
    }
}

/// The next events of an aggregate, that many.
async fn missing_events(reader: &dyn EventReader, row: &Progress, limit: usize) -> Result<Vec<RecordedEvent>> {
    let found = reader.read_stream(&row.stream, row.applied, limit).await?;
    if found.len() < limit || !follow(row.applied, &found) {
        let (stream, applied) = (&row.stream, row.applied);
        return Err(ErrorKind::Transient(format!("read {stream}: versions are missing after {applied}")).into());
    }
    Ok(found)
}

/// Whether these are the events after a version, with none left out.
pub(super) fn follow(version: Version, events: &[RecordedEvent]) -> bool {
    events.iter().zip(version.get() + 1..).all(|(event, due)| event.version.get() == due)
}
