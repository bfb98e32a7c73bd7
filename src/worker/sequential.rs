//! One run of a worker in log order: the fast path over the broker, the sure path over the store, and the gate between them.

use std::time::Duration;

use futures::FutureExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff::Delays;
use crate::broker::frame::received::ReceivedFrame;
use crate::broker::{Consumption, Delivery};
use crate::error::{ErrorKind, Result};
use crate::id::{Position, ProjectionName};
use crate::projection::Projection;
use crate::store::log::query::Filter;
use crate::store::log::reader::EventReaderExt;
use crate::store::model::parking::{Parking, Step};
use crate::store::model::read_model::{ReadModel, Work};
use crate::worker::Worker;
use crate::worker::feed::{Feed, Next};
use crate::worker::gate::{Admission, admit};
use crate::worker::parking::{Breaker, Lot};

/// One run of a worker.
pub(super) struct Run<'w, P: Projection, M> {
    pub(super) worker: &'w Worker<P, M>,
    pub(super) name: ProjectionName,
    pub(super) filter: Filter,
    /// Up to here no event is wanted.
    begins_after: Position,
    /// The checkpoint as stored.
    pub(super) kept: Position,
    /// Everything up to here is applied, parked or not wanted. Ahead of `kept` only by events that are not wanted, or of aggregates that
    /// are parked.
    pub(super) seen: Position,
    /// What is parked as of `kept`.
    pub(super) lot: Lot,
    /// When to look whether somebody has called for a parked aggregate.
    pub(super) next_look: Instant,
    pub(super) breaker: Breaker,
    /// How long to wait after each race that is lost in a row.
    pub(super) standby: Delays,
    feed: Feed,
    pub(super) stop: CancellationToken,
}

