//! Relays: they publish the log to a broker, in order and confirmed, without decoding a payload.
//!
//! One of the relays that share a name publishes, and the others are on standby. A lease decides which relay publishes. The lease's fence
//! prevents a relay that was suspended, and resumes late, from moving the stored position. Such a relay may publish events that the next
//! relay publishes again: every event is published at least once.

mod halt;
mod lease;
pub(crate) mod options;
mod outlet;
mod publishing;

use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::broker::{Announcer, Publisher};
use crate::error::{ErrorKind, Result};
use crate::grace::within_grace;
use crate::id::mark::Mark;
use crate::id::{Fence, Position};
use crate::metrics::relay::RelayMeter;
use crate::notice::NoticeKind;
use crate::pulse::Pulses;
use crate::relay::halt::{Halt, retry};
use crate::relay::lease::Lease;
use crate::relay::outlet::Outlet;
use crate::relay::publishing::{Leadership, Publishing, Route};
use crate::status::{Reporter, Status, Wait};
use crate::store::log::reader::{EventReader, EventReaderExt};
use crate::store::log::relay::RelayStore;
use crate::store::model::names;

pub use options::RelayOptions;

/// Publishes every event of a log, at least once and in order.
///
/// # Examples
/// ```
/// use retell::prelude::*;
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let (log, broker) = (MemoryStore::new(), MemoryBroker::new());
/// let relay = Relay::new(log.clone(), broker).with_checkpoint(log, "frames");
///
/// let stop = CancellationToken::new();
/// stop.cancel(); // A program cancels the token when it shuts down.
/// relay.run(stop).await?;
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
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
    /// Creates a relay that publishes frames, for workers. Without a [checkpoint](Self::with_checkpoint), it starts at the current end of the
    /// log, and workers read earlier events from the store. That suits a broker that lives and ends with the process.
    pub fn new(reader: impl EventReader, publisher: impl Publisher) -> Self {
        Self::build(Outlet::Frames(Arc::new(publisher)), reader)
    }

    /// Creates a relay that announces single events, for consumers other than workers. Give it another name than the relay for workers. Then a
    /// full queue that delays one relay does not delay the other, and the position of each can be set back separately.
    pub fn announcing(reader: impl EventReader, announcer: impl Announcer) -> Self {
        Self::build(Outlet::Single(Arc::new(announcer)), reader)
    }

    fn build(outlet: Outlet, reader: impl EventReader) -> Self {
        let route = Route {
            reader: Arc::new(reader),
            outlet,
            unroutable: watch::Sender::new(0),
            published: watch::Sender::new(Position::ZERO),
            reporter: Reporter::of("relay"),
            options: RelayOptions::new(),
        };
        Self { route, checkpoint: None }
    }

    /// Stores the confirmed position in `store`, a store of the same log, under `name`, and starts from there. Only one of the relays that share `name`, in any process,
    /// publishes: the relay that holds the lease of the same name.
    pub fn with_checkpoint(mut self, store: impl RelayStore, name: impl Into<String>) -> Self {
        let name = name.into();
        names::add_relay(&name);
        self.route.reporter = self.route.reporter.named(&name);
        self.checkpoint = Some((Arc::new(store), name));
        self
    }

    /// Replaces the settings.
    pub fn with_options(mut self, options: RelayOptions) -> Self {
        self.route.options = options;
        self
    }

    /// Returns a receiver of the number of announced events that no queue received. An event that is announced again counts again.
    pub fn unroutable(&self) -> watch::Receiver<u64> {
        self.route.unroutable.subscribe()
    }

    /// Watches the position up to which the broker has confirmed the log. It does not move while another relay of the same name publishes.
    pub fn published(&self) -> watch::Receiver<Position> {
        self.route.published.subscribe()
    }

    /// Watches whether the relay runs, what it waits for and the last error that it saw.
    pub fn status(&self) -> watch::Receiver<Status> {
        self.route.reporter.status()
    }

    pub(crate) fn pulses(&self) -> Pulses {
        self.route.reporter.pulses()
    }

    /// Publishes until `stop` is canceled, or is on standby while another relay of the same name publishes. It retries transient errors of the
    /// store and the broker without limit, and waits for a store that is full or read-only. When stopped, it waits for the outstanding confirms,
    /// stores its position and releases its lease, within the [grace period](RelayOptions::with_grace).
    ///
    /// # Errors
    /// [`ErrorKind::TimedOut`] if the broker has not confirmed the last events within the grace period: the next relay publishes them again.
    /// Returns any other error of the store or the broker. [`ErrorKind::Fenced`] means that the position was moved
    /// under a fence that this store's leases have not reached: leases and positions come from different databases or backups.
    /// [`ErrorKind::HistoryChanged`] means that the log no longer has the last published event, after a failover or a
    /// restored backup: [`RelayStore::reset`] sets the position from which the relay publishes again.
    ///
    /// # Cancel safety
    /// May be dropped at any time. The lease expires, and the next relay publishes the events after the stored position again.
    pub async fn run(&self, stop: CancellationToken) -> Result<()> {
        let grace = self.route.options.grace;
        let run = Box::pin(self.route.reporter.track(self.run_to_stop(stop.clone())));
        within_grace(&stop, grace, run).await.unwrap_or_else(|| {
            let name = self.checkpoint.as_ref().map_or("without a name", |(_, name)| name);
            let what =
                format!("relay {name} did not stop within {grace:?}: the broker has not confirmed its last events");
            Err(ErrorKind::TimedOut(what).into())
        })
    }

    async fn run_to_stop(&self, stop: CancellationToken) -> Result<()> {
        let Some((store, name)) = &self.checkpoint else {
            return match self.publish_alone(&stop).await {
                Halt::Failed(error) => Err(error),
                Halt::Stopped | Halt::LeaseLost => Ok(()),
            };
        };
        let reporter = &self.route.reporter;
        let lease = Lease::new(store.clone(), name.clone(), self.route.options.lease, reporter.clone());
        let pulse = reporter.pulse();
        while !stop.is_cancelled() {
            pulse.turn();
            let halt = match retry(&stop, self.route.delays().resting(&pulse), None, || lease.acquire()).await {
                Ok(Some(fence)) => {
                    // The loops that publish have pulses of their own.
                    let _rest = pulse.rest();
                    reporter.done(Wait::Lease);
                    reporter.notice(NoticeKind::LeaseWon);
                    let leadership = Leadership { lease: &lease, store: &**store, name, fence };
                    let halt = self.lead(&leadership, &stop).await;
                    if matches!(halt, Halt::LeaseLost) {
                        reporter.notice(NoticeKind::LeaseLost);
                    }
                    halt
                }
                Ok(None) => Halt::LeaseLost,
                Err(halt) => halt,
            };
            match halt {
                Halt::LeaseLost => {
                    reporter.runs();
                    // From here on, the broker is the concern of another relay.
                    reporter.done(Wait::Broker);
                    reporter.waits(Wait::Lease);
                    let _rest = pulse.rest();
                    lease.wait_on_standby(&stop).await;
                }
                Halt::Stopped => return lease.release().await,
                Halt::Failed(error) => {
                    // Ignore the result: this error says more than a failed release, after which the lease expires.
                    drop(lease.release().await);
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    async fn publish_alone(&self, stop: &CancellationToken) -> Halt {
        match retry(stop, self.route.delays(), None, || end_of(&*self.route.reader)).await {
            Ok(head) => Publishing::new(&self.route, None, head, stop, &RelayMeter::new("local")).run().await,
            Err(halt) => halt,
        }
    }

    /// Publishes while the relay certainly holds the lease. Drops all work in progress as soon as another relay may hold it.
    async fn lead(&self, leadership: &Leadership<'_>, stop: &CancellationToken) -> Halt {
        let Leadership { lease, store, name, fence } = *leadership;
        let meter = RelayMeter::new(name);
        let publishing = async {
            match retry(stop, self.route.delays(), Some(lease), || take_over(store, name, fence)).await {
                Ok(start) => Publishing::new(&self.route, Some(leadership), start, stop, &meter).run().await,
                Err(halt) => halt,
            }
        };
        tokio::select! {
            biased;
            lost = lease.renew_until_lost(fence) => lost.map_or_else(Halt::Failed, |()| Halt::LeaseLost),
            halt = publishing => halt,
        }
    }
}

/// Raises the fence, then returns the stored place. In this order the previous leader can no longer move it.
async fn take_over(store: &dyn RelayStore, name: &str, fence: Fence) -> Result<Mark> {
    store.advance(name, Mark::START, fence).await?;
    store.mark(name).await
}

async fn end_of(reader: &dyn EventReader) -> Result<Mark> {
    reader.mark_at(reader.head().await?).await
}
