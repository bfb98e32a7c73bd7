//! One run of a worker with order per aggregate, beside any number of others.
//!
//! A row for each aggregate says how far it is applied, and is locked by whoever applies its events. So it does not matter which worker
//! gets what from the broker, or how often, or in which order: what a row has is dropped, what it lacks before an event is read from the
//! store.
//!
//! Invariant: the swept position moves only over events that the sweep has read from the store and applied, or found applied or parked.
//! What the broker brought, however well it was applied, says nothing about what it did not bring.

mod retry;
mod turn;

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::broker::frame::received::ReceivedFrame;
use crate::broker::{Consumption, Delivery};
use crate::error::{ErrorKind, Result};
use crate::event::RecordedEvent;
use crate::id::{AggregateType, Position, ProjectionName, StreamId};
use crate::projection::Projection;
use crate::store::log::query::Filter;
use crate::store::log::reader::EventReaderExt;
use crate::store::model::parking::{Parked, Parking};
use crate::store::model::read_model::ReadModel;
use crate::worker::Worker;
use crate::worker::feed::{Feed, Next};
use crate::worker::parallel::turn::Outcome;
use crate::worker::parking::{Breaker, Lot};

/// How long a transaction should last. What would take longer is cut into groups of aggregates, so that several workers can share even
/// the work on events of the same aggregates: nobody waits for long for a row, and each begins with another group.
const TURN: Duration = Duration::from_millis(20);

/// More would cost more than they bring: each is a commit.
const MOST_GROUPS: u32 = 16;

/// So long without a message is idle.
const MOMENT: Duration = Duration::from_millis(2);

/// One run of a worker.
pub(super) struct ParallelRun<'w, P: Projection, M> {
    worker: &'w Worker<P, M>,
    name: ProjectionName,
    /// What the projection wants.
    filter: Filter,
    /// What moves a row: every event of an aggregate, also of types that are not wanted.
    scope: Filter,
    /// The kinds of aggregates that have had a wanted event, where the filter does not name kinds. The others have no rows: if an event of
    /// theirs is wanted after all, what is before it is read from the store.
    kinds: HashSet<AggregateType>,
    /// Up to here no event is wanted.
    begins_after: Position,
    /// Where the sweep is, by this worker or another.
    swept: Position,
    /// When there was something to sweep for the first time since the last sweep.
    unswept_since: Option<Instant>,
    /// When which parked aggregate is due. Whether it is parked stands in its row.
    lot: Lot,
    next_look: Instant,
    breaker: Breaker,
    /// How long an event took the last time.
    pace: Duration,
    feed: Feed,
    stop: CancellationToken,
}

/// What became of a batch.
enum Pass {
    /// All of it is applied, parked, or was before.
    Through,
    /// The worker is told to stop, or the store does not have what the broker brought.
    Interrupted,
    /// Too many aggregates failed in a row. None of them is parked.
    Outage,
}

