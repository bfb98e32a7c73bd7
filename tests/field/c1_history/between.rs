//! Restores at the worst moment: of a read model between the two transactions of a sweep, whose rows have the page before the swept position
//! moves over it; of the log just before a relay stores its position.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use retell::prelude::*;
use retell::store::{
    Parked, Parking, ProjectionState, ProjectionStatus, ReadModel, RegisteredProcessor, RelayStatus, Seen, Step, Turn,
    ViewStore, Work,
};
use retell::{ErrorKind, EventId, Fence, Mark, ProjectionName, RelayOptions, RelayStore, Views, Worker};
use uuid::Uuid;

use super::positions::{PER_AGGREGATE, Part, Site, append, fold, mysql, options, postgres, sqlite, until};
use crate::databases::Place;

/// Restores the read model of `place` before the swept position moves to `at`, once.
#[derive(Clone)]
struct RestoredBetween<M> {
    inner: M,
    place: Place,
    at: Position,
    is_restored: Arc<AtomicBool>,
}

#[async_trait]
impl<M: ReadModel> ReadModel for RestoredBetween<M> {
    type Tx = M::Tx;

    async fn mark(&self, projection: &ProjectionName) -> retell::Result<Mark> {
        self.inner.mark(projection).await
    }

    async fn state(&self, projection: &ProjectionName) -> retell::Result<ProjectionState> {
        self.inner.state(projection).await
    }

    async fn projections(&self, limit: usize) -> retell::Result<Vec<ProjectionStatus>> {
        self.inner.projections(limit).await
    }

    async fn parked(
        &self,
        projection: &ProjectionName,
        stream: Option<&StreamId>,
        limit: usize,
    ) -> retell::Result<Vec<Parked>> {
        self.inner.parked(projection, stream, limit).await
    }

    async fn parking(&self, projection: &ProjectionName) -> retell::Result<Parking> {
        self.inner.parking(projection).await
    }

    async fn retry_parked(&self, projection: &ProjectionName, stream: &StreamId) -> retell::Result<bool> {
        self.inner.retry_parked(projection, stream).await
    }

    async fn commit(&self, step: Step, work: Work<M::Tx>) -> retell::Result<()> {
        self.inner.commit(step, work).await
    }

    async fn begin(&self, projection: &ProjectionName, work: Work<M::Tx>) -> retell::Result<()> {
        self.inner.begin(projection, work).await
    }

    async fn seen(&self, projection: &ProjectionName, streams: &[StreamId]) -> retell::Result<HashMap<StreamId, Seen>> {
        self.inner.seen(projection, streams).await
    }

    async fn turn(
        &self,
        projection: &ProjectionName,
        changes: u64,
        streams: Vec<StreamId>,
        turn: Turn<M::Tx>,
    ) -> retell::Result<()> {
        self.inner.turn(projection, changes, streams, turn).await
    }

    async fn sweep(&self, projection: &ProjectionName, changes: u64, from: Mark, to: Mark) -> retell::Result<Mark> {
        if to.position == self.at && !self.is_restored.swap(true, Ordering::SeqCst) {
            Part::Models.restore(&self.place).await;
        }
        self.inner.sweep(projection, changes, from, to).await
    }

    async fn register_processor(
        &self,
        projection: &ProjectionName,
        processor: &RegisteredProcessor,
    ) -> retell::Result<()> {
        self.inner.register_processor(projection, processor).await
    }

    async fn processors(&self, projection: &ProjectionName) -> retell::Result<Vec<RegisteredProcessor>> {
        self.inner.processors(projection).await
    }

    async fn forget_processor(
        &self,
        projection: &ProjectionName,
        processor: &RegisteredProcessor,
    ) -> retell::Result<bool> {
        self.inner.forget_processor(projection, processor).await
    }

    async fn reset(&self, projection: &ProjectionName, to: Mark, work: Work<M::Tx>) -> retell::Result<()> {
        self.inner.reset(projection, to, work).await
    }

    async fn mark_handled(&self, tx: &mut M::Tx, reaction: &ProjectionName, event: EventId) -> retell::Result<bool> {
        self.inner.mark_handled(tx, reaction, event).await
    }

    async fn start_after(&self, reaction: &ProjectionName, mark: Mark) -> retell::Result<Mark> {
        self.inner.start_after(reaction, mark).await
    }
}

