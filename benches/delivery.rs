//! Delivery from the log to the read model over RabbitMQ, compared with hand-written lapin and sqlx: relay, worker, latency, memory.
//! PostgreSQL holds the log and the read model. The queues are quorum queues; messages are persistent, confirmed, and acknowledged after
//! the commit.
//!
//! Both sides run in turn for three rounds. A figure is the median; a ratio is followed by [min, max].
//!
//! - `relay`: 100,000 events of about 186 bytes of JSON, from the log to the confirm. Hand-written: one message per event, 1,000
//!   outstanding confirms.
//! - `worker`: frames of 100 events, from a full queue to the commit. Hand-written: the same frames and statements, in transactions of the
//!   same number of events. The worker's store is empty, so every event it applies comes from the broker.
//! - `view`: 200,000 events, ten per order and spread over all of them, from a full queue to the committed rows of a view, for several
//!   batch sizes. Hand-written: as in `worker`, one statement per batch.
//! - `latency`: 500 commands/s, from the return of each command to the commit in the read model. Hand-written: `INSERT` and commit, a
//!   confirmed message, and a consumer that commits and acknowledges the messages it has.
//! - `memory`: relay and worker in separate processes, over 1,000,000 events and one of 10 MiB; the peak of their resident memory.
//!
//! ```sh
//! POSTGRES_URL=postgres://.. AMQP_URL=amqp://.. cargo bench -p retell-benches --bench delivery [-- PART ..]
//! ```
#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

#[path = "support/messages.rs"]
mod messages;
#[path = "support/sales.rs"]
mod sales;
mod support;

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::{FutureExt, TryFutureExt};
use retell::broker::frame::{Frame, ReceivedFrame};
use retell::broker::rabbitmq::topology::Topology;
use retell::broker::{Announced, Announcer, Broker, Confirm, Publisher, SubscriptionMode};
use retell::event::{NewEvent, RecordedEvent};
use retell::relay::RelayOptions;
use retell::store::RegisteredShape;
use retell::store::postgres::PostgresOptions;
use retell::store::{Append, Page, Query, Replay, Select, Visitor};
use retell::worker::WorkerOptions;
use retell::{
    EventReader, EventReaderExt, EventStore, EventType, ExpectedVersion, Filter, Mark, Position, PostgresReadModel,
    PostgresStore, ProjectionName, RabbitMqBroker, RabbitMqOptions, ReadModel, Relay, Repository, Result, StreamId,
    Worker, async_trait,
};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Executor, PgConnection};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use messages::Messages;
use sales::{Sales, Statements, ViewOfSales};
use support::order::{Add, KeptOrder, OrderEvent};

const ROUNDS: usize = 3;

const RELAYED: u64 = 100_000;

/// Maximum number of events in a transaction, on both sides.
const BATCH: usize = 1_000;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [child, part, schema, prefix] = &arguments[..]
        && child == "--child"
    {
        return child_of_memory(part, schema, prefix).await;
    }
    for variable in ["POSTGRES_URL", "AMQP_URL"] {
        if std::env::var_os(variable).is_none() {
            return println!("{variable} is not set: nothing is measured");
        }
    }
    let wanted = |part: &str| arguments.is_empty() || arguments.iter().any(|argument| argument == part);
    if wanted("relay") {
        relay().await;
    }
    if wanted("worker") {
        worker(Statements::OneABatch, 100_000).await;
        worker(Statements::OneAnEvent, 20_000).await;
    }
    if wanted("view") {
        view().await;
    }
    if wanted("latency") {
        latency().await;
    }
    if wanted("memory") {
        memory().await;
    }
}