impl<P, M> ParallelRun<'_, P, M>
where
    P: Projection,
    M: ReadModel<Tx = P::Tx>,
{
    pub(super) async fn to_end(worker: &Worker<P, M>, stop: CancellationToken) -> Result<()> {
        let (name, filter) = (ProjectionName::new(worker.projection.name())?, worker.projection.filter()?);
        let mut run = ParallelRun {
            worker,
            scope: Filter { aggregate_types: filter.aggregate_types.clone(), ..Filter::all() },
            kinds: filter.aggregate_types.iter().cloned().collect(),
            filter,
            begins_after: Position::ZERO,
            swept: Position::ZERO,
            unswept_since: None,
            lot: Lot::of(Parking::default()),
            next_look: Instant::now(),
            breaker: Breaker::new(),
            // Not known yet: as if it were slow.
            pace: TURN,
            feed: worker.feed(name.clone(), Consumption::Shared, stop.clone()),
            name,
            stop,
        };
        run.start().await?;
        while !run.stop.is_cancelled() {
            run.step().await?;
        }
        Ok(())
    }

    async fn start(&mut self) -> Result<()> {
        let mut delays = self.worker.options.delays();
        while let Err(error) = self.begin().await {
            if !self.worker.tries_again(error, &mut delays, &self.stop).await? {
                return Ok(());
            }
        }
        self.feed.subscribe();
        self.sweep().await
    }

    async fn begin(&mut self) -> Result<()> {
        self.begins_after = self.worker.begins_after().await?;
        let (checkpoint, head) = (self.worker.models.checkpoint(&self.name).await?, self.worker.reader.head().await?);
        if checkpoint > head {
            let projection = self.name.clone();
            return Err(ErrorKind::CheckpointAhead { projection, checkpoint, head }.into());
        }
        self.worker.models.begin(&self.name, self.worker.set_up()).await?;
        if self.begins_after > checkpoint {
            let swept = self.worker.models.sweep(&self.name, self.begins_after).await?;
            self.see(Ok(swept));
        }
        Ok(())
    }

    /// Waits for whatever comes first and handles it. When no message comes for a moment, what came is swept: who waits for an event to be
    /// applied waits for the sweep.
    async fn step(&mut self) -> Result<()> {
        self.tend_parked().await?;
        let options = &self.worker.options;
        let idle = if self.unswept_since.is_some() { options.gather.max(MOMENT) } else { options.sweep };
        let rest = self.lot.rest().unwrap_or(Duration::MAX).min(idle);
        match self.feed.next(1, rest).await? {
            Next::Messages(deliveries) => {
                let (mut messages, mut events) = (options.messages, options.batch_events as u64);
                // No more than one batch: the rest is for the others.
                let room = |more: &[Delivery]| {
                    messages = messages.saturating_sub(more.len());
                    events = events.saturating_sub(more.iter().map(events_in).sum());
                    messages.min(usize::from(events > 0))
                };
                let deliveries = self.feed.gather(deliveries, room).await;
                self.receive(deliveries).await?;
                let since = *self.unswept_since.get_or_insert_with(Instant::now);
                if since.elapsed() > options.sweep / 10 { self.sweep().await } else { Ok(()) }
            }
            Next::CatchUp | Next::Sweep => self.sweep().await,
            Next::Nothing => Ok(()),
        }
    }

    /// Applies a batch of messages and acknowledges them. What is told to stop half-way leaves them to the others.
    async fn receive(&mut self, deliveries: Vec<Delivery>) -> Result<()> {
        let Some(last) = deliveries.last().map(|delivery| delivery.tag) else { return Ok(()) };
        let mut batch = Vec::new();
        for delivery in deliveries {
            match self.open(&delivery) {
                Ok(events) => batch.extend(events),
                Err(junk) => self.feed.reject(delivery, &junk).await,
            }
        }
        // Late messages come after others, and doubled ones twice.
        batch.sort_unstable_by_key(|event| event.position);
        batch.dedup_by_key(|event| event.position);
        if self.apply(batch).await? {
            self.feed.acknowledge(last).await;
        } else {
            self.feed.leave();
        }
        Ok(())
    }

    /// The events of a message that may be new.
    fn open(&self, delivery: &Delivery) -> Result<Vec<RecordedEvent>> {
        let frame = ReceivedFrame::parse(delivery.body.clone())?;
        if frame.last() <= self.swept {
            return Ok(Vec::new());
        }
        let mut events = frame.events()?;
        events.retain(|event| event.position > self.swept && self.scope.passes(event));
        Ok(events)
    }

    /// Reads the store from the swept position to its head, applies what is not applied, and moves the swept position.
    async fn sweep(&mut self) -> Result<()> {
        self.unswept_since = None;
        let (reader, scope, limit) = (self.worker.reader.clone(), self.scope.clone(), self.worker.options.batch_events);
        let mut delays = self.worker.options.delays();
        let mut ahead = None;
        // Where another worker has got to needs no second look.
        let stored = self.worker.models.checkpoint(&self.name).await;
        self.see(stored);
        while !self.stop.is_cancelled() {
            self.tend_parked().await?;
            let page = match ahead.take() {
                Some((after, page)) if after == self.swept => page,
                _ => reader.read_all(self.swept, limit, &scope).await,
            };
            match page {
                Ok(page) if page.through == self.swept => return Ok(()),
                Ok(page) => {
                    // The next page is read while this one is applied. It comes first, so that its reading starts first.
                    let next = reader.read_all(page.through, limit, &scope);
                    let (next, settled) = futures::join!(next, self.settle(page.events, page.through));
                    if !settled? {
                        return Ok(());
                    }
                    ahead = Some((page.through, next));
                }
                Err(error) if error.is_transient() => self.pause(delays.next()).await,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sees to it that everything up to there is applied, or parked, and moves the swept position. Returns whether it did.
    async fn settle(&mut self, mut events: Vec<RecordedEvent>, through: Position) -> Result<bool> {
        self.leave_out_unknown_kinds(&mut events);
        let mut delays = self.worker.options.delays();
        loop {
            // Most events came by the broker before: that costs no lock.
            let streams: Vec<_> =
                events.iter().map(|event| &event.stream).collect::<HashSet<_>>().into_iter().cloned().collect();
            match self.worker.models.seen(&self.name, &streams).await {
                Ok(seen) => {
                    events.retain(|event| seen.get(&event.stream).is_none_or(|seen| event.version > *seen));
                    break;
                }
                Err(error) if error.is_transient() && !self.stop.is_cancelled() => self.pause(delays.next()).await,
                Err(error) if error.is_transient() => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        if !self.apply(events).await? {
            return Ok(false);
        }
        match self.worker.models.sweep(&self.name, through).await {
            Ok(swept) => {
                self.see(Ok(swept));
                Ok(true)
            }
            // The next time will do.
            Err(error) if error.is_transient() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Applies what is not applied. Returns whether all of it is, or is parked.
    async fn apply(&mut self, mut events: Vec<RecordedEvent>) -> Result<bool> {
        self.leave_out_unknown_kinds(&mut events);
        let mut delays = self.worker.options.delays();
        loop {
            match self.pass(&events).await? {
                Pass::Through => return Ok(true),
                Pass::Interrupted => return Ok(false),
                Pass::Outage => self.pause(delays.next()).await,
            }
            if self.stop.is_cancelled() {
                return Ok(false);
            }
        }
    }

    fn leave_out_unknown_kinds(&mut self, events: &mut Vec<RecordedEvent>) {
        let wanted = events.iter().filter(|event| self.filter.passes(event));
        for kind in wanted.map(|event| event.stream.aggregate_type()) {
            if !self.kinds.contains(kind) {
                self.kinds.insert(kind.clone());
            }
        }
        events.retain(|event| self.kinds.contains(event.stream.aggregate_type()));
    }

    async fn pass(&mut self, events: &[RecordedEvent]) -> Result<Pass> {
        let began = Instant::now();
        let mut failed: Vec<Parked> = Vec::new();
        for group in self.groups(events) {
            match self.apply_group(&group, &mut failed).await? {
                Pass::Through => {}
                other => return Ok(other),
            }
        }
        if let Ok(count) = u32::try_from(events.len())
            && count > 0
        {
            self.pace = began.elapsed() / count;
        }
        if failed.is_empty() {
            return Ok(Pass::Through);
        }
        let suspects = failed.len();
        if !self.park(failed).await? {
            return Ok(Pass::Interrupted);
        }
        self.breaker.suspect(suspects);
        Ok(Pass::Through)
    }

    /// Groups of whole aggregates, in any order.
    fn groups(&self, events: &[RecordedEvent]) -> Vec<Arc<[RecordedEvent]>> {
        let work = self.pace * u32::try_from(events.len()).unwrap_or(u32::MAX);
        let count = u64::try_from(work.as_millis() / TURN.as_millis()).unwrap_or(u64::MAX);
        // What takes one event at a time may take its time over it, and must not hold other aggregates' rows meanwhile.
        let count = if self.worker.most() == 1 { u64::MAX } else { count.clamp(1, u64::from(MOST_GROUPS)) };
        let mut groups: BTreeMap<u64, Vec<RecordedEvent>> = BTreeMap::new();
        for event in events {
            groups.entry(hash(&event.stream) % count).or_default().push(event.clone());
        }
        let random = RandomState::new();
        let mut groups: Vec<_> = groups.into_iter().collect();
        groups.sort_by_key(|(number, _)| random.hash_one(number));
        groups.into_iter().map(|(_, events)| events.into()).collect()
    }

    /// A part that fails is halved, until it is clear which event it is. Its aggregate is parked as soon as another event succeeds, or at
    /// the end.
    async fn apply_group(&mut self, events: &Arc<[RecordedEvent]>, failed: &mut Vec<Parked>) -> Result<Pass> {
        let whole = self.worker.most();
        let mut most = whole;
        loop {
            let passed_over = failed.iter().map(|parked| parked.stream.clone()).collect();
            match self.try_turn(events, passed_over, most).await? {
                Outcome::Committed(report) => {
                    if report.planned > 0 {
                        self.breaker.reset();
                        if !failed.is_empty() && !self.park(std::mem::take(failed)).await? {
                            return Ok(Pass::Interrupted);
                        }
                    }
                    if !report.has_rest {
                        return Ok(Pass::Through);
                    }
                    most = most.saturating_mul(2).min(whole);
                }
                Outcome::Failed(_, report) if report.planned > 1 => most = report.planned / 2,
                Outcome::Failed(error, report) => {
                    let Some(event) = report.first else { return Err(error) };
                    failed.push(self.worker.options.parking.parked(&event, &error));
                    if self.breaker.trips(failed.len(), &self.worker.options.parking) {
                        return Ok(Pass::Outage);
                    }
                }
                Outcome::Interrupted | Outcome::Unread(_) => return Ok(Pass::Interrupted),
            }
        }
    }

    /// A position that could not be read is that of before.
    fn see(&mut self, swept: Result<Position>) {
        self.swept = swept.unwrap_or_default().max(self.swept);
        self.worker.applied.send_replace(self.swept);
    }

    async fn pause(&mut self, delay: Option<Duration>) {
        self.worker.pause(delay, &self.stop).await;
    }
}

fn events_in(delivery: &Delivery) -> u64 {
    ReceivedFrame::parse(delivery.body.clone()).map_or(0, |frame| frame.last().since(frame.first()) + 1)
}

/// The same in every process.
fn hash(stream: &StreamId) -> u64 {
    let mut hasher = DefaultHasher::new();
    stream.hash(&mut hasher);
    hasher.finish()
}
