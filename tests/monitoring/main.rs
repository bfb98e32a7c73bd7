//! Metrics: their names, labels and values, and the dashboard and the alerts that use them. Needs `POSTGRES_URL`, and starts a RabbitMQ.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/databases.rs"]
mod databases;
mod files;
mod observed;
mod probes;
mod program;
#[path = "../support/programs.rs"]
mod programs;
#[path = "../support/rabbitmq.rs"]
mod rabbitmq;
mod recorded;
#[path = "../support/workers.rs"]
mod workers;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use metrics::{Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use tokio::runtime::Builder;

/// Runs `work` on one thread with a recorder in memory.
fn with_recorder<T>(work: impl AsyncFnOnce(Recorded) -> T) -> T {
    let recorded = Recorded::default();
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    metrics::with_local_recorder(&recorded.clone(), || runtime.block_on(work(recorded)))
}

/// A recorder that keeps every value. That of metrics-util forgets what it has shown.
#[derive(Debug, Clone, Default)]
struct Recorded(Arc<Mutex<BTreeMap<String, Cell>>>);

#[derive(Debug, Clone)]
enum Cell {
    Counter(Arc<AtomicU64>),
    Gauge(Arc<AtomicU64>),
    Histogram(Arc<Values>),
}

#[derive(Debug, Default)]
struct Values(Mutex<Vec<f64>>);

impl HistogramFn for Values {
    fn record(&self, value: f64) {
        self.0.lock().unwrap().push(value);
    }
}

impl Recorded {
    /// Returns each value by its metric and labels, as `name{label=value,..}`. Histograms have their values in order.
    fn all(&self) -> BTreeMap<String, Vec<f64>> {
        let values = |cell: &Cell| match cell {
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            Cell::Counter(count) => vec![count.load(Ordering::SeqCst) as f64],
            Cell::Gauge(bits) => vec![f64::from_bits(bits.load(Ordering::SeqCst))],
            Cell::Histogram(values) => values.0.lock().unwrap().clone(),
        };
        self.0.lock().unwrap().iter().map(|(key, cell)| (key.clone(), values(cell))).collect()
    }

    fn cell(&self, key: &Key, new: impl FnOnce() -> Cell) -> Cell {
        let labels: Vec<_> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        let key = format!("{}{{{}}}", key.name(), labels.join(","));
        self.0.lock().unwrap().entry(key).or_insert_with(new).clone()
    }
}

impl Recorder for Recorded {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        match self.cell(key, || Cell::Counter(Arc::default())) {
            Cell::Counter(count) => Counter::from_arc(count),
            other => panic!("{key} is {other:?}"),
        }
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        match self.cell(key, || Cell::Gauge(Arc::default())) {
            Cell::Gauge(bits) => Gauge::from_arc(bits),
            other => panic!("{key} is {other:?}"),
        }
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        match self.cell(key, || Cell::Histogram(Arc::default())) {
            Cell::Histogram(values) => Histogram::from_arc(values),
            other => panic!("{key} is {other:?}"),
        }
    }
}

/// Returns the value of a counter or a gauge.
fn value(all: &BTreeMap<String, Vec<f64>>, key: &str) -> f64 {
    match all.get(key).map(Vec::as_slice) {
        Some([value]) => *value,
        other => panic!("{key} is {other:?} among {:#?}", all.keys()),
    }
}

/// Compares whole numbers.
#[track_caller]
fn assert_values(all: &BTreeMap<String, Vec<f64>>, expected: &[(&str, f64)]) {
    for (key, expected) in expected {
        assert!((value(all, key) - expected).abs() < 1e-9, "{key} is {}, not {expected}", value(all, key));
    }
}

/// Checks that a histogram has values, and returns how many.
#[track_caller]
fn samples(all: &BTreeMap<String, Vec<f64>>, key: &str) -> usize {
    let values = all.get(key).unwrap_or_else(|| panic!("{key} is missing among {:#?}", all.keys()));
    assert!(values.iter().all(|value| value.is_finite() && *value >= 0.0), "{key}: {values:?}");
    values.len()
}

/// Waits until the values fulfill a condition.
async fn until_values(recorded: &Recorded, what: &str, holds: impl Fn(&BTreeMap<String, Vec<f64>>) -> bool) {
    let began = Instant::now();
    while !holds(&recorded.all()) {
        assert!(began.elapsed() < LIMIT, "{what} does not come true: {:#?}", recorded.all());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The limit of a wait.
const LIMIT: Duration = Duration::from_mins(2);