fn sorted(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The cost of a round: events per second, and microseconds of this process's CPU time per event.
#[derive(Debug, Clone, Copy)]
struct Cost {
    rate: f64,
    micros: f64,
}

/// Measures one round.
struct Clock {
    began: Instant,
    cpu: f64,
}

impl Clock {
    fn start() -> Self {
        Self { began: Instant::now(), cpu: cpu() }
    }

    fn stop(self, events: u64) -> Cost {
        let events = u32::try_from(events).map(f64::from).unwrap();
        Cost { rate: events / self.began.elapsed().as_secs_f64(), micros: (cpu() - self.cpu) * 1e6 / events }
    }
}

/// Returns the CPU time of this process so far, in seconds. Unlike wall time it excludes other work on the machine.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    // User and system time, in hundredths of a second.
    [11, 12].map(|place: usize| fields[place].parse::<f64>().unwrap()).iter().sum::<f64>() / 100.0
}

fn report(what: &str, by_hand: &[Cost], ours: &[Cost]) {
    let ratios = sorted(ours.iter().zip(by_hand).map(|(ours, by_hand)| ours.rate / by_hand.rate));
    let median = |costs: &[Cost], what: fn(&Cost) -> f64| sorted(costs.iter().map(what))[ROUNDS / 2];
    let [by_hand, ours] =
        [by_hand, ours].map(|costs| (median(costs, |cost| cost.rate), median(costs, |cost| cost.micros)));
    let [least, middle, most] = [0, ROUNDS / 2, ROUNDS - 1].map(|place| ratios[place]);
    println!(
        "{what:20} {:9.0} {:9.0}   {middle:.2} [{least:.2}, {most:.2}]   {:6.1} {:6.1}",
        by_hand.0, ours.0, by_hand.1, ours.1
    );
}

/// A PostgreSQL schema, and the broker that exchanges and queues are created on.
struct Place {
    pool: PgPool,
    schema: String,
    store: PostgresStore,
    amqp: String,
}

impl Place {
    async fn create() -> Self {
        let schema = format!("bench_{}", Uuid::now_v7().simple());
        let place = Self::open(&schema).await;
        place.pool.execute(sales::TABLES).await.unwrap();
        place
    }

    async fn open(schema: &str) -> Self {
        let url = |name| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set"));
        let options = url("POSTGRES_URL").parse::<PgConnectOptions>().unwrap().options([("search_path", schema)]);
        let pool = PgPoolOptions::new().test_before_acquire(false).connect_with(options).await.unwrap();
        let store = PostgresStore::open_with(pool.clone(), PostgresOptions::new().with_schema(schema)).await.unwrap();
        Self { pool, schema: schema.to_owned(), store, amqp: url("AMQP_URL") }
    }

    /// Writes `events` events, ten per order, each in a commit of its own.
    async fn fill(&self, events: u64) {
        sqlx::query(FILL).bind(events.cast_signed()).execute(&self.pool).await.unwrap();
        sqlx::query("SELECT setval('commit_number', $1)").bind(events.cast_signed()).execute(&self.pool).await.unwrap();
        self.pool.execute("INSERT INTO commits SELECT 0, commit_id, 1, recorded_at FROM events").await.unwrap();
        assert_eq!(self.store.head().await.unwrap().get(), events);
        self.pool.execute("VACUUM ANALYZE").await.unwrap();
    }

    async fn models(&self) -> PostgresReadModel {
        let options = PostgresOptions::new().with_schema(self.schema.clone());
        PostgresReadModel::open_with(self.pool.clone(), options).await.unwrap()
    }

    /// Opens a broker whose names start with `prefix`. Its exchanges and the queue of `sales` exist when this returns.
    async fn broker(&self, prefix: &str) -> (RabbitMqBroker, Topology) {
        let topology = Topology::new().with_prefix(prefix);
        let options = RabbitMqOptions::new(&self.amqp).unwrap().with_topology(topology.clone());
        let broker = RabbitMqBroker::new(options).unwrap();
        broker.declare().await.unwrap();
        drop(broker.subscribe(&sales_name(), SubscriptionMode::Exclusive).await.unwrap());
        (broker, topology)
    }

