//! Carries the log to the broker: in order, confirmed, without looking into a payload.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::broker::Publisher;
use crate::broker::frame::Frame;
use crate::error::Result;
use crate::id::{Fence, Position};
use crate::store::{EventReader, Filter, RelayCheckpoint};

/// After a frame that was not full, the next one waits this long: an event that comes alone leaves at once, and those of a busy log share
/// their frames.
const BREATH: Duration = Duration::from_millis(1);

/// Settings of a [`Relay`].
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct RelayOptions {
    frame_events: usize,
    frame_bytes: usize,
    page_events: usize,
    poll: Duration,
    checkpoint_every: Duration,
    longest_delay: Duration,
}

impl RelayOptions {
    /// Frames of at most 100 events and 256 KiB, 1,000 events under way, a look at the store every 200 ms where no signal comes, a
    /// checkpoint every second, and at most 5 seconds between attempts while the broker is down.
    pub fn new() -> Self {
        Self {
            frame_events: 100,
            frame_bytes: 256 * 1024,
            page_events: 1_000,
            poll: Duration::from_millis(200),
            checkpoint_every: Duration::from_secs(1),
            longest_delay: Duration::from_secs(5),
        }
    }

    /// The most events in one message. When little is going on a frame has a single event and leaves at once.
    pub fn with_frame_events(mut self, events: usize) -> Self {
        self.frame_events = events;
        self
    }

    /// About the most payload bytes in one message; a larger event travels alone.
    pub fn with_frame_bytes(mut self, bytes: usize) -> Self {
        self.frame_bytes = bytes;
        self
    }

    /// The most events read and unconfirmed at once.
    pub fn with_page_events(mut self, events: usize) -> Self {
        self.page_events = events.max(1);
        self
    }

    /// How long the appends of other processes may go unnoticed.
    pub fn with_poll(mut self, poll: Duration) -> Self {
        self.poll = poll;
        self
    }
}

impl Default for RelayOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// Publishes every event of a log, at least once and in order.
pub struct Relay {
    reader: Arc<dyn EventReader>,
    publisher: Arc<dyn Publisher>,
    checkpoint: Option<(Arc<dyn RelayCheckpoint>, String)>,
    options: RelayOptions,
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Relay {
    /// A relay for a broker that forgets with the process: it starts at the log's present end, and the workers read what was before
    /// from the store.
    pub fn new(reader: impl EventReader, publisher: impl Publisher) -> Self {
        Self {
            reader: Arc::new(reader),
            publisher: Arc::new(publisher),
            checkpoint: None,
            options: RelayOptions::new(),
        }
    }

    /// Keeps the confirmed position under a name and starts from there.
    pub fn with_checkpoint(mut self, store: impl RelayCheckpoint, name: impl Into<String>) -> Self {
        self.checkpoint = Some((Arc::new(store), name.into()));
        self
    }

    /// Other settings.
    pub fn with_options(mut self, options: RelayOptions) -> Self {
        self.options = options;
        self
    }

    /// Publishes until told to stop. Whatever the store or the broker does, it tries again.
    ///
    /// # Errors
    /// What reading, publishing or keeping the position met, if trying again cannot help.
    ///
    /// # Cancel safety
    /// May be dropped at any time; what was published without the checkpoint having moved is published again.
    pub async fn run(&self, stop: CancellationToken) -> Result<()> {
        let mut published = self.retry(&stop, || self.start()).await?.unwrap_or_default();
        let (mut kept, mut kept_at) = (published, Instant::now());
        let mut grown = self.reader.grown();
        while !stop.is_cancelled() {
            let through = self.retry(&stop, || self.publish_after(published)).await?;
            let idle = through == Some(published);
            let partial = through.is_some_and(|through| through.since(published) < self.options.frame_events as u64);
            published = through.unwrap_or(published);
            if kept < published && (idle || kept_at.elapsed() >= self.options.checkpoint_every) {
                self.retry(&stop, || self.keep(published)).await?;
                (kept, kept_at) = (published, Instant::now());
            }
            if idle {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = tokio::time::sleep(self.options.poll) => {}
                    Ok(()) = grown.changed() => {}
                }
            } else if partial {
                tokio::time::sleep(BREATH).await;
            }
        }
        if kept < published { self.keep(published).await } else { Ok(()) }
    }

    async fn start(&self) -> Result<Position> {
        match &self.checkpoint {
            Some((store, name)) => store.relayed(name).await,
            None => self.reader.head().await,
        }
    }

    /// Publishes the next page and returns the position of its last event.
    async fn publish_after(&self, position: Position) -> Result<Position> {
        let page = self.reader.read_all(position, self.options.page_events, &Filter::all()).await?;
        let frames = Frame::split(&page.events, self.options.frame_events, self.options.frame_bytes)?;
        if !frames.is_empty() {
            self.publisher.publish(&frames).await?;
        }
        Ok(page.through)
    }

    async fn keep(&self, position: Position) -> Result<()> {
        match &self.checkpoint {
            Some((store, name)) => store.set_relayed(name, position, Fence::ZERO).await,
            None => Ok(()),
        }
    }

    /// Tries until it works, fails for good, or is told to stop (`None`).
    async fn retry<T, F: Future<Output = Result<T>>>(
        &self,
        stop: &CancellationToken,
        attempt: impl Fn() -> F,
    ) -> Result<Option<T>> {
        let mut delays = ExponentialBuilder::new()
            .with_min_delay(Duration::from_millis(10))
            .with_max_delay(self.options.longest_delay)
            .without_max_times()
            .with_jitter()
            .build();
        loop {
            match attempt().await {
                Err(error) if error.is_transient() => {
                    let delay = delays.next().unwrap_or(self.options.longest_delay);
                    tokio::select! {
                        () = stop.cancelled() => return Ok(None),
                        () = tokio::time::sleep(delay) => {}
                    }
                }
                done => return done.map(Some),
            }
        }
    }
}
