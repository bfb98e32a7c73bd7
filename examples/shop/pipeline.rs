//! Carries the events from the log to the consumers: a relay publishes them, and each consumer has a worker of its own.

use std::sync::Arc;

use retell::{
    BoxError, CheckpointStore, EventStore, MemoryBroker, MemoryReadModel, Position, Projection, Relay, Worker,
};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::consumers::analytics::Analytics;
use crate::consumers::audit::Audit;
use crate::consumers::notification::{Notification, Sent};
use crate::consumers::search::Search;
use crate::read_models::ReadModels;
use crate::run::Failure;
use crate::stores::Stores;

/// The relay and the workers, as tasks that are owned here.
pub struct Pipeline {
    log: Arc<dyn EventStore>,
    broker: MemoryBroker,
    tasks: JoinSet<Result<(), (String, BoxError)>>,
    applied: Vec<watch::Receiver<Position>>,
    end: CancellationToken,
    failed: CancellationToken,
}

impl Pipeline {
    /// Starts everything. A task that fails cancels `failed`; [`end`](Self::end) says why.
    pub fn start(stores: &Stores, sent: &MemoryReadModel<Sent>, failed: CancellationToken) -> Self {
        let mut pipeline = Self {
            log: stores.log.clone(),
            broker: MemoryBroker::new(),
            tasks: JoinSet::new(),
            applied: Vec::new(),
            end: CancellationToken::new(),
            failed,
        };
        let models = || ReadModels::clone(&stores.models);
        pipeline.consume(Analytics, models());
        pipeline.consume(Search, models());
        pipeline.consume(Audit, models());
        pipeline.consume(Notification, sent.clone());
        pipeline.publish();
        pipeline
    }

    fn publish(&mut self) {
        let relay = Relay::new(self.log.clone(), self.broker.clone());
        let end = self.end.clone();
        self.spawn("relay".into(), async move { relay.run(end).await });
    }

    fn consume<P, M>(&mut self, projection: P, models: M)
    where
        P: Projection,
        M: CheckpointStore<Tx = P::Tx>,
    {
        let name = projection.name().to_owned();
        let worker = Worker::new(projection, self.log.clone(), models).with_broker(self.broker.clone());
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

    /// Waits until every consumer, of this process or another, has applied everything up to `end`, or something failed.
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
