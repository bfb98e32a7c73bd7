//! The parts of an app that apply events.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::app::carrier::Carrier;
use crate::app::watch::Reports;
use crate::error::Result;
use crate::event::{Event, EventTypes};
use crate::id::Position;
use crate::process::Process;
use crate::process::manager::ProcessManager;
use crate::projection::Projection;
use crate::store::log::query::Filter;
use crate::store::model::deadlines::DeadlineStore;
use crate::store::model::read_model::ReadModel;
use crate::worker::Worker;
use crate::worker::caught_up::CaughtUp;
use crate::worker::job::ReadLive;

/// A projection, view, reaction or process, together with its runner.
pub(super) trait Part: Send + Sync {
    fn name(&self) -> &str;

    /// Returns the kinds of event that it can decode, and the filter for those that it receives.
    fn receives(&self) -> (EventTypes, Result<Filter>);

    fn applied(&self) -> watch::Receiver<Position>;

    fn reports(&self) -> Reports;

    /// For a view: reads which generation its readers see.
    fn live(&self) -> Option<ReadLive>;

    fn run(&self, stop: CancellationToken) -> BoxFuture<'_, Result<()>>;

    fn catch_up_to(&self, head: Position) -> BoxFuture<'_, Result<CaughtUp>>;

    fn with_carrier(self: Box<Self>, carrier: &Carrier) -> Arc<dyn Part>;
}

/// Implements [`Part`] for a runner. The runners have the same methods, but do not share a trait.
macro_rules! part {
    ($runner:ty, $kind:ident, $name:expr, $live:expr, where $($bounds:tt)*) => {
        impl<P, M> Part for $runner
        where
            $($bounds)*
        {
            fn name(&self) -> &str {
                $name(self)
            }

            fn receives(&self) -> (EventTypes, Result<Filter>) {
                (<<P as $kind>::Event as Event>::TYPES, self.filter())
            }

            fn applied(&self) -> watch::Receiver<Position> {
                self.applied()
            }

            fn reports(&self) -> Reports {
                Reports { status: self.status(), position: self.applied(), pulses: self.reporter().pulses() }
            }

            fn live(&self) -> Option<ReadLive> {
                $live(self)
            }

            fn run(&self, stop: CancellationToken) -> BoxFuture<'_, Result<()>> {
                self.run(stop).boxed()
            }

            fn catch_up_to(&self, head: Position) -> BoxFuture<'_, Result<CaughtUp>> {
                self.catch_up_to(head, CancellationToken::new()).boxed()
            }

            fn with_carrier(self: Box<Self>, carrier: &Carrier) -> Arc<dyn Part> {
                let mut runner = *self;
                if let Some(broker) = carrier.broker() {
                    runner = runner.with_broker(broker);
                }
                if let Some(dead_letters) = carrier.dead_letters() {
                    runner = runner.with_dead_letters(dead_letters);
                }
                Arc::new(runner)
            }
        }
    };
}

part!(Worker<P, M>, Projection, Self::name, Self::live, where P: Projection, M: ReadModel<Tx = P::Tx>);
part!(ProcessManager<P, M>, Process, |_| P::NAME, |_| None, where P: Process, M: DeadlineStore + Clone);