impl<P, M> Run<'_, P, M>
where
    P: Projection,
    M: ReadModel<Tx = P::Tx>,
{
    pub(super) async fn to_end(worker: &Worker<P, M>, stop: CancellationToken) -> Result<()> {
        let name = ProjectionName::new(worker.projection.name())?;
        let mut run = Run {
            filter: worker.projection.filter()?,
            begins_after: Position::ZERO,
            worker,
            kept: Position::ZERO,
            seen: Position::ZERO,
            lot: Lot::of(Parking::default()),
            next_look: Instant::now(),
            breaker: Breaker::new(),
            standby: worker.options.standby(),
            feed: worker.feed(name.clone(), Consumption::Sole, stop.clone()),
            name,
            stop,
        };
        run.start().await?;
        while !run.stop.is_cancelled() {
            run.step().await?;
        }
        run.keep_seen().await
    }

    async fn start(&mut self) -> Result<()> {
        let mut delays = self.worker.options.delays();
        while let Err(error) = self.begin().await {
            if !self.worker.tries_again(error, &mut delays, &self.stop).await? {
                return Ok(());
            }
        }
        self.feed.subscribe();
        self.catch_up().await
    }

    async fn begin(&mut self) -> Result<()> {
        self.begins_after = self.worker.begins_after().await?;
        self.reload().await?;
        let head = self.worker.reader.head().await?;
        if self.seen > head {
            let (projection, checkpoint) = (self.name.clone(), self.seen);
            return Err(ErrorKind::CheckpointAhead { projection, checkpoint, head }.into());
        }
        match self.worker.models.commit(self.step_to(self.kept), self.worker.set_up()).await {
            // Another worker of this projection has moved on, and so has set it up.
            Err(error) if matches!(error.kind(), ErrorKind::CheckpointMoved { .. }) => Ok(()),
            done => done,
        }
    }

    /// Waits for whatever comes first and handles it.
    async fn step(&mut self) -> Result<()> {
        self.tend_parked().await?;
        let rest = self.lot.rest().unwrap_or(Duration::MAX).min(self.worker.options.sweep);
        match self.feed.next(self.worker.options.messages, rest).await? {
            Next::Messages(deliveries) => {
                let mut room = self.worker.options.messages;
                let room = |more: &[Delivery]| {
                    room = room.saturating_sub(more.len());
                    room
                };
                let deliveries = self.feed.gather(deliveries, room).await;
                self.receive(deliveries).await
            }
            Next::CatchUp => self.catch_up().await,
            Next::Sweep => {
                self.catch_up().await?;
                self.keep_seen().await
            }
            Next::Nothing => Ok(()),
        }
    }

    /// The gate.
    async fn receive(&mut self, deliveries: Vec<Delivery>) -> Result<()> {
        let Some(last_tag) = deliveries.last().map(|delivery| delivery.tag) else { return Ok(()) };
        let mut batch = Vec::new();
        let mut through = self.seen;
        let mut brought = self.seen;
        for delivery in deliveries {
            let tag = delivery.tag;
            let read = ReceivedFrame::parse(delivery.body.clone()).and_then(|frame| {
                let admission = admit(through, frame.first(), frame.last());
                // What is applied already need not be expanded and read.
                let events = if admission == Admission::Known { Vec::new() } else { frame.events()? };
                Ok((admission, frame.last(), events))
            });
            let (admission, last, events) = match read {
                Ok(read) => read,
                Err(junk) => {
                    self.feed.reject(delivery, &junk).await;
                    continue;
                }
            };
            match admission {
                Admission::Known => continue,
                Admission::Next => {
                    let news = events.into_iter().filter(|event| event.position > through && self.filter.passes(event));
                    batch.extend(news);
                    (through, brought) = (last, brought.max(last));
                }
                Admission::Gap => {
                    // What lies before it never came, or comes later: the store has it all, this frame's events included.
                    self.apply(std::mem::take(&mut batch), through).await?;
                    self.catch_up().await?;
                    (through, brought) = (self.seen, brought.max(last));
                }
            }
            if batch.len() >= self.worker.options.batch_events {
                self.apply(std::mem::take(&mut batch), through).await?;
                through = self.seen;
                // The broker sends more while the rest is applied.
                if self.seen >= brought {
                    self.feed.acknowledge(tag).await;
                }
            }
        }
        self.apply(batch, through).await?;
        if self.seen < brought {
            // Another worker was faster, and it has not got as far as these frames: they will not come again.
            self.catch_up().await?;
        }
        // Told to stop half-way, it leaves them to whoever comes next.
        if self.seen >= brought {
            self.feed.acknowledge(last_tag).await;
        }
        Ok(())
    }

    /// Reads the store from where everything is applied to its head.
    async fn catch_up(&mut self) -> Result<()> {
        let (reader, filter, limit) =
            (self.worker.reader.clone(), self.filter.clone(), self.worker.options.batch_events);
        let mut delays = self.worker.options.delays();
        let mut ahead = None;
        while !self.stop.is_cancelled() {
            self.tend_parked().await?;
            let page = match ahead.take() {
                Some((after, page)) if after == self.seen => page,
                _ => reader.read_all(self.seen, limit, &filter).await,
            };
            match page {
                Ok(page) if page.through == self.seen => return Ok(()),
                Ok(page) => {
                    // The next page is read while this one is applied. It comes first, so that its reading starts first.
                    let next = reader.read_all(page.through, limit, &filter);
                    let (next, applied) = futures::join!(next, self.apply(page.events, page.through));
                    applied?;
                    ahead = Some((page.through, next));
                }
                Err(error) if error.is_transient() => self.pause(delays.next()).await,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn step_to(&self, to: Position) -> Step {
        Step::new(&self.name, self.kept, to).with_parking(self.lot.changes, Vec::new())
    }

    /// Stores the checkpoint where only events that are unwanted or parked have moved it.
    async fn keep_seen(&mut self) -> Result<()> {
        if self.seen <= self.kept {
            return Ok(());
        }
        let work: Work<P::Tx> = Box::new(|_| async { Ok(()) }.boxed());
        match self.worker.models.commit(self.step_to(self.seen), work).await {
            Ok(()) => self.kept = self.seen,
            Err(error) if matches!(error.kind(), ErrorKind::CheckpointMoved { .. }) => self.reload().await?,
            // The next time will do.
            Err(error) if error.is_transient() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Reads where the projection is. The checkpoint comes first: whoever changes the parking later changes the count that comes with it.
    pub(super) async fn reload(&mut self) -> Result<()> {
        let models = &self.worker.models;
        let mut delays = self.worker.options.delays();
        loop {
            let read: Result<_> =
                async { Ok((models.checkpoint(&self.name).await?, models.parking(&self.name).await?)) }.await;
            match read {
                Ok((checkpoint, parking)) => {
                    self.kept = checkpoint;
                    self.lot = Lot::of(parking);
                    self.see(checkpoint);
                    return Ok(());
                }
                Err(error) if error.is_transient() && !self.stop.is_cancelled() => self.pause(delays.next()).await,
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) fn see(&mut self, position: Position) {
        self.seen = position.max(self.begins_after);
        self.worker.applied.send_replace(self.seen);
    }

    pub(super) async fn pause(&mut self, delay: Option<Duration>) {
        self.worker.pause(delay, &self.stop).await;
    }
}
