//! A program in which every kind of part remembers a place in the log.

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt;
use futures::future::ready;
use retell::app::{HealthOptions, Running, State};
use retell::prelude::*;
use retell::store::{ViewStore, Work};
use retell::{
    CommandError, DeadlineStore, Error, ErrorKind, EventId, Mark, ProjectionName, Rebuild, RelayStore, WorkerOptions,
};
use serde::{Deserialize, Serialize};

use super::channels::Channels;
use super::positions::{Filled, IN_LOG_ORDER, Numbers, PER_AGGREGATE, rows};
use crate::counter::{Add, Counter, CounterEvent};

/// The rows of an inline projection.
pub(super) const INLINE: Numbers = Numbers("numbers inline");

const KEYS: [&str; 3] = ["0", "1", "2"];

/// Everything that the parts did outside their databases.
#[derive(Default)]
pub(super) struct Seen {
    notes: Mutex<Vec<EventId>>,
    pub(super) announced: Mutex<Vec<EventId>>,
    failures: Mutex<Vec<(String, Error)>>,
    /// The last difference from the log.
    difference: Mutex<String>,
}

impl Seen {
    /// Returns the errors that ended a task, with its name.
    pub(super) fn failures(&self) -> Vec<(String, Error)> {
        self.failures.lock().unwrap().clone()
    }

    pub(super) fn forget_failures(&self) {
        self.failures.lock().unwrap().clear();
    }
}

/// Notes each event.
struct Notes<T: ?Sized>(Arc<Seen>, PhantomData<fn(&T)>);

#[async_trait]
impl<T: Send + ?Sized + 'static> Reaction for Notes<T> {
    const NAME: &'static str = "notes";
    type Event = Filled;
    type Tx = T;

    async fn react(&self, _: &mut T, filled: Envelope<Filled>) -> Result<(), BoxError> {
        self.0.notes.lock().unwrap().push(filled.id);
        Ok(())
    }
}

#[derive(Clone, Serialize, Deserialize)]
struct Remind;

/// Counts the events of a shelf in another aggregate, each after a deadline.
struct Reminders(Repository<Counter>);

#[async_trait]
impl Process for Reminders {
    const NAME: &'static str = "reminders";
    type Event = Filled;
    type State = u64;
    type Command = Remind;

    fn key(&self, filled: &Envelope<Filled>) -> Option<AggregateId> {
        Some(filled.stream.aggregate_id().clone())
    }

    fn on_event(&self, events: &mut u64, filled: &Envelope<Filled>, effects: &mut Effects<Remind>) {
        *events += 1;
        effects.set_deadline(format!("after {}", filled.version), filled.recorded_at);
    }

    fn on_deadline(&self, _: &mut u64, _: &str, effects: &mut Effects<Remind>) {
        effects.send(Remind);
    }

    async fn execute(&self, key: &AggregateId, _: Remind, context: Context) -> Result<(), CommandFailure> {
        self.0.execute_with(key.clone(), Add(vec![1]), context).await?;
        Ok(())
    }
}

/// A running program, and a repository with a cached state.
pub(super) struct Program<S, M> {
    /// The handle that appends, which may have an inline projection.
    pub(super) log: S,
    pub(super) models: M,
    /// The read models of the process manager. On SQLite they need a file of their own.
    pub(super) deadlines: M,
    pub(super) seen: Arc<Seen>,
    counters: Repository<Counter>,
    running: Option<Running>,
    channels: Channels,
}

/// The tasks that remember a place in the read models.
pub(super) const PARTS: [&str; 4] = [IN_LOG_ORDER.0, PER_AGGREGATE.0, "notes", "reminders"];

/// The account of which a state is cached.
const ACCOUNT: &str = "account";

