//! Notices of a running app: `tracing` and the app hear the same.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use retell::notice::Notice;
use retell::prelude::*;
use retell::{ParkingOptions, SnapshotPolicy, WorkerOptions};
use tracing::Level;

use crate::collector::{collect, notices, until};
use crate::support::{Add, Counter, CounterEvent};

/// A projection that fails on purpose.
#[derive(Clone)]
struct Failing {
    name: &'static str,
    /// Whether its next start panics.
    panics: Arc<AtomicBool>,
    /// Whether everything fails.
    is_down: Arc<AtomicBool>,
    /// Whether the counter `bad` fails.
    is_poisoned: Arc<AtomicBool>,
}

impl Failing {
    fn named(name: &'static str) -> Self {
        Self { name, panics: Arc::default(), is_down: Arc::default(), is_poisoned: Arc::default() }
    }
}

#[async_trait]
impl Projection for Failing {
    const NAME: &'static str = "failing";
    type Event = CounterEvent;
    type Tx = u64;

    fn name(&self) -> &str {
        self.name
    }

    async fn setup(&self, _: &mut u64) -> Result<(), BoxError> {
        assert!(!self.panics.swap(false, Ordering::SeqCst), "the set-up panics");
        Ok(())
    }

    async fn apply(&self, applied: &mut u64, event: Envelope<CounterEvent>) -> Result<(), BoxError> {
        let is_bad = event.stream.aggregate_id().as_str() == "bad" && self.is_poisoned.load(Ordering::SeqCst);
        if is_bad || self.is_down.load(Ordering::SeqCst) {
            return Err("ada@example.org cannot be applied".into());
        }
        *applied += 1;
        Ok(())
    }
}

type Heard = Arc<Mutex<Vec<(Level, String)>>>;

/// Describes an app with one projection. The app keeps the notices about it.
fn app(failing: &Failing, log: &MemoryStore, options: WorkerOptions) -> (App<MemoryReadModel<u64>>, Heard) {
    let (models, heard) = (MemoryReadModel::with_value(0), Heard::default());
    let (kept, part) = (heard.clone(), failing.name);
    let hear = move |notice: &Notice| {
        if notice.part == part {
            kept.lock().unwrap().push((notice.level(), notice.to_string()));
        }
    };
    let worker = Worker::new(failing.clone(), log.clone(), models.clone()).with_options(options);
    (App::new(log.clone(), models).worker(worker).on_notice(hear), heard)
}

/// Asserts that `tracing` and the app have heard `expected`.
async fn assert_heard(part: &str, heard: &Heard, expected: &[(Level, &str)]) {
    let traced = until(|| Some(notices(part)).filter(|notices| notices.len() >= expected.len())).await;
    let expected: Vec<_> = expected.iter().map(|(level, text)| (*level, format!("{part}: {text}"))).collect();
    assert_eq!(traced, expected);
    assert_eq!(*heard.lock().unwrap(), expected);
}

fn fast() -> WorkerOptions {
    let parking = ParkingOptions::new().with_delays(Duration::from_millis(1), Duration::from_millis(5)).with_retries(1);
    WorkerOptions::new().with_longest_delay(Duration::from_millis(5)).with_retries(2).with_parking(parking)
}

#[tokio::test]
async fn a_panic_is_one_error_and_the_restart_one_info() {
    collect();
    let failing = Failing::named("panicking");
    failing.panics.store(true, Ordering::SeqCst);
    let (app, heard) = app(&failing, &MemoryStore::new(), fast());
    let running = app.start();
    let error = "the task failed: cannot set up projection panicking: panicked: the set-up panics";
    let expected = [(Level::ERROR, error), (Level::INFO, "the task runs again")];
    assert_heard("panicking", &heard, &expected).await;
    running.stop().await.unwrap();
    assert_heard("panicking", &heard, &expected).await;
}

