//! How a batch gets into the read model: whole if it can be, and around those of its events that fail.

use futures::FutureExt;

use crate::error::{BoxError, Error, ErrorKind, Result};
use crate::event::{Envelope, RecordedEvent};
use crate::id::{Position, ProjectionName};
use crate::projection::Projection;
use crate::store::model::parking::ParkingChange;
use crate::store::model::parking::{Parked, Step};
use crate::store::model::read_model::{ReadModel, Work};
use crate::worker::sequential::Run;

/// What became of a transaction.
pub(super) enum Outcome {
    /// It is committed.
    Committed,
    /// Another worker has moved the checkpoint, or the worker is told to stop: go on from `seen`.
    Interrupted,
    /// The projection cannot apply the events, or they cannot be decoded.
    Failed(Error),
}

/// What became of a batch.
enum Pass {
    /// All of it is applied, or parked.
    Through,
    /// As [`Outcome::Interrupted`].
    Interrupted,
    /// Too many aggregates failed in a row. None of them is parked.
    Outage,
}

impl<P, M> Run<'_, P, M>
where
    P: Projection,
    M: ReadModel<Tx = P::Tx>,
{
    /// Applies the wanted events between `seen` and `through`. Where another worker has moved the checkpoint, or the worker is told to stop,
    /// `seen` is not at `through` afterwards: go on from `seen`.
    pub(super) async fn apply(&mut self, events: Vec<RecordedEvent>, through: Position) -> Result<()> {
        let mut delays = self.worker.options.delays();
        while let Pass::Outage = self.pass(&events, through).await? {
            self.pause(delays.next()).await;
            if self.stop.is_cancelled() {
                break;
            }
        }
        Ok(())
    }

    /// A part that fails is halved, until it is clear which event it is: each of those costs some ten more transactions in a batch of 1,000,
    /// and the others stay together. Their aggregates are parked with the next part that succeeds, or at the end.
    async fn pass(&mut self, events: &[RecordedEvent], through: Position) -> Result<Pass> {
        let mut failed: Vec<Parked> = Vec::new();
        // The next one is at the end.
        let mut parts = self.worker.parts(events);
        while let Some((first, end)) = parts.pop() {
            let to = if end == events.len() { through } else { events[end - 1].position };
            let part: Vec<_> = events[first..end].iter().filter(|event| self.is_due(event, &failed)).collect();
            if part.is_empty() {
                continue;
            }
            match self.try_part(&part, to, &parking(&failed)).await? {
                Outcome::Committed => failed.clear(),
                Outcome::Interrupted => return Ok(Pass::Interrupted),
                Outcome::Failed(_) if part.len() > 1 => {
                    let middle = first + (end - first) / 2;
                    parts.extend([(middle, end), (first, middle)]);
                }
                Outcome::Failed(error) => {
                    failed.push(self.worker.options.parking.parked(part[0], &error));
                    if self.breaker.trips(failed.len(), &self.worker.options.parking) {
                        return Ok(Pass::Outage);
                    }
                }
            }
        }
        if failed.is_empty() {
            self.see(through);
            return Ok(Pass::Through);
        }
        match self.commit(&[], through, &parking(&failed)).await? {
            Outcome::Committed => {
                self.breaker.suspect(failed.len());
                Ok(Pass::Through)
            }
            _ => Ok(Pass::Interrupted),
        }
    }

    /// Not applied yet, and not behind an event that failed.
    fn is_due(&self, event: &RecordedEvent, failed: &[Parked]) -> bool {
        let is_failed = || failed.iter().any(|parked| parked.stream == event.stream);
        event.position > self.seen && !self.lot.holds(&event.stream) && !is_failed()
    }

    /// A single event is tried again in place: most failures are over at once. Not while there is an outage, whose every probe would take as
    /// long, nor where decoding fails, since that depends on nothing but the event.
    async fn try_part(&mut self, part: &[&RecordedEvent], to: Position, parking: &[ParkingChange]) -> Result<Outcome> {
        let retries = if part.len() > 1 || self.breaker.is_open() { 0 } else { self.worker.options.retries };
        let mut delays = self.worker.options.delays().take(retries);
        loop {
            let outcome = self.commit(part, to, parking).await?;
            let Outcome::Failed(error) = &outcome else { return Ok(outcome) };
            let Some(delay) = delays.next().filter(|_| !is_undecodable(error)) else { return Ok(outcome) };
            self.pause(Some(delay)).await;
            if self.stop.is_cancelled() {
                return Ok(Outcome::Interrupted);
            }
        }
    }

    /// One transaction, tried until the store has taken it.
    pub(super) async fn commit(
        &mut self,
        events: &[&RecordedEvent],
        to: Position,
        parking: &[ParkingChange],
    ) -> Result<Outcome> {
        let mut delays = self.worker.options.delays();
        let mut blamed = 0;
        loop {
            if !events.is_empty() && !self.worker.may_go_on(&self.stop).await {
                return Ok(Outcome::Interrupted);
            }
            let work = match self.work(events) {
                Ok(work) => work,
                Err(undecodable) => return Ok(Outcome::Failed(undecodable)),
            };
            let step = Step::new(&self.name, self.kept, to).with_parking(self.lot.changes, parking.to_vec());
            let changes = step.changes_after();
            match self.worker.models.commit(step, work).await {
                Ok(()) => {
                    self.kept = to;
                    self.lot.take(changes, parking);
                    self.see(to);
                    self.standby = self.worker.options.standby();
                    if !events.is_empty() {
                        self.breaker.reset();
                    }
                    return Ok(Outcome::Committed);
                }
                Err(error) if matches!(error.kind(), ErrorKind::CheckpointMoved { .. }) => {
                    // Another worker of this projection was faster. Nothing of this batch was kept; go on from where it is, and leave it
                    // alone for a while: every lost race is a batch read and decoded in vain.
                    let delay = self.standby.next();
                    self.pause(delay).await;
                    self.reload().await?;
                    return Ok(Outcome::Interrupted);
                }
                Err(error) if is_own(&error) => return Ok(Outcome::Failed(error)),
                Err(error) if error.is_transient() => {
                    // A connection that breaks under the projection's hands is not its fault. Again and again only there, as by a statement
                    // that always takes too long, it is.
                    blamed += usize::from(is_beneath_projection(&error));
                    if blamed > self.worker.options.retries {
                        return Ok(Outcome::Failed(error));
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

    fn work(&self, events: &[&RecordedEvent]) -> Result<Work<P::Tx>> {
        let Some(first) = events.first() else { return Ok(Box::new(|_| async { Ok(()) }.boxed())) };
        let failed = failure(&self.name, first);
        let decoded: Vec<Envelope<P::Event>> = events.iter().map(|event| event.decode()).collect::<Result<_>>()?;
        let projection = self.worker.projection.clone();
        Ok(Box::new(move |tx| async move { projection.apply_batch(tx, decoded).await.map_err(failed) }.boxed()))
    }
}

/// What it is if the projection fails on a batch that begins with this event.
pub(super) fn failure(name: &ProjectionName, first: &RecordedEvent) -> impl FnOnce(BoxError) -> Error + Send + use<> {
    let (projection, position, event_type) = (name.clone(), first.position, first.event.event_type.clone());
    move |source| Error::with_source(ErrorKind::Projection { projection, position, event_type }, source)
}

fn parking(failed: &[Parked]) -> Vec<ParkingChange> {
    failed.iter().cloned().map(ParkingChange::Park).collect()
}

/// Whether the projection itself failed, and not the store beneath it.
pub(super) fn is_own(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Projection { .. })
}

/// Whether the store failed while the projection worked on it.
pub(super) fn is_beneath_projection(error: &Error) -> bool {
    let source = std::error::Error::source(error);
    source.and_then(|source| source.downcast_ref::<Error>()).is_some_and(is_own)
}

pub(super) fn is_undecodable(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Undecodable { .. } | ErrorKind::UnknownSchema { .. } | ErrorKind::UnknownEventType { .. }
    )
}
