//! Keeps the gauges about a log, its relays and its processors up to date.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use ::metrics::{Counter, Gauge};
use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::error::{Error, ErrorKind, Result};
use crate::id::{Position, ProjectionName};
use crate::metrics::handles::float;
use crate::metrics::names::{
    DEAD, DEADLINES_DUE, HEAD, INBOX_ROWS, KEYS_ROWS, LAG_EVENTS, LAG_SECONDS, OBSERVATIONS,
    OBSERVED_TIMESTAMP_SECONDS, PARKED, PARKED_OLDEST_SECONDS, PROCESSOR_STATE, RELAY_LAG_EVENTS, RELAY_LAG_SECONDS,
    RELAY_LEADER, UNSEQUENCED_AGE_SECONDS, UNSEQUENCED_COMMITS,
};
use crate::operate::report::{Lag, Processor, RelayPlace, Report};
use crate::operate::sizes::{Sizes, sizes};
use crate::operate::status::status_of;
use crate::panics::catch_in;
use crate::store::log::reader::EventReader;
use crate::store::log::relay::RelayStore;
use crate::store::model::deadlines::DeadlineStore;
use crate::store::model::views::ViewStore;

/// How often an [`Observer`] reads the store, and how long a reading may take.
///
/// # Examples
/// ```
/// use std::time::Duration;
///
/// use retell::operate::ObserverOptions;
///
/// let options = ObserverOptions::new().with_interval(Duration::from_secs(60)).with_log("orders");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ObserverOptions {
    interval: Duration,
    limit: Duration,
    log: String,
}

impl ObserverOptions {
    /// Returns the defaults: every 15 seconds, as most servers scrape, within 10 seconds, and a log called `main`.
    pub fn new() -> Self {
        Self { interval: Duration::from_secs(15), limit: Duration::from_secs(10), log: "main".into() }
    }

    /// Reads the store every `interval` (minimum 10 ms). An observation takes about five short queries for each processor, and one or a few for the [sizes](super::sizes()) of tables.
    pub fn with_interval(mut self, interval: Duration) -> Self {
        self.interval = interval.max(Duration::from_millis(10));
        self
    }

    /// Gives an observation `limit` to end. Then it has failed.
    pub fn with_limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Sets the label `log`, for a program with several logs.
    pub fn with_log(mut self, log: impl Into<String>) -> Self {
        self.log = log.into();
        self
    }
}

impl Default for ObserverOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// Sets the [gauges](crate::metrics) about a log and its read models to the numbers of [`status`](super::status()).
///
/// If a processor or a relay is gone, its gauges are set to 0, except for that of its leader, which is not a number then. So are those of a retired
/// processor, except for its state. If the log does not have the event at a checkpoint, the lag is not a number.
/// A failed observation leaves the gauges as they are, except for those of commits without a position, and counts in [`OBSERVATIONS`]:
/// compare [`OBSERVED_TIMESTAMP_SECONDS`] with the time before you trust them.
///
/// # Examples
/// ```
/// use retell::operate::{Observer, ObserverOptions};
/// use retell::prelude::*;
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// // Install a recorder before.
/// let log = MemoryStore::new();
/// let mut observer = Observer::new(log.clone(), log.read_model(), ObserverOptions::new());
/// let report = observer.observe().await?;
/// assert_eq!(report.head.position, Position::ZERO);
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
pub struct Observer {
    read: Box<dyn Fn() -> BoxFuture<'static, Result<Report>> + Send + Sync>,
    count: Box<dyn Fn() -> BoxFuture<'static, Result<u64>> + Send + Sync>,
    measure: Box<dyn Fn() -> BoxFuture<'static, Result<Sizes>> + Send + Sync>,
    options: ObserverOptions,
    gauges: Gauges,
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Observer").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Observer {
    /// Creates an observer of `log` and `models`.
    pub fn new(
        log: impl EventReader + RelayStore,
        models: impl ViewStore + DeadlineStore,
        options: ObserverOptions,
    ) -> Self {
        let log = Arc::new(log);
        Self::over(log.clone(), log, models, options)
    }

    /// Creates an observer of a log that is chosen at run time. `reader` and `relays` are handles of the same log.
    pub fn over(
        reader: Arc<dyn EventReader>,
        relays: Arc<dyn RelayStore>,
        models: impl ViewStore + DeadlineStore,
        options: ObserverOptions,
    ) -> Self {
        let models = Arc::new(models);
        let (log, measured, own) = (reader.clone(), reader.clone(), models.clone());
        let measure = move || {
            let (log, models) = (measured.clone(), own.clone());
            async move { sizes(&*log, &*models).await }.boxed()
        };
        let count = move || {
            let log = log.clone();
            async move { log.unsequenced().await }.boxed()
        };
        let read = move || {
            let (reader, relays, models) = (reader.clone(), relays.clone(), models.clone());
            async move { status_of(&*reader, &*relays, &*models).await }.boxed()
        };
        let (read, count, measure) = (Box::new(read), Box::new(count), Box::new(measure));
        Self { read, count, measure, gauges: Gauges::new(&options.log), options }
    }

