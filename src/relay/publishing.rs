//! How a relay that has the lease publishes: page by page, from the position that the last one confirmed.

use std::sync::Arc;

use futures::{FutureExt, TryFutureExt};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::broker::frame::Frame;
use crate::broker::{Announcer, Confirm, Publisher};
use crate::error::{Error, ErrorKind, Result};
use crate::event::RecordedEvent;
use crate::id::{Fence, Position};
use crate::relay::halt::{Halt, retry};
use crate::relay::lease::Lease;
use crate::relay::options::RelayOptions;
use crate::store::log::query::{Filter, PAGE_BYTES};
use crate::store::log::reader::{EventReader, EventReaderExt};
use crate::store::log::relay::RelayStore;

/// Pages that may wait for the broker's confirm: at most what is published again after a failure. More would hide no more of the round trip
/// to the broker.
const UNCONFIRMED_PAGES: usize = 8;

/// Where a relay reads and where it publishes.
pub(super) struct Route {
    pub(super) reader: Arc<dyn EventReader>,
    pub(super) outlet: Outlet,
    pub(super) unroutable: watch::Sender<u64>,
    pub(super) options: RelayOptions,
}

/// What a relay publishes.
pub(super) enum Outlet {
    Frames(Arc<dyn Publisher>),
    Single(Arc<dyn Announcer>),
}

/// What entitles a relay to move the stored position.
pub(super) struct Leadership<'r> {
    pub(super) lease: &'r Lease,
    pub(super) store: &'r dyn RelayStore,
    pub(super) name: &'r str,
    pub(super) fence: Fence,
}

/// A page of the log.
struct Batch {
    events: Vec<RecordedEvent>,
    bytes: usize,
    through: Position,
    /// The log may have more already.
    full: bool,
}

/// A page that waits for its confirm. The confirm says how many of its events no queue wanted.
struct Unconfirmed {
    through: Position,
    confirm: Confirm<u64>,
}

/// Publishes pages and stores how far the broker has confirmed them.
pub(super) struct Publishing<'r> {
    sender: Sender<'r>,
    progress: Progress<'r>,
}

impl<'r> Publishing<'r> {
    pub(super) fn new(
        route: &'r Route,
        leadership: Option<&'r Leadership<'r>>,
        start: Position,
        stop: &'r CancellationToken,
    ) -> Self {
        let sender = Sender { route, leadership, stop };
        Self { sender, progress: Progress { sender, confirmed: start, stored: start, stored_at: Instant::now() } }
    }

    pub(super) async fn run(mut self) -> Halt {
        let options = &self.sender.route.options;
        let mut delays = options.delays();
        loop {
            let before = self.progress.confirmed;
            match self.publish().await {
                Ok(()) | Err(Halt::Stopped) => return self.progress.store_last().await,
                Err(Halt::Failed(error)) if error.is_transient() => {
                    if self.progress.confirmed > before {
                        delays = options.delays();
                    }
                    delays.pause(self.sender.stop).await;
                }
                Err(halt) => return halt,
            }
        }
    }

    /// Publishes until stopped, or until the broker fails. Then everything after the last confirmed page is published again, since what
    /// follows a lost page must come after it.
    async fn publish(&mut self) -> Result<(), Halt> {
        // One page more is held by the task that awaits its confirm.
        let (sent, unconfirmed) = mpsc::channel(UNCONFIRMED_PAGES - 1);
        let start = self.progress.confirmed;
        // A stopped sender sends no more, and still waits for the confirms.
        let sending = self.sender.send(start, sent).map(|ended| match ended {
            Err(Halt::Stopped) => Ok(()),
            ended => ended,
        });
        futures::try_join!(sending, self.progress.confirm(unconfirmed)).map(|_| ())
    }
}

/// Reads pages and hands them to the broker.
#[derive(Clone, Copy)]
struct Sender<'r> {
    route: &'r Route,
    leadership: Option<&'r Leadership<'r>>,
    stop: &'r CancellationToken,
}