    async fn drop(self) {
        self.pool.execute(AssertSqlSafe(format!("DROP SCHEMA {} CASCADE", self.schema))).await.map(drop).unwrap();
        self.store.close().await.unwrap();
    }
}

fn sales_name() -> ProjectionName {
    ProjectionName::new("sales").unwrap()
}

fn prefix() -> String {
    format!("bench-{}.", Uuid::now_v7().simple())
}

/// A broker that reports the last confirmed position.
#[derive(Clone)]
struct ConfirmTracker {
    broker: RabbitMqBroker,
    confirmed: watch::Sender<Position>,
}

impl ConfirmTracker {
    fn new(broker: &RabbitMqBroker) -> Self {
        Self { broker: broker.clone(), confirmed: watch::Sender::new(Position::ZERO) }
    }

    async fn reached(&self, position: u64) {
        self.confirmed.subscribe().wait_for(|confirmed| confirmed.get() >= position).await.unwrap();
    }
}

#[async_trait]
impl Publisher for ConfirmTracker {
    async fn publish(&self, frames: &[Frame]) -> Result<Confirm> {
        let (confirm, last) = (self.broker.publish(frames).await?, frames.last().unwrap().last());
        let confirmed = self.confirmed.clone();
        Ok(confirm.inspect_ok(move |()| confirmed.send_modify(|confirmed| *confirmed = last)).boxed())
    }
}

#[async_trait]
impl Announcer for ConfirmTracker {
    async fn announce(&self, events: &[RecordedEvent]) -> Result<Confirm<Announced>> {
        let (confirm, last) = (self.broker.announce(events).await?, events.last().unwrap().position);
        let confirmed = self.confirmed.clone();
        Ok(confirm.inspect_ok(move |_| confirmed.send_modify(|confirmed| *confirmed = last)).boxed())
    }
}

/// Measures events per second from the log to the confirm.
async fn relay() {
    println!(
        "relay, {RELAYED} events: by hand, relay (events/s)   ratio [least, most]   processor time: by hand, relay (us an event)"
    );
    let place = Place::create().await;
    place.fill(RELAYED).await;
    let mut costs: [Vec<Cost>; 4] = Default::default();
    for _ in 0..ROUNDS {
        let sides = ["by hand", "frames", "frames, zstd", "single events"];
        for (side, costs) in sides.into_iter().zip(&mut costs) {
            costs.push(relay_round(&place, side).await);
        }
    }
    let [by_hand, frames, compressed, single] = &costs;
    report("frames of 100", by_hand, frames);
    report("frames of 100, zstd", by_hand, compressed);
    report("single events", by_hand, single);
    place.drop().await;
}

async fn relay_round(place: &Place, side: &str) -> Cost {
    let (broker, topology) = place.broker(&prefix()).await;
    let channel = messages::channel(&place.amqp).await;
    let (frames, events) = (
        topology.queue(&sales_name(), SubscriptionMode::Exclusive).unwrap(),
        format!("{}.all", topology.event_exchange.name),
    );
    messages::queue(&channel, &events, &topology.event_exchange.name).await;
    let (relayed, stop) = (ConfirmTracker::new(&broker), CancellationToken::new());
    let clock = Clock::start();
    let cost = if side == "by hand" {
        messages::publish_all(&place.pool, &channel, &topology.event_exchange.name).await;
        clock.stop(RELAYED)
    } else {
        let relay = match side {
            "single events" => Relay::announcing(place.store.clone(), relayed.clone()),
            _ => Relay::new(place.store.clone(), relayed.clone()),
        };
        let options = RelayOptions::new();
        let options = if side == "frames, zstd" { options.with_compression(4 * 1024) } else { options };
        let relay = relay.with_options(options).with_checkpoint(place.store.clone(), prefix());
        let done = async {
            relayed.reached(RELAYED).await;
            stop.cancel();
            clock.stop(RELAYED)
        };
        let (ended, cost) = tokio::join!(relay.run(stop.clone()), done);
        ended.unwrap();
        cost
    };
    messages::delete(&channel, &frames).await;
    let left = u64::from(messages::delete(&channel, &events).await);
    assert_eq!(left, if side.starts_with("frames") { 0 } else { RELAYED });
    broker.close().await.unwrap();
    cost
}

