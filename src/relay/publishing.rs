//! The publishing of the leading relay: page by page, from the last confirmed position.

use std::sync::Arc;

use futures::FutureExt;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::backoff::Delays;
use crate::broker::Confirm;
use crate::broker::frame::Frame;
use crate::error::{Error, ErrorKind, Result, reason};
use crate::event::RecordedEvent;
use crate::id::mark::Mark;
use crate::id::{Fence, Position};
use crate::metrics::relay::RelayMeter;
use crate::pulse::Pulse;
use crate::relay::halt::{Halt, retry};
use crate::relay::lease::Lease;
use crate::relay::options::RelayOptions;
use crate::relay::outlet::Outlet;
use crate::status::{Reporter, Wait};
use crate::store::log::mark::remembered_by;
use crate::store::log::query::{Filter, PAGE_BYTES};
use crate::store::log::reader::{EventReader, EventReaderExt};
use crate::store::log::relay::RelayStore;
use crate::trace;
use crate::trace::span::{self, within};

/// The maximum number of pages that wait for the broker's confirm. After a failure, the relay publishes all of them again. A larger number
/// would not hide more of the round trip to the broker.
const UNCONFIRMED_PAGES: usize = 8;

/// The source, the destination and the settings of a relay.
pub(super) struct Route {
    pub(super) reader: Arc<dyn EventReader>,
    pub(super) outlet: Outlet,
    pub(super) unroutable: watch::Sender<u64>,
    /// The position up to which the broker has confirmed the log.
    pub(super) published: watch::Sender<Position>,
    pub(super) reporter: Reporter,
    pub(super) options: RelayOptions,
}

impl Route {
    /// Returns the waits between attempts at a call to the store.
    pub(super) fn delays(&self) -> Delays {
        self.options.delays().reporting(&self.reporter, Wait::Database)
    }
}

/// The lease and the fence under which a relay may move the stored position.
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
    /// The place that the events follow.
    after: Mark,
    through: Mark,
    /// Whether the log may already hold more events.
    full: bool,
}

/// A page that waits for its confirm. The confirm returns how many of the page's events no queue received.
struct Unconfirmed {
    through: Mark,
    confirm: Confirm<u64>,
}

/// Publishes pages, and stores the position up to which the broker has confirmed them.
pub(super) struct Publishing<'r> {
    sender: Sender<'r>,
    progress: Progress<'r>,
}

impl<'r> Publishing<'r> {
    pub(super) fn new(
        route: &'r Route,
        leadership: Option<&'r Leadership<'r>>,
        start: Mark,
        stop: &'r CancellationToken,
        meter: &'r RelayMeter,
    ) -> Self {
        route.published.send_replace(start.position);
        route.reporter.runs();
        let sender = Sender { route, leadership, stop, meter };
        Self { sender, progress: Progress { sender, confirmed: start, stored: start, stored_at: Instant::now() } }
    }

    pub(super) async fn run(mut self) -> Halt {
        let options = &self.sender.route.options;
        let (mut delays, mut pace) = (options.delays(), Pace::Pages);
        loop {
            let before = self.progress.confirmed;
            match self.publish(pace).await {
                Ok(()) | Err(Halt::Stopped) => return self.progress.store_final().await,
                Err(Halt::Failed(error)) if error.is_outage() => {
                    pace = Pace::CAREFUL;
                    if self.progress.confirmed != before {
                        delays = options.delays();
                    }
                    self.sender.route.reporter.waits_after(Wait::Broker, reason(&error));
                    delays.pause_for(&error, self.sender.stop).await;
                }
                Err(halt) => return halt,
            }
        }
    }

    /// Publishes until stopped, or until the broker fails. After a failure the caller publishes everything after the last confirmed page again,
    /// because a lost page must come before the pages that follow it.
    async fn publish(&mut self, pace: Pace) -> Result<(), Halt> {
        self.sender.meter.nothing_unconfirmed();
        // `- 1`: the confirming side holds one more page while it awaits that page's confirm.
        let (sent, unconfirmed) = mpsc::channel(UNCONFIRMED_PAGES - 1);
        let start = self.progress.confirmed;
        // A stopped sender sends no more pages, but the outstanding confirms are still awaited.
        let sending = self.sender.send(start, pace, sent).map(|ended| match ended {
            Err(Halt::Stopped) => Ok(()),
            ended => ended,
        });
        futures::try_join!(sending, self.progress.confirm(unconfirmed)).map(|_| ())
    }
}

/// The number of events that a relay sends one by one after a failure, before it sends more at a time.
const CAREFUL_EVENTS: usize = 100;

