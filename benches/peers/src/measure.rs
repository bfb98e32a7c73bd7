//! The process that measures one figure of one side, and the orders that it expects.

use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::order::{Order, Set, id};
use crate::side::{Place, Side, Supported};

/// Numbers of events of the orders that are loaded.
pub const LENGTHS: [u64; 4] = [10, 100, 1_000, 10_000];

/// Number of events of the order that has a snapshot, and the version of the snapshot. 50 events follow it: half the distance between
/// snapshots with a policy of 100.
pub const KEPT: (u64, u64) = (10_050, 10_000);

/// Events per order of the log. They are written in rounds, so the events of an order are far apart.
pub const EACH: u64 = 10;

/// Events per command while the log is filled.
const ROUND: u64 = 5;

/// Number of existing orders, and events per order.
pub const EXISTING: (u64, u64) = (2_000, 10);

/// Events per command while a long order is filled.
const FILL: u64 = 1_000;

/// Time limit for appends: a slow side executes fewer commands.
const LIMIT: Duration = Duration::from_secs(3);

/// Duration of repeated loads.
const LOADING: Duration = Duration::from_millis(500);

/// The program's arguments: the side, its place, the number of connections, the task and its parameters.
pub struct Task {
    pub side: String,
    pub place: Place,
    what: String,
    numbers: Vec<u64>,
}

impl Task {
    /// # Panics
    /// If the arguments are not those the driver gives.
    pub fn from_arguments() -> Self {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let [side, url, connections, what, numbers @ ..] = &arguments[..] else {
            panic!("side, place, connections, what: {arguments:?}")
        };
        Self {
            side: side.clone(),
            place: Place { url: url.clone(), connections: connections.parse().unwrap() },
            what: what.clone(),
            numbers: numbers.iter().map(|number| number.parse().unwrap()).collect(),
        }
    }

    pub fn is(&self, what: &str) -> bool {
        self.what == what
    }

    /// Runs the task and prints the figure. A panic in any task exits the process, not only that task.
    pub async fn run(&self, side: Arc<dyn Side>) {
        let earlier = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            earlier(panic);
            exit(101);
        }));
        let said = match self.figure(side).await {
            Ok(figure) => json!({ "figure": figure }),
            Err(why) => json!({ "none": why }),
        };
        println!("{said}");
    }

    async fn figure(&self, side: Arc<dyn Side>) -> Supported<f64> {
        match (self.what.as_str(), &self.numbers[..]) {
            ("create", []) => side.create().await,
            ("seed-append", []) => seed_orders(&side, Set::Existing, EXISTING.0, EXISTING.1).await,
            ("seed-load", []) => return seed_load(&*side).await,
            ("seed-log", [events]) => seed_orders(&side, Set::Log, events / EACH, EACH).await,
            ("fresh", [writers, commands]) => return Ok(append(side, *writers, *commands, false).await),
            ("existing", [writers, commands]) => return Ok(append(side, *writers, *commands, true).await),
            ("load", [length]) => return load(&*side, *length).await,
            ("kept", []) => return load_from_snapshot(&*side).await,
            ("all", [events]) => return count_all(&*side, *events).await,
            ("rebuild", [events]) => return rebuild(&*side, *events).await,
            _ => panic!("{} {:?}", self.what, self.numbers),
        }
        Ok(0.0)
    }
}

/// Measures commands per second.
async fn append(side: Arc<dyn Side>, writers: u64, commands: u64, existing: bool) -> f64 {
    // Create connections and statements before the clock starts.
    at_once(&side, writers, writers * 10, false).await;
    let began = Instant::now();
    let done = at_once(&side, writers, commands, existing).await;
    rate(done, began)
}

/// Returns the number of executed commands.
async fn at_once(side: &Arc<dyn Side>, writers: u64, commands: u64, existing: bool) -> u64 {
    let (next, end) = (Arc::new(AtomicU64::new(0)), Instant::now() + LIMIT);
    let writer = |_| {
        let (side, next) = (side.clone(), next.clone());
        async move {
            let mut done = 0;
            while Instant::now() < end {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= commands {
                    break;
                }
                let order = if existing { id(Set::Existing, number % EXISTING.0) } else { Uuid::now_v7() };
                side.execute(order, number).await;
                done += 1;
            }
            done
        }
    };
    (0..writers).map(writer).collect::<JoinSet<u64>>().join_all().await.into_iter().sum()
}

/// Fills orders whose events are written in rounds, each round as a separate command.
async fn seed_orders(side: &Arc<dyn Side>, set: Set, orders: u64, events: u64) {
    for first in (0..events).step_by(usize::try_from(ROUND).unwrap()) {
        let next = Arc::new(AtomicU64::new(0));
        let writer = |_| {
            let (side, next) = (side.clone(), next.clone());
            async move {
                loop {
                    let order = next.fetch_add(1, Ordering::Relaxed);
                    if order >= orders {
                        break;
                    }
                    side.add(id(set, order), first..events.min(first + ROUND)).await;
                }
            }
        };
        (0..side.fillers()).map(writer).collect::<JoinSet<()>>().join_all().await;
    }
}

async fn seed_load(side: &dyn Side) -> Supported<f64> {
    for length in LENGTHS {
        let mut first = 0;
        while first < length {
            let end = length.min(first + FILL);
            side.add(id(Set::OfLength, length), first..end).await;
            first = end;
        }
    }
    let (events, snapshot) = KEPT;
    side.add_with_snapshot(id(Set::Kept, 0), snapshot, events).await.map(|()| 0.0)
}

/// Returns the median time in milliseconds.
async fn load(side: &dyn Side, length: u64) -> Supported<f64> {
    let expected = Order::of(0..length);
    repeated(async || {
        let order = side.load(id(Set::OfLength, length)).await;
        assert_eq!(order, expected);
        Ok(())
    })
    .await
}

/// Returns the median time in milliseconds.
async fn load_from_snapshot(side: &dyn Side) -> Supported<f64> {
    let expected = Order::of(0..KEPT.0);
    repeated(async || {
        let order = side.load_from_snapshot(id(Set::Kept, 0)).await?;
        assert_eq!(order, expected);
        Ok(())
    })
    .await
}

async fn repeated(one: impl AsyncFn() -> Supported<()>) -> Supported<f64> {
    for _ in 0..2 {
        one().await?;
    }
    let (mut times, end) = (Vec::new(), Instant::now() + LOADING);
    while times.len() < 3 || Instant::now() < end {
        let began = Instant::now();
        one().await?;
        times.push(began.elapsed());
    }
    times.sort();
    Ok(times[times.len() / 2].as_secs_f64() * 1_000.0)
}

/// Measures events per second.
async fn count_all(side: &dyn Side, events: u64) -> Supported<f64> {
    let began = Instant::now();
    let all = side.count_all().await?;
    let rate = rate(events, began);
    assert_eq!(all.events, events);
    assert_eq!(all.owed, Order::of(0..EACH).owed * (events / EACH));
    Ok(rate)
}

/// Measures events per second.
async fn rebuild(side: &dyn Side, events: u64) -> Supported<f64> {
    side.empty_view().await?;
    let began = Instant::now();
    side.rebuild().await;
    let rate = rate(events, began);
    for order in [0, events / EACH - 1] {
        assert_eq!(side.row(id(Set::Log, order)).await, Some(Order::of(0..EACH)));
    }
    Ok(rate)
}

#[expect(clippy::cast_precision_loss, reason = "a figure to be read")]
fn rate(count: u64, began: Instant) -> f64 {
    count as f64 / began.elapsed().as_secs_f64()
}
