//! Carries the log to the broker: in order, confirmed, without decoding a payload.
//!
//! Of the relays of one name, one publishes and the others are on standby. A lease decides which. Its fence keeps a relay that was
//! suspended, and resumes late, from moving the position. Such a relay may publish what the next one publishes again: every event is
//! published at least once.

mod halt;
mod lease;
pub(crate) mod options;
mod publishing;

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::broker::{Announcer, Publisher};
use crate::error::Result;
use crate::id::{Fence, Position};
use crate::relay::halt::{Halt, retry};
use crate::relay::lease::Lease;
use crate::relay::publishing::{Leadership, Outlet, Publishing, Route};
use crate::store::log::reader::EventReader;
use crate::store::log::relay::RelayStore;

pub use options::RelayOptions;

/// Publishes every event of a log, at least once and in order.
pub struct Relay {
    route: Route,
    checkpoint: Option<(Arc<dyn RelayStore>, String)>,
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay").field("options", &self.route.options).finish_non_exhaustive()
    }
}

impl Relay {
    /// Creates a relay that publishes frames, for workers. Without a [checkpoint](Self::with_checkpoint), as for a broker that forgets with
    /// the process, it starts at the log's present end, and workers read earlier events from the store.
    pub fn new(reader: impl EventReader, publisher: impl Publisher) -> Self {
        Self::to(Outlet::Frames(Arc::new(publisher)), reader)
    }

    /// Creates a relay that announces single events, for consumers other than workers. Give it a name of its own next to the relay for
    /// workers: then a queue that holds up one does not hold up the other, and either can be set back alone.
    pub fn announcing(reader: impl EventReader, announcer: impl Announcer) -> Self {
        Self::to(Outlet::Single(Arc::new(announcer)), reader)
    }

    fn to(outlet: Outlet, reader: impl EventReader) -> Self {
        let (unroutable, options) = (watch::Sender::new(0), RelayOptions::new());
        Self { route: Route { reader: Arc::new(reader), outlet, unroutable, options }, checkpoint: None }
    }

    /// Stores the confirmed position under `name` and starts from there. Of all relays of that name, in any process, one publishes: the
    /// one that has the lease of the same name.
    pub fn with_checkpoint(mut self, store: impl RelayStore, name: impl Into<String>) -> Self {
        self.checkpoint = Some((Arc::new(store), name.into()));
        self
    }

    /// Replaces the settings.
    pub fn with_options(mut self, options: RelayOptions) -> Self {
        self.route.options = options;
        self
    }

    /// Returns the count of announced events that no queue wanted, as it grows. An event that is announced again counts again.
    pub fn unroutable(&self) -> watch::Receiver<u64> {
        self.route.unroutable.subscribe()
    }

    /// Publishes until stopped, or is on standby while another relay of its name publishes. It retries transient errors of store and
    /// broker without end. When stopped, it waits for the confirms under way, stores its position and releases its lease.
    ///
    /// # Errors
    /// What store or broker return if it is not transient. [`ErrorKind::Fenced`](crate::ErrorKind::Fenced) if the position was moved under
    /// a fence that this store's leases have not reached: leases and positions come from different databases or backups.
    ///
    /// # Cancel safety
    /// May be dropped at any time. What was published without storing the position is published again, and the lease expires.
    pub async fn run(&self, stop: CancellationToken) -> Result<()> {
        let Some((store, name)) = &self.checkpoint else {
            return match self.publish_alone(&stop).await {
                Halt::Failed(error) => Err(error),
                Halt::Stopped | Halt::LeaseLost => Ok(()),
            };
        };
        let options = &self.route.options;
        let lease = Lease::new(store.clone(), name.clone(), options.lease);
        while !stop.is_cancelled() {
            let halt = match retry(&stop, options.delays(), None, || lease.acquire()).await {
                Ok(Some(fence)) => {
                    let leadership = Leadership { lease: &lease, store: &**store, name, fence };
                    self.lead(&leadership, &stop).await
                }
                Ok(None) => Halt::LeaseLost,
                Err(halt) => halt,
            };
            match halt {
                Halt::LeaseLost => lease.stand_by(&stop).await,
                Halt::Stopped => return lease.release().await,
                Halt::Failed(error) => {
                    // This error says more than one about a lease that now has to expire.
                    drop(lease.release().await);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    async fn publish_alone(&self, stop: &CancellationToken) -> Halt {
        match retry(stop, self.route.options.delays(), None, || self.route.reader.head()).await {
            Ok(head) => Publishing::new(&self.route, None, head, stop).run().await,
            Err(halt) => halt,
        }
    }

    /// Publishes while the lease is certain. When it is not, everything under way is dropped.
    async fn lead(&self, leadership: &Leadership<'_>, stop: &CancellationToken) -> Halt {
        let Leadership { lease, store, name, fence } = *leadership;
        let publishing = async {
            match retry(stop, self.route.options.delays(), Some(lease), || take_over(store, name, fence)).await {
                Ok(start) => Publishing::new(&self.route, Some(leadership), start, stop).run().await,
                Err(halt) => halt,
            }
        };
        tokio::select! {
            biased;
            lost = lease.keep(fence) => lost.map_or_else(Halt::Failed, |()| Halt::LeaseLost),
            halt = publishing => halt,
        }
    }
}

/// Raises the fence before it reads the position, so that the previous leader can no longer move it.
async fn take_over(store: &dyn RelayStore, name: &str, fence: Fence) -> Result<Position> {
    store.advance(name, Position::ZERO, fence).await?;
    store.position(name).await
}
