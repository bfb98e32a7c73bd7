//! Takes parked aggregates up again: from the store, in order, and never beyond the checkpoint.

use tokio::time::Instant;

use crate::error::{Error, ErrorKind, Result};
use crate::event::RecordedEvent;
use crate::id::{Position, Version};
use crate::projection::Projection;
use crate::store::log::reader::EventReaderExt;
use crate::store::model::parking::Parked;
use crate::store::model::parking::{ParkedState, ParkingChange};
use crate::store::model::read_model::ReadModel;
use crate::worker::apply::Outcome;
use crate::worker::parking::Lot;
use crate::worker::sequential::Run;

/// Retries in a row before the live events have their turn.
const RETRIES_A_TURN: usize = 16;

/// The next events of a parked aggregate.
struct Stretch {
    /// Those that are wanted.
    events: Vec<RecordedEvent>,
    /// What comes after them, if they are not all.
    rest: Option<(Version, Position)>,
}

impl<P, M> Run<'_, P, M>
where
    P: Projection,
    M: ReadModel<Tx = P::Tx>,
{
    /// Looks at the table when it is time to, and tries what is due.
    pub(super) async fn tend_parked(&mut self) -> Result<()> {
        if self.lot.is_empty() {
            return Ok(());
        }
        if Instant::now() >= self.next_look {
            self.look().await?;
        }
        for stream in self.lot.due(RETRIES_A_TURN) {
            if self.stop.is_cancelled() {
                return Ok(());
            }
            // Another one's retry may have found that another worker has this one.
            if let Some(parked) = self.lot.due_one(&stream) {
                self.retry(parked).await?;
            }
        }
        Ok(())
    }

    /// Somebody may have called for a parked aggregate, in another process.
    async fn look(&mut self) -> Result<()> {
        let began = Instant::now();
        match self.worker.models.parking(&self.name).await {
            Ok(parking) if parking.changes == self.lot.changes => self.lot = Lot::of(parking),
            Ok(_) => self.reload().await?,
            // The next time will do.
            Err(error) if error.is_transient() => {}
            Err(error) => return Err(error),
        }
        // With many of them a look takes long: never more than a small part of the time.
        self.next_look = Instant::now() + self.worker.options.sweep.max(began.elapsed() * 20);
        Ok(())
    }

    async fn retry(&mut self, mut parked: Parked) -> Result<()> {
        loop {
            let Stretch { events, rest } = match self.stretch(&parked).await {
                Ok(stretch) => stretch,
                Err(error) => {
                    self.worker.options.parking.postpone(&mut parked, &error);
                    return self.keep(parked).await;
                }
            };
            if !self.apply_stretch(&mut parked, &events, rest).await? || rest.is_none() {
                return Ok(());
            }
        }
    }

    async fn stretch(&mut self, parked: &Parked) -> Result<Stretch> {
        let worker = self.worker;
        let (reader, stream, limit) = (&worker.reader, &parked.stream, self.worker.options.batch_events);
        // A replica may lag behind what the broker has brought: it does not know all that was passed over.
        let head = reader.head().await?;
        if head < self.seen {
            return Err(ErrorKind::Transient(format!("read {stream}: the log ends at {head} here")).into());
        }
        let before = Version::new(parked.from_version.get().saturating_sub(1));
        let mut events = reader.read_stream(stream, before, limit.saturating_add(1)).await?;
        // What is beyond comes, or has come, by the live path.
        events.retain(|event| event.position <= self.seen);
        let whole = events.iter().zip(parked.from_version.get()..).all(|(event, due)| event.version.get() == due);
        if events.is_empty() || !whole {
            let from = parked.from_version;
            return Err(ErrorKind::Corrupt(format!("{stream}: a version is missing after {from}")).into());
        }
        let rest = if events.len() > limit { events.pop() } else { None };
        events.retain(|event| self.filter.passes(event));
        Ok(Stretch { events, rest: rest.map(|event| (event.version, event.position)) })
    }

    /// Applies as much as can be, in order. Returns whether that was all of it.
    async fn apply_stretch(
        &mut self,
        parked: &mut Parked,
        events: &[RecordedEvent],
        rest: Option<(Version, Position)>,
    ) -> Result<bool> {
        let (mut first, mut size) = (0, events.len().min(self.worker.most()));
        loop {
            let end = events.len().min(first + size);
            let next = events.get(end).map(|event| (event.version, event.position)).or(rest);
            let change = match next {
                Some((from_version, from_position)) => {
                    ParkingChange::Park(Parked { from_version, from_position, ..parked.clone() })
                }
                None => ParkingChange::Release(parked.stream.clone()),
            };
            let part: Vec<_> = events[first..end].iter().collect();
            match self.commit(&part, self.seen, &[change]).await? {
                Outcome::Committed => {
                    first = end;
                    if let Some(next) = next {
                        (parked.from_version, parked.from_position) = next;
                    }
                    if first == events.len() {
                        return Ok(true);
                    }
                }
                Outcome::Interrupted => return Ok(false),
                Outcome::Failed(_) if part.len() > 1 => size = part.len() / 2,
                Outcome::Failed(error) => {
                    self.fail_again(parked.clone(), &events[first], &error).await?;
                    return Ok(false);
                }
            }
        }
    }

    /// Buried before it is dead: a letter may be sent twice, and never not at all.
    async fn fail_again(&mut self, mut parked: Parked, event: &RecordedEvent, error: &Error) -> Result<()> {
        let worker = self.worker;
        (parked.from_version, parked.from_position) = (event.version, event.position);
        worker.options.parking.failed(&mut parked, error);
        if worker.options.parking.is_spent(parked.attempts) && worker.bury(&self.name, &parked, event).await {
            parked.state = ParkedState::Dead;
        }
        self.keep(parked).await
    }

    async fn keep(&mut self, parked: Parked) -> Result<()> {
        self.commit(&[], self.seen, &[ParkingChange::Park(parked)]).await.map(drop)
    }
}
