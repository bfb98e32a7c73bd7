//! PostgreSQL and MariaDB: appends by one process and by many, loads, and reads of the log, compared with hand-written sqlx on a plain
//! table with the same unique constraints. Runs for the servers in `POSTGRES_URL` and `MYSQL_URL`.
//!
//! Hand-written: `BEGIN`, one `INSERT` per event, `COMMIT`, with one connection per writer (at most 64 per process) and without a version
//! check. Every append goes to a new stream with a UUID v7 id. Both sides run in turn, three rounds of 0.75 s. A figure is the median, in
//! events/s. Loads and reads are times; a figure is the median.
//!
//! `open tx`: the same while another session holds a transaction open that has written to another table.
//!
//! ```sh
//! POSTGRES_URL=postgres://.. MYSQL_URL=mysql://.. cargo bench -p retell-benches --bench servers
//! ```
#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

mod bulk;
mod database;
mod positions;
mod reads;
#[path = "../support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use retell::event::NewEvent;
use retell::store::Append;
use retell::{AggregateId, AggregateType, ExpectedVersion, StreamId};
use tokio::task::JoinSet;

use database::Database;
use support::order::OrderEvent;

const ROUNDS: usize = 3;

const ROUND: Duration = Duration::from_millis(750);

/// Total writers, processes, events per append.
const SHAPES: [(usize, usize, u64); 9] = [
    (1, 1, 1),
    (16, 1, 1),
    (128, 1, 1),
    (512, 1, 1),
    (16, 4, 1),
    (16, 16, 1),
    (128, 4, 1),
    (128, 4, 10),
    (16, 1, 1_000),
];

/// Shapes that are also measured while another session's transaction is open.
const WITH_OPEN_TRANSACTION: [(usize, usize, u64); 2] = [SHAPES[1], SHAPES[2]];

/// The operation that a writer repeats.
type Operation = Arc<dyn Fn() -> BoxFuture<'static, ()> + Send + Sync>;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(place) = arguments.iter().position(|argument| argument == "--child") {
        return child(&arguments[place + 1..]).await;
    }
    for variable in ["POSTGRES_URL", "MYSQL_URL"] {
        match std::env::var(variable) {
            Ok(url) => server(&url).await,
            Err(_) => println!("{variable} is not set: its server is not measured"),
        }
    }
}

async fn server(url: &str) {
    let database = Database::create(url).await;
    println!("{}: writers x processes x events   by hand   store   ratio [least, most]", database.name());
    for shape in SHAPES {
        compare(&database, shape, "");
    }
    let open_transaction = database.open_transaction().await;
    for shape in WITH_OPEN_TRANSACTION {
        compare(&database, shape, " open tx");
    }
    drop(open_transaction);
    database.positions().await;
    database.bulk().await;
    database.loads().await;
    database.read_all(1).await;
    database.read_all(100).await;
    database.drop().await;
}

fn compare(database: &Database, (writers, processes, events): (usize, usize, u64), note: &str) {
    let mut rates: [Vec<f64>; 2] = Default::default();
    for _ in 0..ROUNDS {
        for (side, rates) in ["by_hand", "store"].into_iter().zip(&mut rates) {
            rates.push(round(database, side, writers, processes, events));
        }
    }
    let ratios = sorted(rates[1].iter().zip(&rates[0]).map(|(store, by_hand)| store / by_hand));
    let [by_hand, store] = rates.map(|rates| sorted(rates)[ROUNDS / 2]);
    let [least, middle, most] = [0, ROUNDS / 2, ROUNDS - 1].map(|place| ratios[place]);
    println!(
        "{writers:4} x {processes:2} x {events:4}{note:9} {by_hand:8.0} {store:8.0}   {middle:.2} [{least:.2}, {most:.2}]"
    );
}

fn sorted(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values
}

/// Returns events per second of all processes together.
fn round(database: &Database, side: &str, writers: usize, processes: usize, events: u64) -> f64 {
    let each = (writers / processes).to_string();
    let events = events.to_string();
    let children = (0..processes).map(|_| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--child", side, &each, &events]).args(database.arguments());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
    });
    let mut children: Vec<(Child, BufReader<_>)> = children
        .map(|mut child| {
            let output = BufReader::new(child.stdout.take().unwrap());
            (child, output)
        })
        .collect();
    for (_, output) in &mut children {
        assert_eq!(line(output), "ready");
    }
    for (child, _) in &mut children {
        writeln!(child.stdin.as_mut().unwrap(), "go").unwrap();
    }
    let mut total = 0.0;
    for (mut child, mut output) in children {
        total += line(&mut output).parse::<f64>().unwrap();
        assert!(child.wait().unwrap().success());
    }
    total
}

fn line(output: &mut impl BufRead) -> String {
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    line.trim().to_owned()
}

/// Runs a child process. Arguments: side, writers, events per append, and those of the database.
async fn child(arguments: &[String]) {
    let [side, writers, events, url, name] = arguments else { panic!("arguments: {arguments:?}") };
    let (writers, events): (u32, u64) = (writers.parse().unwrap(), events.parse().unwrap());
    let database = Database::open(url, name, writers.clamp(4, 64)).await;
    let operation: Operation = match side.as_str() {
        "store" => {
            let store = database.store().await;
            Arc::new(move || {
                let store = store.clone();
                Box::pin(async move { drop(store.append(to_new_stream(0..events)).await.unwrap()) })
            })
        }
        _ => Arc::new(move || {
            let database = database.clone();
            Box::pin(async move { database.append_by_hand(events).await })
        }),
    };
    // Create connections and statements before the clock starts.
    at_once(writers, &operation, Duration::from_millis(100)).await;
    println!("ready");
    assert_eq!(line(&mut std::io::stdin().lock()), "go");
    let began = Instant::now();
    let appends = at_once(writers, &operation, ROUND).await;
    println!("{}", u32::try_from(appends * events).map(f64::from).unwrap() / began.elapsed().as_secs_f64());
}

async fn at_once(writers: u32, operation: &Operation, time: Duration) -> u64 {
    let end = Instant::now() + time;
    let writers = (0..writers).map(|_| {
        let operation = operation.clone();
        async move {
            let mut appends = 0;
            while Instant::now() < end {
                operation().await;
                appends += 1;
            }
            appends
        }
    });
    writers.collect::<JoinSet<u64>>().join_all().await.into_iter().sum()
}

fn to_new_stream(numbers: std::ops::Range<u64>) -> Append {
    Append::new(stream(AggregateId::generate()), ExpectedVersion::NoStream, numbers.map(new_event).collect())
}

fn stream(id: AggregateId) -> StreamId {
    StreamId::new(AggregateType::new("order").unwrap(), id)
}

fn new_event(number: u64) -> NewEvent {
    NewEvent::new(&OrderEvent::numbered(number)).unwrap()
}

fn report(what: &str, by_hand: Vec<f64>, ours: Vec<f64>) {
    let middle = by_hand.len() / 2;
    let (by_hand, ours) = (sorted(by_hand)[middle], sorted(ours)[middle]);
    println!(
        "{what:24} {:8.2} ms {:8.2} ms   time ratio {:.2}, speed ratio {:.2}",
        by_hand * 1e3,
        ours * 1e3,
        ours / by_hand,
        by_hand / ours
    );
}
