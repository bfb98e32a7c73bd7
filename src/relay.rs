//! Carries the log to the broker: in order, confirmed, without looking into a payload.
//!
//! Of the relays of one name one leads, and the others stand by. A lease says which, and its fence sees to it that one that was stopped for a
//! while and wakes up late cannot move the position. It may have sent what the next one sends again: every event is sent at least once.

mod lease;
mod term;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::backoff::{self, Delays};
use crate::broker::{Announcer, Publisher};
use crate::error::{Error, Result};
use crate::id::{Fence, Position};
use crate::relay::lease::Lease;
use crate::relay::term::{Office, Term};
use crate::store::{EventReader, RelayStore};

/// Settings of a [`Relay`].
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct RelayOptions {
    frame_events: usize,
    frame_bytes: usize,
    #[cfg(feature = "zstd")]
    compress_over: Option<usize>,
    page_events: usize,
    poll: Duration,
    checkpoint_every: Duration,
    longest_delay: Duration,
    lease: Duration,
}

impl RelayOptions {
    /// Frames of at most 100 events and 256 KiB, uncompressed; pages of 1,000 events; a look at the store every 200 ms where no signal
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

    /// Compresses frames of more than so many bytes: a good thing where a network lies between, from some 4 KiB on. Every worker needs the
    /// feature `zstd` then; one without it reads the store instead.
    #[cfg(feature = "zstd")]
    pub fn with_compression(mut self, over: usize) -> Self {
        self.compress_over = Some(over);
        self
    }

    /// The most events read at once. One page is sent while the next is read, so twice as many are held, and never more than two pages'
    /// [`PAGE_BYTES`](crate::store::PAGE_BYTES), with an event more each; and the frames made of one page. Of pages that wait for the
    /// broker's confirm, at most eight, nothing is held: after a failure they are read again.
    pub fn with_page_events(mut self, events: usize) -> Self {
        self.page_events = events.max(1);
        self
    }

    /// How long the appends of other processes may go unnoticed.
    pub fn with_poll(mut self, poll: Duration) -> Self {
        self.poll = poll;
        self
    }

    /// How long a relay leads before it has to be heard of again, and so how long the others wait for one that is gone: this long and a third
    /// more. From a tenth of a second to a day.
    ///
    /// Ten seconds, since two thirds of it are left when it is prolonged: enough for a database that restarts or fails over. After
    /// a crash events are late by so much, for no longer: meanwhile the workers sweep the store. Who is told to stop gives it back at once.
    pub fn with_lease(mut self, length: Duration) -> Self {
        self.lease = length.clamp(Duration::from_millis(100), Duration::from_hours(24));
        self
    }
}

impl Default for RelayOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// Sends every event of a log, at least once and in order.
pub struct Relay {
    reader: Arc<dyn EventReader>,
    outlet: Outlet,
    unroutable: watch::Sender<u64>,
    checkpoint: Option<(Arc<dyn RelayStore>, String)>,
    options: RelayOptions,
}

