//! The process that measures one figure of one side, and the orders it finds.

use std::process::exit;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::order::{Order, Set, id};
use crate::side::{Can, Place, Side};

/// Lengths of the orders that are loaded.
pub const LENGTHS: [u64; 4] = [10, 100, 1_000, 10_000];

/// Events of the order that has a snapshot, and how many of them lie behind it: half of what a policy of 100 lets come.
pub const KEPT: (u64, u64) = (10_050, 10_000);

/// Events of each order of the log. They come in rounds: an order's events lie far apart.
pub const EACH: u64 = 10;

/// Events of one command, while the log is filled.
const ROUND: u64 = 5;

/// Orders that wait for more events, and how many they have.
pub const EXISTING: (u64, u64) = (2_000, 10);

/// Events of one command, while a long order is filled.
const FILL: u64 = 1_000;

/// A slow side does fewer commands than asked for rather than take longer.
const LIMIT: Duration = Duration::from_secs(3);

/// How long loading is repeated.
const LOADING: Duration = Duration::from_millis(500);

/// The program's arguments: the side, its place, how many connections, what to do, and how much of it.
pub struct Task {
    pub side: String,
    pub place: Place,
    what: String,
    numbers: Vec<u64>,
}

impl Task {
    /// # Panics
    /// If the arguments are not those the driver gives.
    pub fn of_arguments() -> Self {
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

    /// Does it, and prints the figure. A task that fails must end the process, not only itself.
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

    async fn figure(&self, side: Arc<dyn Side>) -> Can<f64> {
        match (self.what.as_str(), &self.numbers[..]) {
            ("create", []) => side.create().await,
            ("seed-append", []) => seed_orders(&side, Set::Existing, EXISTING.0, EXISTING.1).await,
            ("seed-load", []) => return seed_load(&*side).await,
            ("seed-log", [events]) => seed_orders(&side, Set::Log, events / EACH, EACH).await,
            ("fresh", [writers, commands]) => return Ok(append(side, *writers, *commands, false).await),
            ("existing", [writers, commands]) => return Ok(append(side, *writers, *commands, true).await),
            ("load", [length]) => return load(&*side, *length).await,
            ("kept", []) => return load_kept(&*side).await,
            ("all", [events]) => return count_all(&*side, *events).await,
            ("rebuild", [events]) => return rebuild(&*side, *events).await,
            _ => panic!("{} {:?}", self.what, self.numbers),
        }
        Ok(0.0)
    }
}

/// Commands a second.
async fn append(side: Arc<dyn Side>, writers: u64, commands: u64, existing: bool) -> f64 {
    // Connections and statements are made before the clock runs.
    at_once(&side, writers, writers * 10, false).await;
    let began = Instant::now();
    let done = at_once(&side, writers, commands, existing).await;
    rate(done, began)
}

/// How many commands were done.
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

/// Orders whose events come in rounds, each of them a command of its own.
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

async fn seed_load(side: &dyn Side) -> Can<f64> {
    for length in LENGTHS {
        let mut first = 0;
        while first < length {
            let end = length.min(first + FILL);
            side.add(id(Set::OfLength, length), first..end).await;
            first = end;
        }
    }
    let (events, snapshot) = KEPT;
    side.keep(id(Set::Kept, 0), snapshot, events).await.map(|()| 0.0)
}

/// Milliseconds, the median.
async fn load(side: &dyn Side, length: u64) -> Can<f64> {
    let expected = Order::of(0..length);
    repeated(async || {
        let order = side.load(id(Set::OfLength, length)).await;
        assert_eq!(order, expected);
        Ok(())
    })
    .await
}

/// Milliseconds, the median.
async fn load_kept(side: &dyn Side) -> Can<f64> {
    let expected = Order::of(0..KEPT.0);
    repeated(async || {
        let order = side.load_kept(id(Set::Kept, 0)).await?;
        assert_eq!(order, expected);
        Ok(())
    })
    .await
}

async fn repeated(one: impl AsyncFn() -> Can<()>) -> Can<f64> {
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

/// Events a second.
async fn count_all(side: &dyn Side, events: u64) -> Can<f64> {
    let began = Instant::now();
    let all = side.count_all().await?;
    let rate = rate(events, began);
    assert_eq!(all.events, events);
    assert_eq!(all.owed, Order::of(0..EACH).owed * (events / EACH));
    Ok(rate)
}

/// Events a second.
async fn rebuild(side: &dyn Side, events: u64) -> Can<f64> {
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