impl<S, M> Program<S, M>
where
    S: EventStore + RelayStore + Clone,
    M: ViewStore + DeadlineStore + Clone,
{
    /// Opens the repository. The tasks do not run yet.
    pub(super) fn new(log: S, models: M, deadlines: M) -> Self {
        let counters = Repository::<Counter>::new(log.clone());
        let seen = Arc::<Seen>::default();
        let channels = Channels::new(seen.clone());
        Self { log, models, deadlines, seen, counters, running: None, channels }
    }

    /// Starts the tasks on `store`, which is closed when they stop.
    pub(super) fn start(&mut self, store: &S) {
        let (seen, models) = (self.seen.clone(), &self.models);
        let options = || WorkerOptions::new().with_sweep(Duration::from_millis(50));
        let notes = Notes::<M::Tx>(seen.clone(), PhantomData);
        // The workers have read models of their own.
        let app = App::new(store.clone(), self.deadlines.clone())
            .with_shared_broker(self.channels.clone(), "shelves")
            .with_health(HealthOptions::new().with_beat(Duration::from_millis(50)))
            .with_on_failure(move |task, error| seen.failures.lock().unwrap().push((task.to_owned(), error.clone())))
            .worker(Worker::view(IN_LOG_ORDER, store.clone(), models.clone()).with_options(options()))
            .worker(
                Worker::view(PER_AGGREGATE, store.clone(), models.clone())
                    .with_options(options())
                    .with_order_per_aggregate(),
            )
            .worker(
                Worker::reaction(notes, StartFrom::Beginning, store.clone(), models.clone()).with_options(options()),
            )
            .process(Reminders(Repository::new(store.clone())));
        self.running = Some(app.start());
    }

    pub(super) async fn stop(&mut self) {
        self.running.take().unwrap().stop().await.unwrap();
    }

    /// Closes everything that [`stop`](Self::stop) leaves open.
    pub(super) async fn close(self) {
        self.flush().await;
        self.log.close().await.unwrap();
        self.models.close().await.unwrap();
        self.deadlines.close().await.unwrap();
    }

    /// Lets this program continue from what another one has done outside its databases.
    pub(super) fn with_seen(mut self, seen: Arc<Seen>) -> Self {
        self.channels = Channels::new(seen.clone());
        self.seen = seen;
        self
    }

    /// Appends numbers to three shelves. An append whose outcome is unknown is repeated, so a number may be there twice.
    pub(super) async fn fill(&self, numbers: std::ops::Range<u64>) {
        for number in numbers {
            let stream = || StreamId::parse("shelf", KEYS[usize::try_from(number % 3).unwrap()]).unwrap();
            surely(async || self.log.append_events(stream(), ExpectedVersion::Any, [Filled(number)]).await).await;
        }
    }

    pub(super) async fn deposit(&self, times: usize) {
        for _ in 0..times {
            surely(async || self.command(100).await.map(|accepted| assert!(accepted))).await;
        }
    }

    /// Takes money from the account, whose cached state may be one that the log has lost. Returns whether the command was accepted.
    pub(super) async fn withdraw(&self, amount: i64) -> bool {
        surely(async || self.command(-amount).await).await
    }

    async fn command(&self, amount: i64) -> retell::Result<bool> {
        match self.counters.execute(ACCOUNT, Add(vec![amount])).await {
            Ok(_) => Ok(true),
            Err(CommandError::Rejected(_)) => Ok(false),
            Err(CommandError::Transient(error) | CommandError::Conflict(error) | CommandError::Failed(error)) => {
                Err(error)
            }
            Err(error) => panic!("{error:#}"),
        }
    }

    /// Writes the snapshots of the repository.
    pub(super) async fn flush(&self) {
        self.counters.flush().await;
    }

    /// Waits until every part agrees with the log.
    pub(super) async fn agrees_with_log(&self) {
        let agrees = async {
            while let Err(problem) = self.compare().await {
                *self.seen.difference.lock().unwrap() = problem;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(Duration::from_mins(5), agrees).await.is_err() {
            let health = self.running.as_ref().map(|running| running.health().borrow().to_string());
            panic!(
                "{}\n{}\n{:?}",
                self.seen.difference.lock().unwrap(),
                health.unwrap_or_default(),
                self.seen.failures()
            );
        }
    }

    /// Waits until no frame is under way. One that arrives after the log went back would bring lost events.
    pub(super) async fn frames_have_arrived(&self) {
        let head = self.log.head().await.unwrap();
        tokio::time::timeout(Duration::from_mins(5), self.channels.have_delivered(head)).await.unwrap();
    }

    async fn compare(&self) -> Result<(), String> {
        let said = |error: Error| format!("{error:#}");
        let log = self.log.read_all(Position::ZERO, 10_000, &Filter::all()).await.map_err(said)?.events;
        let (mut shelves, mut counters) = (BTreeMap::<String, Vec<u64>>::new(), BTreeMap::<String, i64>::new());
        let mut filled = Vec::new();
        for event in &log {
            match event.stream.aggregate_type().as_str() {
                "shelf" => {
                    filled.push(event.event.id);
                    shelves
                        .entry(event.stream.to_string())
                        .or_default()
                        .push(event.decode::<Filled>().unwrap().event.0);
                }
                "counter" => {
                    let CounterEvent::Added { amount } = event.decode().unwrap().event else {
                        unreachable!("an amount")
                    };
                    *counters.entry(event.stream.aggregate_id().to_string()).or_default() += amount;
                }
                _ => {}
            }
        }
        for view in [IN_LOG_ORDER, PER_AGGREGATE] {
            let rows = rows(&self.models, view).await;
            if rows != shelves {
                return Err(format!("{} has {rows:?}, the log {shelves:?}", view.0));
            }
        }
        let (notes, announced) = (self.seen.notes.lock().unwrap().clone(), self.seen.announced.lock().unwrap().clone());
        for id in filled {
            let times = notes.iter().filter(|note| **note == id).count();
            if times != 1 {
                return Err(format!("the reaction has handled {id} {times} times"));
            }
        }
        for key in KEYS {
            let (expected, found) =
                (shelves.get(&format!("shelf/{key}")).map_or(0, Vec::len), counters.get(key).copied());
            if found.unwrap_or(0) != i64::try_from(expected).unwrap() {
                return Err(format!("{found:?} reminders of shelf {key} and {expected} events"));
            }
        }
        let announced: BTreeSet<_> = announced.into_iter().collect();
        if let Some(event) = log.iter().find(|event| !announced.contains(&event.event.id)) {
            return Err(format!("the event at {} was not announced", event.position));
        }
        let fresh = Repository::<Counter>::new(self.log.clone());
        for repository in [&self.counters, &fresh] {
            let found = repository.load(ACCOUNT).await.map_err(said)?.state.total;
            let expected = counters.get(ACCOUNT).copied().unwrap_or(0);
            if found != expected {
                return Err(format!("the account is loaded with {found}, the log says {expected}"));
            }
        }
        Ok(())
    }

    /// Waits until the health of each task, relays included, contains `text`.
    pub(super) async fn every_task_says(&self, text: &str) {
        let mut health = self.running.as_ref().unwrap().health();
        let all = health
            .wait_for(|health| health.tasks().all(|(_, state)| !state.is_good() && state.to_string().contains(text)));
        let all = tokio::time::timeout(Duration::from_mins(5), all).await.map(|seen| drop(seen.unwrap()));
        assert!(all.is_ok(), "health stays\n{}", *self.running.as_ref().unwrap().health().borrow());
    }

    /// Waits until every part that remembers a place has failed at least `times` times in a row.
    pub(super) async fn has_failed(&self, times: u32) {
        let mut health = self.running.as_ref().unwrap().health();
        let failed = health.wait_for(|health| {
            PARTS.iter().all(|part| matches!(health.task(part), Some(State::Failed { times: t, .. }) if *t >= times))
        });
        let Ok(seen) = tokio::time::timeout(Duration::from_mins(5), failed).await.map(|seen| seen.unwrap().clone())
        else {
            panic!("health stays\n{}", *self.running.as_ref().unwrap().health().borrow());
        };
        assert!(!seen.is_good());
        for part in PARTS {
            let said = seen.task(part).unwrap().to_string();
            assert!(said.contains(&format!("projection {part} remembers")), "{said}");
            assert!(said.contains("another history") && said.contains("reset"), "{said}");
        }
        for (task, error) in self.seen.failures() {
            assert!(error.is_history_changed() && !error.is_transient(), "{task}: {error:#}");
        }
    }

    /// Does what the errors of the parts say.
    pub(super) async fn reset(&self) {
        for view in [IN_LOG_ORDER, PER_AGGREGATE] {
            Rebuild::new(view, self.log.clone(), self.models.clone()).reset().await.unwrap();
        }
        for (name, models) in [("notes", &self.models), ("reminders", &self.deadlines)] {
            let nothing: Work<M::Tx> = Box::new(|_| ready(Ok(())).boxed());
            models.reset(&ProjectionName::new(name).unwrap(), Mark::START, nothing).await.unwrap();
        }
    }

    pub(super) async fn view_rows(&self) -> [BTreeMap<String, Vec<u64>>; 2] {
        [rows(&self.models, IN_LOG_ORDER).await, rows(&self.models, PER_AGGREGATE).await]
    }
}

/// Repeats a call until it succeeds. Its outcome may be unknown while the database is replaced.
pub(super) async fn surely<T>(call: impl AsyncFn() -> retell::Result<T>) -> T {
    let calls = async {
        loop {
            match call().await {
                Ok(done) => return done,
                Err(error) if error.is_transient() || matches!(error.kind(), ErrorKind::Conflict { .. }) => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("{error:#}"),
            }
        }
    };
    tokio::time::timeout(Duration::from_mins(5), calls).await.expect("the database comes back")
}
