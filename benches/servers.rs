//! Appends to PostgreSQL and MariaDB by one process and by many, and what MariaDB needs to load and to read, beside hand-written sqlx on
//! a plain table with the same unique constraints. Runs for the servers that `POSTGRES_URL` and `MYSQL_URL` name.
//!
//! By hand: `BEGIN`, an `INSERT` for each event, `COMMIT`, on a connection for each writer, without a version check. Every append goes to
//! a new stream with a UUID v7 id. Both sides run in turns, three rounds of 1.5 s; a figure is the median, in events/s.
//!
//! `stranger`: the same with a transaction of somebody else's open all the time, which has written to another table.
//!
//! ```sh
//! POSTGRES_URL=postgres://.. MYSQL_URL=mysql://.. cargo bench --features postgres,mysql --bench servers
//! ```
#![expect(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

mod support;

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::TryStreamExt;
use retell::event::{Metadata, NewEvent};
use retell::repository::RepositoryOptions;
use retell::store::Append;
use retell::store::mysql::{MySqlOptions, MySqlStore};
use retell::store::postgres::{PostgresOptions, PostgresStore};
use retell::{
    AggregateId, AggregateType, EventId, EventReader, EventStore, ExpectedVersion, Filter, Position, Repository,
    StreamId,
};
use sqlx::mysql::{MySqlConnectOptions, MySqlPool, MySqlPoolOptions};
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, Executor, MySqlConnection, PgConnection, Row};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use support::by_hand::State;
use support::order::{Order, OrderEvent};

const ROUNDS: usize = 3;

const ROUND: Duration = Duration::from_millis(1500);

/// Writers in all, processes, events an append.
const SHAPES: [(usize, usize, u64); 6] = [(1, 1, 1), (16, 1, 1), (128, 1, 1), (16, 16, 1), (128, 4, 1), (128, 4, 10)];

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(place) = arguments.iter().position(|argument| argument == "--child") {
        return child(&arguments[place + 1..]).await;
    }
    for variable in ["POSTGRES_URL", "MYSQL_URL"] {
        match std::env::var(variable) {
            Ok(url) => server(&url).await,
            Err(_) => println!("{variable} names no server: nothing is measured there"),
        }
    }
}

async fn server(url: &str) {
    let database = Database::create(url).await;
    println!("{}: writers x processes x events   by hand   store   ratio [least, most]", database.name());
    for shape in SHAPES {
        compare(&database, shape, "");
    }
    let stranger = database.stranger().await;
    for shape in &SHAPES[..3] {
        compare(&database, *shape, " stranger");
    }
    drop(stranger);
    database.positions().await;
    database.bulk().await;
    database.load().await;
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
        "{writers:4} x {processes:2} x {events:2}{note:9} {by_hand:8.0} {store:8.0}   {middle:.2} [{least:.2}, {most:.2}]"
    );
}

fn sorted(values: impl IntoIterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values
}

/// Events a second, of all processes together.
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

/// Arguments: side, writers, events an append, and the database's own.
async fn child(arguments: &[String]) {
    let [side, writers, events, url, name] = arguments else { panic!("arguments: {arguments:?}") };
    let (writers, events): (u32, u64) = (writers.parse().unwrap(), events.parse().unwrap());
    let database = Database::open(url, name, writers.max(4)).await;
    let one: Arc<dyn Fn() -> futures::future::BoxFuture<'static, ()> + Send + Sync> = match side.as_str() {
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
    // Connections and statements are made before the clock runs.
    at_once(writers, &one, Duration::from_millis(100)).await;
    println!("ready");
    assert_eq!(line(&mut std::io::stdin().lock()), "go");
    let began = Instant::now();
    let appends = at_once(writers, &one, ROUND).await;
    println!("{}", u32::try_from(appends * events).map(f64::from).unwrap() / began.elapsed().as_secs_f64());
}

async fn at_once(
    writers: u32,
    one: &Arc<dyn Fn() -> futures::future::BoxFuture<'static, ()> + Send + Sync>,
    time: Duration,
) -> u64 {
    let end = Instant::now() + time;
    let writers = (0..writers).map(|_| {
        let one = one.clone();
        async move {
            let mut appends = 0;
            while Instant::now() < end {
                one().await;
                appends += 1;
            }
            appends
        }
    });
    writers.collect::<JoinSet<u64>>().join_all().await.into_iter().sum()
}