impl Sender<'_> {
    async fn send(&self, start: Position, sent: mpsc::Sender<Unconfirmed>) -> Result<(), Halt> {
        let options = &self.route.options;
        let (mut after, mut limit, mut ahead) = (start, options.page_events, None);
        let mut grown = self.route.reader.watch_head();
        while !self.stop.is_cancelled() {
            let batch = match ahead.take() {
                Some(batch) => batch,
                None => self.read(after, limit).await?,
            };
            let Some(average) = batch.bytes.checked_div(batch.events.len()) else {
                tokio::select! {
                    () = self.stop.cancelled() => {}
                    () = sleep(options.poll) => {}
                    Ok(()) = grown.changed() => {}
                }
                continue;
            };
            // A page ends when it has enough bytes; a server would send what lies beyond for nothing.
            limit = (2 * PAGE_BYTES / average.max(1)).clamp(1, options.page_events);
            // Back-pressure: wait for a free slot. If the channel is closed, the confirming task has failed and reports why.
            let Ok(slot) = sent.reserve().await else { break };
            let confirm = if batch.full {
                let (confirm, next) = futures::join!(self.publish(&batch.events), self.read(batch.through, limit));
                ahead = Some(next?);
                confirm?
            } else {
                self.publish(&batch.events).await?
            };
            slot.send(Unconfirmed { through: batch.through, confirm });
            after = batch.through;
        }
        Ok(())
    }

    async fn retry<T, F: Future<Output = Result<T>>>(&self, attempt: impl Fn() -> F) -> Result<T, Halt> {
        let lease = self.leadership.map(|leadership| leadership.lease);
        retry(self.stop, self.route.options.delays(), lease, attempt).await
    }

    async fn read(&self, after: Position, limit: usize) -> Result<Batch, Halt> {
        let all = Filter::all();
        let page = self.retry(|| self.route.reader.read_all(after, limit, &all)).await?;
        let bytes = page.events.iter().map(RecordedEvent::payload_bytes).sum();
        let full = page.events.len() >= limit || bytes >= PAGE_BYTES;
        Ok(Batch { events: page.events, bytes, through: page.through, full })
    }

    /// Returns when the broker has been handed all of it.
    async fn publish(&self, events: &[RecordedEvent]) -> Result<Confirm<u64>, Halt> {
        if self.leadership.is_some_and(|leadership| !leadership.lease.is_certain()) {
            return Err(Halt::LeaseLost);
        }
        let confirm = match &self.route.outlet {
            Outlet::Frames(publisher) => {
                let confirm = publisher.publish(&self.frames(events).map_err(Halt::Failed)?).await;
                confirm.map(|confirm| confirm.map_ok(|()| 0).boxed())
            }
            Outlet::Single(announcer) => {
                let confirm = announcer.announce(events).await;
                confirm.map(|confirm| confirm.map_ok(|announced| announced.unroutable).boxed())
            }
        };
        confirm.map_err(Halt::Failed)
    }

    fn frames(&self, events: &[RecordedEvent]) -> Result<Vec<Frame>> {
        let options = &self.route.options;
        let frames = Frame::split(events, options.frame_events, options.frame_bytes)?;
        #[cfg(feature = "zstd")]
        if let Some(over) = options.compress_over {
            return frames.into_iter().map(|frame| frame.compressed(over)).collect();
        }
        Ok(frames)
    }
}

/// How far the broker has confirmed, and how much of that is stored.
struct Progress<'r> {
    sender: Sender<'r>,
    /// Everything up to here is confirmed.
    confirmed: Position,
    /// The position as stored.
    stored: Position,
    stored_at: Instant,
}

impl Progress<'_> {
    /// Invariant: `confirmed` moves over whole pages, one after the other, each when all of it is confirmed.
    async fn confirm(&mut self, mut unconfirmed: mpsc::Receiver<Unconfirmed>) -> Result<(), Halt> {
        let route = self.sender.route;
        loop {
            let due = self.stored_at + route.options.checkpoint_every;
            tokio::select! {
                page = unconfirmed.recv() => {
                    let Some(Unconfirmed { through, confirm }) = page else { return Ok(()) };
                    let unroutable = confirm.await.map_err(Halt::Failed)?;
                    if unroutable > 0 {
                        route.unroutable.send_modify(|sum| *sum += unroutable);
                    }
                    self.confirmed = through;
                    if Instant::now() >= due {
                        self.store().await?;
                    }
                }
                () = sleep_until(due), if self.stored < self.confirmed => self.store().await?,
            }
        }
    }

    async fn store(&mut self) -> Result<(), Halt> {
        if let Some(Leadership { store, name, fence, .. }) = self.sender.leadership
            && self.stored < self.confirmed
        {
            let stored = self.sender.retry(|| store.advance(name, self.confirmed, *fence)).await;
            stored.map_err(fenced_is_lost)?;
        }
        (self.stored, self.stored_at) = (self.confirmed, Instant::now());
        Ok(())
    }

    /// Makes one attempt: what is not stored is published again.
    async fn store_last(&self) -> Halt {
        let Some(Leadership { store, name, fence, .. }) = self.sender.leadership else { return Halt::Stopped };
        if self.stored == self.confirmed {
            return Halt::Stopped;
        }
        let stored = store.advance(name, self.confirmed, *fence).await;
        stored.map_or_else(|error| fenced_is_lost(Halt::Failed(error)), |()| Halt::Stopped)
    }
}

/// A relay that finds the position moved under a newer fence has lost the lease.
fn fenced_is_lost(halt: Halt) -> Halt {
    let fenced = |error: &Error| matches!(error.kind(), ErrorKind::Fenced { .. });
    if matches!(&halt, Halt::Failed(error) if fenced(error)) { Halt::LeaseLost } else { halt }
}
