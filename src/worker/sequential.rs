//! One run of a worker in log order: the fast path over the broker, the sure path over the store, and the gate between them.

use std::time::Duration;

use futures::FutureExt;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::broker::frame::ReceivedFrame;
use crate::broker::{Consumer, Delivery, DeliveryTag};
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Envelope, RecordedEvent};
use crate::id::{Position, ProjectionName};
use crate::projection::Projection;
use crate::store::{CheckpointStore, Filter, Work};
use crate::worker::{Delays, Worker};

/// One run of a worker.
pub(super) struct Run<'w, P: Projection, M> {
    worker: &'w Worker<P, M>,
    name: ProjectionName,
    filter: Filter,
    /// The checkpoint as stored.
    kept: Position,
    /// Everything up to here is applied or not wanted. Ahead of `kept` only by events that are not wanted.
    seen: Position,
    /// How long to wait after each race that is lost in a row.
    standby: Delays,
    consumer: Option<Box<dyn Consumer>>,
    grown: watch::Receiver<Position>,
    stop: CancellationToken,
}

impl<P, M> Run<'_, P, M>
where
    P: Projection,
    M: CheckpointStore<Tx = P::Tx>,
{
    pub(super) async fn to_end(worker: &Worker<P, M>, stop: CancellationToken) -> Result<()> {
        let mut run = Run {
            name: ProjectionName::new(worker.projection.name())?,
            filter: worker.projection.filter()?,
            worker,
            kept: Position::ZERO,
            seen: Position::ZERO,
            standby: worker.options.standby(),
            consumer: None,
            grown: worker.reader.grown(),
            stop,
        };
        run.start().await?;
        while !run.stop.is_cancelled() {
            run.step().await?;
        }
        run.keep_seen().await
    }

    async fn start(&mut self) -> Result<()> {
        self.reload().await?;
        let head = self.worker.reader.head().await?;
        if self.kept > head {
            let (projection, checkpoint) = (self.name.clone(), self.kept);
            return Err(ErrorKind::CheckpointAhead { projection, checkpoint, head }.into());
        }
        let projection = self.worker.projection.clone();
        let work: Work<P::Tx> = Box::new(move |tx| {
            async move {
                projection.setup(tx).await.map_err(|source| {
                    Error::with_source(ErrorKind::Backend(format!("set up projection {}", projection.name())), source)
                })
            }
            .boxed()
        });
        match self.worker.models.advance(&self.name, self.kept, self.kept, work).await {
            // Another worker of this projection has moved on, and so has set it up.
            Err(error) if matches!(error.kind(), ErrorKind::CheckpointMoved { .. }) => {}
            done => done?,
        }
        self.subscribe().await?;
        self.catch_up().await
    }

    /// Waits for whatever comes first and handles it.
    async fn step(&mut self) -> Result<()> {
        let messages = self.worker.options.messages;
        let has_broker = self.consumer.is_some();
        let received = tokio::select! {
            biased;
            () = self.stop.cancelled() => return Ok(()),
            received = next(self.consumer.as_mut(), messages), if has_broker => Some(received),
            Ok(()) = self.grown.changed(), if !has_broker => None,
            () = tokio::time::sleep(self.worker.options.sweep) => None,
        };
        match received {
            Some(Ok(deliveries)) => {
                let deliveries = self.gather(deliveries).await;
                self.receive(deliveries).await
            }
            Some(Err(_)) => {
                // The broker is gone; the store is not. Until it is back, every sweep tries again.
                self.consumer = None;
                self.catch_up().await
            }
            None => {
                if self.consumer.is_none() {
                    // Whatever is wrong with the broker by now, it must not stop the projection.
                    drop(self.subscribe().await);
                }
                self.catch_up().await?;
                self.keep_seen().await
            }
        }
    }

    /// Adds what else comes within a moment: one transaction for many small messages.
    async fn gather(&mut self, mut deliveries: Vec<Delivery>) -> Vec<Delivery> {
        let end = Instant::now() + self.worker.options.gather;
        while deliveries.len() < self.worker.options.messages {
            let room = self.worker.options.messages - deliveries.len();
            tokio::select! {
                biased;
                () = self.stop.cancelled() => break,
                more = next(self.consumer.as_mut(), room) => {
                    let Ok(more) = more else {
                        self.consumer = None;
                        break;
                    };
                    deliveries.extend(more);
                }
                () = tokio::time::sleep_until(end) => break,
            }
        }
        deliveries
    }

    /// A broker that is out of reach is no error: the sweep carries the load.
    async fn subscribe(&mut self) -> Result<()> {
        let Some(broker) = &self.worker.broker else { return Ok(()) };
        self.consumer = match broker.subscribe(&self.name).await {
            Ok(consumer) => Some(consumer),
            Err(error) if error.is_transient() => None,
            Err(error) => return Err(error),
        };
        Ok(())
    }

    /// The gate.
    async fn receive(&mut self, deliveries: Vec<Delivery>) -> Result<()> {
        let Some(last) = deliveries.last().map(|delivery| delivery.tag) else { return Ok(()) };
        let mut batch = Vec::new();
        let mut through = self.seen;
        for delivery in deliveries {
            let frame = match ReceivedFrame::parse(delivery.body.clone())
                .and_then(|frame| Ok((frame.last(), frame.first(), frame.events()?)))
            {
                Ok(frame) => frame,
                Err(junk) => {
                    self.reject(delivery, &junk).await;
                    continue;
                }
            };
            let (frame_last, frame_first, events) = frame;
            match admit(through, frame_first, frame_last) {
                Admission::Known => {}
                Admission::Next => {
                    batch.extend(
                        events.into_iter().filter(|event| event.position > through && self.filter.passes(event)),
                    );
                    through = frame_last;
                }
                Admission::Gap => {
                    // What lies before it never came, or comes later: the store has it all, this frame's events included.
                    self.apply(std::mem::take(&mut batch), through).await?;
                    self.catch_up().await?;
                    through = self.seen;
                }
            }
            if batch.len() >= self.worker.options.batch_events {
                self.apply(std::mem::take(&mut batch), through).await?;
                through = self.seen;
            }
        }
        self.apply(batch, through).await?;
        self.acknowledge(last).await;
        Ok(())
    }

    async fn reject(&mut self, delivery: Delivery, junk: &Error) {
        if let Some(consumer) = &mut self.consumer
            && consumer.reject(delivery, &junk.to_string()).await.is_err()
        {
            self.consumer = None;
        }
    }

    /// A lost acknowledgement brings the messages again, and the gate drops them.
    async fn acknowledge(&mut self, tag: DeliveryTag) {
        if let Some(consumer) = &mut self.consumer
            && consumer.ack_through(tag).await.is_err()
        {
            self.consumer = None;
        }
    }

    /// Reads the store from where everything is applied to its head.
    async fn catch_up(&mut self) -> Result<()> {
        let (reader, filter, limit) =
            (self.worker.reader.clone(), self.filter.clone(), self.worker.options.batch_events);
        let mut delays = self.worker.options.delays();
        let mut ahead = None;
        while !self.stop.is_cancelled() {
            let page = match ahead.take() {
                Some(page) => page,
                None => reader.read_all(self.seen, limit, &filter).await,
            };
            match page {
                Ok(page) if page.through == self.seen => return Ok(()),
                Ok(page) => {
                    // The next page is read while this one is applied. It comes first, so that its reading starts first.
                    let next = reader.read_all(page.through, limit, &filter);
                    let (next, applied) = futures::join!(next, self.apply(page.events, page.through));
                    applied?;
                    ahead = (self.seen == page.through).then_some(next);
                }
                Err(error) if error.is_transient() => self.pause(delays.next()).await,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Applies the wanted events between `seen` and `through`. A batch that fails is taken apart. Where another worker has moved the
    /// checkpoint, or the worker is told to stop, `seen` is not at `through` afterwards: go on from `seen`.
    async fn apply(&mut self, events: Vec<RecordedEvent>, through: Position) -> Result<()> {
        if events.is_empty() {
            self.see(through);
            return Ok(());
        }
        match self.commit(&events, through).await {
            Err(error) if is_own(&error) => self.apply_singly(&events, through).await,
            done => done,
        }
    }

    /// Finds the event that fails: those before it are kept, and it is tried again by itself.
    async fn apply_singly(&mut self, events: &[RecordedEvent], through: Position) -> Result<()> {
        for (place, event) in events.iter().enumerate() {
            let to = if place + 1 == events.len() { through } else { event.position };
            let mut delays = self.worker.options.delays().take(self.worker.options.retries);
            while let Err(error) = self.commit(std::slice::from_ref(event), to).await {
                let delay = delays.next().filter(|_| is_own(&error)).ok_or(error)?;
                self.pause(Some(delay)).await;
                if self.stop.is_cancelled() {
                    return Ok(());
                }
            }
            if self.seen != to {
                return Ok(());
            }
        }
        Ok(())
    }

    /// One transaction, tried until the store has taken it.
    async fn commit(&mut self, events: &[RecordedEvent], to: Position) -> Result<()> {
        let mut delays = self.worker.options.delays();
        loop {
            let work = self.work(events)?;
            match self.worker.models.advance(&self.name, self.kept, to, work).await {
                Ok(()) => {
                    self.kept = to;
                    self.see(to);
                    self.standby = self.worker.options.standby();
                    return Ok(());
                }
                Err(error) if matches!(error.kind(), ErrorKind::CheckpointMoved { .. }) => {
                    // Another worker of this projection was faster. Nothing of this batch was kept; go on from where it is, and leave it
                    // alone for a while: every lost race is a batch read and decoded in vain.
                    let delay = self.standby.next();
                    self.pause(delay).await;
                    self.reload().await?;
                    return Ok(());
                }
                Err(error) if error.is_transient() => {
                    self.pause(delays.next()).await;
                    if self.stop.is_cancelled() {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn work(&self, events: &[RecordedEvent]) -> Result<Work<P::Tx>> {
        let decoded: Vec<Envelope<P::Event>> = events.iter().map(RecordedEvent::decode).collect::<Result<_>>()?;
        let projection = self.worker.projection.clone();
        let first = events.first().map(|event| (event.position, event.event.event_type.clone()));
        let name = self.name.clone();
        Ok(Box::new(move |tx| {
            async move {
                projection.apply_batch(tx, decoded).await.map_err(|source| match first {
                    Some((position, event_type)) => {
                        Error::with_source(ErrorKind::Projection { projection: name, position, event_type }, source)
                    }
                    None => Error::with_source(ErrorKind::Backend("apply nothing".into()), source),
                })
            }
            .boxed()
        }))
    }

    /// Stores the checkpoint where only unwanted events have moved it.
    async fn keep_seen(&mut self) -> Result<()> {
        if self.seen <= self.kept {
            return Ok(());
        }
        let work: Work<P::Tx> = Box::new(|_| async { Ok(()) }.boxed());
        match self.worker.models.advance(&self.name, self.kept, self.seen, work).await {
            Ok(()) => self.kept = self.seen,
            Err(error) if matches!(error.kind(), ErrorKind::CheckpointMoved { .. }) => self.reload().await?,
            // The next time will do.
            Err(error) if error.is_transient() => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    async fn reload(&mut self) -> Result<()> {
        let mut delays = self.worker.options.delays();
        loop {
            match self.worker.models.checkpoint(&self.name).await {
                Ok(checkpoint) => {
                    self.kept = checkpoint;
                    self.seen = checkpoint;
                    self.worker.applied.send_replace(checkpoint);
                    return Ok(());
                }
                Err(error) if error.is_transient() && !self.stop.is_cancelled() => self.pause(delays.next()).await,
                Err(error) => return Err(error),
            }
        }
    }

    fn see(&mut self, position: Position) {
        self.seen = position;
        self.worker.applied.send_replace(position);
    }

    async fn pause(&mut self, delay: Option<Duration>) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = tokio::time::sleep(delay.unwrap_or(self.worker.options.longest_delay)) => {}
        }
    }
}

async fn next(consumer: Option<&mut Box<dyn Consumer>>, limit: usize) -> Result<Vec<Delivery>> {
    match consumer {
        Some(consumer) => consumer.next(limit).await,
        None => std::future::pending().await,
    }
}

/// Whether the projection itself failed, and not the store beneath it.
fn is_own(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Projection { .. })
}

/// What the gate says of a frame.
#[derive(Debug, PartialEq, Eq)]
enum Admission {
    /// All of it is applied: drop it.
    Known,
    /// It continues where the last one ended, or overlaps: apply what is new.
    Next,
    /// Something before it is missing.
    Gap,
}

fn admit(seen: Position, first: Position, last: Position) -> Admission {
    if last <= seen {
        Admission::Known
    } else if first <= seen.next() {
        Admission::Next
    } else {
        Admission::Gap
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_admits_exactly_what_continues_the_log() {
        let admit = |seen, first, last| admit(Position::new(seen), Position::new(first), Position::new(last));
        assert_eq!(admit(0, 1, 1), Admission::Next);
        assert_eq!(admit(0, 2, 2), Admission::Gap);
        assert_eq!(admit(5, 1, 5), Admission::Known);
        assert_eq!(admit(5, 3, 6), Admission::Next);
        assert_eq!(admit(5, 6, 9), Admission::Next);
        assert_eq!(admit(5, 7, 9), Admission::Gap);
    }
}
