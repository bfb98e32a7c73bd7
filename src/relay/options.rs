//! Settings of a relay.

use std::time::Duration;

use crate::backoff::{Delays, delays};

/// The first wait after something failed.
const FIRST_DELAY: Duration = Duration::from_millis(10);

/// Settings of a [`Relay`](crate::Relay).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RelayOptions {
    pub(super) frame_events: usize,
    pub(super) frame_bytes: usize,
    #[cfg(feature = "zstd")]
    pub(super) compress_over: Option<usize>,
    pub(super) page_events: usize,
    pub(super) poll: Duration,
    pub(super) checkpoint_every: Duration,
    longest_delay: Duration,
    pub(super) lease: Duration,
}

impl RelayOptions {
    /// Frames of at most 100 events and 256 KiB, uncompressed; pages of 1,000 events; a look at the store every 200 ms if no signal
    /// comes, a checkpoint every second, at most 5 seconds between attempts while the broker is down, and a lease of 10 seconds.
    pub fn new() -> Self {
        Self {
            frame_events: 100,
            frame_bytes: 256 * 1024,
            #[cfg(feature = "zstd")]
            compress_over: None,
            page_events: 1_000,
            poll: Duration::from_millis(200),
            checkpoint_every: Duration::from_secs(1),
            longest_delay: Duration::from_secs(5),
            lease: Duration::from_secs(10),
        }
    }

    /// Sends at most `events` in one message. While the log is quiet, a frame has a single event and is sent at once.
    pub fn with_frame_events(mut self, events: usize) -> Self {
        self.frame_events = events;
        self
    }

    /// Sends about `bytes` of payload in one message at most. A larger event gets a message of its own.
    pub fn with_frame_bytes(mut self, bytes: usize) -> Self {
        self.frame_bytes = bytes;
        self
    }

    /// Compresses frames larger than `over` bytes. This pays if a network lies between, from about 4 KiB on. Every worker needs the
    /// feature `zstd` then; a worker without it reads the store instead.
    #[cfg(feature = "zstd")]
    #[cfg_attr(docsrs, doc(cfg(feature = "zstd")))]
    pub fn with_compression(mut self, over: usize) -> Self {
        self.compress_over = Some(over);
        self
    }

    /// Reads at most `events` at once. The relay sends one page while it reads the next. So it holds up to twice as many events, and
    /// never more than two pages of [`PAGE_BYTES`](crate::store::PAGE_BYTES) with one event more each, plus the frames of one page. It
    /// holds nothing of pages that wait for the broker's confirm (at most eight): after a failure it reads them again.
    pub fn with_page_events(mut self, events: usize) -> Self {
        self.page_events = events.max(1);
        self
    }

    /// Sets how long appends of other processes may go unnoticed.
    pub fn with_poll(mut self, poll: Duration) -> Self {
        self.poll = poll;
        self
    }

    /// Sets the length of the lease: a tenth of a second to a day. If the leading relay disappears, another takes over after this length
    /// plus at most a third.
    ///
    /// The default is ten seconds: the relay renews the lease when two thirds of it are left, which is enough for a database that
    /// restarts or fails over. After a crash, delivery pauses for at most this long, and the workers sweep the store meanwhile. A relay
    /// that is stopped releases the lease immediately.
    pub fn with_lease(mut self, length: Duration) -> Self {
        self.lease = length.clamp(Duration::from_millis(100), Duration::from_hours(24));
        self
    }

    /// Returns the waits between attempts.
    pub(super) fn delays(&self) -> Delays {
        delays(FIRST_DELAY, self.longest_delay)
    }
}

impl Default for RelayOptions {
    fn default() -> Self {
        Self::new()
    }
}
