//! One run: a growing log, two relays, three workers, and the expected state of the read model at the end.

use std::collections::hash_map::RandomState;
use std::env;
use std::hash::{BuildHasher, Hasher};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use futures::future::join_all;
use retell::broker::rabbitmq::topology::Topology;
use retell::event::NewEvent;
use retell::rusqlite::Connection;
use retell::sqlx::{Connection as _, MySqlConnection, PgConnection};
use retell::store::{Append, EventReaderExt, EventStore, Filter, Parked, Parking, ReadModel};
use retell::{ExpectedVersion, MySqlReadModel, Position, PostgresReadModel, ProjectionName, SqliteReadModel, StreamId};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::child::{JOB, Job, Role};
use crate::databases::{Database, Place};
use crate::proxy::Proxy;
use crate::rabbitmq::RabbitMq;
use crate::random::Random;
use crate::server;
use crate::tally::{self, Line, Lines, NAME, Spoken, spoken};
use crate::view;

const SEED: &str = "RETELL_CHAOS_SEED";

const RELAYS: usize = 2;
const WORKERS: usize = 3;

/// Number of concurrent appends.
const WRITERS: usize = 16;

/// Fails the run after this long without progress.
const STALL_TIMEOUT: Duration = Duration::from_mins(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Sqlite,
    Postgres,
    MySql,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
            Self::MySql => "mariadb",
        }
    }
}

pub(crate) struct Run {
    pub(crate) kind: Kind,
    pub(crate) runtime: Runtime,
    pub(crate) random: Random,
    pub(crate) topology: Topology,
    /// Host and port where the processes connect to RabbitMQ.
    pub(crate) broker: String,
    pub(crate) relay: Role,
    pub(crate) worker: Role,
    /// Total number of events.
    pub(crate) events: u64,
    appended: u64,
    relays: Vec<Process>,
    workers: Vec<Process>,
    place: Place,
    /// Where the processes find the database, if they reach it through a proxy.
    proxied: Option<Place>,
    cure: TempDir,
    /// Holds the write locks of SQLite's files while they are read-only.
    locks: Vec<Connection>,
    /// A server of this run alone, which a test may kill. Otherwise `_database` is on a shared server.
    pub(crate) server: Option<server::Server>,
    _database: Option<Database>,
}

impl Run {
    pub(crate) fn new(kind: Kind, events: u64) -> Self {
        let runtime = Runtime::new().unwrap();
        let database = runtime.block_on(async {
            match kind {
                Kind::Sqlite => Database::sqlite(),
                Kind::Postgres => Database::postgres().await,
                Kind::MySql => Database::mysql().await,
            }
        });
        Self::at(kind, database.place.clone(), Some(database), events, runtime)
    }

    fn at(kind: Kind, place: Place, database: Option<Database>, events: u64, runtime: Runtime) -> Self {
        let seed =
            env::var(SEED).map_or_else(|_| RandomState::new().build_hasher().finish(), |seed| seed.parse().unwrap());
        eprintln!("{SEED}={seed}");
        Self {
            kind,
            runtime,
            random: Random(seed),
            topology: Topology::new().with_prefix(&format!("chaos-{}.", uuid::Uuid::new_v4())),
            broker: address(&env::var("AMQP_URL").expect("AMQP_URL is not set: tests/run.sh starts a RabbitMQ")),
            relay: Role::Relay,
            worker: Role::Worker,
            events,
            appended: 0,
            relays: Vec::new(),
            workers: Vec::new(),
            place,
            proxied: None,
            cure: TempDir::new().unwrap(),
            locks: Vec::new(),
            server: None,
            _database: database,
        }
    }