/// Measures events per second from a full queue to the commit.
async fn worker(statements: Statements, events: u64) {
    println!(
        "worker, {events} events, {statements:?}: by hand, worker (events/s)   ratio [least, most]   processor time: by hand, worker (us an event)"
    );
    let place = Place::create().await;
    place.fill(events).await;
    let (mut by_hand, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let side = async |place: &_, _: &_, queue: &_| by_hand_worker(place, statements, events, queue).await;
        by_hand.push(drained(&place, events, SOLD, side).await);
        let side = async |place: &_, broker: &_, _: &_| our_worker(place, statements, events, broker).await;
        ours.push(drained(&place, events, SOLD, side).await);
    }
    report("", &by_hand, &ours);
    place.drop().await;
}

const VIEWED: u64 = 200_000;

/// Measures events per second from a full queue to the rows of a view.
async fn view() {
    println!(
        "view, {VIEWED} events: by hand, worker (events/s)   ratio [least, most]   processor time: by hand, worker (us an event)"
    );
    let place = Place::create().await;
    place.fill(VIEWED).await;
    let mut by_hand = Vec::new();
    let mut ours = [1_000, 10_000].map(|batch| (batch, Vec::new()));
    for _ in 0..ROUNDS {
        let side =
            async |place: &_, _: &_, queue: &_| by_hand_worker(place, Statements::OneABatch, VIEWED, queue).await;
        by_hand.push(drained(&place, VIEWED, SOLD, side).await);
        for (batch, ours) in &mut ours {
            let side = async |place: &_, broker: &_, _: &_| our_view(place, *batch, broker).await;
            ours.push(drained(&place, VIEWED, VIEWED_SALES, side).await);
        }
    }
    for (batch, ours) in ours {
        report(&format!("batches of {batch}"), &by_hand, &ours);
    }
    place.drop().await;
}

async fn our_view(place: &Place, batch: usize, broker: &RabbitMqBroker) {
    let worker = Worker::view(ViewOfSales, EmptyLog, place.models().await).with_broker(broker.clone());
    let worker = worker.with_options(WorkerOptions::new().with_batch_events(batch));
    let mut applied = worker.applied();
    let stop = CancellationToken::new();
    let done = async {
        applied.wait_for(|applied| applied.get() >= VIEWED).await.unwrap();
        stop.cancel();
    };
    let (ended, ()) = tokio::join!(worker.run(stop.clone()), done);
    ended.unwrap();
}

/// Fills a queue and measures how `side` drains it. `applied` is the query for the number of events in the read model.
async fn drained(
    place: &Place,
    events: u64,
    applied: &'static str,
    side: impl AsyncFnOnce(&Place, &RabbitMqBroker, &str),
) -> Cost {
    let (broker, topology) = place.broker(&prefix()).await;
    let mut published = Mark::START;
    while published.position.get() < events {
        let page = place.store.read_all(published, 1_000, &Filter::all()).await.unwrap();
        let frames = Frame::split_after(published, &page.events, 100, 256 * 1024).unwrap();
        broker.publish(&frames).await.unwrap().await.unwrap();
        published = page.mark();
    }
    place
        .pool
        .execute("TRUNCATE sales, checkpoints, views, view_fields; UPDATE by_hand_checkpoint SET position = 0")
        .await
        .unwrap();
    let queue = topology.queue(&sales_name(), SubscriptionMode::Exclusive).unwrap();
    let clock = Clock::start();
    side(place, &broker, &queue).await;
    let cost = clock.stop(events);
    let applied: Option<i64> = sqlx::query_scalar(applied).fetch_one(&place.pool).await.unwrap();
    assert_eq!(applied, Some(events.cast_signed()));
    messages::delete(&messages::channel(&place.amqp).await, &queue).await;
    broker.close().await.unwrap();
    cost
}

