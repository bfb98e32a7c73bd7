//! A read model that is restored between the two transactions of a sweep: its rows have the page, then the swept position moves over it.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use retell::prelude::*;
use retell::store::{Parking, ProjectionState, ReadModel, Seen, Step, Turn, ViewStore, Work};
use retell::{EventId, Mark, ProjectionName, Views, Worker};

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

    async fn turn(&self, projection: &ProjectionName, streams: Vec<StreamId>, turn: Turn<M::Tx>) -> retell::Result<()> {
        self.inner.turn(projection, streams, turn).await
    }

    async fn sweep(&self, projection: &ProjectionName, from: Mark, to: Mark) -> retell::Result<Mark> {
        if to.position == self.at && !self.is_restored.swap(true, Ordering::SeqCst) {
            Part::Models.restore(&self.place).await;
        }
        self.inner.sweep(projection, from, to).await
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