/// How much a relay sends at a time.
#[derive(Clone, Copy)]
enum Pace {
    /// Page after page.
    Pages,
    /// A number of events, and no more until they are confirmed. After [`CAREFUL_EVENTS`] events, the number doubles each time.
    ///
    /// A relay begins with one event after a failure, because the broker may refuse a single event however often it is sent: the events before it
    /// are then confirmed, and no other event is sent again and again with it. If a full queue refuses an event and then has room, an event that
    /// was sent right after it would reach the queue before it.
    Steps { events: usize, confirmed: usize },
}

impl Pace {
    const CAREFUL: Self = Self::Steps { events: 1, confirmed: 0 };

    /// Returns the pace after `more` events are confirmed. `most` is the size of a page.
    fn faster(self, more: usize, most: usize) -> Self {
        let Self::Steps { events, confirmed } = self else { return Self::Pages };
        let confirmed = confirmed + more;
        let events = if confirmed < CAREFUL_EVENTS { events } else { events * 2 };
        if events < most { Self::Steps { events, confirmed } } else { Self::Pages }
    }
}

/// Reads pages and passes them to the broker.
#[derive(Clone, Copy)]
struct Sender<'r> {
    route: &'r Route,
    leadership: Option<&'r Leadership<'r>>,
    stop: &'r CancellationToken,
    meter: &'r RelayMeter,
}

impl Sender<'_> {
    async fn send(&self, start: Mark, mut pace: Pace, sent: mpsc::Sender<Unconfirmed>) -> Result<(), Halt> {
        let options = &self.route.options;
        let (mut after, mut limit, mut ahead) = (start, options.page_events, None);
        let (mut head, mut published) = (self.route.reader.watch_head(), self.route.published.subscribe());
        let pulse = &self.route.reporter.pulse();
        while !self.stop.is_cancelled() {
            pulse.turn();
            let batch = match (ahead.take(), pace) {
                (Some(batch), _) => batch,
                (None, Pace::Pages) => self.read(pulse, after, limit).await?,
                (None, Pace::Steps { events, .. }) => self.read(pulse, after, events.min(limit)).await?,
            };
            let Some(average) = batch.bytes.checked_div(batch.events.len()) else {
                let _rest = pulse.rest();
                tokio::select! {
                    () = self.stop.cancelled() => {}
                    () = sleep(options.poll) => {}
                    Ok(()) = head.changed() => {}
                }
                continue;
            };
            // A page ends at `PAGE_BYTES`. A larger limit would make a database server send rows that the page does not use.
            limit = (2 * PAGE_BYTES / average.max(1)).clamp(1, options.page_events);
            // Backpressure: wait for a free slot. If the channel is closed, the confirming side has failed and reports why.
            let rest = pulse.rest();
            let Ok(slot) = sent.reserve().await else { break };
            drop(rest);
            let confirm = if batch.full && matches!(pace, Pace::Pages) {
                let (confirm, next) =
                    futures::join!(self.publish(pulse, &batch), self.read(pulse, batch.through, limit));
                ahead = Some(next?);
                confirm?
            } else {
                self.publish(pulse, &batch).await?
            };
            slot.send(Unconfirmed { through: batch.through, confirm });
            after = batch.through;
            if matches!(pace, Pace::Steps { .. }) {
                let _rest = pulse.rest();
                // The confirming side ends this wait if the confirm fails.
                drop(published.wait_for(|published| *published >= after.position).await);
                pace = pace.faster(batch.events.len(), options.page_events);
            }
        }
        Ok(())
    }

    async fn retry<T, F: Future<Output = Result<T>>>(&self, pulse: &Pulse, attempt: impl Fn() -> F) -> Result<T, Halt> {
        let lease = self.leadership.map(|leadership| leadership.lease);
        retry(self.stop, self.route.delays().resting(pulse), lease, attempt).await
    }

    async fn read(&self, pulse: &Pulse, after: Mark, limit: usize) -> Result<Batch, Halt> {
        let all = Filter::all();
        let page = self.retry(pulse, || self.route.reader.read_all(after, limit, &all)).await;
        let page = page.map_err(|halt| self.of_this_relay(halt))?;
        let through = page.mark();
        let bytes = page.events.iter().map(RecordedEvent::payload_bytes).sum();
        let full = page.events.len() >= limit || bytes >= PAGE_BYTES;
        Ok(Batch { events: page.events, bytes, after, through, full })
    }

    /// Names the relay in an error about a log with another history.
    fn of_this_relay(&self, halt: Halt) -> Halt {
        let Halt::Failed(error) = halt else { return halt };
        let remedy = "call `RelayStore::reset` with the place after which it publishes";
        let what = || self.leadership.map_or("the relay".into(), |leadership| format!("relay {}", leadership.name));
        Halt::Failed(remembered_by(error, what, remedy))
    }

    /// Passes the events of `batch` to the broker, and returns their confirm.
    async fn publish(&self, pulse: &Pulse, batch: &Batch) -> Result<Confirm<u64>, Halt> {
        if self.leadership.is_some_and(|leadership| !leadership.lease.is_certain()) {
            return Err(Halt::LeaseLost);
        }
        let frames = match &self.route.outlet {
            Outlet::Frames(_) => self.frames(batch).map_err(Halt::Failed)?,
            Outlet::Single(_) => Vec::new(),
        };
        let span = span::relay(batch.events.len());
        if !batch.full {
            trace::link(&span, batch.events.iter().map(|event| &event.event.metadata.extra));
        }
        span::sent(&span, frames.len());
        let sent = self.route.outlet.send(&frames, &batch.events);
        let sent = within!(span, self.route.outlet.answer(&self.route.reporter, pulse, sent));
        if let Err(error) = &sent {
            span::failed(&span, error);
        }
        let confirm = sent.map_err(Halt::Failed)?;
        self.meter.sent(frames.iter().map(|frame| frame.body().len()), batch.events.len());
        Ok(confirm)
    }

    fn frames(&self, batch: &Batch) -> Result<Vec<Frame>> {
        let options = &self.route.options;
        let frames = Frame::split_after(batch.after, &batch.events, options.frame_events, options.frame_bytes)?;
        #[cfg(feature = "zstd")]
        if let Some(over) = options.compress_over {
            return frames.into_iter().map(|frame| frame.compressed(over)).collect();
        }
        Ok(frames)
    }
}