    /// Moves the run to a database server of its own.
    pub(crate) fn with_own_server(self) -> Self {
        let (kind, place) = match self.kind {
            Kind::Sqlite => return self,
            Kind::Postgres => (server::Kind::Postgres, Place::Postgres as fn(String) -> Place),
            Kind::MySql => (server::Kind::MariaDb, Place::MySql as fn(String) -> Place),
        };
        let server = server::Server::start(kind);
        let runtime = Runtime::new().unwrap();
        // The database that the server comes with may hold the server's own tables.
        runtime.block_on(place(server.url()).run("CREATE DATABASE chaos"));
        let mut url = format!("{}/chaos", server.url().rsplit_once('/').unwrap().0);
        if self.kind == Kind::MySql {
            // A user that may not write while the server is read-only.
            let user = "CREATE USER chaos@'127.0.0.1'; GRANT ALL ON chaos.* TO chaos@'127.0.0.1'";
            runtime.block_on(place(server.url()).run(user));
            url = url.replacen("history@", "chaos@", 1);
        }
        let mut run = Self::at(self.kind, place(url), None, self.events, runtime);
        run.worker = self.worker;
        run.server = Some(server);
        run
    }

    /// Starts a broker for this run alone. `settings` has the syntax of `advanced.config`.
    pub(crate) fn with_own_broker(&mut self, settings: &str) -> RabbitMq {
        let broker = RabbitMq::start_with(settings);
        self.broker = broker.address();
        broker
    }

    /// Starts a proxy between the processes and the database. This test's own appends do not go through it.
    pub(crate) fn with_database_proxy(&mut self) -> Proxy {
        let start = |url: &str| Proxy::start(&self.runtime, address(url));
        let through = |url: &str, proxy: &Proxy| url.replacen(&address(url), &proxy.address.to_string(), 1);
        let (proxy, proxied) = match &self.place {
            Place::Sqlite(_) => unreachable!("a file has no server"),
            Place::Postgres(url) => {
                let proxy = start(url);
                let through = through(url, &proxy);
                (proxy, Place::Postgres(through))
            }
            Place::MySql(url) => {
                let proxy = start(url);
                let through = through(url, &proxy);
                (proxy, Place::MySql(through))
            }
        };
        self.proxied = Some(proxied);
        proxy
    }

    /// Runs statements as the administrator of the database.
    fn administer(&self, sql: &str) {
        let place = match (&self.server, &self.place) {
            (Some(server), Place::Postgres(_)) => Place::Postgres(server.url()),
            (Some(server), Place::MySql(_)) => Place::MySql(server.url()),
            (_, place) => place.clone(),
        };
        self.runtime.block_on(place.run(sql));
    }

    /// Ends the sessions of all processes.
    pub(crate) fn end_sessions(&self) {
        match self.place {
            Place::Sqlite(_) => {}
            Place::Postgres(_) => self.administer(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                 WHERE datname = current_database() AND pid <> pg_backend_pid()",
            ),
            Place::MySql(_) => self.administer(
                "BEGIN NOT ATOMIC
                    DECLARE CONTINUE HANDLER FOR 1094 BEGIN END;
                    FOR session IN (SELECT id FROM information_schema.processlist
                                    WHERE db = DATABASE() AND id <> CONNECTION_ID()) DO
                        KILL session.id;
                    END FOR;
                 END",
            ),
        }
    }

    /// Makes the database refuse writes, or accept them again.
    pub(crate) fn set_read_only(&mut self, is_read_only: bool) {
        let on = if is_read_only { "on" } else { "off" };
        match &self.place {
            Place::Sqlite(_) if !is_read_only => self.locks.clear(),
            Place::Sqlite(path) => {
                for path in [path.clone(), path.with_extension("models")] {
                    let lock = Connection::open(path).unwrap();
                    lock.busy_timeout(STALL_TIMEOUT).unwrap();
                    lock.execute_batch("BEGIN IMMEDIATE").unwrap();
                    self.locks.push(lock);
                }
            }
            Place::Postgres(_) => {
                self.administer(&format!("ALTER SYSTEM SET default_transaction_read_only = {on}"));
                self.administer("SELECT pg_reload_conf()");
            }
            Place::MySql(_) => self.administer(&format!("SET GLOBAL read_only = {on}")),
        }
    }

