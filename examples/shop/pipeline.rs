//! Carries the events from the log to the consumers: a relay publishes them, and each consumer has a worker of its own.

use retell::store::sqlite::SqliteStore;
use retell::{
    BoxError, CheckpointStore, MemoryBroker, MemoryReadModel, Position, Projection, Relay, SqliteReadModel, Worker,
};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::consumers::analytics::Analytics;
use crate::consumers::audit::Audit;
use crate::consumers::notification::{Notification, Sent};
use crate::consumers::search::Search;
use crate::run::Failure;

/// The relay and the workers, as tasks that are owned here.
#[derive(Debug)]
pub struct Pipeline {
    store: SqliteStore,
    broker: MemoryBroker,
    tasks: JoinSet<Result<(), (String, BoxError)>>,
    applied: Vec<watch::Receiver<Position>>,
    end: CancellationToken,
    failed: CancellationToken,
}

impl Pipeline {
    /// Starts everything. A task that fails cancels `failed`; [`end`](Self::end) says why.
    pub fn start(
        store: &SqliteStore,
        models: &SqliteReadModel,
        sent: &MemoryReadModel<Sent>,
        failed: CancellationToken,
    ) -> Self {
        let mut pipeline = Self {
            store: store.clone(),
            broker: MemoryBroker::new(),
            tasks: JoinSet::new(),
            applied: Vec::new(),
            end: CancellationToken::new(),
            failed,
        };
        pipeline.consume(Analytics, models.clone());
        pipeline.consume(Search, models.clone());
        pipeline.consume(Audit, models.clone());
        pipeline.consume(Notification, sent.clone());
        pipeline.publish();
        pipeline
    }

    fn publish(&mut self) {
        let relay = Relay::new(self.store.clone(), self.broker.clone());
        let end = self.end.clone();
        self.spawn("relay".into(), async move { relay.run(end).await });
    }

    fn consume<P, M>(&mut self, projection: P, models: M)
    where
        P: Projection,
        M: CheckpointStore<Tx = P::Tx>,
    {
        let name = projection.name().to_owned();
        let worker = Worker::new(projection, self.store.clone(), models).with_broker(self.broker.clone());
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

    /// Waits until every consumer has applied everything up to `head`, or something failed.
    pub async fn catch_up(&mut self, head: Position) {
        for applied in &mut self.applied {
            tokio::select! {
                () = self.failed.cancelled() => return,
                // A worker that is gone has failed, and its task says why.
                _ = applied.wait_for(|position| *position >= head) => {}
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
