//! Settings of a relay.

use std::time::Duration;

use crate::backoff::{Delays, delays};

/// The wait after the first failed attempt.
const FIRST_DELAY: Duration = Duration::from_millis(10);

/// Settings of a [`Relay`](crate::Relay).
///
/// # Examples
/// ```
/// use std::time::Duration;
///
/// use retell::{MemoryBroker, MemoryStore, Relay, RelayOptions};
///
/// let options = RelayOptions::new().with_frame_events(500).with_lease(Duration::from_secs(30));
/// let relay = Relay::new(MemoryStore::new(), MemoryBroker::new()).with_options(options);
/// ```
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
    pub(super) grace: Duration,
    pub(super) lease: Duration,
}

impl RelayOptions {
    /// Creates the default settings: frames of at most 100 events and 256 KiB, uncompressed; pages of 1,000 events; a poll of the store every
    /// 200 ms if no signal arrives; a checkpoint every second; at most 5 seconds between attempts while the broker is down (twice that with
    /// jitter); and a lease of 10 seconds.
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
            grace: Duration::from_secs(30),
            lease: Duration::from_secs(10),
        }
    }

    /// Sends at most `events` events in one message. While few events are appended, a frame holds a single event and is sent immediately.
    pub fn with_frame_events(mut self, events: usize) -> Self {
        self.frame_events = events;
        self
    }

    /// Sends at most about `bytes` bytes of payload in one message. A larger event gets its own message.
    pub fn with_frame_bytes(mut self, bytes: usize) -> Self {
        self.frame_bytes = bytes;
        self
    }

    /// Compresses frames larger than `over` bytes. Over a network, compression pays off from about 4 KiB. Every worker then needs the feature
    /// `zstd`; a worker without it reads the store instead.
    #[cfg(feature = "zstd")]
    #[cfg_attr(docsrs, doc(cfg(feature = "zstd")))]
    pub fn with_compression(mut self, over: usize) -> Self {
        self.compress_over = Some(over);
        self
    }

    /// Reads at most `events` events at once (minimum 1). The relay sends one page while it reads the next, so it holds up to twice as many
    /// events, and never more than two pages of [`PAGE_BYTES`](crate::store::PAGE_BYTES) plus one event each, and the frames of one page. It
    /// does not hold the pages that wait for the broker's confirm (at most eight): after a failure it reads them again.
    pub fn with_page_events(mut self, events: usize) -> Self {
        self.page_events = events.max(1);
        self
    }

    /// Sets the interval at which the relay polls the store. It limits how late the relay notices the appends of other processes.
    pub fn with_poll(mut self, poll: Duration) -> Self {
        self.poll = poll;
        self
    }

    /// Sets the length of the lease, from a tenth of a second to a day. If the leading relay disappears, another relay takes over after this
    /// length plus at most a third.
    ///
    /// The default is ten seconds. The relay renews the lease when two thirds of it are left, which is enough for a database that restarts or
    /// fails over. After a crash, delivery over the broker pauses until the takeover, and the workers sweep the store meanwhile. A relay that is
    /// stopped releases the lease immediately.
    pub fn with_lease(mut self, length: Duration) -> Self {
        self.lease = length.clamp(Duration::from_millis(100), Duration::from_hours(24));
        self
    }

    /// Sets the longest wait between two attempts during an outage of the store or the broker (5 seconds by default: an operator who restores
    /// it need not wait longer).
    pub fn with_longest_delay(mut self, delay: Duration) -> Self {
        self.longest_delay = delay;
        self
    }

    /// Waits at most `grace` for the last confirms after the relay was told to stop (30 seconds by default, as for a
    /// [worker](crate::WorkerOptions::with_grace)).
    pub fn with_grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
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
