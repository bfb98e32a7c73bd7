//! Runs a projection: start, broker and log, batches around what fails, parked aggregates, back-off, stop.
//!
//! An [`Order`] contains the differences between log order and order per aggregate.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::backoff::{Delays, retry_transient};
use crate::broker::{DeadLetter, Delivery, SubscriptionMode};
use crate::error::{Error, ErrorKind, Result, reason};
use crate::event::RecordedEvent;
use crate::id::mark::Mark;
use crate::id::{Position, ProjectionName, StreamId};
use crate::metrics::upcasts::UpcastMeter;
use crate::metrics::worker::{ParkReason, WorkerMeter};
use crate::notice::NoticeKind;
use crate::panics::catch_in;
use crate::pulse::Pulse;
use crate::registry::stored::if_behind_deploy;
use crate::status::Wait;
use crate::store::log::mark::{changed, remembered_by};
use crate::store::log::query::{Filter, Page};
use crate::store::log::reader::{EventReader, EventReaderExt};
use crate::store::model::parking::{Parked, ParkedState, Parking};
use crate::store::model::processors::RegisteredProcessor;
use crate::store::model::read_model::ReadModel;
use crate::trace::span::{self, within};
use crate::worker::caught_up::CaughtUp;
use crate::worker::feed::{Feed, Next};
use crate::worker::job::Job;
use crate::worker::pace::Pace;
use crate::worker::parking::{Breaker, ParkedAggregates, from_event, rested};
use crate::worker::transaction::{Attempted, Outcome, Report, is_undecodable, is_unreadable};
use crate::worker::wanted::Wanted;

/// The longest wait for a dead letter to be stored. Meanwhile the worker does nothing else.
const DEAD_LETTER_TIMEOUT: Duration = Duration::from_secs(20);

/// Parked aggregates that are retried in a row before live events have their turn.
const RETRIES_IN_A_ROW: usize = 16;

/// One run of a worker.
pub(super) struct Runner<'w, M: ReadModel, O> {
    pub(super) job: &'w Job<M>,
    pub(super) order: O,
    pub(super) name: ProjectionName,
    /// The events that the projection needs.
    pub(super) wanted: Arc<Wanted>,
    /// The count of changes of the projection when `wanted` was read.
    pub(super) known_changes: u64,
    /// No event up to here is wanted.
    pub(super) begins_after: Mark,
    /// Everything up to here is applied, parked or not wanted.
    pub(super) applied: Mark,
    pub(super) parked: ParkedAggregates,
    /// When to read the parked rows again: another process may have asked for a retry.
    next_look: Instant,
    /// When to look whether the projection is paused.
    pub(super) next_pause_look: Instant,
    /// Aggregates that failed in this pass over a batch, and are not parked yet.
    pub(super) failed: Vec<Parked>,
    /// How many of them failed because a stored state cannot be read. That is no outage, however many they are.
    unreadable: usize,
    breaker: Breaker,
    pace: Pace,
    /// Whether the log was read to its head, and is followed since. Until then, the events are old, and their traces have ended.
    pub(super) is_at_head: bool,
    pub(super) feed: Feed,
    pub(super) stop: CancellationToken,
    /// How long a database may be unreachable, for a run that only catches up.
    pub(super) limit: Option<Duration>,
    /// The error of the last attempt to store the position, until it is looked at.
    pub(super) unstored: Option<Error>,
    /// The waits of a worker that is behind a deploy.
    pub(super) behind_deploy: Option<Delays>,
    pub(super) meter: Arc<WorkerMeter>,
    pub(super) pulse: Pulse,
}

/// Events that are applied together, if possible.
pub(super) type Group = Arc<Vec<RecordedEvent>>;

/// The order in which a [`Runner`] applies events, and where it stores how far it is.
pub(super) trait Order {
    /// Whether no other worker can park an aggregate without this one noticing. Then a worker that knows of none need not look.
    const SEES_ALL_PARKED: bool;

    /// Prepares the read model of a projection that is at `checkpoint`.
    fn begin(&mut self, checkpoint: Mark) -> impl Future<Output = Result<()>> + Send;

