//! One term of a leading relay: page by page, from where the last one ended.

use futures::{FutureExt, TryFutureExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::broker::Confirm;
use crate::broker::frame::Frame;
use crate::error::{Error, ErrorKind, Result};
use crate::event::RecordedEvent;
use crate::id::{Fence, Position};
use crate::relay::lease::Lease;
use crate::relay::{Halt, Outlet, Relay, delays};
use crate::store::{Filter, PAGE_BYTES, RelayStore};

/// Pages that may wait for the broker's confirm: what is sent once more, at most, after a failure. More would hide no more of the way to the
/// broker and back.
const UNDER_WAY: usize = 8;

/// What entitles a relay to move the position.
pub(super) struct Office<'r> {
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
    /// There may be more after it already.
    full: bool,
}

/// A page that is on its way. The broker's word comes with how many of its events no queue wanted.
struct Sent {
    through: Position,
    confirm: Confirm<u64>,
}

pub(super) struct Term<'r> {
    duty: Duty<'r>,
    ledger: Ledger<'r>,
}

impl<'r> Term<'r> {
    pub(super) fn new(
        relay: &'r Relay,
        office: Option<&'r Office<'r>>,
        start: Position,
        stop: &'r CancellationToken,
    ) -> Self {
        let duty = Duty { relay, office, stop };
        Self { duty, ledger: Ledger { duty, confirmed: start, kept: start, kept_at: Instant::now() } }
    }

    pub(super) async fn run(mut self) -> Halt {
        let longest = self.duty.relay.options.longest_delay;
        let mut waits = delays(longest);
        loop {
            let before = self.ledger.confirmed;
            match self.send().await {
                Ok(()) | Err(Halt::Stopped) => return self.ledger.keep_last().await,
                Err(Halt::Failed(error)) if error.is_transient() => {
                    if self.ledger.confirmed > before {
                        waits = delays(longest);
                    }
                    self.duty.stop.run_until_cancelled(sleep(waits.next().unwrap_or(longest))).await;
                }
                Err(halt) => return halt,
            }
        }
    }

    /// Until told to stop, or the broker fails: then everything after the last confirmed page is to be sent again, since what follows a
    /// lost page must come after it.
    async fn send(&mut self) -> Result<(), Halt> {
        // One more is in the hands of who waits for its confirm.
        let (sent, under_way) = mpsc::channel(UNDER_WAY - 1);
        let start = self.ledger.confirmed;
        // Who is told to stop sends no more, and waits for the confirms all the same.
        let sending = self.duty.send(start, sent).map(|ended| match ended {
            Err(Halt::Stopped) => Ok(()),
            ended => ended,
        });
        futures::try_join!(sending, self.ledger.confirm(under_way)).map(|_| ())
    }
}

/// What a relay is to do, until when, and by what right.
#[derive(Clone, Copy)]
struct Duty<'r> {
    relay: &'r Relay,
    office: Option<&'r Office<'r>>,
    stop: &'r CancellationToken,
}

