//! Lets the newer release catch up alone, and compares the log with the answers of all processes, and the views with the log.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::env;

use lapin::options::{ExchangeDeleteOptions, QueueDeclareOptions, QueueDeleteOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use retell::broker::rabbitmq::topology::Topology;
use retell::testing::store::whole_log;
use retell::view::Paging;
use retell::{View, ViewStore, Views, Worker};

use crate::databases::Place;
use crate::models::with_models;
use crate::releases::Row;
use crate::releases::second::{AccountEvent, Balances, ByAccount};
use crate::roll::Roll;

type Rows = BTreeMap<String, Row>;

/// An event that credits an account.
struct Credited {
    /// The release that has written it, which is also the version of its schema.
    written_by: u32,
    command: String,
    cents: u64,
}

/// The credits of each account, by the version of the event.
type Log = BTreeMap<String, BTreeMap<u64, Credited>>;

pub(crate) async fn check(roll: &Roll) {
    with_models!(&roll.database.place, |models| {
        let in_order = Worker::view(Balances, roll.store.events.clone(), models.clone());
        let caught_up = in_order.catch_up().await.unwrap();
        assert!(caught_up.is_complete(), "in log order: {caught_up:?}");
        let parallel = Worker::view(ByAccount, roll.store.events.clone(), models).with_order_per_aggregate();
        let caught_up = parallel.catch_up().await.unwrap();
        assert!(caught_up.is_complete(), "with order per aggregate: {caught_up:?}");
    });
    let log = credited(roll).await;
    assert_each_command_is_there_once(roll, &log);
    for rows in rows(&roll.database.place).await {
        assert_is_fold(&rows, &log);
    }
    assert_eq!(dead_letters(&roll.topology).await, 0);
}

/// Returns the rows of both views.
pub(crate) async fn rows(place: &Place) -> [Rows; 2] {
    with_models!(place, |models| [of_view(&Balances, models.clone()).await, of_view(&ByAccount, models).await])
}

async fn of_view<V: View<State = Row>>(view: &V, models: impl ViewStore) -> Rows {
    let page = Views::new(view, models).all(Paging::first(10_000)).await.unwrap();
    page.rows.into_iter().map(|(key, row)| (key.to_string(), row)).collect()
}

async fn credited(roll: &Roll) -> Log {
    let mut log = Log::new();
    for event in whole_log(&*roll.store.events).await.unwrap() {
        let (account, version) = (event.stream.aggregate_id().to_string(), event.version.get());
        let written_by = event.event.schema_version;
        if let AccountEvent::Credited(credited) = event.decode::<AccountEvent>().unwrap().event {
            let credited = Credited { written_by, command: credited.command, cents: credited.amount };
            log.entry(account).or_default().insert(version, credited);
        }
    }
    log
}

fn assert_each_command_is_there_once(roll: &Roll, log: &Log) {
    let mut commands = HashSet::new();
    for credited in log.values().flat_map(BTreeMap::values) {
        assert!(commands.insert(&credited.command), "{} is in the log twice", credited.command);
    }
    let mut versions = HashMap::new();
    for done in &roll.done {
        let found = log.get(&done.account).and_then(|account| account.get(&done.version));
        assert_eq!(found.map(|credited| &credited.command), Some(&done.command), "{done:?}");
        let before = versions.insert((done.program, &done.account), done.version);
        assert!(before < Some(done.version), "{done:?} comes before version {before:?} of the same process");
    }
    let of_release =
        |release| log.values().flat_map(BTreeMap::values).filter(|each| each.written_by == release).count();
    eprintln!("{} commands, events of each release: {} and {}", roll.done.len(), of_release(1), of_release(2));
}

fn assert_is_fold(rows: &Rows, log: &Log) {
    assert!(rows.keys().eq(log.keys()), "{:?}", rows.keys());
    for (account, row) in rows {
        let credits = &log[account];
        let commands: Vec<_> = credits.values().map(|credited| credited.command.clone()).collect();
        let cents: u64 = credits.values().map(|credited| credited.cents).sum();
        assert_eq!((&row.commands, row.cents), (&commands, cents), "{account}");
        let newest = credits.values().map(|credited| credited.written_by).max();
        assert_eq!(Some(row.newest), newest, "{account}");
        assert!(!row.is_mistaken && row.writer >= row.newest, "{account}: {row:?}");
    }
    let [first, second] = [0, 1].map(|release| rows.values().map(|row| row.applied_by[release]).sum::<u64>());
    eprintln!("applied by each release: {first} and {second}");
    assert!(first > 0 && second > 0, "both releases keep the view");
}

/// Returns the number of dead letters, and deletes the queues and exchanges.
async fn dead_letters(topology: &Topology) -> u32 {
    let url = env::var("AMQP_URL").unwrap();
    let connection = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
    let channel = connection.create_channel().await.unwrap();
    let queue = topology.dead_letter_queue.queue.as_str();
    let passive = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
    let letters = channel.queue_declare(queue.into(), passive, FieldTable::default()).await.unwrap().message_count();
    let of_view = |view: &str| format!("{}{view}", topology.projections.prefix);
    for queue in [queue.to_owned(), of_view(Balances::NAME), of_view(ByAccount::NAME)] {
        channel.queue_delete(queue.as_str().into(), QueueDeleteOptions::default()).await.unwrap();
    }
    let exchanges =
        [&topology.log_exchange, &topology.event_exchange].into_iter().chain(&topology.dead_letter_exchange);
    for exchange in exchanges {
        channel.exchange_delete(exchange.name.as_str().into(), ExchangeDeleteOptions::default()).await.unwrap();
    }
    letters
}