    /// Returns how long to wait for a message before the log is read.
    fn idle(&self) -> Duration;

    /// Applies messages and acknowledges them.
    fn receive(&mut self, deliveries: Vec<Delivery>) -> impl Future<Output = Result<()>> + Send;

    /// Looks how far other workers are, and whether the read model was restored.
    fn before_reading(&mut self) -> impl Future<Output = Result<()>> + Send;

    /// Returns which events to read from the log.
    fn query(&self) -> Filter;

    /// Continues from the stored place, even if it is an earlier one.
    fn return_to_stored(&mut self) -> impl Future<Output = Result<()>> + Send;

    /// Applies a page of the log and moves `applied` over it. Returns whether to read on.
    fn settle(&mut self, page: Page) -> impl Future<Output = Result<bool>> + Send;

    /// Cuts a batch into groups.
    fn groups(&self, events: Vec<RecordedEvent>) -> Vec<Group>;

    /// Applies the next events of a batch that ends at `through`: at most `most`, and no more than fit one transaction. If there are any, parks
    /// the aggregates that failed before.
    fn apply_part(&mut self, group: &Group, through: Mark, most: usize) -> impl Future<Output = Attempted> + Send;

    /// Ends a pass over a batch at `through`: parks the aggregates that failed. Returns whether that is done; if not, the worker is interrupted.
    fn end_batch(&mut self, through: Mark) -> impl Future<Output = Result<bool>> + Send;

    /// Stores `applied` if only events that are not wanted or parked have moved it. Returns whether it is stored.
    fn store_applied(&mut self) -> impl Future<Output = Result<bool>> + Send;

    /// Takes over the parked rows as they are in the table.
    fn take_parked(&mut self, parking: Parking) -> impl Future<Output = Result<()>> + Send;

    /// Applies the next events of a parked aggregate, at most `most`, from the one that failed.
    fn retry_part(&mut self, parked: &Parked, most: usize) -> impl Future<Output = Attempted> + Send;

    /// Stores a parked aggregate whose retry has failed.
    fn keep_parked(&mut self, parked: Parked) -> impl Future<Output = Result<()>> + Send;
}

/// Names a projection in an error about a log with another history.
pub(super) fn of_projection(name: &ProjectionName, error: Error) -> Error {
    let remedy =
        "restore matching backups, or call `Rebuild::reset` for a view and `ReadModel::reset` for any projection";
    remembered_by(error, || format!("projection {name}"), remedy)
}

/// Returns the later of two places of one log.
fn later(one: Mark, other: Mark) -> Mark {
    if other.position > one.position { other } else { one }
}

fn park_reason(error: &Error) -> ParkReason {
    match error {
        _ if is_undecodable(error) => ParkReason::Undecodable,
        _ if is_unreadable(error) => ParkReason::State,
        _ => ParkReason::Handler,
    }
}

/// How a pass over a batch ended.
enum Pass {
    /// Every event is applied, parked, or was before.
    Through,
    /// As [`Outcome::Interrupted`], or the store does not show an event that the broker brought.
    Interrupted,
    /// Too many aggregates failed in a row. None of them is parked.
    Outage,
    /// A newer release has written an event that this process does not know. Nothing is parked for it.
    BehindDeploy(Error),
}

impl<'w, M: ReadModel, O> Runner<'w, M, O> {
    pub(super) fn new(job: &'w Job<M>, order: O, mode: SubscriptionMode, stop: CancellationToken) -> Result<Self> {
        let name = ProjectionName::new(job.projection.name())?;
        let (broker, grown) = (job.broker.clone(), job.reader.watch_head());
        let (projection, upcasts) = (&job.projection, UpcastMeter::new(job.projection.types().newest_versions()));
        let state = projection.state();
        let own = RegisteredProcessor::of_this_program(projection.kind(), projection.filter()?, state.as_ref());
        Ok(Self {
            job,
            order,
            wanted: Wanted::by(name.as_str(), own).into(),
            known_changes: 0,
            begins_after: Mark::START,
            applied: Mark::START,
            parked: ParkedAggregates::of(Parking::default(), job.options.due()),
            next_look: Instant::now(),
            next_pause_look: Instant::now(),
            failed: Vec::new(),
            unreadable: 0,
            breaker: Breaker::new(),
            pace: Pace::new(job.options.batch_time),
            is_at_head: false,
            feed: Feed::new(broker, name.clone(), mode, job.options, grown, job.reporter.clone(), stop.clone()),
            meter: WorkerMeter::new(name.as_str(), upcasts).into(),
            name,
            stop,
            limit: None,
            unstored: None,
            behind_deploy: None,
            pulse: job.reporter.pulse(),
        })
    }