/// The swept position moves over events that the restored rows lack. The worker looks at the rows once more, and applies the page again.
async fn events_of_the_page_are_applied_again<S, M>(Site { store, models, database }: Site<S, M>)
where
    S: EventStore + Clone,
    M: ViewStore + Clone,
{
    append(&store, 0..20).await;
    let worker = |restored: RestoredBetween<M>| {
        let view = retell::view::ViewProjection::new(PER_AGGREGATE, models.clone());
        Worker::new(view, store.clone(), restored).with_options(options()).with_order_per_aggregate()
    };
    let at = |at| RestoredBetween {
        inner: models.clone(),
        place: database.place.clone(),
        at: Position::new(at),
        is_restored: Arc::default(),
    };
    worker(at(0)).catch_up().await.unwrap();
    Part::Models.dump(&database.place).await;
    append(&store, 20..27).await;
    let (stop, restored) = (CancellationToken::new(), at(27));
    let (running, is_restored) = (worker(restored.clone()), restored.is_restored);
    let check = async {
        until("the restore", async || is_restored.load(Ordering::SeqCst)).await;
        let expected = fold(&store).await;
        until("the rows", async || {
            let mut found = std::collections::BTreeMap::new();
            for key in ["shelf/0", "shelf/1", "shelf/2"] {
                let row = Views::new(&PER_AGGREGATE, models.clone()).get(key).await.unwrap();
                found.extend(row.map(|numbers| (key.to_owned(), numbers)));
            }
            found == expected
        })
        .await;
        stop.cancel();
    };
    let (ran, ()) = futures::join!(running.run(stop.clone()), check);
    ran.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_the_page_are_applied_again_on_sqlite() {
    events_of_the_page_are_applied_again(sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_the_page_are_applied_again_on_postgres() {
    events_of_the_page_are_applied_again(postgres().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_the_page_are_applied_again_on_mysql() {
    events_of_the_page_are_applied_again(mysql().await).await;
}

#[async_trait]
impl<S: RelayStore> RelayStore for RestoredBetween<S> {
    async fn mark(&self, relay: &str) -> retell::Result<Mark> {
        self.inner.mark(relay).await
    }

    async fn relay_statuses(&self, limit: usize) -> retell::Result<Option<Vec<RelayStatus>>> {
        self.inner.relay_statuses(limit).await
    }

    async fn advance(&self, relay: &str, to: Mark, fence: Fence) -> retell::Result<()> {
        if to.position == self.at && !self.is_restored.swap(true, Ordering::SeqCst) {
            Part::Log.restore(&self.place).await;
        }
        self.inner.advance(relay, to, fence).await
    }

    async fn reset(&self, relay: &str, to: Mark) -> retell::Result<()> {
        self.inner.reset(relay, to).await
    }

    async fn acquire_lease(&self, name: &str, holder: Uuid, length: Duration) -> retell::Result<Option<Fence>> {
        self.inner.acquire_lease(name, holder, length).await
    }

    async fn release_lease(&self, name: &str, holder: Uuid) -> retell::Result<()> {
        self.inner.release_lease(name, holder).await
    }
}

/// The log loses its tail, and the relay's position with it, in the moment in which the relay stores the position of the last lost event. While
/// it runs, and when it stops.
async fn a_relay_stores_no_place_lost_in_that_moment<S, M>(Site { store, database, .. }: Site<S, M>)
where
    S: EventStore + RelayStore + Clone,
{
    append(&store, 0..20).await;
    let relay = |restored: RestoredBetween<S>| {
        let options = RelayOptions::new().with_poll(Duration::from_hours(1));
        Relay::new(store.clone(), MemoryBroker::new()).with_checkpoint(restored, "main").with_options(options)
    };
    let at = |at| RestoredBetween {
        inner: store.clone(),
        place: database.place.clone(),
        at: Position::new(at),
        is_restored: Arc::default(),
    };
    let run = async |relay: Relay, to: u64, is_stopped: bool| {
        let (stop, mut published) = (CancellationToken::new(), relay.published());
        let stopping = async {
            drop(published.wait_for(|position| *position == Position::new(to)).await);
            if is_stopped {
                stop.cancel();
            }
        };
        tokio::time::timeout(Duration::from_mins(5), futures::future::join(relay.run(stop.clone()), stopping))
            .await
            .unwrap()
            .0
    };
    run(relay(at(u64::MAX)), 20, true).await.unwrap();
    Part::Log.dump(&database.place).await;
    for is_stopped in [false, true] {
        append(&store, 20..27).await;
        let restored = at(27);
        let error = run(relay(restored.clone()), 27, is_stopped).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::HistoryChanged { what, .. } if what == "relay main"), "{error}");
        assert!(restored.is_restored.load(Ordering::SeqCst));
        assert_eq!(store.position("main").await.unwrap(), Position::new(20), "stopped: {is_stopped}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_stores_no_place_lost_in_that_moment_on_sqlite() {
    a_relay_stores_no_place_lost_in_that_moment(sqlite().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_stores_no_place_lost_in_that_moment_on_postgres() {
    a_relay_stores_no_place_lost_in_that_moment(postgres().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_stores_no_place_lost_in_that_moment_on_mysql() {
    a_relay_stores_no_place_lost_in_that_moment(mysql().await).await;
}