/// Appends at a pace, and says when each was answered.
async fn paced(store: Arc<dyn EventStore>, pace: Duration, until: Instant) -> Vec<(EventId, Instant)> {
    let mut answered = Vec::new();
    let mut turns = tokio::time::interval(pace);
    turns.set_missed_tick_behavior(MissedTickBehavior::Skip);
    while Instant::now() < until {
        turns.tick().await;
        let append = to_new_stream(0..1);
        let id = append.streams()[0].events[0].id;
        store.append(append).await.unwrap();
        answered.push((id, Instant::now()));
    }
    answered
}

/// Follows the log as a relay does, and says when each event was there.
async fn followed(
    store: Arc<dyn EventStore>,
    mut after: Position,
    stop: CancellationToken,
) -> HashMap<EventId, Instant> {
    let mut seen = HashMap::new();
    let mut grown = store.grown();
    loop {
        let all_answered = stop.is_cancelled();
        let page = store.read_all(after, 1_000, &Filter::all()).await.unwrap();
        let now = Instant::now();
        seen.extend(page.events.iter().map(|event| (event.event.id, now)));
        if page.through > after {
            after = page.through;
        } else if all_answered {
            return seen;
        } else {
            drop(tokio::time::timeout(Duration::from_millis(100), grown.changed()).await);
        }
    }
}

fn to_new_stream(numbers: std::ops::Range<u64>) -> Append {
    to_stream(AggregateId::generate(), numbers)
}

fn to_stream(id: AggregateId, numbers: std::ops::Range<u64>) -> Append {
    let stream = StreamId::new(AggregateType::new("order").unwrap(), id);
    Append::new(stream, ExpectedVersion::NoStream, numbers.map(new_event).collect())
}

fn new_event(number: u64) -> NewEvent {
    NewEvent::encode(&OrderEvent::numbered(number), Metadata::default()).unwrap()
}

/// A schema of PostgreSQL or a database of MariaDB, with our log and the plain table.
#[derive(Clone)]
enum Database {
    Postgres { pool: PgPool, url: String, name: String },
    MySql { pool: MySqlPool, url: String, name: String },
}

/// Keeps a transaction open that has written.
#[expect(dead_code, reason = "held for its transaction")]
enum Stranger {
    Postgres(PgConnection),
    MySql(MySqlConnection),
}

impl Database {
    async fn create(url: &str) -> Self {
        let name = format!("bench_{}", std::process::id());
        if url.starts_with("postgres") {
            let create = format!("CREATE SCHEMA {name}");
            PgConnection::connect(url).await.unwrap().execute(AssertSqlSafe(create)).await.unwrap();
        } else {
            let create = format!("CREATE DATABASE {name}");
            MySqlConnection::connect(url).await.unwrap().execute(AssertSqlSafe(create)).await.unwrap();
        }
        let database = Self::open(url, &name, 8).await;
        drop(database.store().await);
        match &database {
            Self::Postgres { pool, .. } => drop(pool.execute(POSTGRES_PLAIN).await.unwrap()),
            Self::MySql { pool, .. } => drop(pool.execute(MYSQL_PLAIN).await.unwrap()),
        }
        database
    }

    async fn open(url: &str, name: &str, connections: u32) -> Self {
        let (url, name) = (url.to_owned(), name.to_owned());
        if url.starts_with("postgres") {
            let options = url.parse::<PgConnectOptions>().unwrap().options([("search_path", name.as_str())]);
            let pool = PgPoolOptions::new().max_connections(connections).test_before_acquire(false);
            Self::Postgres { pool: pool.connect_with(options).await.unwrap(), url, name }
        } else {
            let options = url.parse::<MySqlConnectOptions>().unwrap().database(&name);
            let pool = MySqlPoolOptions::new().max_connections(connections).test_before_acquire(false);
            Self::MySql { pool: pool.connect_with(options).await.unwrap(), url, name }
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Postgres { .. } => "PostgreSQL",
            Self::MySql { .. } => "MariaDB",
        }
    }

    fn arguments(&self) -> [&str; 2] {
        let (Self::Postgres { url, name, .. } | Self::MySql { url, name, .. }) = self;
        [url, name]
    }

    async fn store(&self) -> Arc<dyn EventStore> {
        match self {
            Self::Postgres { pool, name, .. } => {
                let options = PostgresOptions::new().with_schema(name.clone());
                Arc::new(PostgresStore::open(pool.clone(), &options).await.unwrap())
            }
            Self::MySql { pool, .. } => Arc::new(MySqlStore::open(pool.clone(), &MySqlOptions::new()).await.unwrap()),
        }
    }