impl Duty<'_> {
    async fn send(&self, start: Position, sent: mpsc::Sender<Sent>) -> Result<(), Halt> {
        let (mut after, mut limit, mut ahead) = (start, self.relay.options.page_events, None);
        let mut grown = self.relay.reader.watch_head();
        while !self.stop.is_cancelled() {
            let batch = match ahead.take() {
                Some(batch) => batch,
                None => self.read(after, limit).await?,
            };
            let Some(average) = batch.bytes.checked_div(batch.events.len()) else {
                tokio::select! {
                    () = self.stop.cancelled() => {}
                    () = sleep(self.relay.options.poll) => {}
                    Ok(()) = grown.changed() => {}
                }
                continue;
            };
            // A page ends when it has enough bytes; a server would have sent what lies beyond in vain.
            limit = (2 * PAGE_BYTES / average.max(1)).clamp(1, self.relay.options.page_events);
            // Where the broker is slow it waits here, and the next page is so much larger. Who keeps the ledger has failed if there is
            // no place any more, and says so.
            let Ok(place) = sent.reserve().await else { break };
            let confirm = if batch.full {
                let (confirm, next) = futures::join!(self.publish(&batch.events), self.read(batch.through, limit));
                ahead = Some(next?);
                confirm?
            } else {
                self.publish(&batch.events).await?
            };
            place.send(Sent { through: batch.through, confirm });
            after = batch.through;
        }
        Ok(())
    }

    async fn retry<T, F: Future<Output = Result<T>>>(&self, attempt: impl Fn() -> F) -> Result<T, Halt> {
        self.relay.retry(self.stop, self.office.map(|office| office.lease), attempt).await
    }

    async fn read(&self, after: Position, limit: usize) -> Result<Batch, Halt> {
        let all = Filter::all();
        let page = self.retry(|| self.relay.reader.read_all(after, limit, &all)).await?;
        let bytes = page.events.iter().map(RecordedEvent::payload_bytes).sum();
        let full = page.events.len() >= limit || bytes >= PAGE_BYTES;
        Ok(Batch { events: page.events, bytes, through: page.through, full })
    }

    /// Returns when all of it is on its way.
    async fn publish(&self, events: &[RecordedEvent]) -> Result<Confirm<u64>, Halt> {
        if self.office.is_some_and(|office| !office.lease.is_sure()) {
            return Err(Halt::Lost);
        }
        let confirm = match &self.relay.outlet {
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
        let options = &self.relay.options;
        let frames = Frame::split(events, options.frame_events, options.frame_bytes)?;
        #[cfg(feature = "zstd")]
        if let Some(over) = options.compress_over {
            return frames.into_iter().map(|frame| frame.compressed(over)).collect();
        }
        Ok(frames)
    }
}

/// What the broker has confirmed, and what of that is kept.
struct Ledger<'r> {
    duty: Duty<'r>,
    /// Everything up to here is confirmed.
    confirmed: Position,
    /// The position as stored.
    kept: Position,
    kept_at: Instant,
}

impl Ledger<'_> {
    /// Invariant: `confirmed` moves over whole pages, one after the other, each when all of it is confirmed.
    async fn confirm(&mut self, mut under_way: mpsc::Receiver<Sent>) -> Result<(), Halt> {
        loop {
            let due = self.kept_at + self.duty.relay.options.checkpoint_every;
            tokio::select! {
                sent = under_way.recv() => {
                    let Some(Sent { through, confirm }) = sent else { return Ok(()) };
                    let unroutable = confirm.await.map_err(Halt::Failed)?;
                    if unroutable > 0 {
                        self.duty.relay.unroutable.send_modify(|sum| *sum += unroutable);
                    }
                    self.confirmed = through;
                    if Instant::now() >= due {
                        self.keep().await?;
                    }
                }
                () = sleep_until(due), if self.kept < self.confirmed => self.keep().await?,
            }
        }
    }

    async fn keep(&mut self) -> Result<(), Halt> {
        if let Some(Office { store, name, fence, .. }) = self.duty.office
            && self.kept < self.confirmed
        {
            self.duty.retry(|| store.advance(name, self.confirmed, *fence)).await.map_err(or_lost)?;
        }
        (self.kept, self.kept_at) = (self.confirmed, Instant::now());
        Ok(())
    }

    /// One attempt: what is not kept is sent again.
    async fn keep_last(&self) -> Halt {
        let Some(Office { store, name, fence, .. }) = self.duty.office else { return Halt::Stopped };
        if self.kept == self.confirmed {
            return Halt::Stopped;
        }
        let kept = store.advance(name, self.confirmed, *fence).await;
        kept.map_or_else(|error| or_lost(Halt::Failed(error)), |()| Halt::Stopped)
    }
}

/// Who finds that another relay has moved the position does not lead any more.
fn or_lost(halt: Halt) -> Halt {
    let fenced = |error: &Error| matches!(error.kind(), ErrorKind::Fenced { .. });
    if matches!(&halt, Halt::Failed(error) if fenced(error)) { Halt::Lost } else { halt }
}