async fn our_worker(place: &Place, statements: Statements, events: u64, broker: &RabbitMqBroker) {
    let worker = Worker::new(Sales(statements), EmptyLog, place.models().await).with_broker(broker.clone());
    let mut applied = worker.applied();
    let stop = CancellationToken::new();
    let done = async {
        applied.wait_for(|applied| applied.get() >= events).await.unwrap();
        stop.cancel();
    };
    let (ended, ()) = tokio::join!(worker.run(stop.clone()), done);
    ended.unwrap();
}

async fn by_hand_worker(place: &Place, statements: Statements, events: u64, queue: &str) {
    let mut messages = Messages::consume(messages::channel(&place.amqp).await, queue, 100).await;
    let (mut at, mut batch, mut last) = (0, Vec::new(), 0);
    while at < events {
        for message in messages.next((BATCH - batch.len()).div_ceil(100)).await {
            last = message.delivery_tag;
            let frame = ReceivedFrame::parse(message.data.into()).unwrap();
            batch.extend(frame.events().unwrap().into_iter().map(|event| event.decode::<OrderEvent>().unwrap()));
        }
        if batch.len() < BATCH && at + (batch.len() as u64) < events {
            continue;
        }
        at = batch.last().unwrap().position.get();
        let mut tx = place.pool.begin().await.unwrap();
        let ids = batch.iter().map(|event| event.stream.aggregate_id().as_str());
        let events = ids.zip(batch.iter().map(|event| &event.event));
        apply_by_hand(&mut tx, statements, events, at).await;
        tx.commit().await.unwrap();
        messages.ack_through(last).await;
        batch.clear();
    }
}

async fn apply_by_hand<'e>(
    tx: &mut PgConnection,
    statements: Statements,
    events: impl Iterator<Item = (&'e str, &'e OrderEvent)>,
    at: u64,
) {
    match statements {
        Statements::OneABatch => sales::add_all(tx, events).await.unwrap(),
        Statements::OneAnEvent => {
            for (id, event) in events {
                sales::add(tx, id, event).await.unwrap();
            }
        }
    }
    let update = sqlx::query("UPDATE by_hand_checkpoint SET position = $1").bind(at.cast_signed());
    update.execute(tx).await.unwrap();
}

/// An event reader over an empty log.
#[derive(Debug)]
struct EmptyLog;

#[async_trait]
impl EventReader for EmptyLog {
    async fn replay(&self, _: &StreamId, _: Replay, _: &mut dyn Visitor) -> Result<()> {
        Ok(())
    }

    async fn read(&self, query: Query<'_>) -> Result<Page> {
        let through = if let Select::Log { after, .. } = query.select { after } else { Position::ZERO.into() };
        Ok(Page::new(Vec::new(), through))
    }

    async fn head(&self) -> Result<Position> {
        Ok(Position::ZERO)
    }

    async fn position_of(&self, _: retell::Token) -> Result<Option<Position>> {
        Ok(None)
    }

    async fn registered_shapes(&self) -> Result<Vec<RegisteredShape>> {
        Ok(Vec::new())
    }

    async fn next_event_type(&self, _: Option<&EventType>) -> Result<Option<EventType>> {
        Ok(None)
    }

    fn watch_head(&self) -> watch::Receiver<Position> {
        watch::Sender::new(Position::ZERO).subscribe()
    }
}

const COMMANDS: u64 = 5_000;

/// Interval of 500 commands per second.
const TICK: Duration = Duration::from_millis(2);