    pub(crate) fn start(&mut self) {
        // Creates the schema before the many processes start.
        self.append(0);
        for _ in 0..RELAYS {
            self.relays.push(self.process(self.relay));
        }
        for _ in 0..WORKERS {
            self.workers.push(self.process(self.worker));
        }
    }

    pub(crate) fn job(&self, role: Role) -> Job {
        let log = self.proxied.as_ref().unwrap_or(&self.place).clone();
        let models = match &log {
            Place::Sqlite(path) => Place::Sqlite(path.with_extension("models")),
            other => other.clone(),
        };
        let (broker, topology) = (self.broker.clone(), self.topology.clone());
        Job { role, log, models, broker, topology, cure: self.cure() }
    }

    /// The file that marks the bug as fixed once it exists.
    pub(crate) fn cure(&self) -> PathBuf {
        self.cure.path().join("cure")
    }

    fn process(&self, role: Role) -> Process {
        Process::start(&self.job(role))
    }

    /// Appends one of `parts` equal parts of all events.
    pub(crate) fn append_part(&mut self, parts: u64) {
        let count = (self.events / parts).min(self.events - self.appended);
        self.append(count);
    }

    pub(crate) fn is_all_appended(&self) -> bool {
        self.appended == self.events
    }

    pub(crate) fn append_rest(&mut self) {
        self.append(self.events - self.appended);
    }

    fn append(&mut self, count: u64) {
        let events: Vec<(u64, NewEvent)> = (0..count)
            .map(|_| (self.random.below(self.aggregates()), spoken(i64::try_from(self.random.below(1_000)).unwrap())))
            .collect();
        self.append_these(events);
    }

    pub(crate) fn aggregates(&self) -> u64 {
        (self.events / 25).max(1)
    }

    /// Appends each event to its aggregate. Each aggregate belongs to one task, which keeps its events in order.
    pub(crate) fn append_these(&mut self, events: Vec<(u64, NewEvent)>) {
        self.appended += events.len() as u64;
        self.events = self.events.max(self.appended);
        let place = self.place.clone();
        self.runtime.block_on(async {
            let store = place.open().await.unwrap().events;
            let mut shares: Vec<Vec<(u64, NewEvent)>> = (0..WRITERS).map(|_| Vec::new()).collect();
            for (aggregate, event) in events {
                let writer = usize::try_from(aggregate).unwrap() % WRITERS;
                shares[writer].push((aggregate, event));
            }
            join_all(shares.into_iter().map(|share| append_all(&store, share))).await;
            store.close().await.unwrap();
        });
    }

    pub(crate) fn appended(&self) -> Position {
        Position::new(self.appended)
    }

    /// Builds frames from the first events of the log, to publish them again without a relay.
    pub(crate) fn frames(&self) -> Vec<retell::broker::frame::Frame> {
        self.runtime.block_on(async {
            let store = self.place.open().await.unwrap().events;
            let page = store.read_all(Position::ZERO, 1_000, &Filter::all()).await.unwrap();
            retell::broker::frame::Frame::split(&page.events, 10, 1 << 20).unwrap()
        })
    }

    pub(crate) fn kill_worker(&mut self) {
        let slot = usize::try_from(self.random.below(WORKERS as u64)).unwrap();
        self.workers[slot].kill();
        self.workers[slot] = self.process(self.worker);
    }

    pub(crate) fn kill_relay(&mut self) {
        let slot = usize::try_from(self.random.below(RELAYS as u64)).unwrap();
        self.relays[slot].kill();
        self.relays[slot] = self.process(self.relay);
    }

    /// Pauses a worker and a relay; the others must continue without them.
    pub(crate) fn pause_one_of_each(&mut self, slot: usize) {
        self.workers[slot % WORKERS].signal(Signal::STOP);
        self.relays[slot % RELAYS].signal(Signal::STOP);
    }

    pub(crate) fn resume_all(&mut self) {
        for process in self.relays.iter().chain(&self.workers) {
            process.signal(Signal::CONT);
        }
    }

