//! One term of a leading relay: page by page, from where the last one ended.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::broker::Announced;
use crate::broker::frame::Frame;
use crate::error::{Error, ErrorKind, Result};
use crate::event::RecordedEvent;
use crate::id::{Fence, Position};
use crate::relay::lease::Lease;
use crate::relay::{Halt, Relay};
use crate::store::{Filter, PAGE_BYTES, RelayStore};

/// After a frame that was not full, the next one waits this long: an event that comes alone leaves at once, and those of a busy log share
/// their frames.
const BREATH: Duration = Duration::from_millis(1);

/// What entitles a relay to move the position.
pub(super) struct Office<'r> {
    pub(super) lease: &'r Lease,
    pub(super) store: &'r dyn RelayStore,
    pub(super) name: &'r str,
    pub(super) fence: Fence,
}

pub(super) struct Term<'r> {
    relay: &'r Relay,
    office: Option<Office<'r>>,
    stop: &'r CancellationToken,
    /// Everything up to here is confirmed.
    confirmed: Position,
    /// The position as stored.
    kept: Position,
    kept_at: Instant,
    /// How many events the next page is asked for.
    limit: usize,
}

/// A page of the log.
struct Batch {
    events: Vec<RecordedEvent>,
    bytes: usize,
    through: Position,
    /// There may be more after it already.
    full: bool,
}

impl<'r> Term<'r> {
    pub(super) fn new(
        relay: &'r Relay,
        office: Option<Office<'r>>,
        start: Position,
        stop: &'r CancellationToken,
    ) -> Self {
        let limit = relay.options.page_events;
        Self { relay, office, stop, confirmed: start, kept: start, kept_at: Instant::now(), limit }
    }

    pub(super) async fn run(mut self) -> Halt {
        let halt = match self.send().await {
            Ok(()) => Halt::Stopped,
            Err(halt) => halt,
        };
        match halt {
            Halt::Stopped => self.keep_last().await,
            halt => halt,
        }
    }

    /// Until told to stop. Invariant: `confirmed` moves over whole pages, one after the other, each when all of it is confirmed.
    async fn send(&mut self) -> Result<(), Halt> {
        let mut grown = self.relay.reader.grown();
        let mut ahead = None;
        while !self.stop.is_cancelled() {
            let batch = match ahead.take() {
                Some(batch) => batch,
                None => self.read(self.confirmed).await?,
            };
            let Some(average) = batch.bytes.checked_div(batch.events.len()) else {
                self.keep().await?;
                tokio::select! {
                    () = self.stop.cancelled() => {}
                    () = tokio::time::sleep(self.relay.options.poll) => {}
                    Ok(()) = grown.changed() => {}
                }
                continue;
            };
            // A page ends when it has enough bytes; a server would have sent what lies beyond in vain.
            self.limit = (2 * PAGE_BYTES / average.max(1)).clamp(1, self.relay.options.page_events);
            if batch.full {
                // The next page is read while the broker confirms this one.
                let (sent, next) = futures::join!(self.publish(&batch.events), self.read(batch.through));
                sent?;
                ahead = Some(next?);
            } else {
                self.publish(&batch.events).await?;
            }
            self.confirmed = batch.through;
            if self.kept_at.elapsed() >= self.relay.options.checkpoint_every {
                self.keep().await?;
            }
            if batch.events.len() < self.relay.options.frame_events && ahead.is_none() {
                tokio::time::sleep(BREATH).await;
            }
        }
        Ok(())
    }

    async fn retry<T, F: Future<Output = Result<T>>>(&self, attempt: impl Fn() -> F) -> Result<T, Halt> {
        self.relay.retry(self.stop, self.office.as_ref().map(|office| office.lease), attempt).await
    }

    async fn read(&self, after: Position) -> Result<Batch, Halt> {
        let (limit, all) = (self.limit, Filter::all());
        let page = self.retry(|| self.relay.reader.read_all(after, limit, &all)).await?;
        let bytes = page.events.iter().map(RecordedEvent::payload_bytes).sum();
        let full = page.events.len() >= limit || bytes >= PAGE_BYTES;
        Ok(Batch { events: page.events, bytes, through: page.through, full })
    }

    /// Returns when the broker has confirmed everything, both ways.
    async fn publish(&self, events: &[RecordedEvent]) -> Result<(), Halt> {
        futures::try_join!(self.publish_frames(events), self.announce(events)).map(|_| ())
    }

    async fn publish_frames(&self, events: &[RecordedEvent]) -> Result<(), Halt> {
        let Some(publisher) = &self.relay.publisher else { return Ok(()) };
        let frames = self.frames(events).map_err(Halt::Failed)?;
        self.retry(|| publisher.publish(&frames)).await
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

    async fn announce(&self, events: &[RecordedEvent]) -> Result<(), Halt> {
        let Some(announcer) = &self.relay.announcer else { return Ok(()) };
        let Announced { unroutable } = self.retry(|| announcer.announce(events)).await?;
        if unroutable > 0 {
            self.relay.unroutable.send_modify(|sum| *sum += unroutable);
        }
        Ok(())
    }

    async fn keep(&mut self) -> Result<(), Halt> {
        if let Some(Office { store, name, fence, .. }) = &self.office
            && self.kept < self.confirmed
        {
            self.retry(|| store.set_relayed(name, self.confirmed, *fence)).await.map_err(or_lost)?;
        }
        (self.kept, self.kept_at) = (self.confirmed, Instant::now());
        Ok(())
    }

    /// One attempt: what is not kept is sent again.
    async fn keep_last(&self) -> Halt {
        let Some(Office { store, name, fence, .. }) = &self.office else { return Halt::Stopped };
        if self.kept == self.confirmed {
            return Halt::Stopped;
        }
        let kept = store.set_relayed(name, self.confirmed, *fence).await;
        kept.map_or_else(|error| or_lost(Halt::Failed(error)), |()| Halt::Stopped)
    }
}

/// Who finds that another relay has moved the position does not lead any more.
fn or_lost(halt: Halt) -> Halt {
    let fenced = |error: &Error| matches!(error.kind(), ErrorKind::Fenced { .. });
    if matches!(&halt, Halt::Failed(error) if fenced(error)) { Halt::Lost } else { halt }
}