async fn latency() {
    println!("latency, 500 commands/s, {COMMANDS} a round: p50, p99, most (ms)");
    let sides = ["by hand, RabbitMQ", "RabbitMQ", "no broker there"];
    let mut sides = sides.map(|side| (side, Vec::new()));
    for _ in 0..ROUNDS {
        for (side, rounds) in &mut sides {
            let place = Place::create().await;
            let delays = if *side == "by hand, RabbitMQ" {
                latency_by_hand(&place).await
            } else {
                Box::pin(latency_round(&place, side)).await
            };
            rounds.push(delays);
            place.drop().await;
        }
    }
    for (side, rounds) in sides {
        let [p50, p99, most] = [0, 1, 2].map(|place| sorted(rounds.iter().map(|round| round[place])));
        let range = |values: &[f64]| format!("{:.1} [{:.1}, {:.1}]", values[ROUNDS / 2], values[0], values[ROUNDS - 1]);
        println!("{side:32} {}   {}   {}", range(&p50), range(&p99), range(&most));
    }
}

async fn latency_round(place: &Place, side: &str) -> [f64; 3] {
    let there = side != "no broker there";
    let broker = if there {
        place.broker(&prefix()).await.0
    } else {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        RabbitMqBroker::new(RabbitMqOptions::new(&format!("amqp://{closed}/%2f")).unwrap()).unwrap()
    };
    let relay = Relay::new(place.store.clone(), broker.clone()).with_checkpoint(place.store.clone(), "bench");
    let worker = Worker::new(Sales(Statements::OneABatch), place.store.clone(), place.models().await);
    let worker = worker.with_broker(broker.clone());
    let stop = CancellationToken::new();
    let mut applied = worker.applied();
    let seen = tokio::spawn(async move {
        let mut seen = Vec::new();
        while applied.changed().await.is_ok() {
            let position = *applied.borrow_and_update();
            seen.push((position, Instant::now()));
        }
        seen
    });
    let commands = async {
        let orders = Repository::<KeptOrder>::new(place.store.clone());
        // Open connections before the clock starts.
        command(orders.clone(), 0).await;
        let executed = at_the_rate(|number| command(orders.clone(), number)).await;
        let head = place.store.head().await.unwrap();
        let models = place.models().await;
        while models.checkpoint(&sales_name()).await.unwrap() < head {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        stop.cancel();
        executed
    };
    let (relay_ended, worker_ended, executed) =
        tokio::join!(relay.run(stop.clone()), worker.run(stop.clone()), commands);
    relay_ended.unwrap();
    worker_ended.unwrap();
    drop(worker);
    let seen = seen.await.unwrap();
    let mut delays = Vec::new();
    for (token, returned) in executed {
        let position = place.store.position_of(token).await.unwrap().unwrap();
        let applied = seen[seen.partition_point(|(applied, _)| *applied < position)].1;
        delays.push(applied.saturating_duration_since(returned).as_secs_f64() * 1e3);
    }
    if there {
        broker.close().await.unwrap();
    }
    quantiles(delays)
}

/// Returns the median, the 99th percentile and the maximum.
fn quantiles(delays: Vec<f64>) -> [f64; 3] {
    let delays = sorted(delays);
    [delays[delays.len() / 2], delays[delays.len() * 99 / 100], delays[delays.len() - 1]]
}

/// Starts a command at each tick, without waiting for earlier ones to return.
async fn at_the_rate<T: Send + 'static, F>(command: impl Fn(u64) -> F) -> Vec<T>
where
    F: Future<Output = T> + Send + 'static,
{
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut running = JoinSet::new();
    for number in 0..COMMANDS {
        ticks.tick().await;
        running.spawn(command(number));
    }
    running.join_all().await
}

/// Measures the hand-written side, which loses a message if it crashes between commit and publish. The difference in latency is the price
/// of not losing it.
async fn latency_by_hand(place: &Place) -> [f64; 3] {
    let (broker, topology) = place.broker(&prefix()).await;
    let exchange = topology.event_exchange.name.clone();
    let queue = format!("{exchange}.all");
    let channel = messages::channel(&place.amqp).await;
    messages::queue(&channel, &queue, &exchange).await;
    let mut messages = Messages::consume(messages::channel(&place.amqp).await, &queue, 100).await;
    let consuming = async {
        let mut seen = vec![None; usize::try_from(COMMANDS).unwrap()];
        while seen.iter().any(Option::is_none) {
            let received = messages.next(100).await;
            let events: Vec<(u64, OrderEvent)> = received.iter().map(messages::received).collect();
            let mut tx = place.pool.begin().await.unwrap();
            let ids: Vec<String> = events.iter().map(|(number, _)| order(*number)).collect();
            let pairs = ids.iter().map(String::as_str).zip(events.iter().map(|(_, event)| event));
            apply_by_hand(&mut tx, Statements::OneABatch, pairs, 1).await;
            tx.commit().await.unwrap();
            let now = Instant::now();
            for (number, _) in &events {
                seen[usize::try_from(*number).unwrap()] = Some(now);
            }
            messages.ack_through(received.last().unwrap().delivery_tag).await;
        }
        seen
    };
    let (returned, seen) = tokio::join!(
        at_the_rate(|number| {
            let (pool, channel, exchange) = (place.pool.clone(), channel.clone(), exchange.clone());
            async move {
                let event = NewEvent::new(&OrderEvent::numbered(number)).unwrap();
                let insert = sqlx::query("INSERT INTO by_hand_events VALUES ($1, $2, $3, $4)");
                let insert = insert.bind(event.id.as_uuid()).bind(order(number)).bind(number.cast_signed());
                insert.bind(&event.payload[..]).execute(&pool).await.unwrap();
                let returned = Instant::now();
                messages::publish(&channel, &exchange, number, &event).await;
                (number, returned)
            }
        }),
        consuming
    );
    messages::delete(&channel, &queue).await;
    broker.close().await.unwrap();
    let delay = |(number, returned): (u64, Instant)| {
        let seen = seen[usize::try_from(number).unwrap()].unwrap();
        seen.saturating_duration_since(returned).as_secs_f64() * 1e3
    };
    quantiles(returned.into_iter().map(delay).collect())
}

fn order(number: u64) -> String {
    format!("order-{}", number % 500)
}

async fn command(orders: Repository<KeptOrder>, number: u64) -> (retell::Token, Instant) {
    let executed = orders.execute(order(number), Add(number)).await.unwrap();
    (executed.token, Instant::now())
}

const BACKLOG: u64 = 1_000_000;

const LARGE: usize = 10 * 1024 * 1024;

/// Measures peaks of resident memory, in MiB.
async fn memory() {
    println!(
        "memory, {BACKLOG} events and one of {} MiB: peak (MiB) after the backlog, after the large event",
        LARGE >> 20
    );
    let place = Place::create().await;
    place.fill(BACKLOG).await;
    let mut event = OrderEvent::numbered(0);
    if let OrderEvent::Placed { method, .. } = &mut event {
        *method = "x".repeat(LARGE);
    }
    let event = NewEvent::new(&event).unwrap();
    let stream = StreamId::parse("order", "large").unwrap();
    place.store.append(Append::new(stream, ExpectedVersion::NoStream, vec![event])).await.unwrap();
    for _ in 0..ROUNDS {
        let prefix = prefix();
        let (broker, topology) = place.broker(&prefix).await;
        place.pool.execute("TRUNCATE sales; TRUNCATE checkpoints").await.unwrap();
        for part in ["relay", "worker"] {
            let child = Command::new(std::env::current_exe().unwrap())
                .args(["--child", part, &place.schema, &prefix])
                .output()
                .unwrap();
            assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
            println!("{part:32} {}", String::from_utf8(child.stdout).unwrap().trim());
        }
        let queue = topology.queue(&sales_name(), SubscriptionMode::Exclusive).unwrap();
        messages::delete(&messages::channel(&place.amqp).await, &queue).await;
        broker.close().await.unwrap();
    }
    place.drop().await;
}

async fn child_of_memory(part: &str, schema: &str, prefix: &str) {
    let place = Place::open(schema).await;
    let topology = Topology::new().with_prefix(prefix);
    let options = RabbitMqOptions::new(&place.amqp).unwrap().with_topology(topology);
    let broker = RabbitMqBroker::new(options).unwrap();
    let stop = CancellationToken::new();
    if part == "relay" {
        let relayed = ConfirmTracker::new(&broker);
        let relay = Relay::new(place.store.clone(), relayed.clone()).with_checkpoint(place.store.clone(), prefix);
        let stopped = stop.clone();
        let running = tokio::spawn(async move { relay.run(stopped).await });
        relayed.reached(BACKLOG).await;
        let backlog = peak();
        relayed.reached(BACKLOG + 1).await;
        println!("{backlog:.0} {:.0}", peak());
        stop.cancel();
        running.await.unwrap().unwrap();
    } else {
        let worker = Worker::new(Sales(Statements::OneABatch), Arc::new(place.store.clone()), place.models().await);
        let worker = worker.with_broker(broker.clone());
        let mut applied = worker.applied();
        let stopped = stop.clone();
        let running = tokio::spawn(async move { worker.run(stopped).await });
        applied.wait_for(|applied| applied.get() >= BACKLOG).await.unwrap();
        let backlog = peak();
        applied.wait_for(|applied| applied.get() > BACKLOG).await.unwrap();
        // Wait for the frames of these events too, which the worker has already read from the store.
        tokio::time::sleep(Duration::from_secs(2)).await;
        println!("{backlog:.0} {:.0}", peak());
        stop.cancel();
        running.await.unwrap().unwrap();
    }
}

/// Returns the peak resident memory of this process, in MiB.
fn peak() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

const SOLD: &str = "SELECT sum(events)::bigint FROM sales";

const VIEWED_SALES: &str = "SELECT sum((state::json ->> 'events')::bigint)::bigint FROM views";

/// Binds: number of events. Placed, paid and shipped events alternate, as in `OrderEvent::numbered`.
const FILL: &str = r#"
    INSERT INTO events (commit_id, ordinal, event_id, aggregate_type, aggregate_id, version, event_type, schema_version, codec,
        recorded_at, payload)
    SELECT n, 1, lpad(to_hex(n), 32, '0')::uuid, 'order', 'order-' || n % ($1 / 10), n / ($1 / 10) + 1,
        (ARRAY['order.placed', 'order.paid', 'order.shipped'])[n % 3 + 1], 1, 0, clock_timestamp(),
        convert_to(CASE n % 3
            WHEN 0 THEN format('{"order_id":"01932f5c-7d1a-7c3e-9f00-%s","user_id":%s,"items":[{"sku":"SKU-%s","quantity":2,"cents":1999}],"total_cents":3998,"method":"credit_card","at":"2026-11-23T08:16:31.000000Z"}',
                lpad(to_hex(n), 12, '0'), n * 7, lpad(n::text, 6, '0'))
            WHEN 1 THEN format('{"order_id":"01932f5c-7d1a-7c3e-9f00-%s","user_id":%s,"payment_id":"01932f5c-8e2b-7a4d-8c00-%s","cents":3998,"method":"credit_card","at":"2026-11-23T08:16:31.000000Z"}',
                lpad(to_hex(n), 12, '0'), n * 7, lpad(to_hex(n), 12, '0'))
            ELSE format('{"order_id":"01932f5c-7d1a-7c3e-9f00-%s","parcel":"JJD0000%s","carrier":"parcel_service","items":["SKU-%s"],"weight_grams":1250,"at":"2026-11-23T08:16:31.000000Z"}',
                lpad(to_hex(n), 12, '0'), lpad(n::text, 12, '0'), lpad(n::text, 6, '0'))
        END, 'UTF8')
    FROM generate_series(1, $1) AS n"#;