/// The position up to which the broker has confirmed the log, and the position that is stored.
struct Progress<'r> {
    sender: Sender<'r>,
    /// The broker has confirmed every event up to this position.
    confirmed: Mark,
    /// The position in the store.
    stored: Mark,
    stored_at: Instant,
}

impl Progress<'_> {
    /// Awaits the confirms of the pages in order, and stores the position when it is due.
    ///
    /// Invariant: `confirmed` moves past a page only once the whole page, and every page before it, is confirmed.
    async fn confirm(&mut self, mut unconfirmed: mpsc::Receiver<Unconfirmed>) -> Result<(), Halt> {
        let route = self.sender.route;
        let pulse = &route.reporter.pulse();
        loop {
            let due = self.stored_at + route.options.checkpoint_every;
            let rest = pulse.rest();
            tokio::select! {
                page = unconfirmed.recv() => {
                    drop(rest);
                    let Some(Unconfirmed { through, confirm }) = page else { return Ok(()) };
                    let unroutable = route.outlet.answer(&route.reporter, pulse, confirm).await.map_err(Halt::Failed)?;
                    self.sender.meter.confirmed();
                    if unroutable > 0 {
                        self.sender.meter.unroutable.increment(unroutable);
                        route.unroutable.send_modify(|sum| *sum += unroutable);
                    }
                    self.confirmed = through;
                    route.published.send_replace(through.position);
                    route.reporter.done(Wait::Broker);
                    if Instant::now() >= due {
                        self.store(pulse).await?;
                    }
                }
                () = sleep_until(due), if self.stored.position < self.confirmed.position => {
                    drop(rest);
                    self.store(pulse).await?;
                }
            }
        }
    }

    async fn store(&mut self, pulse: &Pulse) -> Result<(), Halt> {
        if let Some(Leadership { store, name, fence, .. }) = self.sender.leadership
            && self.stored.position < self.confirmed.position
        {
            let stored = self.sender.retry(pulse, || store.advance(name, self.confirmed, *fence)).await;
            stored.map_err(|halt| self.sender.of_this_relay(fenced_is_lost(halt)))?;
        }
        (self.stored, self.stored_at) = (self.confirmed, Instant::now());
        Ok(())
    }

    /// Stores the final position. Makes a single attempt, and a transient failure does not matter: the next relay publishes the unstored part
    /// again.
    async fn store_final(&self) -> Halt {
        let Some(Leadership { store, name, fence, .. }) = self.sender.leadership else { return Halt::Stopped };
        if self.stored == self.confirmed {
            return Halt::Stopped;
        }
        match store.advance(name, self.confirmed, *fence).await {
            Err(error) if !error.is_outage() => self.sender.of_this_relay(fenced_is_lost(Halt::Failed(error))),
            _ => Halt::Stopped,
        }
    }
}

/// Turns [`ErrorKind::Fenced`] into a lost lease: another relay has moved the position under a newer fence.
fn fenced_is_lost(halt: Halt) -> Halt {
    let fenced = |error: &Error| matches!(error.kind(), ErrorKind::Fenced { .. });
    if matches!(&halt, Halt::Failed(error) if fenced(error)) { Halt::LeaseLost } else { halt }
}