#[tokio::test]
async fn an_outage_is_one_warning_and_its_end_one_info() {
    collect();
    let (failing, log) = (Failing::named("out"), MemoryStore::new());
    failing.is_down.store(true, Ordering::SeqCst);
    let counters = Repository::<Counter>::new(log.clone());
    for id in ["a", "b", "c", "d"] {
        counters.execute(id, Add(vec![1])).await.unwrap();
    }
    let options = fast().with_retries(0);
    let (app, heard) = app(&failing, &log, options.with_parking(ParkingOptions::new().with_outage_after(3)));
    let running = app.start();
    until(|| Some(notices("out")).filter(|notices| !notices.is_empty())).await;
    // Many more attempts give no notice.
    tokio::time::sleep(Duration::from_millis(200)).await;
    failing.is_down.store(false, Ordering::SeqCst);
    running.wait_for_all(Duration::from_mins(5)).await.unwrap();
    let (began, ended) = ("waiting for the end of an outage", "no longer waiting for the end of an outage");
    let expected = [(Level::WARN, began), (Level::INFO, ended)];
    assert_heard("out", &heard, &expected).await;
    running.stop().await.unwrap();
    assert_heard("out", &heard, &expected).await;
}

#[tokio::test]
async fn a_parked_aggregate_is_one_warning_and_a_dead_one_an_error() {
    collect();
    let (failing, log) = (Failing::named("parking"), MemoryStore::new());
    failing.is_poisoned.store(true, Ordering::SeqCst);
    let counters = Repository::<Counter>::new(log.clone());
    counters.execute("good", Add(vec![1])).await.unwrap();
    counters.execute("bad", Add(vec![1, 2, 3])).await.unwrap();
    let (app, heard) = app(&failing, &log, fast());
    let running = app.start();
    let expected = [
        (Level::WARN, "the handler failed on an event, which is retried"),
        (Level::WARN, "1 aggregates are parked, the first at position 2"),
        (Level::ERROR, "a parked aggregate is dead"),
    ];
    assert_heard("parking", &heard, &expected).await;
    running.stop().await.unwrap();
    assert_heard("parking", &heard, &expected).await;
}

#[tokio::test]
async fn an_aggregate_that_is_applied_again_is_one_info() {
    collect();
    let (failing, log) = (Failing::named("resuming"), MemoryStore::new());
    failing.is_poisoned.store(true, Ordering::SeqCst);
    let counters = Repository::<Counter>::new(log.clone());
    counters.execute("bad", Add(vec![1, 2])).await.unwrap();
    let parking = ParkingOptions::new().with_delays(Duration::from_millis(50), Duration::from_millis(50));
    let (app, heard) = app(&failing, &log, fast().with_retries(0).with_parking(parking.with_retries(10_000)));
    let running = app.start();
    until(|| Some(notices("resuming")).filter(|notices| !notices.is_empty())).await;
    failing.is_poisoned.store(false, Ordering::SeqCst);
    let expected = [
        (Level::WARN, "1 aggregates are parked, the first at position 1"),
        (Level::INFO, "a parked aggregate is applied again"),
    ];
    assert_heard("resuming", &heard, &expected).await;
    running.stop().await.unwrap();
}

/// An aggregate whose snapshots fail on purpose.
#[derive(Clone, Default)]
struct Heavy;

static SNAPSHOTS_FAIL: AtomicBool = AtomicBool::new(true);

impl Aggregate for Heavy {
    const TYPE: &'static str = "heavy";
    const SNAPSHOTS: SnapshotPolicy = SnapshotPolicy::Every(1);
    type Event = CounterEvent;

    fn apply(&mut self, _: CounterEvent) {}

    fn fingerprint() -> u64 {
        1
    }

    fn to_snapshot(&self) -> Result<Vec<u8>, BoxError> {
        if SNAPSHOTS_FAIL.load(Ordering::SeqCst) { Err("too heavy".into()) } else { Ok(Vec::new()) }
    }

    fn from_snapshot(_: &[u8]) -> Result<Self, BoxError> {
        Ok(Self)
    }
}

impl Handle<Add> for Heavy {
    type Error = std::convert::Infallible;

    fn handle(&self, _: &Add) -> Result<Vec<CounterEvent>, Self::Error> {
        Ok(vec![CounterEvent::Added { amount: 1 }])
    }
}

#[tokio::test]
async fn snapshots_that_fail_are_one_warning_until_they_succeed() {
    collect();
    let all = Repository::<Heavy>::new(MemoryStore::new());
    for fails in [true, true, true, false, false] {
        SNAPSHOTS_FAIL.store(fails, Ordering::SeqCst);
        all.execute("a", Add(Vec::new())).await.unwrap();
        all.flush().await;
    }
    assert_eq!(all.snapshot_failures(), 3);
    let expected = [(Level::WARN, "snapshots cannot be saved"), (Level::INFO, "snapshots are saved again")];
    assert_eq!(notices("heavy"), expected.map(|(level, text)| (level, format!("heavy: {text}"))));
}