    /// Reads the store once, sets the gauges, and returns the report.
    ///
    /// # Errors
    /// [`ErrorKind::Transient`] if the observation does not end within its limit, [`ErrorKind::Panicked`] if the store panics, otherwise a
    /// [read error](Error#read-errors).
    ///
    /// # Cancel safety
    /// May be dropped at any time: it changes nothing but gauges.
    pub async fn observe(&mut self) -> Result<Report> {
        let limit = self.options.limit;
        let read = within(limit, (self.read)()).await;
        if let Ok(report) = &read {
            self.gauges.show(report);
            // Statistics of tables are worth no failed observation.
            if let Ok(sizes) = within(limit, (self.measure)()).await {
                self.gauges.show_sizes(&sizes);
            }
        } else {
            self.gauges.failed.increment(1);
            // While commits get no positions, the head may not be readable, and the number of these commits tells why.
            if let Ok(unsequenced) = within(limit, (self.count)()).await {
                self.gauges.show_unsequenced(unsequenced, None);
            }
        }
        read
    }

    /// Observes at each interval until `stop` is canceled. A failed observation is counted, and the next one follows.
    ///
    /// # Cancel safety
    /// May be dropped at any time: it changes nothing but gauges.
    pub async fn run(mut self, stop: CancellationToken) {
        let observe = async {
            loop {
                // The failure is counted.
                drop(self.observe().await);
                sleep(self.options.interval).await;
            }
        };
        stop.run_until_cancelled(observe).await;
    }
}

/// The handles of one observer.
struct Gauges {
    head: Gauge,
    unsequenced: Gauge,
    unsequenced_age: Gauge,
    keys: Gauge,
    inbox: Gauge,
    succeeded: Counter,
    failed: Counter,
    observed_at: Gauge,
    processors: BTreeMap<ProjectionName, ProcessorGauges>,
    relays: BTreeMap<String, RelayGauges>,
    /// The head that was seen last.
    known_head: Option<Position>,
    /// Since when commits have waited for positions and the head has not moved.
    waiting_since: Option<Instant>,
}

impl Gauges {
    fn new(log: &str) -> Self {
        Self {
            head: HEAD.gauge(&[log]),
            unsequenced: UNSEQUENCED_COMMITS.gauge(&[log]),
            unsequenced_age: UNSEQUENCED_AGE_SECONDS.gauge(&[log]),
            keys: KEYS_ROWS.gauge(&[log]),
            inbox: INBOX_ROWS.gauge(&[log]),
            succeeded: OBSERVATIONS.counter(&[log, "ok"]),
            failed: OBSERVATIONS.counter(&[log, "failed"]),
            observed_at: OBSERVED_TIMESTAMP_SECONDS.gauge(&[log]),
            processors: BTreeMap::new(),
            relays: BTreeMap::new(),
            known_head: None,
            waiting_since: None,
        }
    }

    fn show(&mut self, report: &Report) {
        self.show_log(report);
        for processor in &report.processors.items {
            let gauges = self.processors.entry(processor.name.clone());
            let gauges = gauges.or_insert_with(|| ProcessorGauges::new(processor.name.as_str()));
            let due = report.deadlines.iter().find(|deadlines| deadlines.process == processor.name);
            gauges.show(processor, due.map_or(0, |deadlines| deadlines.due.count));
        }
        let is_listed = |name: &ProjectionName| report.processors.items.iter().any(|listed| listed.name == *name);
        for (_, gone) in self.processors.extract_if(.., |name, _| !report.processors.truncated && !is_listed(name)) {
            gone.clear();
        }
        let Some(relays) = &report.relays else { return };
        for relay in &relays.items {
            let gauges = self.relays.entry(relay.name.clone());
            gauges.or_insert_with(|| RelayGauges::new(&relay.name)).show(relay);
        }
        let is_listed = |name: &String| relays.items.iter().any(|listed| listed.name == *name);
        for (_, gone) in self.relays.extract_if(.., |name, _| !relays.truncated && !is_listed(name)) {
            gone.clear();
        }
    }

    fn show_sizes(&self, sizes: &Sizes) {
        for (gauge, rows) in [(&self.keys, sizes.rows("keys")), (&self.inbox, sizes.rows("inbox"))] {
            gauge.set(rows.map_or(f64::NAN, float));
        }
    }

    fn show_log(&mut self, report: &Report) {
        let head = report.head.position;
        self.show_unsequenced(report.unsequenced, Some(head));
        self.head.set(float(head.get()));
        self.succeeded.increment(1);
        self.observed_at.set(float(report.at.timestamp_millis().max(0).unsigned_abs()) / 1_000.0);
    }

