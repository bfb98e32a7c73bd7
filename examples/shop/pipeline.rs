//! Brings the events from the log to the consumers: a relay publishes them, and each consumer has a worker of its own. A process has all of
//! it or a part, as its role says.

use std::sync::Arc;

use retell::{BoxError, EventStore, Position, Projection, Relay, Worker};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::carrier::Carrier;
use crate::consumers::analytics::Analytics;
use crate::consumers::audit::Audit;
use crate::consumers::notification::Notification;
use crate::consumers::search::Search;
use crate::database::Database;
use crate::read_models::ReadModels;
use crate::run::{Failure, Role};
use crate::stores::Stores;

/// What the relays of all processes are called: of one name one leads.
const RELAY: &str = "shop";

/// Those for other programs. What holds them up does not hold up our consumers.
const ANNOUNCING: &str = "shop announcements";

/// The relay and the workers, as tasks that are owned here.
pub struct Pipeline {
    log: Arc<dyn EventStore>,
    models: ReadModels,
    carrier: Carrier,
    tasks: JoinSet<Result<(), (String, BoxError)>>,
    applied: Vec<watch::Receiver<Position>>,
    end: CancellationToken,
    failed: CancellationToken,
}

impl Pipeline {
    /// Starts what a process of this role has. A task that fails cancels `failed`; [`end`](Self::end) says why.
    pub fn start(stores: &Stores, carrier: &Carrier, role: Role, failed: CancellationToken) -> Self {
        let mut pipeline = Self {
            log: stores.log.clone(),
            models: stores.models.clone(),
            carrier: carrier.clone(),
            tasks: JoinSet::new(),
            applied: Vec::new(),
            end: CancellationToken::new(),
            failed,
        };
        if role.consumes() {
            pipeline.consume(Analytics);
            pipeline.consume(Search);
            pipeline.consume(Audit);
            pipeline.consume(Notification);
        }
        if role.relays() {
            pipeline.publish(stores);
        }
        pipeline
    }

    /// RabbitMQ outlives us, so the relay goes on where it was, and other programs get every event by itself.
    fn publish(&mut self, stores: &Stores) {
        match &self.carrier {
            Carrier::Memory(broker) => self.relay(RELAY, Relay::new(self.log.clone(), broker.clone())),
            Carrier::RabbitMq(broker) => {
                let frames = Relay::new(self.log.clone(), broker.clone());
                let single = Relay::announcing(self.log.clone(), broker.clone());
                for (name, relay) in [(RELAY, frames), (ANNOUNCING, single)] {
                    self.relay(name, relay.with_checkpoint(stores.relays.clone(), name));
                }
            }
        }
    }

    fn relay(&mut self, name: &str, relay: Relay) {
        let end = self.end.clone();
        self.spawn(format!("the relay {name}"), async move { relay.run(end).await });
    }

    fn consume(&mut self, projection: impl Projection<Tx = dyn Database>) {
        let name = projection.name().to_owned();
        let worker = Worker::new(projection, self.log.clone(), self.models.clone());
        let worker = match &self.carrier {
            Carrier::Memory(broker) => worker.with_broker(broker.clone()),
            Carrier::RabbitMq(broker) => worker.with_broker(broker.clone()).with_dead_letters(broker.clone()),
        };
        self.applied.push(worker.applied());
        let end = self.end.clone();
        self.spawn(name, async move { worker.run(end).await });
    }

    fn spawn(&mut self, name: String, task: impl Future<Output = retell::Result<()>> + Send + 'static) {
        // Also where it panics.
        let failing = self.failed.clone().drop_guard();
        self.tasks.spawn(async move {
            task.await.map_err(|error| (name, error.into()))?;
            failing.disarm();
            Ok(())
        });
    }

    /// Waits until every consumer of this process has seen everything up to `end` applied, here or elsewhere, or something failed.
    pub async fn catch_up(&mut self, end: Position) {
        for applied in &mut self.applied {
            tokio::select! {
                () = self.failed.cancelled() => return,
                // A worker that is gone has failed, and its task says why.
                _ = applied.wait_for(|position| *position >= end) => {}
            }
        }
    }

    /// Lets each task finish what it is at, and waits for it.
    pub async fn end(mut self) -> Result<(), Failure> {
        self.end.cancel();
        let mut ended = Ok(());
        while let Some(task) = self.tasks.join_next().await {
            let failure = match task {
                Ok(Ok(())) => continue,
                Ok(Err((name, error))) => Failure::of(format!("run {name}"), error),
                Err(panic) => Failure::of("run a consumer", panic),
            };
            ended = ended.and(Err(failure));
        }
        ended
    }
}
