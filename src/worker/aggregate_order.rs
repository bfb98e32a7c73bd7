//! Order per aggregate: any number of workers share the work.
//!
//! A row for each aggregate says how far it is applied, and is locked by the worker that applies its events. So it does not matter which
//! worker gets what from the broker, how often, or in which order: what a row has is dropped, and what it lacks before an event is read from
//! the store.
//!
//! Invariant: the swept position moves only over events that the sweep has read from the store and applied, or found applied or parked. Events
//! that the broker delivered say nothing about events that it did not deliver, however well they were applied.

mod compare;
mod remembered;
mod state;
mod turn;

use std::collections::{BTreeMap, HashSet};
use std::hash::{BuildHasher, DefaultHasher, Hash, Hasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff::retry_transient;
use crate::broker::frame::received::ReceivedFrame;
use crate::broker::{Delivery, SubscriptionMode};
use crate::error::{Error, ErrorKind, Result};
use crate::event::RecordedEvent;
use crate::id::mark::Mark;
use crate::id::{Position, StreamId, Version};
use crate::store::log::query::{Filter, Page};
use crate::store::model::parking::{Parked, Parking, ParkingChange};
use crate::store::model::progress::Turn;
use crate::store::model::read_model::ReadModel;
use crate::worker::aggregate_order::remembered::{Ahead, Swept, last_events};
use crate::worker::aggregate_order::state::AggregateOrder;
use crate::worker::aggregate_order::turn::Attempt;
use crate::worker::job::Job;
use crate::worker::parking::ParkedAggregates;
use crate::worker::runner::{Group, Order, Runner};
use crate::worker::transaction::{Attempted, Attempts, Outcome, Report};

/// How long a transaction should last. A longer batch is cut into groups of aggregates, so that several workers can share even the work
/// on events of the same aggregates: no worker waits long for a row, and each begins with another group.
const TRANSACTION_TIME: Duration = Duration::from_millis(20);

/// The most groups of a batch. Each is a commit, and more would cost more than they bring.
const MAX_GROUPS: u32 = 16;

/// How long no message arrives before the worker is idle, and sweeps what arrived: a caller that waits for an event to be applied waits for
/// the sweep.
const IDLE_AFTER: Duration = Duration::from_millis(2);

impl<M: ReadModel> Order for Runner<'_, M, AggregateOrder> {
    const SEES_ALL_PARKED: bool = false;

    async fn begin(&mut self, checkpoint: Mark) -> Result<()> {
        self.job.models.begin(&self.name, self.job.set_up()).await?;
        if self.begins_after.position > checkpoint.position {
            match self.job.models.sweep(&self.name, self.known_changes, checkpoint, self.begins_after).await {
                Err(error) if has_new_release(&error) => self.return_to_stored().await?,
                swept => self.reach(swept?),
            }
        }
        Ok(())
    }

    fn idle(&self) -> Duration {
        let options = &self.job.options;
        if self.order.unswept_since.is_some() { options.gather.max(IDLE_AFTER) } else { options.sweep }
    }

    /// Applies a batch of messages and acknowledges them. A worker that is stopped half-way leaves them to the others.
    async fn receive(&mut self, deliveries: Vec<Delivery>) -> Result<()> {
        let Some(last) = deliveries.last().map(|delivery| delivery.tag) else { return Ok(()) };
        let (mut batch, scope) = (Vec::new(), self.scope());
        for delivery in deliveries {
            match open(&delivery, self.applied.position, &scope) {
                Ok(events) if events.is_empty() => self.meter.known.increment(1),
                Ok(events) => batch.extend(events),
                Err(junk) => {
                    self.feed.reject(delivery, &junk).await;
                    self.meter.unreadable.increment(1);
                }
            }
        }
        // Late messages arrive after others, and duplicates twice.
        batch.sort_unstable_by_key(|event| event.position);
        batch.dedup_by_key(|event| event.position);
        self.leave_out_unknown_kinds(&mut batch);
        let is_applied = self.apply_timed(batch).await?;
        self.order.ahead.add(&self.order.moved);
        if is_applied {
            self.feed.acknowledge(last).await;
        } else {
            self.feed.leave();
        }
        let since = *self.order.unswept_since.get_or_insert_with(Instant::now);
        if since.elapsed() > self.job.options.sweep / 10 { self.read_log(None).await } else { Ok(()) }
    }

    async fn before_reading(&mut self) -> Result<()> {
        self.order.unswept_since = None;
        // Another worker may have swept further. A read model that was restored from a backup is further back.
        match self.job.models.mark(&self.name).await {
            Ok(swept) => self.follow(swept),
            // The worker's own position will do: a sweep that does not begin at the stored one moves nothing.
            Err(error) if error.is_outage() => {}
            Err(error) => return Err(error),
        }
        self.compare_newest().await?;
        self.compare_ahead().await?;
        self.compare_swept().await
    }

    fn query(&self) -> Filter {
        self.scope()
    }

    async fn return_to_stored(&mut self) -> Result<()> {
        let swept = self.load().await?;
        self.follow(swept);
        Ok(())
    }

    async fn settle(&mut self, page: Page) -> Result<bool> {
        let through = page.mark();
        let mut events = page.events;
        self.leave_out_unknown_kinds(&mut events);
        let last = last_events(&events);
        // Most events arrived from the broker before: finding that out needs no lock. The same query looks at the page before this one.
        let before = self.order.swept.iter().flat_map(Swept::streams);
        let streams: HashSet<_> = last.keys().chain(before).cloned().collect();
        let streams: Vec<_> = streams.into_iter().collect();
        let (models, name) = (&self.job.models, &self.name);
        let seen = match retry_transient(&self.stop, self.delays(), || models.seen(name, &streams)).await {
            Ok(seen) => seen,
            Err(error) => return self.unless_stopped(error).map(|()| false),
        };
        if let Some(before) = self.order.swept.take() {
            if !before.is_in(&seen) {
                // This page was judged by rows that are gone.
                return Box::pin(self.apply_again(before)).await;
            }
            before.add_rows_ahead(&seen, &mut self.order.ahead);
        }
        if let Err(error) = self.order.ahead.compare(&events, &last, &seen) {
            Box::pin(self.refuse_row(error)).await?;
            // The row was restored in the meantime.
            return Ok(true);
        }
        events.retain(|event| seen.get(&event.stream).is_none_or(|seen| event.version > seen.version));
        if !self.apply_timed(events).await? {
            return Ok(false);
        }
        let from = self.applied;
        match self.job.models.sweep(&self.name, self.known_changes, from, through).await {
            Err(error) if has_new_release(&error) => self.return_to_stored().await.map(|()| false),
            // If another worker was faster, or the read model was restored, the log is read on from there.
            Ok(swept) => {
                self.order.swept = Swept::over(from, through, last);
                self.order.moved.clear();
                if swept == through {
                    self.reach(swept);
                } else {
                    self.follow(swept);
                }
                Ok(true)
            }
            // The next sweep will do.
            Err(error) if error.is_outage() => {
                self.order.ahead.add(&self.order.moved);
                self.job.reporter.saw(&error);
                self.unstored = Some(error);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// Groups whole aggregates, in a random order.
    fn groups(&self, events: Vec<RecordedEvent>) -> Vec<Group> {
        let work = self.order.pace * u32::try_from(events.len()).unwrap_or(u32::MAX);
        let count = u64::try_from(work.as_millis() / TRANSACTION_TIME.as_millis()).unwrap_or(u64::MAX);
        // A worker that takes one event at a time may take long over it, and must not hold other aggregates' rows meanwhile.
        let count = if self.job.most() == 1 { u64::MAX } else { count.clamp(1, u64::from(MAX_GROUPS)) };
        let mut groups: BTreeMap<u64, Vec<RecordedEvent>> = BTreeMap::new();
        for event in events {
            groups.entry(hash(&event.stream) % count).or_default().push(event);
        }
        let random = RandomState::new();
        let mut groups: Vec<_> = groups.into_iter().collect();
        groups.sort_by_key(|(number, _)| random.hash_one(number));
        groups.into_iter().map(|(_, events)| Group::new(events)).collect()
    }

    async fn apply_part(&mut self, group: &Group, through: Mark, most: usize) -> Attempted {
        let passed_over: Vec<_> = self.failed.iter().map(|parked| parked.stream.clone()).collect();
        let streams = group.iter().map(|event| event.stream.clone()).collect();
        let most = most.min(self.job.most());
        let turn = |attempt: Arc<Attempt<M::Tx>>| attempt.apply_group(group.clone(), passed_over.clone(), most);
        let (outcome, report) = self.transact_events(streams, turn).await?;
        let is_applied = matches!(outcome, Outcome::Committed) && report.planned > 0;
        if is_applied && !self.end_batch(through).await? {
            return Ok((Outcome::Interrupted, report));
        }
        Ok((outcome, report))
    }

    async fn end_batch(&mut self, _through: Mark) -> Result<bool> {
        if self.failed.is_empty() {
            return Ok(true);
        }
        let failed = std::mem::take(&mut self.failed);
        // Another worker may have parked them before.
        let is_parked = self.park(failed.clone(), Option::is_none).await?;
        if is_parked {
            self.report_parked(&failed);
        }
        Ok(is_parked)
    }

    async fn store_applied(&mut self) -> Result<bool> {
        // The sweep stores it.
        Ok(true)
    }

    async fn take_parked(&mut self, parking: Parking) -> Result<()> {
        self.parked = ParkedAggregates::of(parking, self.job.options.due());
        Ok(())
    }

    async fn retry_part(&mut self, parked: &Parked, most: usize) -> Attempted {
        let stream = parked.stream.clone();
        let head = match self.job.reader.head().await {
            Ok(head) => head,
            Err(error) => return Ok((Outcome::Unread(error), Report::default())),
        };
        let turn = |attempt: Arc<Attempt<M::Tx>>| attempt.retry(most, head);
        let (outcome, report) = self.transact_events(vec![stream.clone()], turn).await?;
        if let Outcome::Committed = outcome {
            let change = report.parked.clone().map_or(ParkingChange::Release(stream), ParkingChange::Park);
            self.parked.take(0, &[change]);
        }
        Ok((outcome, report))
    }

    async fn keep_parked(&mut self, parked: Parked) -> Result<()> {
        // The retry of another worker may have released it.
        self.park(vec![parked], Option::is_some).await.map(drop)
    }
}

impl<'w, M: ReadModel> Runner<'w, M, AggregateOrder> {
    pub(super) fn in_aggregate_order(job: &'w Job<M>, stop: CancellationToken) -> Result<Self> {
        let filter = job.projection.filter()?;
        let order = AggregateOrder {
            kinds: filter.aggregate_types.into_iter().collect(),
            moved: Vec::new(),
            swept: None,
            ahead: Ahead::default(),
            unswept_since: None,
            // Unknown at first: as if events were slow.
            pace: TRANSACTION_TIME,
        };
        Self::new(job, order, SubscriptionMode::Competing, stop)
    }

    /// Applies what is not applied yet. Returns as [`apply`](Self::apply).
    async fn apply_timed(&mut self, events: Vec<RecordedEvent>) -> Result<bool> {
        let (began, count) = (Instant::now(), u32::try_from(events.len()).unwrap_or(u32::MAX));
        let is_done = self.apply(events, Mark::START).await?;
        if is_done && count > 0 {
            self.order.pace = began.elapsed() / count;
        }
        Ok(is_done)
    }

    /// Returns the events that move a row: all events of an aggregate, including types that are not wanted.
    fn scope(&self) -> Filter {
        Filter { event_types: Vec::new(), ..self.wanted.query().clone() }
    }

    fn leave_out_unknown_kinds(&mut self, events: &mut Vec<RecordedEvent>) {
        let (wanted, kinds) = (&self.wanted, &mut self.order.kinds);
        for kind in events.iter().filter(|event| wanted.passes(event)).map(|event| event.stream.aggregate_type()) {
            if !kinds.contains(kind) {
                kinds.insert(kind.clone());
            }
        }
        events.retain(|event| kinds.contains(event.stream.aggregate_type()));
    }

    /// Parks aggregates from the event that failed, unless that event is applied, and as far as `may_change` allows it for what is parked in the
    /// row. Returns whether the worker was not interrupted.
    async fn park(&mut self, parked: Vec<Parked>, may_change: fn(&Option<Parked>) -> bool) -> Result<bool> {
        let streams = parked.iter().map(|parked| parked.stream.clone()).collect();
        let changes: Vec<_> = parked.iter().cloned().map(ParkingChange::Park).collect();
        let parked: Arc<[Parked]> = parked.into();
        let turn = |_| -> Turn<M::Tx> {
            let parked = parked.clone();
            Box::new(move |_, rows| {
                for row in rows.iter_mut().filter(|row| may_change(&row.parked)) {
                    let failed = parked.iter().find(|parked| parked.stream == row.stream);
                    if let Some(failed) = failed.filter(|failed| row.applied < failed.from_version) {
                        // The events between the last applied one and this one were not wanted.
                        row.applied = Version::new(failed.from_version.get() - 1);
                        if failed.from_version > row.seen {
                            (row.seen, row.seen_id) = (failed.from_version, None);
                        }
                        row.parked = Some(failed.clone());
                    }
                }
                async { Ok(()) }.boxed()
            })
        };
        let (outcome, _) = self.transact(streams, turn).await?;
        // For an aggregate that is not parked after all, the retry finds nothing to do.
        self.parked.take(0, &changes);
        Ok(matches!(outcome, Outcome::Committed))
    }

    /// Runs a transaction that applies events, as soon as the rate allows it.
    async fn transact_events(
        &mut self,
        streams: Vec<StreamId>,
        turn: impl Fn(Arc<Attempt<M::Tx>>) -> Turn<M::Tx>,
    ) -> Attempted {
        if !self.may_go_on().await {
            return Ok((Outcome::Interrupted, Report::default()));
        }
        self.transact(streams, turn).await
    }

    /// Runs a transaction, retried until the store takes it.
    async fn transact(
        &mut self,
        streams: Vec<StreamId>,
        turn: impl Fn(Arc<Attempt<M::Tx>>) -> Turn<M::Tx>,
    ) -> Attempted {
        let mut attempts = Attempts::new(&self.job.options, self.delays());
        loop {
            let attempt = Attempt::of(self);
            let done =
                self.job.models.turn(&self.name, self.known_changes, streams.clone(), turn(attempt.clone())).await;
            let report = std::mem::take(&mut *attempt.report());
            // If the answer was lost, the transaction may have committed.
            let may_be_done = done.as_ref().err().is_none_or(Error::is_outage);
            if may_be_done {
                self.order.moved.extend(report.moved.iter().cloned());
            }
            match done {
                Ok(()) => return Ok((Outcome::Committed, report)),
                Err(error) if has_new_release(&error) => {
                    self.return_to_stored().await?;
                    return Ok((Outcome::Interrupted, report));
                }
                // A row has an event that the log does not have.
                Err(error) if error.is_history_changed() => {
                    Box::pin(self.refuse_row(error)).await?;
                    return Ok((Outcome::Interrupted, report));
                }
                Err(error) if report.unread => return Ok((Outcome::Unread(error), report)),
                Err(error) => {
                    if let Some(outcome) = attempts.after(error, report.took, &self.stop).await? {
                        return Ok((outcome, report));
                    }
                }
            }
        }
    }
}

/// Whether another release was registered, or forgotten, since this worker looked.
fn has_new_release(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::ProcessorsChanged(_))
}

/// Returns the events of a message that may be new.
fn open(delivery: &Delivery, swept: Position, scope: &Filter) -> Result<Vec<RecordedEvent>> {
    let frame = ReceivedFrame::parse(delivery.body.clone())?;
    if frame.last() <= swept {
        return Ok(Vec::new());
    }
    let mut events = frame.events()?;
    events.retain(|event| event.position > swept && scope.passes(event));
    Ok(events)
}

/// Hashes the same in every process.
fn hash(stream: &StreamId) -> u64 {
    let mut hasher = DefaultHasher::new();
    stream.hash(&mut hasher);
    hasher.finish()
}
