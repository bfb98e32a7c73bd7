//! Log order: the gate before the broker's messages, and one checkpoint.
//!
//! Invariant: the checkpoint moves only over positions whose events are applied, parked or not wanted, in the transaction that applied or
//! parked them. The gate drops repeated and reordered messages, and lost ones are read from the store.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::FutureExt;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Span;

use crate::backoff::Delays;
use crate::broker::frame::received::ReceivedFrame;
use crate::broker::{Delivery, SubscriptionMode};
use crate::error::{Error, ErrorKind, Result};
use crate::event::RecordedEvent;
use crate::id::mark::Mark;
use crate::id::{Position, Version};
use crate::status::Wait;
use crate::store::log::query::{Filter, Page};
use crate::store::model::parking::{Parked, Parking, ParkingChange, Step};
use crate::store::model::read_model::{ReadModel, Work};
use crate::worker::gate::{Admission, admit};
use crate::worker::job::Job;
use crate::worker::parking::{ParkedAggregates, from_event};
use crate::worker::runner::{Group, Order, Runner};
use crate::worker::transaction::{Attempted, Attempts, Outcome, Report, apply, call_span, failure, read_parked};

/// How long the log may stay as it is although the broker has brought later events. A replica that lags behind still grows.
const LONGEST_LAG: Duration = Duration::from_secs(10);

/// One checkpoint, moved by compare-and-set.
pub(super) struct LogOrder {
    /// The checkpoint as stored. `applied` is ahead of it only by events that are not wanted, or whose aggregates are parked.
    stored: Mark,
    /// When the worker last compared `stored` with the row: a read model that is restored from a backup goes back.
    compared_at: Instant,
    /// The waits of a worker that loses one race after another.
    standby: Delays,
    took: Took,
    /// Messages that wait for the log.
    beyond: Option<Beyond>,
}

/// Messages with events that the log does not have here.
struct Beyond {
    /// The last event.
    through: Position,
    /// The end of the log, and since when it is there.
    end: Position,
    since: Instant,
}

/// How long the last call of the projection took. The transaction may end on another thread.
#[derive(Clone, Default)]
struct Took(Arc<AtomicU64>);

