//! Runs a worker's job in its order, and ends it within its grace period when it is stopped.

use futures::FutureExt;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, ErrorKind, Result};
use crate::grace::within_grace;
use crate::id::Position;
use crate::panics::catch_in;
use crate::store::model::read_model::ReadModel;
use crate::worker::caught_up::CaughtUp;
use crate::worker::job::{EventOrder, Job};
use crate::worker::runner::Runner;

impl<M: ReadModel> Job<M> {
    /// Runs until stopped.
    pub(super) async fn run(&self, stop: &CancellationToken) -> Result<()> {
        let run = async {
            match self.order {
                EventOrder::Log => Box::pin(Runner::in_log_order(self, stop.clone())?.run()).await,
                EventOrder::Aggregate => Box::pin(Runner::in_aggregate_order(self, stop.clone())?.run()).await,
            }
        };
        self.tracked(stop, run).await
    }

    /// Applies every event up to `to`, unless stopped before.
    pub(super) async fn catch_up(&self, to: Position, stop: &CancellationToken) -> Result<CaughtUp> {
        let run = async {
            match self.order {
                EventOrder::Log => Box::pin(Runner::in_log_order(self, stop.clone())?.catch_up(to)).await,
                EventOrder::Aggregate => Box::pin(Runner::in_aggregate_order(self, stop.clone())?.catch_up(to)).await,
            }
        };
        self.tracked(stop, run).await
    }

    /// Reports the start and the end of a run, and ends it when the grace period is over.
    async fn tracked<T>(&self, stop: &CancellationToken, run: impl Future<Output = Result<T>>) -> Result<T> {
        let (name, grace) = (self.projection.name(), self.options.grace);
        // Handlers never panic this far. A clone of the model's value may, for example.
        let run = catch_in(self.reporter.track(run)).map(|ended| {
            ended.unwrap_or_else(|panicked| {
                Err(Error::with_source(ErrorKind::Panicked(format!("run projection {name}")), panicked))
            })
        });
        within_grace(stop, grace, run).await.unwrap_or_else(|| {
            let applied = *self.applied.borrow();
            Err(ErrorKind::TimedOut(format!(
                "projection {name} did not stop within {grace:?}: its handler was dropped with its transaction, after position {applied}"
            ))
            .into())
        })
    }
}
