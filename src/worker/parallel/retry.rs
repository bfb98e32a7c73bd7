//! Takes parked aggregates up again: from the store, in order, to the end of their stream.

use std::sync::Arc;

use chrono::Utc;
use futures::FutureExt;
use tokio::time::Instant;

use crate::error::{Error, ErrorKind, Result};
use crate::event::RecordedEvent;
use crate::id::StreamId;
use crate::projection::Projection;
use crate::store::log::reader::{EventReader, EventReaderExt};
use crate::store::model::parking::Parked;
use crate::store::model::parking::{ParkedState, ParkingChange};
use crate::store::model::progress::{Progress, Turn};
use crate::store::model::read_model::ReadModel;
use crate::worker::parallel::ParallelRun;
use crate::worker::parallel::turn::{Needs, Outcome, Reported, follow, report, set_aside};
use crate::worker::parking::Lot;

/// Retries in a row before the live events have their turn.
const RETRIES_A_TURN: usize = 16;

impl<P, M> ParallelRun<'_, P, M>
where
    P: Projection,
    M: ReadModel<Tx = P::Tx>,
{
    /// Looks at the table when it is time to, since any worker may have parked an aggregate, and tries what is due.
    pub(super) async fn tend_parked(&mut self) -> Result<()> {
        if Instant::now() >= self.next_look {
            self.look().await?;
        }
        for stream in self.lot.due(RETRIES_A_TURN) {
            if self.stop.is_cancelled() {
                return Ok(());
            }
            self.retry(stream).await?;
        }
        Ok(())
    }

    async fn look(&mut self) -> Result<()> {
        let began = Instant::now();
        match self.worker.models.parking(&self.name).await {
            Ok(parking) => self.lot = Lot::of(parking),
            // The next time will do.
            Err(error) if error.is_transient() => {}
            Err(error) => return Err(error),
        }
        // With many of them a look takes long: never more than a small part of the time.
        self.next_look = Instant::now() + self.worker.options.sweep.max(began.elapsed() * 20);
        Ok(())
    }

    async fn retry(&mut self, stream: StreamId) -> Result<()> {
        let needs = self.needs();
        let mut most = self.worker.most();
        loop {
            if !self.worker.may_go_on(&self.stop).await {
                return Ok(());
            }
            let work = |reported| turn(needs.clone(), most, reported);
            match self.transact(std::slice::from_ref(&stream), work).await? {
                Outcome::Committed(report) => {
                    let has_rest = report.has_rest;
                    self.learn(&stream, report.parked);
                    if !has_rest {
                        return Ok(());
                    }
                }
                Outcome::Interrupted => return Ok(()),
                Outcome::Failed(_, report) if report.planned > 1 => most = report.planned / 2,
                Outcome::Failed(error, report) => {
                    let (Some(event), Some(parked)) = (report.first, report.parked) else { return Err(error) };
                    return self.fail_again(parked, &event, &error).await;
                }
                Outcome::Unread(error) => {
                    let Some(mut parked) = self.lot.due_one(&stream) else { return Ok(()) };
                    self.worker.options.parking.postpone(&mut parked, &error);
                    return self.keep(parked).await;
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

    /// Unless another worker's retry was better.
    async fn keep(&mut self, parked: Parked) -> Result<()> {
        let (stream, kept) = (parked.stream.clone(), parked.clone());
        let change = move |row: &mut Progress| {
            if row.parked.is_some() {
                set_aside(row, kept.clone());
            }
        };
        self.amend(std::slice::from_ref(&stream), change).await?;
        self.learn(&stream, Some(parked));
        Ok(())
    }

    /// What is parked of an aggregate now.
    fn learn(&mut self, stream: &StreamId, parked: Option<Parked>) {
        let change = match parked {
            Some(parked) => ParkingChange::Park(parked),
            None => ParkingChange::Release(stream.clone()),
        };
        self.lot.take(0, &[change]);
    }
}

fn turn<P: Projection>(needs: Arc<Needs<P>>, most: usize, reported: Reported) -> Turn<P::Tx> {
    Box::new(move |tx, rows| {
        async move {
            let Some(row) = rows.first_mut() else { return Ok(()) };
            let Some(parked) = row.parked.clone() else { return Ok(()) };
            report(&reported, |report| report.parked = Some(parked.clone()));
            if parked.state == ParkedState::Dead || parked.next_at > Utc::now() {
                // Another worker's retry was faster.
                return Ok(());
            }
            // Only now: what comes later must find the row as this leaves it.
            let (mut events, rest) = match stretch(&*needs.reader, row, most).await {
                Ok(stretch) => stretch,
                Err(error) => {
                    report(&reported, |report| report.unread = true);
                    return Err(error);
                }
            };
            row.applied = events.last().map_or(row.applied, |last| last.version);
            row.seen = rest.as_ref().map_or(row.applied, |next| row.seen.max(next.version));
            row.parked = rest.map(|next| Parked { from_version: next.version, from_position: next.position, ..parked });
            events.retain(|event| needs.wants(event));
            needs.apply(tx, &events, &reported).await?;
            report(&reported, |report| (report.has_rest, report.parked) = (row.parked.is_some(), row.parked.clone()));
            Ok(())
        }
        .boxed()
    })
}

/// The next events of a parked aggregate, and the one after them, if they are not all.
async fn stretch(
    reader: &dyn EventReader,
    row: &Progress,
    most: usize,
) -> Result<(Vec<RecordedEvent>, Option<RecordedEvent>)> {
    let mut events = reader.read_stream(&row.stream, row.applied, most.saturating_add(1)).await?;
    let stream = &row.stream;
    if !follow(row.applied, &events) {
        let applied = row.applied;
        return Err(ErrorKind::Corrupt(format!("{stream}: a version is missing after {applied}")).into());
    }
    let rest = if events.len() > most { events.pop() } else { None };
    // A replica may lag behind what was passed over.
    if rest.is_none() && events.last().is_none_or(|last| last.version < row.seen) {
        let seen = row.seen;
        return Err(ErrorKind::Transient(format!("read {stream}: version {seen} is not there")).into());
    }
    Ok((events, rest))
}