    /// Waits until the model has applied `position`; fails if it makes no progress.
    pub(crate) fn await_applied(&mut self, position: Position) {
        let (mut applied, mut moved) = (Position::ZERO, Instant::now());
        while applied < position {
            let now = self.applied();
            if now > applied {
                (applied, moved) = (now, Instant::now());
            }
            assert!(moved.elapsed() < STALL_TIMEOUT, "the model stopped at {applied}, expected {position}");
            for process in self.relays.iter_mut().chain(&mut self.workers) {
                process.assert_alive();
            }
            sleep(Duration::from_millis(20));
        }
    }

    /// Waits until `is_so` holds, and fails if a process ends or time runs out.
    pub(crate) fn until(&mut self, is_so: impl Fn(&Self) -> bool) {
        let started = Instant::now();
        while !is_so(self) {
            assert!(started.elapsed() < STALL_TIMEOUT, "the condition did not become true in time");
            for process in self.relays.iter_mut().chain(&mut self.workers) {
                process.assert_alive();
            }
            sleep(Duration::from_millis(20));
        }
    }

    fn applied(&self) -> Position {
        let name = ProjectionName::new(NAME).unwrap();
        // A server that is still starting returns an error, which counts as no progress.
        let applied = async { self.models().await?.checkpoint(&name).await };
        self.runtime.block_on(applied).unwrap_or_default()
    }

    /// Returns the parked aggregates.
    pub(crate) fn parked(&self) -> Vec<Parked> {
        let name = ProjectionName::new(NAME).unwrap();
        let parking = async { self.models().await?.parking(&name).await };
        self.runtime.block_on(parking).unwrap_or_default().parked
    }

    pub(crate) fn retry_parked(&self, stream: &StreamId) {
        let name = ProjectionName::new(NAME).unwrap();
        let retried = async { self.models().await?.retry_parked(&name, stream).await };
        assert!(self.runtime.block_on(retried).unwrap(), "{stream} is not parked");
    }

    async fn models(&self) -> retell::Result<Models> {
        Ok(match self.job(Role::Worker).models {
            Place::Sqlite(path) => Models::Sqlite(SqliteReadModel::open(&path).await?),
            Place::Postgres(url) => Models::Postgres(PostgresReadModel::connect(&url).await?),
            Place::MySql(url) => Models::MySql(MySqlReadModel::connect(&url).await?),
        })
    }

    pub(crate) fn end(mut self) {
        self.append_rest();
        self.await_applied(self.appended());
        self.stop();
        self.assert_good();
    }

    pub(crate) fn stop(&mut self) {
        self.relays.drain(..).chain(self.workers.drain(..)).for_each(Process::stop);
    }

    /// Asserts that every aggregate but `id` is correct and that `id` is behind.
    pub(crate) fn assert_good_but(&self, id: &str) {
        let (mut expected, mut found) = (self.expected(), self.found());
        let (whole, part) = (expected.remove(id), found.remove(id));
        assert_eq!(expected, found);
        let (whole, part) = (whole.unwrap().applied, part.map_or(0, |line| line.applied));
        assert!(part < whole, "{id} is not behind: {part} of {whole}");
    }

    fn assert_good(&self) {
        let (expected, found) = (self.expected(), self.found());
        let wrong: Vec<_> = expected.iter().filter(|(id, line)| found.get(*id) != Some(line)).take(5).collect();
        let found_of = |id: &String| found.get(id);
        let wrong: Vec<_> = wrong.into_iter().map(|(id, line)| (id, line, found_of(id))).collect();
        assert!(wrong.is_empty() && expected.len() == found.len(), "wrong: {wrong:#?}");
    }

    /// Returns how many aggregates of the model are wrong.
    pub(crate) fn faults(&self) -> usize {
        let (expected, found) = (self.expected(), self.found());
        expected.iter().filter(|(id, line)| found.get(*id) != Some(line)).count()
    }