impl Took {
    fn set(&self, took: Duration) {
        self.0.store(u64::try_from(took.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    fn get(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }
}

impl<M: ReadModel> Order for Runner<'_, M, LogOrder> {
    // Every transaction compares a count of the table's changes.
    const SEES_ALL_PARKED: bool = true;

    async fn begin(&mut self, checkpoint: Mark) -> Result<()> {
        self.order.stored = checkpoint;
        self.reach(checkpoint);
        loop {
            let stored = self.order.stored;
            match self.job.models.commit(self.step_to(stored, &[]), self.job.set_up()).await {
                Err(error) if has_moved(&error) => self.reload().await?,
                done => return done,
            }
            if self.order.stored != stored {
                // Another worker of this projection has moved on, and so has set it up.
                return Ok(());
            }
            // Only the count of changes has moved: another release was registered, or an operator has paused the projection.
        }
    }

    fn idle(&self) -> Duration {
        self.job.options.sweep
    }

    /// Applies what continues the log, drops what is known, and reads what is missing from the store.
    async fn receive(&mut self, deliveries: Vec<Delivery>) -> Result<()> {
        let Some(last_tag) = deliveries.last().map(|delivery| delivery.tag) else { return Ok(()) };
        let (mut batch, mut through, mut brought) = (Vec::new(), self.applied, self.applied.position);
        for delivery in deliveries {
            let tag = delivery.tag;
            let (admission, last, events) = match open(&delivery, through) {
                Ok(opened) => opened,
                Err(junk) => {
                    self.feed.reject(delivery, &junk).await;
                    self.meter.unreadable.increment(1);
                    continue;
                }
            };
            match admission {
                Admission::Known => {
                    self.meter.known.increment(1);
                    continue;
                }
                Admission::Next => {
                    let is_new = |event: &RecordedEvent| event.position > through.position && self.wanted.passes(event);
                    batch.extend(events.into_iter().filter(is_new));
                    (through, brought) = (last, brought.max(last.position));
                }
                Admission::Gap => {
                    self.meter.holes.increment(1);
                    // Missing events were lost or arrive later: the store has all of them, including this frame's.
                    self.apply(std::mem::take(&mut batch), through).await?;
                    self.read_log(None).await?;
                    (through, brought) = (self.applied, brought.max(last.position));
                }
            }
            if batch.len() >= self.job.options.batch_events {
                self.apply(std::mem::take(&mut batch), through).await?;
                through = self.applied;
                // The broker sends more while the rest is applied.
                if self.applied.position >= brought {
                    self.feed.acknowledge(tag).await;
                }
            }
        }
        self.apply(batch, through).await?;
        if self.applied.position < brought {
            // Another worker was faster, and has not got as far as these frames: they will not come again.
            self.read_log(None).await?;
        }
        // A worker that is stopped half-way leaves them to the next one.
        if self.applied.position >= brought {
            self.feed.acknowledge(last_tag).await;
        } else {
            let end = self.applied.position;
            let beyond = self.order.beyond.get_or_insert(Beyond { through: brought, end, since: Instant::now() });
            beyond.through = beyond.through.max(brought);
        }
        Ok(())
    }

    async fn before_reading(&mut self) -> Result<()> {
        self.report_beyond();
        if self.order.compared_at.elapsed() >= self.job.options.sweep {
            self.order.compared_at = Instant::now();
            match self.job.models.mark(&self.name).await {
                Ok(stored) if stored != self.order.stored => self.reload().await?,
                Ok(_) => {}
                // The next time will do.
                Err(error) if error.is_outage() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn query(&self) -> Filter {
        self.wanted.query().clone()
    }

    async fn return_to_stored(&mut self) -> Result<()> {
        self.reload().await
    }

    /// After a lost race the log is read on from the winner's checkpoint.
    async fn settle(&mut self, page: Page) -> Result<bool> {
        let (through, mut events) = (page.mark(), page.events);
        events.retain(|event| self.wanted.passes(event));
        self.apply(events, through).await.map(|_| true)
    }

    fn groups(&self, events: Vec<RecordedEvent>) -> Vec<Group> {
        vec![Group::new(events)]
    }

    async fn apply_part(&mut self, group: &Group, through: Mark, most: usize) -> Attempted {
        let most = if self.job.reacting.is_some() { most.min(self.job.most()) } else { most };
        let is_failed = |event: &RecordedEvent| self.failed.iter().any(|parked| parked.stream == event.stream);
        let mut due = group.iter().filter(|event| {
            event.position > self.applied.position && !self.parked.holds(&event.stream) && !is_failed(event)
        });
        let part: Vec<_> = due.by_ref().take(most).collect();
        let report = Report { has_rest: due.next().is_some(), ..Report::of(&part) };
        let Some(last) = part.last() else { return Ok((Outcome::Committed, report)) };
        let to = if report.has_rest { last.mark() } else { through };
        let outcome = self.commit_parking_failed(&part, to).await?;
        Ok((outcome, Report { took: self.order.took.get(), ..report }))
    }

    async fn end_batch(&mut self, through: Mark) -> Result<bool> {
        if self.failed.is_empty() {
            self.reach(through);
            return Ok(true);
        }
        Ok(matches!(self.commit_parking_failed(&[], through).await?, Outcome::Committed))
    }

    async fn store_applied(&mut self) -> Result<bool> {
        if self.applied.position <= self.order.stored.position {
            return Ok(true);
        }
        let work: Work<M::Tx> = Box::new(|_| async { Ok(()) }.boxed());
        match self.job.models.commit(self.step_to(self.applied, &[]), work).await {
            Ok(()) => {
                self.order.stored = self.applied;
                Ok(true)
            }
            Err(error) if has_moved(&error) => self.reload().await.map(|()| false),
            // The next time will do.
            Err(error) if error.is_outage() => {
                self.job.reporter.saw(&error);
                self.unstored = Some(error);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    async fn take_parked(&mut self, parking: Parking) -> Result<()> {
        if parking.changes != self.parked.changes {
            return self.reload().await;
        }
        self.parked = ParkedAggregates::of(parking, self.job.options.due());
        Ok(())
    }

    async fn retry_part(&mut self, parked: &Parked, most: usize) -> Attempted {
        let (mut events, rest) = match self.read_parked(parked, most).await {
            Ok(read) => read,
            Err(error) => return Ok((Outcome::Unread(error), Report::default())),
        };
        events.retain(|event| self.wanted.passes(event));
        let part: Vec<_> = events.iter().collect();
        let report = Report { has_rest: rest.is_some(), parked: Some(parked.clone()), ..Report::of(&part) };
        let change = match rest {
            Some(next) => ParkingChange::Park(from_event(parked.clone(), &next)),
            None => ParkingChange::Release(parked.stream.clone()),
        };
        let outcome = self.commit(&part, self.applied, &[change]).await?;
        Ok((outcome, Report { took: self.order.took.get(), ..report }))
    }

    async fn keep_parked(&mut self, parked: Parked) -> Result<()> {
        self.commit(&[], self.applied, &[ParkingChange::Park(parked)]).await.map(drop)
    }
}

impl<'w, M: ReadModel> Runner<'w, M, LogOrder> {
    pub(super) fn in_log_order(job: &'w Job<M>, stop: CancellationToken) -> Result<Self> {
        let order = LogOrder {
            stored: Mark::START,
            compared_at: Instant::now(),
            standby: job.options.standby(),
            took: Took::default(),
            beyond: None,
        };
        Self::new(job, order, SubscriptionMode::Exclusive, stop)
    }

    /// Reports that messages wait for the log, or that they do no more: without a consumer, they are back in the queue.
    fn report_beyond(&mut self) {
        let Some(beyond) = &mut self.order.beyond else { return };
        let (through, end) = (beyond.through, self.applied.position);
        if end >= through || !self.feed.has_consumer() {
            self.order.beyond = None;
            self.job.reporter.done(Wait::Log);
        } else if end != beyond.end {
            (beyond.end, beyond.since) = (end, Instant::now());
            self.job.reporter.done(Wait::Log);
        } else if beyond.since.elapsed() >= LONGEST_LAG {
            let error = format!("the broker has brought events up to {through}, and the log ends at {end} here");
            self.job.reporter.waits_after(Wait::Log, error);
        }
    }

    fn step_to(&self, to: Mark, parking: &[ParkingChange]) -> Step {
        Step::new(&self.name, self.order.stored, to).with_parking(self.parked.changes, parking.to_vec())
    }

    async fn reload(&mut self) -> Result<()> {
        self.order.stored = self.load().await?;
        self.reach(self.order.stored);
        Ok(())
    }

    /// Commits events, and parks the aggregates that failed before them.
    async fn commit_parking_failed(&mut self, events: &[&RecordedEvent], to: Mark) -> Result<Outcome> {
        let parking: Vec<_> = self.failed.iter().cloned().map(ParkingChange::Park).collect();
        let outcome = self.commit(events, to, &parking).await?;
        if let Outcome::Committed = outcome {
            self.report_parked(&self.failed);
            self.failed.clear();
        }
        Ok(outcome)
    }

    /// Commits one transaction, retried until the store takes it.
    async fn commit(&mut self, events: &[&RecordedEvent], to: Mark, parking: &[ParkingChange]) -> Result<Outcome> {
        let mut attempts = Attempts::new(&self.job.options, self.delays());
        loop {
            if !events.is_empty() && !self.may_go_on().await {
                return Ok(Outcome::Interrupted);
            }
            self.order.took.set(Duration::ZERO);
            let work = match self.work(events) {
                Ok(work) => work,
                Err(undecodable) => return Ok(Outcome::Failed(undecodable)),
            };
            let step = self.step_to(to, parking);
            let changes = step.changes_after();
            match self.job.models.commit(step, work).await {
                Ok(()) => {
                    self.order.stored = to;
                    self.order.standby = self.job.options.standby();
                    self.job.reporter.done(Wait::Standby);
                    self.parked.take(changes, parking);
                    self.reach(to);
                    return Ok(Outcome::Committed);
                }
                Err(error) if has_moved(&error) => {
                    // Another worker of this projection was faster, and nothing of this batch was kept. Back off before continuing from its
                    // checkpoint: every lost race is a batch read and decoded for nothing.
                    self.job.reporter.waits(Wait::Standby);
                    let _rest = self.pulse.rest();
                    self.order.standby.pause(&self.stop).await;
                    self.reload().await?;
                    return Ok(Outcome::Interrupted);
                }
                Err(error) => {
                    if let Some(outcome) = attempts.after(error, self.order.took.get(), &self.stop).await? {
                        return Ok(outcome);
                    }
                }
            }
        }
    }

    fn work(&self, events: &[&RecordedEvent]) -> Result<Work<M::Tx>> {
        let Some(first) = events.first() else { return Ok(Box::new(|_| async { Ok(()) }.boxed())) };
        let failed = failure(&self.name, first);
        events.iter().try_for_each(|event| self.wanted.check(event))?;
        let call = self.job.projection.clone().decode(events)?;
        for event in events {
            self.meter.upcasts.decoded(event.event.event_type.as_str(), event.event.schema_version);
        }
        let (limit, took) = (self.job.options.longest_call, self.order.took.clone());
        let span = call_span(&Span::current(), &self.name, events, self.continues_traces());
        Ok(Box::new(move |tx| {
            async move {
                let (applied, time) = apply(call, tx, limit, failed, span).await;
                took.set(time);
                applied
            }
            .boxed()
        }))
    }

    /// Reads the next events of a parked aggregate. None is beyond `applied`: later events arrive, or have arrived, with the live ones.
    async fn read_parked(
        &mut self,
        parked: &Parked,
        most: usize,
    ) -> Result<(Vec<RecordedEvent>, Option<RecordedEvent>)> {
        let (reader, stream, from) = (&*self.job.reader, &parked.stream, parked.from_version);
        // A replica may lag behind what the broker has brought: it does not show all that was passed over.
        let head = reader.head().await?;
        if head < self.applied.position {
            return Err(ErrorKind::Transient(format!("read {stream}: the log ends at {head} here")).into());
        }
        let after = Version::new(from.get().saturating_sub(1));
        let (mut events, rest) = read_parked(reader, stream, after, most).await?;
        events.retain(|event| event.position <= self.applied.position);
        if events.is_empty() {
            return Err(ErrorKind::Corrupt(format!("{stream}: version {from} is missing")).into());
        }
        Ok((events, rest.filter(|next| next.position <= self.applied.position)))
    }
}

/// Whether another worker has moved the checkpoint, or changed the parked rows.
fn has_moved(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::CheckpointMoved { .. })
}

/// Judges a message by its positions and by the event before what is new in it. Events that are applied already are not decompressed and
/// parsed.
fn open(delivery: &Delivery, through: Mark) -> Result<(Admission, Mark, Vec<RecordedEvent>)> {
    let frame = ReceivedFrame::parse(delivery.body.clone())?;
    let admission = admit(through.position, frame.first(), frame.last());
    let events = if admission == Admission::Known { Vec::new() } else { frame.events()? };
    let last = events.last().map_or(frame.last().into(), RecordedEvent::mark);
    let before = match events.iter().find(|event| event.position == through.position) {
        Some(event) => event.mark(),
        None => frame.after(),
    };
    let continues = through.position == Position::ZERO || before.event_id.is_some() && before == through;
    let admission = if admission == Admission::Next && !continues { Admission::Gap } else { admission };
    Ok((admission, last, events))
}
