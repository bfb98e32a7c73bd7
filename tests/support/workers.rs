//! Runs workers until a condition holds.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::time::Duration;

use futures::future::join_all;
use retell::{Projection, ProjectionName, ReadModel, Worker};
use tokio_util::sync::CancellationToken;

/// Waits for a condition that the workers make true.
pub(crate) async fn until(mut holds: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(5), wait).await.expect("the condition holds in time");
}

/// Waits until the checkpoint of a projection reaches `position`.
pub(crate) async fn reached(models: &impl ReadModel, projection: &ProjectionName, position: u64) {
    until(async || models.checkpoint(projection).await.unwrap().get() >= position).await;
}

/// Runs workers until `done` completes.
pub(crate) async fn while_running<P, M, T>(workers: &[Worker<P, M>], done: impl Future<Output = T>) -> T
where
    P: Projection,
    M: ReadModel<Tx = P::Tx>,
{
    let stop = CancellationToken::new();
    let (results, done) = tokio::join!(join_all(workers.iter().map(|worker| worker.run(stop.clone()))), async {
        let done = done.await;
        stop.cancel();
        done
    });
    for result in results {
        result.unwrap();
    }
    done
}