    async fn append_by_hand(&self, events: u64) {
        let id = Uuid::now_v7().to_string();
        match self {
            Self::Postgres { pool, .. } => {
                let mut tx = pool.begin().await.unwrap();
                for number in 0..events {
                    let event = new_event(number);
                    let insert = sqlx::query(POSTGRES_INSERT).bind(event.id.as_uuid()).bind("order").bind(&id);
                    let insert = insert.bind(number.cast_signed()).bind(event.event_type.as_str());
                    insert.bind(&event.payload[..]).execute(&mut *tx).await.unwrap();
                }
                tx.commit().await.unwrap();
            }
            Self::MySql { pool, .. } => {
                let mut tx = pool.begin().await.unwrap();
                for number in 0..events {
                    let event = new_event(number);
                    let insert = sqlx::query(MYSQL_INSERT).bind(event.id.as_uuid()).bind("order").bind(&id);
                    let insert = insert.bind(number.cast_signed()).bind(event.event_type.as_str());
                    insert.bind(&event.payload[..]).execute(&mut *tx).await.unwrap();
                }
                tx.commit().await.unwrap();
            }
        }
    }

    async fn stranger(&self) -> Stranger {
        match self {
            Self::Postgres { url, .. } => {
                let mut connection = PgConnection::connect(url).await.unwrap();
                for statement in ["CREATE TEMPORARY TABLE stranger (a int)", "BEGIN", "INSERT INTO stranger VALUES (1)"]
                {
                    connection.execute(statement).await.unwrap();
                }
                Stranger::Postgres(connection)
            }
            Self::MySql { url, name, .. } => {
                let mut connection = MySqlConnection::connect(url).await.unwrap();
                let table = format!("CREATE TABLE {name}.stranger (a int)");
                let insert = format!("INSERT INTO {name}.stranger VALUES (1)");
                connection.execute(AssertSqlSafe(table)).await.unwrap();
                connection.execute("BEGIN").await.unwrap();
                connection.execute(AssertSqlSafe(insert)).await.unwrap();
                Stranger::MySql(connection)
            }
        }
    }

    /// One append of 10,000 events, beside one statement that inserts as many rows: `COPY` or a long `INSERT`.
    async fn bulk(&self) {
        const EVENTS: u64 = 10_000;
        let store = self.store().await;
        let (mut by_hand, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            let events: Vec<NewEvent> = (0..EVENTS).map(new_event).collect();
            let id = Uuid::now_v7().to_string();
            let began = Instant::now();
            match self {
                Self::Postgres { pool, .. } => {
                    let mut rows = String::new();
                    for (event, version) in events.iter().zip(1..) {
                        let (event_id, event_type) = (event.id.as_uuid(), &event.event_type);
                        write!(rows, "{event_id}\torder\t{id}\t{version}\t{event_type}\t\\\\x").unwrap();
                        for byte in &event.payload {
                            write!(rows, "{byte:02x}").unwrap();
                        }
                        rows.push('\n');
                    }
                    let began = Instant::now();
                    let mut connection = pool.acquire().await.unwrap();
                    let mut copy = connection.copy_in_raw(POSTGRES_COPY).await.unwrap();
                    copy.send(rows.into_bytes()).await.unwrap();
                    copy.finish().await.unwrap();
                    by_hand.push(began.elapsed().as_secs_f64());
                }
                Self::MySql { pool, .. } => {
                    let mut tx = pool.begin().await.unwrap();
                    for (chunk, events) in events.chunks(1_000).enumerate() {
                        let mut insert = sqlx::QueryBuilder::new(MYSQL_BULK);
                        insert.push_values(events.iter().zip(1 + chunk * 1_000..), |mut row, (event, version)| {
                            let version = i64::try_from(version).unwrap();
                            row.push_bind(event.id.as_uuid()).push_bind("order").push_bind(&id).push_bind(version);
                            row.push_bind(event.event_type.as_str()).push_bind(&event.payload[..]);
                        });
                        insert.build().persistent(false).execute(&mut *tx).await.unwrap();
                    }
                    tx.commit().await.unwrap();
                    by_hand.push(began.elapsed().as_secs_f64());
                }
            }
            let append = to_new_stream(0..EVENTS);
            let began = Instant::now();
            store.append(append).await.unwrap();
            ours.push(began.elapsed().as_secs_f64());
        }
        report("one append of 10,000", by_hand, ours);
    }

