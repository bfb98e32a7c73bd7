//! What a worker does differently for a reaction: one event at a time, from where the reaction begins, and no faster than it may.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio_util::sync::CancellationToken;

use crate::error::Result;
use crate::event::RecordedEvent;
use crate::id::{Position, ProjectionName};
use crate::projection::Projection;
use crate::reaction::rate::Rate;
use crate::reaction::{Reaction, ReactionProjection, StartFrom};
use crate::store::log::reader::EventReader;
use crate::store::model::read_model::ReadModel;
use crate::worker::Worker;

/// What a reaction's worker keeps to.
pub(super) struct Reacting {
    /// Says where the reaction begins.
    begin: Box<dyn Fn() -> BoxFuture<'static, Result<Position>> + Send + Sync>,
    rate: Arc<Rate>,
    /// The most events in one transaction, where there is no rate.
    at_once: usize,
}

impl Reacting {
    fn most(&self) -> usize {
        if self.rate.is_limited() { 1 } else { self.at_once }
    }
}

impl<R, M> Worker<ReactionProjection<R, M>, M>
where
    R: Reaction,
    M: ReadModel<Tx = R::Tx> + Clone,
{
    /// A worker that runs a reaction. Reads the store only, as [`new`](Self::new).
    ///
    /// Each event has a transaction of its own, unless told [otherwise](Self::with_reactions_at_once). When told to stop it finishes the one at
    /// hand.
    pub fn reaction(reaction: R, begin: StartFrom, reader: impl EventReader, models: M) -> Self {
        let (name, reader) = (reaction.name().to_owned(), Arc::new(reader) as Arc<dyn EventReader>);
        let (rate, log, kept) = (Arc::<Rate>::default(), reader.clone(), models.clone());
        let begin = Box::new(move || {
            let (name, log, kept) = (name.clone(), log.clone(), kept.clone());
            async move { begin.keep(&ProjectionName::new(name)?, &*log, &kept).await }.boxed()
        });
        let projection = ReactionProjection::new(reaction, models.clone(), rate.clone());
        Self { reacting: Some(Reacting { begin, rate, at_once: 1 }), ..Self::new(projection, reader, models) }
    }

    /// Reacts at most so often in any second, attempts that fail included; at least once. Each worker counts for itself: of several with
    /// [order per aggregate](Self::with_order_per_aggregate) each may.
    pub fn with_rate(self, per_second: u32) -> Self {
        if let Some(reacting) = &self.reacting {
            reacting.rate.limit(per_second);
        }
        self
    }

    /// Puts up to so many events into one transaction; at least one, and with a [rate](Self::with_rate) never more. A commit costs more than
    /// most rows, so this is faster where the whole effect is what a reaction writes through its transaction: that happens once as before.
    /// What it does outside happens again for all of them after a crash or a failure.
    pub fn with_reactions_at_once(mut self, events: usize) -> Self {
        if let Some(reacting) = &mut self.reacting {
            reacting.at_once = events.max(1);
        }
        self
    }
}

impl<P: Projection, M> Worker<P, M> {
    /// The most events in one transaction.
    pub(super) fn most(&self) -> usize {
        self.reacting.as_ref().map_or(self.options.batch_events, Reacting::most)
    }

    /// Up to here no event is wanted.
    pub(super) async fn begins_after(&self) -> Result<Position> {
        match &self.reacting {
            Some(reacting) => (reacting.begin)().await,
            None => Ok(Position::ZERO),
        }
    }

    /// Waits until the next event may be handed on. Returns whether it may: a reaction's worker that is told to stop need not finish a batch.
    pub(super) async fn may_go_on(&self, stop: &CancellationToken) -> bool {
        let Some(reacting) = &self.reacting else { return true };
        tokio::select! {
            biased;
            () = stop.cancelled() => false,
            () = reacting.rate.ready() => true,
        }
    }

    /// Parts of a batch that are applied together, the first one last.
    pub(super) fn parts(&self, events: &[RecordedEvent]) -> Vec<(usize, usize)> {
        let Some(reacting) = &self.reacting else { return vec![(0, events.len())] };
        let most = reacting.most();
        let parts = (0..events.len()).step_by(most).map(|first| (first, events.len().min(first + most)));
        parts.rev().collect()
    }
}