    /// Folds the log.
    fn expected(&self) -> Lines {
        self.runtime.block_on(async {
            let store = self.place.open().await.unwrap().events;
            let (mut lines, mut after) = (Lines::new(), Position::ZERO);
            loop {
                let page = store.read_all(after, 5_000, &Filter::all()).await.unwrap();
                for event in &page.events {
                    let spoken = event.decode::<Spoken>().unwrap();
                    let Spoken::Word { weight } = spoken.event;
                    let version = i64::try_from(spoken.version.get()).unwrap();
                    let id = spoken.stream.aggregate_id().as_str().to_owned();
                    lines.entry(id).or_insert_with(Line::default).fold(version, weight);
                }
                if page.through == after {
                    assert_eq!(after, self.appended());
                    return lines;
                }
                after = page.through;
            }
        })
    }

    fn found(&self) -> Lines {
        if self.worker.keeps_a_view() {
            return self.runtime.block_on(async { self.models().await?.view_lines().await }).unwrap();
        }
        match self.job(Role::Worker).models {
            Place::Sqlite(path) => tally::of_sqlite(&Connection::open(path).unwrap()).unwrap(),
            Place::Postgres(url) => self
                .runtime
                .block_on(async { tally::of_postgres(&mut PgConnection::connect(&url).await.unwrap()).await }),
            Place::MySql(url) => self
                .runtime
                .block_on(async { tally::of_mysql(&mut MySqlConnection::connect(&url).await.unwrap()).await }),
        }
    }
}

/// Read models of any database, to query their progress.
enum Models {
    Sqlite(SqliteReadModel),
    Postgres(PostgresReadModel),
    MySql(MySqlReadModel),
}

macro_rules! for_each_model {
    ($models:expr, $of:ident => $answer:expr) => {
        match $models {
            Models::Sqlite($of) => $answer,
            Models::Postgres($of) => $answer,
            Models::MySql($of) => $answer,
        }
    };
}

impl Models {
    async fn checkpoint(&self, name: &ProjectionName) -> retell::Result<Position> {
        for_each_model!(self, models => models.checkpoint(name).await)
    }

    async fn view_lines(self) -> retell::Result<Lines> {
        for_each_model!(self, models => view::lines(models).await)
    }

    async fn parking(&self, name: &ProjectionName) -> retell::Result<Parking> {
        for_each_model!(self, models => models.parking(name).await)
    }

    async fn retry_parked(&self, name: &ProjectionName, stream: &StreamId) -> retell::Result<bool> {
        for_each_model!(self, models => models.retry_parked(name, stream).await)
    }
}

async fn append_all(store: &Arc<dyn EventStore>, events: Vec<(u64, NewEvent)>) {
    for (aggregate, event) in events {
        let stream = StreamId::parse("word", &format!("a{aggregate}")).unwrap();
        store.append(Append::new(stream, ExpectedVersion::Any, vec![event])).await.unwrap();
    }
}

/// Returns host and port of a URL such as `amqp://user:password@host:port/vhost`.
fn address(url: &str) -> String {
    let after = url.rsplit_once('@').map_or(url, |(_, address)| address);
    after.split('/').next().unwrap().to_owned()
}

struct Process {
    role: Role,
    child: Child,
}

impl Process {
    fn start(job: &Job) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        let child = command.env(JOB, serde_json::to_string(job).unwrap()).stdin(Stdio::piped()).spawn().unwrap();
        Self { role: job.role, child }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap(), signal).unwrap();
    }

    fn assert_alive(&mut self) {
        let ended = self.child.try_wait().unwrap();
        assert!(ended.is_none(), "a {:?} ended early: {ended:?}", self.role);
    }

    /// Stops the process after it has finished its current work.
    fn stop(mut self) {
        drop(self.child.stdin.take());
        let status = self.child.wait().unwrap();
        assert!(status.success(), "a {:?} ended with {status}", self.role);
    }
}

/// Leaves no process running after a failure.
impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill().and_then(|()| self.child.wait()));
    }
}