    /// Shows the number of commits without a position. `head` is `None` if it could not be read.
    fn show_unsequenced(&mut self, unsequenced: u64, head: Option<Position>) {
        let has_moved = head.is_some_and(|head| self.known_head.replace(head) != Some(head));
        self.waiting_since = match self.waiting_since {
            _ if unsequenced == 0 => None,
            Some(since) if !has_moved => Some(since),
            _ => Some(Instant::now()),
        };
        self.unsequenced.set(float(unsequenced));
        self.unsequenced_age.set(self.waiting_since.map_or(0.0, |since| since.elapsed().as_secs_f64()));
    }
}

/// Ends `read` at the limit, and makes an error of a panic.
async fn within<T>(limit: Duration, read: BoxFuture<'_, Result<T>>) -> Result<T> {
    match timeout(limit, catch_in(read)).await {
        Ok(read) => read.unwrap_or_else(|panicked| {
            Err(Error::with_source(ErrorKind::Panicked("observe the log".into()), panicked))
        }),
        Err(late) => Err(Error::with_source(ErrorKind::Transient(format!("observe the log within {limit:?}")), late)),
    }
}

/// The gauges of a distance to the head of the log.
struct LagGauges {
    events: Gauge,
    seconds: Gauge,
}

impl LagGauges {
    fn show(&self, lag: Option<Lag>) {
        self.set(lag.map_or((f64::NAN, f64::NAN), |lag| (float(lag.events), float(lag.seconds))));
    }

    fn set(&self, (events, seconds): (f64, f64)) {
        self.events.set(events);
        self.seconds.set(seconds);
    }
}

struct ProcessorGauges {
    name: String,
    lag: LagGauges,
    parked: Gauge,
    dead: Gauge,
    oldest: Gauge,
    deadlines: Gauge,
    /// The state that was seen last.
    state: Option<(&'static str, Gauge)>,
}

impl ProcessorGauges {
    fn new(processor: &str) -> Self {
        let labels = [processor];
        Self {
            name: processor.to_owned(),
            lag: LagGauges { events: LAG_EVENTS.gauge(&labels), seconds: LAG_SECONDS.gauge(&labels) },
            parked: PARKED.gauge(&labels),
            dead: DEAD.gauge(&labels),
            oldest: PARKED_OLDEST_SECONDS.gauge(&labels),
            deadlines: DEADLINES_DUE.gauge(&labels),
            state: None,
        }
    }

    fn show(&mut self, processor: &Processor, due: u64) {
        let state = state(processor);
        if self.state.as_ref().is_none_or(|(known, _)| *known != state) {
            self.leave_state();
            self.state = Some((state, PROCESSOR_STATE.gauge(&[&self.name, state])));
        }
        if let Some((_, gauge)) = &self.state {
            gauge.set(1.0);
        }
        if processor.is_retired() {
            return self.reset();
        }
        // A generation that is being deleted is behind nothing.
        let lag = processor.lag.or((!processor.history_changed).then_some(Lag { events: 0, seconds: 0 }));
        self.lag.show(lag);
        self.parked.set(float(processor.parked.waiting.count));
        self.dead.set(float(processor.parked.dead.count));
        self.oldest.set(float(processor.parked.oldest_seconds.unwrap_or(0)));
        self.deadlines.set(float(due));
    }

    fn leave_state(&mut self) {
        if let Some((_, gauge)) = self.state.take() {
            gauge.set(0.0);
        }
    }

    fn clear(mut self) {
        self.leave_state();
        self.reset();
    }

    fn reset(&self) {
        self.lag.set((0.0, 0.0));
        for gauge in [&self.parked, &self.dead, &self.oldest, &self.deadlines] {
            gauge.set(0.0);
        }
    }
}

/// Returns the label of a processor's state.
fn state(processor: &Processor) -> &'static str {
    match processor {
        Processor { history_changed: true, .. } => "history_changed",
        _ if processor.is_retired() => "retired",
        Processor { paused: Some(_), .. } => "paused",
        _ => processor.state.as_str(),
    }
}

struct RelayGauges {
    lag: LagGauges,
    leader: Gauge,
}

impl RelayGauges {
    fn new(relay: &str) -> Self {
        let labels = [relay];
        let lag = LagGauges { events: RELAY_LAG_EVENTS.gauge(&labels), seconds: RELAY_LAG_SECONDS.gauge(&labels) };
        Self { lag, leader: RELAY_LEADER.gauge(&labels) }
    }

    fn show(&self, relay: &RelayPlace) {
        self.lag.show(relay.lag);
        self.leader.set(if relay.leader.is_some() { 1.0 } else { 0.0 });
    }

    /// Whether a relay that is gone has a leader is no question: 0 would look like an outage.
    fn clear(&self) {
        self.lag.set((0.0, 0.0));
        self.leader.set(f64::NAN);
    }
}