    /// Reads the checkpoint, and takes over the parked rows, the registered releases and the skipped events. The checkpoint comes first: a worker
    /// that changes the others later changes the count that comes with the rows. Waits while the projection is paused.
    pub(super) async fn load(&mut self) -> Result<Mark> {
        self.is_at_head = false;
        loop {
            let checkpoint = self.load_once().await?;
            // Read after the count: a later pause changes it, and the next transaction fails.
            if !self.wait_while_paused().await? {
                return Ok(checkpoint);
            }
        }
    }

    async fn load_once(&mut self) -> Result<Mark> {
        let (models, name) = (&self.job.models, &self.name);
        let read = || async move { Ok((models.mark(name).await?, models.parking(name).await?)) };
        let (checkpoint, parking) = retry_transient(&self.stop, self.delays(), read).await?;
        if self.known_changes != parking.changes {
            // Pruning an inbox has moved the start, and a reset leads back to it.
            self.begins_after = retry_transient(&self.stop, self.delays(), || self.job.begins_after()).await?;
        }
        self.learn(parking.changes).await?;
        self.parked = ParkedAggregates::of(parking, self.job.options.due());
        Ok(checkpoint)
    }

    /// Sets the place up to which everything is applied, and announces it.
    pub(super) fn reach(&mut self, mark: Mark) {
        self.applied = later(mark, self.begins_after);
        self.job.applied.send_replace(self.applied.position);
    }

    /// Names the projection in an error about a log with another history.
    pub(super) fn of_this_projection(&self, error: Error) -> Error {
        of_projection(&self.name, error)
    }

    /// Returns the waits between attempts at a call to a database.
    pub(super) fn delays(&self) -> Delays {
        self.waits().with_limit(self.limit).reporting(&self.job.reporter, Wait::Database)
    }

    /// Returns the waits between attempts at anything else.
    pub(super) fn waits(&self) -> Delays {
        self.job.options.delays().resting(&self.pulse)
    }

    /// Waits until the rate of a reaction allows the next event. Returns whether to continue.
    pub(super) async fn may_go_on(&mut self) -> bool {
        let _rest = self.pulse.rest();
        self.job.may_go_on(&self.stop).await
    }

    /// Tells that the worker's loop turns.
    pub(super) fn turn(&self) {
        self.pulse.turn();
        self.job.reporter.parks(self.parked.len());
    }

    /// Takes a transient error that ends a loop of attempts for the end of the run, if the worker is stopped.
    pub(super) fn unless_stopped(&self, failed: Error) -> Result<()> {
        if (failed.is_outage() || failed.is_paused()) && self.stop.is_cancelled() { Ok(()) } else { Err(failed) }
    }
}