    /// How long after its append was answered an event can be read, at half the rate of before.
    async fn positions(&self) {
        const WRITERS: u32 = 128;
        let store = self.store().await;
        let appending = store.clone();
        let one: Arc<dyn Fn() -> futures::future::BoxFuture<'static, ()> + Send + Sync> = Arc::new(move || {
            let store = appending.clone();
            Box::pin(async move { drop(store.append(to_new_stream(0..1)).await.unwrap()) })
        });
        let peak = at_once(WRITERS, &one, ROUND).await;
        let pace = ROUND * 2 * WRITERS / u32::try_from(peak).unwrap();
        let stop = CancellationToken::new();
        let follower = tokio::spawn(followed(store.clone(), store.head().await.unwrap(), stop.clone()));
        let until = Instant::now() + 2 * ROUND;
        let writers = (0..WRITERS).map(|_| paced(store.clone(), pace, until));
        let answered: Vec<_> = writers.collect::<JoinSet<_>>().join_all().await.into_iter().flatten().collect();
        stop.cancel();
        let seen = follower.await.unwrap();
        let late = sorted(answered.iter().map(|(id, answered)| seen[id].duration_since(*answered).as_secs_f64()));
        let [half, most] = [late.len() / 2, late.len() * 99 / 100].map(|place| late[place] * 1e3);
        let rate = u32::try_from(answered.len()).map(f64::from).unwrap() / (2 * ROUND).as_secs_f64();
        println!("positions at {rate:.0} appends/s: {half:.1} ms after the answer, 99 of 100 within {most:.1} ms");
    }

    /// An aggregate of 10,000 events.
    async fn load(&self) {
        const EVENTS: u64 = 10_000;
        let store = self.store().await;
        store.append(to_stream(AggregateId::new("long").unwrap(), 0..EVENTS)).await.unwrap();
        self.copy_to_plain("long").await;
        let orders = Repository::<Order>::with_options(store, RepositoryOptions::new().with_cached_aggregates(0));
        let (mut by_hand, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..15 {
            let began = Instant::now();
            self.load_by_hand("SELECT event_type, payload FROM plain WHERE aggregate_type = 'order' AND aggregate_id = 'long' ORDER BY version")
                .await;
            by_hand.push(began.elapsed().as_secs_f64());
            let began = Instant::now();
            drop(orders.load("long").await.unwrap());
            ours.push(began.elapsed().as_secs_f64());
        }
        report("load of 10,000", by_hand, ours);
    }

    /// 50,000 events in commits of so many, decoded and folded. By hand: the plain table streamed, all the columns that an event has.
    async fn read_all(&self, events: u64) {
        const EVENTS: u64 = 50_000;
        let store = self.store().await;
        let from = store.head().await.unwrap();
        for _ in 0..EVENTS / events {
            store.append(to_new_stream(0..events)).await.unwrap();
        }
        store.head().await.unwrap();
        self.copy_all_to_plain(from).await;
        let (mut by_hand, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..5 {
            let began = Instant::now();
            self.load_by_hand(
                "SELECT event_type, payload, position, event_id, aggregate_type, aggregate_id, version, recorded_at
                FROM plain ORDER BY position",
            )
            .await;
            by_hand.push(began.elapsed().as_secs_f64());
            let began = Instant::now();
            let (mut counter, mut position) = (Order::default(), from);
            loop {
                let page = store.read_all(position, 1_000, &Filter::all()).await.unwrap();
                if page.through == position {
                    break;
                }
                for event in &page.events {
                    retell::Apply::apply(&mut counter, event.decode::<OrderEvent>().unwrap().event);
                }
                position = page.through;
            }
            ours.push(began.elapsed().as_secs_f64());
        }
        report(&format!("read_all, commits of {events}"), by_hand, ours);
    }

    async fn load_by_hand(&self, sql: &'static str) -> State {
        let mut state = State::default();
        match self {
            Self::Postgres { pool, .. } => {
                let mut rows = sqlx::query(sql).fetch(pool);
                while let Some(row) = rows.try_next().await.unwrap() {
                    state.fold(row.get(0), row.get(1)).unwrap();
                }
            }
            Self::MySql { pool, .. } => {
                let mut rows = sqlx::query(sql).fetch(pool);
                while let Some(row) = rows.try_next().await.unwrap() {
                    state.fold(row.get(0), row.get(1)).unwrap();
                }
            }
        }
        state
    }

    async fn copy_to_plain(&self, id: &str) {
        match self {
            Self::Postgres { pool, .. } => {
                let copy = format!("{POSTGRES_COPY_EVENTS} WHERE aggregate_id = $1");
                sqlx::query(AssertSqlSafe(copy)).bind(id).execute(pool).await.unwrap();
                pool.execute("VACUUM ANALYZE").await.unwrap();
            }
            Self::MySql { pool, .. } => {
                let copy = format!("{MYSQL_COPY_EVENTS} WHERE aggregate_id = CAST(? AS BINARY)");
                sqlx::query(AssertSqlSafe(copy)).bind(id).execute(pool).await.unwrap();
            }
        }
    }

    /// What came after a position, in its order, and nothing else.
    async fn copy_all_to_plain(&self, after: Position) {
        let after = after.get().cast_signed();
        match self {
            Self::Postgres { pool, .. } => {
                pool.execute("TRUNCATE plain").await.unwrap();
                let copy = format!(
                    "{POSTGRES_COPY_EVENTS} e JOIN log l USING (commit_id) WHERE first_position > $1
                    ORDER BY first_position, ordinal"
                );
                sqlx::query(AssertSqlSafe(copy)).bind(after).execute(pool).await.unwrap();
                pool.execute("VACUUM ANALYZE").await.unwrap();
            }
            Self::MySql { pool, .. } => {
                pool.execute("TRUNCATE plain").await.unwrap();
                let copy = format!(
                    "{MYSQL_COPY_EVENTS} e JOIN retell_log l USING (commit_id) WHERE first_position > ?
                    ORDER BY first_position, ordinal"
                );
                sqlx::query(AssertSqlSafe(copy)).bind(after).execute(pool).await.unwrap();
            }
        }
    }

    async fn drop(self) {
        match self {
            Self::Postgres { pool, name, .. } => {
                pool.execute(AssertSqlSafe(format!("DROP SCHEMA {name} CASCADE"))).await.map(|_| ()).unwrap();
            }
            Self::MySql { pool, name, .. } => {
                pool.execute(AssertSqlSafe(format!("DROP DATABASE {name}"))).await.map(|_| ()).unwrap();
            }
        }
    }
}

fn report(what: &str, by_hand: Vec<f64>, ours: Vec<f64>) {
    let middle = by_hand.len() / 2;
    let (by_hand, ours) = (sorted(by_hand)[middle], sorted(ours)[middle]);
    println!(
        "{what:24} {:8.1} ms {:8.1} ms   time ratio {:.2}, speed ratio {:.2}",
        by_hand * 1e3,
        ours * 1e3,
        ours / by_hand,
        by_hand / ours
    );
}

const POSTGRES_PLAIN: &str = "
    CREATE TABLE plain (
        position bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        event_id uuid NOT NULL UNIQUE,
        aggregate_type text NOT NULL,
        aggregate_id text NOT NULL,
        version bigint NOT NULL,
        event_type text NOT NULL,
        recorded_at timestamptz NOT NULL DEFAULT now(),
        payload bytea NOT NULL,
        UNIQUE (aggregate_type, aggregate_id, version)
    )";

const MYSQL_PLAIN: &str = "
    CREATE TABLE plain (
        position BIGINT AUTO_INCREMENT PRIMARY KEY,
        event_id BINARY(16) NOT NULL UNIQUE,
        aggregate_type VARCHAR(255) NOT NULL,
        aggregate_id VARCHAR(255) NOT NULL,
        version BIGINT NOT NULL,
        event_type VARCHAR(255) NOT NULL,
        recorded_at DATETIME(6) NOT NULL DEFAULT NOW(6),
        payload LONGBLOB NOT NULL,
        UNIQUE (aggregate_type, aggregate_id, version)
    )";

const POSTGRES_INSERT: &str = "
    INSERT INTO plain (event_id, aggregate_type, aggregate_id, version, event_type, payload) VALUES ($1, $2, $3, $4, $5, $6)";

const MYSQL_INSERT: &str = "
    INSERT INTO plain (event_id, aggregate_type, aggregate_id, version, event_type, payload) VALUES (?, ?, ?, ?, ?, ?)";

const POSTGRES_COPY: &str =
    "COPY plain (event_id, aggregate_type, aggregate_id, version, event_type, payload) FROM STDIN";

const MYSQL_BULK: &str = "INSERT INTO plain (event_id, aggregate_type, aggregate_id, version, event_type, payload) ";

const POSTGRES_COPY_EVENTS: &str = "
    INSERT INTO plain (event_id, aggregate_type, aggregate_id, version, event_type, payload)
    SELECT event_id, aggregate_type, aggregate_id, version, event_type, payload FROM events";

const MYSQL_COPY_EVENTS: &str = "
    INSERT INTO plain (event_id, aggregate_type, aggregate_id, version, event_type, payload)
    SELECT event_id, aggregate_type, aggregate_id, version, event_type, payload FROM retell_events";
