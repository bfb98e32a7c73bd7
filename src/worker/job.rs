//! The projection, reader, read model and settings of a worker.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::broker::{Broker, DeadLetters};
use crate::error::{Error, ErrorKind, Result};
use crate::id::mark::Mark;
use crate::id::{Position, ProjectionName};
use crate::panics::catch_in;
use crate::reaction::rate::Rate;
use crate::status::{Reporter, Wait};
use crate::store::log::reader::EventReader;
use crate::store::model::read_model::{ReadModel, Work};
use crate::worker::handler::Handler;
use crate::worker::options::WorkerOptions;

/// The inputs of a worker.
pub(super) struct Job<M: ReadModel> {
    pub(super) projection: Arc<dyn Handler<M::Tx>>,
    pub(super) reader: Arc<dyn EventReader>,
    pub(super) models: M,
    pub(super) broker: Option<Arc<dyn Broker>>,
    pub(super) dead_letters: Option<Arc<dyn DeadLetters>>,
    pub(super) options: WorkerOptions,
    pub(super) applied: watch::Sender<Position>,
    pub(super) reacting: Option<Reacting>,
    pub(super) reporter: Reporter,
    /// For a view: reads which generation its readers see, and its checkpoint.
    pub(super) live: Option<ReadLive>,
    pub(super) order: EventOrder,
}

/// The order in which a worker applies events.
#[derive(Debug, Clone, Copy)]
pub(super) enum EventOrder {
    Log,
    Aggregate,
}

/// Reads which generation the readers of a view see, and its checkpoint.
pub(crate) type ReadLive = Arc<dyn Fn() -> BoxFuture<'static, Result<(ProjectionName, Position)>> + Send + Sync>;

/// The rules of a reaction's worker: where it begins, how fast it may be, and how many events share a transaction.
pub(super) struct Reacting {
    /// Returns the place after which the reaction begins.
    pub(super) begin: Box<dyn Fn() -> BoxFuture<'static, Result<Mark>> + Send + Sync>,
    pub(super) rate: Arc<Rate>,
    /// Events of one transaction, if there is no rate.
    pub(super) at_once: usize,
}

impl<M: ReadModel> Job<M> {
    /// Checks that the projection can continue from what it has stored.
    pub(super) async fn check_projection(&self) -> Result<()> {
        catch_in(self.projection.check()).await.unwrap_or_else(|panicked| {
            let what = format!("check projection {}", self.projection.name());
            Err(Error::with_source(ErrorKind::Panicked(what), panicked))
        })
    }

    /// Checks that the projection can read the events as they were written, by the wire shapes that are registered with the log.
    pub(super) async fn check_shapes(&self) -> Result<()> {
        let events = self.projection.events()?;
        if events.events().next().is_none() {
            return Ok(());
        }
        let registered = self.reader.registered_shapes().await?;
        let compared = events.check_registered(&*self.reader, &registered).await?;
        self.reporter.notes(compared.newer.iter().map(ToString::to_string).collect());
        Ok(())
    }

    /// Returns the work of a transaction that prepares the read model.
    pub(super) fn set_up(&self) -> Work<M::Tx> {
        let projection = self.projection.clone();
        Box::new(move |tx| {
            async move {
                let done = catch_in(async { projection.setup(tx).await }).await;
                done.unwrap_or_else(|panicked| Err(panicked.into())).map_err(|source| {
                    Error::with_source(ErrorKind::Backend(format!("set up projection {}", projection.name())), source)
                })
            }
            .boxed()
        })
    }

    /// Returns the most events of one transaction.
    pub(super) fn most(&self) -> usize {
        match &self.reacting {
            None => self.options.batch_events,
            Some(reacting) if reacting.rate.is_limited() => 1,
            Some(reacting) => reacting.at_once,
        }
    }

    /// Returns the place up to which no event is wanted.
    pub(super) async fn begins_after(&self) -> Result<Mark> {
        match &self.reacting {
            Some(reacting) => (reacting.begin)().await,
            None => Ok(Mark::START),
        }
    }

    /// Waits until the rate allows the next event. Returns whether to continue: a reaction's worker that is stopped need not finish a batch.
    pub(super) async fn may_go_on(&self, stop: &CancellationToken) -> bool {
        let Some(reacting) = &self.reacting else { return true };
        if reacting.rate.ready().now_or_never().is_some() {
            return !stop.is_cancelled();
        }
        self.reporter.waits(Wait::Rate);
        tokio::select! {
            biased;
            () = stop.cancelled() => false,
            () = reacting.rate.ready() => true,
        }
    }
}