impl<M: ReadModel, O> Runner<'_, M, O>
where
    Self: Order,
{
    /// Runs until stopped. A worker that is stopped during an outage of its store ends without an error.
    pub(super) async fn run(self) -> Result<()> {
        let stop = self.stop.clone();
        match self.run_to_stop().await {
            Err(error) if stop.is_cancelled() && (error.is_outage() || error.is_paused()) => Ok(()),
            ended => ended,
        }
    }

    async fn run_to_stop(mut self) -> Result<()> {
        self.start().await?;
        self.job.reporter.runs();
        self.feed.subscribe();
        self.read_log(None).await?;
        while !self.stop.is_cancelled() {
            self.step().await?;
        }
        self.store_applied().await.map(drop)
    }

    /// Runs until everything up to `to` is applied and stored, or the worker is stopped.
    pub(super) async fn catch_up(mut self, to: Position) -> Result<CaughtUp> {
        self.limit = Some(self.job.options.catch_up_limit);
        self.start().await?;
        self.job.reporter.runs();
        let mut delays = self.delays();
        loop {
            self.read_log(Some(to)).await?;
            let is_stored = !self.stop.is_cancelled() && self.store_applied().await?;
            if is_stored && self.applied.position >= to {
                break;
            }
            // Another worker was faster, a replica does not show everything yet, or the database has failed.
            if let Some(failed) = self.unstored.take() {
                delays.pause_after(failed, &self.stop).await.or_else(|failed| self.unless_stopped(failed))?;
            } else {
                delays.pause(&self.stop).await;
            }
            if self.stop.is_cancelled() {
                break;
            }
        }
        let (models, name) = (&self.job.models, &self.name);
        let parking = retry_transient(&self.stop, self.delays(), || models.parking(name)).await?;
        Ok(CaughtUp { position: self.applied.position, parked: parking.parked })
    }

    async fn start(&mut self) -> Result<()> {
        // To set up a read model may take long.
        let _rest = self.pulse.rest();
        let mut delays = self.delays();
        while let Err(failed) = self.try_start().await {
            if failed.is_paused() && self.limit.is_none() && !self.stop.is_cancelled() {
                // The next attempt waits for the end of the pause.
                continue;
            }
            if let Err(failed) = delays.pause_after(failed, &self.stop).await {
                return self.unless_stopped(failed);
            }
        }
        Ok(())
    }

    async fn try_start(&mut self) -> Result<()> {
        self.wait_while_paused().await?;
        self.job.check_projection().await?;
        self.job.check_shapes().await?;
        self.begins_after = self.job.begins_after().await?;
        self.wanted.register(&self.job.models, &self.name).await?;
        let checkpoint = self.load().await?;
        // The log has everything up to the later place if it has the event there.
        let from = later(checkpoint, self.begins_after);
        self.job.reader.check(from).await.map_err(|error| self.of_this_projection(error))?;
        if from.event_id.is_none() && from.position > self.job.reader.head().await? {
            return Err(self.of_this_projection(changed(from, None)));
        }
        self.begin(checkpoint).await
    }

    /// Waits for messages, the log's signal or time, whichever comes first, and handles it.
    async fn step(&mut self) -> Result<()> {
        self.turn();
        self.look_for_pause().await?;
        self.retry_parked().await?;
        self.job.reporter.done(Wait::Rate);
        let rest = self.parked.rest().unwrap_or(Duration::MAX).min(self.idle());
        let waiting = self.pulse.rest();
        let next = self.feed.next(rest).await?;
        drop(waiting);
        match next {
            Next::Messages(deliveries) => self.receive(deliveries).await,
            Next::ReadLog => {
                self.read_log(None).await?;
                self.store_applied().await.map(drop)
            }
            Next::Nothing => Ok(()),
        }
    }

    /// Reads the log from where everything is applied to its head, or as far as `to`, and applies it.
    pub(super) async fn read_log(&mut self, to: Option<Position>) -> Result<()> {
        let (reader, limit) = (self.job.reader.clone(), self.job.options.batch_events);
        self.before_reading().await?;
        let mut ahead = None;
        while !self.stop.is_cancelled() {
            self.turn();
            self.retry_parked().await?;
            let after = self.applied;
            if to.is_some_and(|to| after.position >= to) {
                break;
            }
            let (wanted, filter) = (self.wanted.clone(), self.query());
            let page = match ahead.take() {
                // A page that was read before this worker knew of another release may lack events.
                Some((mark, by, Ok(page))) if mark == after && Arc::ptr_eq(&by, &wanted) => page,
                // A page that could not be read ahead is read again.
                _ => {
                    // A filter that few events pass may read much of the log.
                    let _rest = self.pulse.rest();
                    match retry_transient(&self.stop, self.delays(), || reader.read_all(after, limit, &filter)).await {
                        Ok(page) => page,
                        Err(error) if error.is_history_changed() => {
                            // The log and the read model may have been restored together. Then the stored place is in the log.
                            self.return_to_stored().await?;
                            if self.applied == after {
                                return Err(self.of_this_projection(error));
                            }
                            continue;
                        }
                        Err(error) => return self.unless_stopped(error),
                    }
                }
            };
            let through = page.mark();
            if through.position == after.position {
                self.is_at_head = true;
                // Processes of the newer release have applied the rest.
                self.go_on_after_deploy();
                return Ok(());
            }
            self.is_at_head &= page.events.len() < limit;
            // The next page is read while this one is applied. It comes first, so that its reading starts first.
            let pulse = self.pulse.clone();
            let next = async {
                let _rest = pulse.rest();
                let is_last = to.is_some_and(|to| through.position >= to);
                if is_last { None } else { Some((through, wanted, reader.read_all(through, limit, &filter).await)) }
            };
            let (next, settled) = futures::join!(next, self.settle(page));
            if !settled? {
                return Ok(());
            }
            ahead = next;
        }
        Ok(())
    }

    /// Applies a batch that ends at `through`. During an outage it tries again until that is over. Returns whether every event is applied or
    /// parked; if not, another worker was faster or the worker is stopped.
    pub(super) async fn apply(&mut self, events: Vec<RecordedEvent>, through: Mark) -> Result<bool> {
        let span = self.span(&events);
        let applied = within!(span, self.apply_passes(events, through));
        if let Err(error) = &applied {
            span::failed(&span, error);
        }
        applied
    }

    async fn apply_passes(&mut self, events: Vec<RecordedEvent>, through: Mark) -> Result<bool> {
        let (groups, mut delays) = (self.groups(events), self.waits());
        loop {
            match self.pass(&groups, through).await? {
                Pass::Through => {
                    self.job.reporter.done(Wait::Outage);
                    self.go_on_after_deploy();
                    return Ok(true);
                }
                Pass::BehindDeploy(error) => return self.step_back(error).await.map(|()| false),
                Pass::Interrupted => return Ok(false),
                Pass::Outage => {
                    let cause = self.failed.last().map(|parked| parked.error.clone()).unwrap_or_default();
                    self.job.reporter.waits_after(Wait::Outage, cause);
                    if !delays.pause(&self.stop).await {
                        return Ok(false);
                    }
                }
            }
        }
    }

    async fn pass(&mut self, groups: &[Group], through: Mark) -> Result<Pass> {
        self.failed.clear();
        self.meter.not_parked();
        for group in groups {
            match self.pass_group(group, through).await? {
                Pass::Through => {}
                other => return Ok(other),
            }
        }
        let suspects = self.suspects();
        if !self.end_batch(through).await? {
            return Ok(Pass::Interrupted);
        }
        if suspects > 0 {
            self.breaker.suspect(suspects);
        }
        Ok(Pass::Through)
    }

    /// Halves a part that fails until one event is left: each failing event costs about twenty more transactions in a batch of 1,000, and the
    /// others stay together. Its aggregate is parked with the next part that succeeds, or at the end.
    ///
    /// A part whose handler was slow is applied event by event instead, since each half with the slow event would take as long again.
    async fn pass_group(&mut self, group: &Group, through: Mark) -> Result<Pass> {
        let (mut most, mut grows, mut singly) = (usize::MAX, false, 0);
        loop {
            self.turn();
            let (outcome, report) = self.try_part(group, through, most.min(self.pace.most())).await?;
            match outcome {
                Outcome::Committed => {
                    if report.planned > 0 {
                        self.breaker.reset();
                        self.pace.measured(report.planned, report.took);
                    }
                    if !report.has_rest {
                        return Ok(Pass::Through);
                    }
                    // After one half of a failed part has succeeded, the other half fails: the parts grow again after that.
                    most = if grows { most.saturating_mul(2) } else { most };
                    singly = usize::saturating_sub(singly, report.planned);
                    grows = singly == 0;
                }
                Outcome::Interrupted => return Ok(Pass::Interrupted),
                // A log that lags behind is no damaged log.
                Outcome::Unread(error) if error.is_transient() => return Ok(Pass::Interrupted),
                Outcome::Unread(error) => return Err(error),
                Outcome::Failed(_) if report.planned > 1 && self.is_slow(&report) => {
                    (most, grows, singly) = (1, false, report.planned);
                }
                Outcome::Failed(_) if report.planned > 1 => (most, grows) = (report.planned / 2, false),
                Outcome::Failed(error) => {
                    let error = Box::pin(if_behind_deploy(&*self.job.reader, error)).await;
                    if error.is_behind_deploy() {
                        return Ok(Pass::BehindDeploy(error));
                    }
                    let Some(event) = report.first else { return Err(error) };
                    (most, grows, singly) = (1, true, 0);
                    let options = &self.job.options.parking;
                    // The list was emptied when its aggregates were parked.
                    let unreadable = if self.failed.is_empty() { 0 } else { self.unreadable };
                    self.failed.push(rested(options.parked(&event, &error), report.took, self.job.options.due()));
                    self.unreadable = unreadable + usize::from(is_unreadable(&error));
                    self.meter.suspect(park_reason(&error));
                    if !is_unreadable(&error) && self.breaker.trips(self.suspects(), options) {
                        return Ok(Pass::Outage);
                    }
                }
            }
        }
    }

    fn measure(&self, outcome: &Outcome, report: &Report) {
        match outcome {
            Outcome::Committed => self.meter.applied(report.planned, report.took),
            Outcome::Failed(_) => self.meter.failed(report.planned, report.took),
            Outcome::Interrupted | Outcome::Unread(_) => {}
        }
    }

    /// Returns how many of the failed aggregates may have failed because of an outage.
    fn suspects(&self) -> usize {
        self.failed.len().saturating_sub(self.unreadable)
    }

    /// Returns whether the handler was slow: another attempt would hold up the other aggregates.
    fn is_slow(&self, report: &Report) -> bool {
        let options = &self.job.options;
        report.took >= options.longest_call.min(options.longest_delay)
    }

    /// Retries a single event in place: most failures are over at once. Not during an outage, whose every probe would take as long, nor if
    /// decoding fails, since that depends on nothing but the event or the stored state. An event that the log does not show yet may appear in a moment.
    async fn try_part(&mut self, group: &Group, through: Mark, most: usize) -> Attempted {
        let (mut delays, mut retries) = (self.delays(), self.job.options.retries);
        loop {
            let (outcome, report) = self.apply_part(group, through, most).await?;
            self.measure(&outcome, &report);
            let may_pass = match &outcome {
                // A slow handler would hold up the other aggregates once more for each retry.
                Outcome::Failed(error) => {
                    let is_slow = self.is_slow(&report);
                    let is_certain = is_undecodable(error) || is_unreadable(error) || error.is_behind_deploy();
                    report.planned == 1 && !is_slow && !self.breaker.is_open() && !is_certain
                }
                Outcome::Unread(error) => error.is_transient(),
                Outcome::Committed | Outcome::Interrupted => false,
            };
            if let Outcome::Failed(error) | Outcome::Unread(error) = &outcome {
                self.job.reporter.saw(error);
            }
            if !may_pass || retries == 0 {
                return Ok((outcome, report));
            }
            if matches!(outcome, Outcome::Failed(_)) && retries == self.job.options.retries {
                self.job.reporter.notice(NoticeKind::Retrying);
            }
            retries -= 1;
            if !delays.pause(&self.stop).await {
                return Ok((Outcome::Interrupted, report));
            }
        }
    }

    /// Reads the parked rows when it is time to, and retries what is due.
    async fn retry_parked(&mut self) -> Result<()> {
        if Self::SEES_ALL_PARKED && self.parked.is_empty() {
            return Ok(());
        }
        let began = Instant::now();
        if began >= self.next_look {
            match self.job.models.parking(&self.name).await {
                Ok(parking) => self.take_parked(parking).await?,
                // The next look will do.
                Err(error) if error.is_outage() => self.job.reporter.saw(&error),
                Err(error) => return Err(error),
            }
            // With many parked aggregates a look takes long: it never takes more than a small part of the time.
            self.next_look = Instant::now() + self.job.options.sweep.max(began.elapsed() * 20);
        }
        for stream in self.parked.due(RETRIES_IN_A_ROW) {
            if self.stop.is_cancelled() {
                break;
            }
            // After a slow retry, the live events of other aggregates have their turn.
            let span = span::retry(self.name.as_str());
            if within!(span, self.retry(&stream))? >= self.job.options.longest_delay {
                break;
            }
        }
        Ok(())
    }

    /// Applies the events of a parked aggregate from the one that failed, in order, as far as they succeed. Returns how long the last call of the
    /// handler took.
    async fn retry(&mut self, stream: &StreamId) -> Result<Duration> {
        let mut took = Duration::ZERO;
        let mut most = self.job.most().min(self.pace.most());
        // The retry of another aggregate may have found that another worker has retried this one.
        while let Some(mut parked) = self.parked.due_one(stream) {
            self.turn();
            let (outcome, report) = self.retry_part(&parked, most).await?;
            self.measure(&outcome, &report);
            took = report.took;
            match outcome {
                Outcome::Committed => {
                    if report.planned > 0 {
                        self.breaker.reset();
                    }
                    if !report.has_rest {
                        self.job.reporter.notice(NoticeKind::Unparked);
                        break;
                    }
                }
                Outcome::Interrupted => break,
                Outcome::Unread(error) => {
                    self.job.options.parking.postpone(&mut parked, &error);
                    self.keep_parked(parked).await?;
                    break;
                }
                Outcome::Failed(_) if report.planned > 1 => most = report.planned / 2,
                Outcome::Failed(error) => {
                    let error = Box::pin(if_behind_deploy(&*self.job.reader, error)).await;
                    if error.is_behind_deploy() {
                        self.job.options.parking.postpone(&mut parked, &error);
                        self.keep_parked(parked).await?;
                        break;
                    }
                    let (Some(event), Some(parked)) = (report.first, report.parked) else { return Err(error) };
                    let parked = self.failed_again(parked, &event, &error).await;
                    self.keep_parked(rested(parked.clone(), took, self.job.options.due())).await?;
                    self.report_failed_again(&parked);
                    break;
                }
            }
        }
        Ok(took)
    }

    /// Counts one more failure. The dead letter is sent before the aggregate is dead: it may be sent twice, and never not at all. If it cannot be
    /// sent, the next retry sends it.
    async fn failed_again(&mut self, parked: Parked, event: &RecordedEvent, error: &Error) -> Parked {
        let (options, mut parked) = (&self.job.options.parking, from_event(parked, event));
        options.failed(&mut parked, error);
        if options.is_spent(parked.attempts) {
            let letter = DeadLetter::new(self.name.clone(), event.clone(), parked.error.clone(), parked.attempts);
            let is_sent = match &self.job.dead_letters {
                Some(dead_letters) => {
                    let panicked =
                        |panicked| Err(Error::with_source(ErrorKind::Panicked("send a dead letter".into()), panicked));
                    let sent = match timeout(DEAD_LETTER_TIMEOUT, catch_in(dead_letters.add(&letter))).await {
                        Ok(sent) => sent.unwrap_or_else(panicked),
                        Err(late) => Err(Error::with_source(ErrorKind::Transient("send a dead letter".into()), late)),
                    };
                    match &sent {
                        Ok(()) => self.job.reporter.done(Wait::DeadLetters),
                        Err(error) => self.job.reporter.waits_after(Wait::DeadLetters, reason(error)),
                    }
                    sent.is_ok()
                }
                None => true,
            };
            parked.state = if is_sent { ParkedState::Dead } else { parked.state };
        }
        parked
    }
}