/// Which way a relay sends.
enum Outlet {
    Frames(Arc<dyn Publisher>),
    Single(Arc<dyn Announcer>),
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Relay {
    /// Publishes frames, for workers. Over a broker that forgets with the process: it starts at the log's present end, and the workers read
    /// what was before from the store.
    pub fn new(reader: impl EventReader, publisher: impl Publisher) -> Self {
        Self::to(Outlet::Frames(Arc::new(publisher)), reader)
    }

    /// Announces single events, for everybody else. A relay of its own beside the one for workers, under a name of its own: a queue that
    /// holds up the one does not hold up the other, and either can be set back alone.
    pub fn announcing(reader: impl EventReader, announcer: impl Announcer) -> Self {
        Self::to(Outlet::Single(Arc::new(announcer)), reader)
    }

    fn to(outlet: Outlet, reader: impl EventReader) -> Self {
        Self {
            reader: Arc::new(reader),
            outlet,
            unroutable: watch::Sender::new(0),
            checkpoint: None,
            options: RelayOptions::new(),
        }
    }

    /// Keeps the confirmed position under a name and starts from there. Of all relays of that name one leads, by a lease of the same name,
    /// in whichever processes they are.
    pub fn with_checkpoint(mut self, store: impl RelayStore, name: impl Into<String>) -> Self {
        self.checkpoint = Some((Arc::new(store), name.into()));
        self
    }

    /// Other settings.
    pub fn with_options(mut self, options: RelayOptions) -> Self {
        self.options = options;
        self
    }

    /// How many announced events no queue wanted, as it grows. An event that is announced again counts again.
    pub fn unroutable(&self) -> watch::Receiver<u64> {
        self.unroutable.subscribe()
    }

    /// Sends until told to stop, or stands by while another relay of its name does. Whatever the store or the broker does, it tries again.
    /// Told to stop, it waits for the confirms under way, keeps its position and gives its lease back.
    ///
    /// # Errors
    /// What reading, publishing, announcing or keeping the position met, if trying again cannot help.
    /// [`ErrorKind::Fenced`](crate::ErrorKind::Fenced) if the position was moved under a fence that this store's leases have not reached:
    /// leases and positions are not of one time.
    ///
    /// # Cancel safety
    /// May be dropped at any time. What was sent without the position having moved is sent again, and the lease ends by itself.
    pub async fn run(&self, stop: CancellationToken) -> Result<()> {
        let Some((store, name)) = &self.checkpoint else {
            return match self.lead_alone(&stop).await {
                Halt::Failed(error) => Err(error),
                Halt::Stopped | Halt::Lost => Ok(()),
            };
        };
        let lease = Lease::new(store.clone(), name.clone(), self.options.lease);
        while !stop.is_cancelled() {
            let halt = match self.retry(&stop, None, || lease.take()).await {
                Ok(Some(fence)) => self.lead(&lease, &**store, name, fence, &stop).await,
                Ok(None) => Halt::Lost,
                Err(halt) => halt,
            };
            match halt {
                Halt::Lost => lease.stand_by(&stop).await,
                Halt::Stopped => return lease.release().await,
                Halt::Failed(error) => {
                    // What went wrong says more than that the lease has to end by itself now.
                    drop(lease.release().await);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    async fn lead_alone(&self, stop: &CancellationToken) -> Halt {
        match self.retry(stop, None, || self.reader.head()).await {
            Ok(head) => Term::new(self, None, head, stop).run().await,
            Err(halt) => halt,
        }
    }

    /// Sends as long as the lease is sure. Whatever is under way when it is not is dropped.
    async fn lead(
        &self,
        lease: &Lease,
        store: &dyn RelayStore,
        name: &str,
        fence: Fence,
        stop: &CancellationToken,
    ) -> Halt {
        let term = async {
            match self.retry(stop, Some(lease), || take_over(store, name, fence)).await {
                Ok(start) => Term::new(self, Some(&Office { lease, store, name, fence }), start, stop).run().await,
                Err(halt) => halt,
            }
        };
        tokio::select! {
            biased;
            lost = lease.keep(fence) => lost.map_or_else(Halt::Failed, |()| Halt::Lost),
            halt = term => halt,
        }
    }

    /// Tries until it works or fails for good. While it waits it can be told to stop; without its lease it tries nothing.
    async fn retry<T, F: Future<Output = Result<T>>>(
        &self,
        stop: &CancellationToken,
        lease: Option<&Lease>,
        attempt: impl Fn() -> F,
    ) -> Result<T, Halt> {
        let mut delays = delays(self.options.longest_delay);
        loop {
            if lease.is_some_and(|lease| !lease.is_sure()) {
                return Err(Halt::Lost);
            }
            match attempt().await {
                Err(error) if error.is_transient() => {
                    let delay = delays.next().unwrap_or(self.options.longest_delay);
                    tokio::select! {
                        () = stop.cancelled() => return Err(Halt::Stopped),
                        () = tokio::time::sleep(delay) => {}
                    }
                }
                done => return done.map_err(Halt::Failed),
            }
        }
    }
}

/// Why a relay sends no more.
enum Halt {
    Stopped,
    /// Another relay leads, or may soon.
    Lost,
    Failed(Error),
}

/// First the fence, then the position: who led before moves it no more.
async fn take_over(store: &dyn RelayStore, name: &str, fence: Fence) -> Result<Position> {
    store.advance(name, Position::ZERO, fence).await?;
    store.position(name).await
}

/// The waits between attempts.
fn delays(longest: Duration) -> Delays {
    backoff::delays(Duration::from_millis(10), longest)
}
