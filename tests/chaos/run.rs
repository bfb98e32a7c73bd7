//! One run: a growing log, two relays, three workers, and the expected state of the read model at the end.

use std::collections::hash_map::RandomState;
use std::env;
use std::fs::File;
use std::hash::{BuildHasher, Hasher};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use futures::FutureExt;
use retell::broker::rabbitmq::topology::Topology;
use retell::event::NewEvent;
use retell::rusqlite::Connection;
use retell::sqlx::{Connection as _, MySqlConnection, PgConnection};
use retell::store::{EventReaderExt, EventStore, Filter, Parked, Parking, ReadModel, Work};
use retell::{
    BoxError, Error, ErrorKind, Mark, MySqlReadModel, Position, PostgresReadModel, ProjectionName, Rebuild,
    SqliteReadModel, StreamId,
};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::child::{JOB, Job, Role, Words, append_all};
use crate::clock::{Clock, Clocks};
use crate::databases::{Database, Place};
use crate::failover::{HISTORY_CHANGED, Part, Standby};
use crate::proxy::Proxy;
use crate::rabbitmq::RabbitMq;
use crate::random::Random;
use crate::server;
use crate::tally::{self, Line, Lines, NAME, Spoken, Tallies};
use crate::view::{self, TallyView};

pub(crate) const SEED: &str = "RETELL_CHAOS_SEED";

const RELAYS: usize = 2;
const WORKERS: usize = 3;

/// The lines of a process's errors that a failure shows.
const LAST_ERRORS: usize = 10;

/// Fails the run after this long without progress.
pub(crate) const STALL_TIMEOUT: Duration = Duration::from_mins(5);

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
    pub(crate) seed: u64,
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
    pub(crate) relays: Vec<Process>,
    pub(crate) workers: Vec<Process>,
    pub(crate) place: Place,
    /// Where the processes find the database, if they reach it through a proxy.
    proxied: Option<Place>,
    /// A database for the read models alone. Otherwise a server has them next to the log.
    models: Option<Database>,
    /// Whether processes may stop because the log has another history.
    pub(crate) history_may_change: bool,
    /// How often the read model was reset for that.
    pub(crate) resets: u32,
    /// The processes' clocks, if they are not the machine's.
    pub(crate) clocks: Option<Clocks>,
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
        Self {
            seed,
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
            models: None,
            history_may_change: false,
            resets: 0,
            clocks: None,
            cure: TempDir::new().unwrap(),
            locks: Vec::new(),
            server: None,
            _database: database,
        }
    }

    /// Moves the run to a database server of its own.
    pub(crate) fn with_own_server(self) -> Self {
        self.with_server(server::Server::start)
    }

    /// Moves the run to a server that `start` starts.
    fn with_server(self, start: impl FnOnce(server::Kind) -> server::Server) -> Self {
        let (kind, place) = match self.kind {
            Kind::Sqlite => return self,
            Kind::Postgres => (server::Kind::Postgres, Place::Postgres as fn(String) -> Place),
            Kind::MySql => (server::Kind::MySql, Place::MySql as fn(String) -> Place),
        };
        let server = start(kind);
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

    /// Moves the run to a database whose `part` can be replaced by an older state, which the second value keeps.
    pub(crate) fn with_standby(self, part: Part) -> (Self, Standby) {
        let mut run = self.with_server(server::Server::start_primary);
        run.history_may_change = true;
        if run.kind == Kind::Sqlite {
            return (run, Standby::Files(TempDir::new().unwrap(), part));
        }
        if part == Part::Log {
            run.models = Some(run.runtime.block_on(async {
                if run.kind == Kind::Postgres { Database::postgres().await } else { Database::mysql().await }
            }));
        }
        let (replica, proxy) = (run.server.as_ref().unwrap().replica(), run.with_database_proxy());
        (run, Standby::Replica(replica, proxy))
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
        if !matches!(self.place, Place::Sqlite(_)) {
            self.runtime.block_on(self.place.end_sessions());
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
        self.start_all();
    }

    pub(crate) fn start_all(&mut self) {
        for _ in 0..RELAYS {
            let relay = self.process(self.relay);
            self.relays.push(relay);
        }
        for _ in 0..WORKERS {
            let worker = self.process(self.worker);
            self.workers.push(worker);
        }
    }

    pub(crate) fn job(&self, role: Role) -> Job {
        let log = self.proxied.as_ref().unwrap_or(&self.place).clone();
        let models = match (&log, &self.models) {
            (Place::Sqlite(path), _) => Place::Sqlite(path.with_extension("models")),
            (_, Some(models)) => models.place.clone(),
            (log, None) => log.clone(),
        };
        let (broker, topology) = (self.broker.clone(), self.topology.clone());
        Job { role, log, models, broker, topology, cure: self.cure() }
    }

    /// The file that marks the bug as fixed once it exists.
    pub(crate) fn cure(&self) -> PathBuf {
        self.cure.path().join("cure")
    }

    pub(crate) fn process(&mut self, role: Role) -> Process {
        let clock = self.clocks.as_mut().map(|clocks| clocks.make(&mut self.random));
        Process::start(&self.job(role), clock)
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

    pub(crate) fn append(&mut self, count: u64) {
        let events = self.words(count).events();
        self.append_these(events);
    }

    fn words(&mut self, count: u64) -> Words {
        Words { count, aggregates: self.aggregates(), seed: self.random.below(u64::MAX) }
    }

    /// Lets a process append one of `parts` equal parts of all events.
    pub(crate) fn append_part_elsewhere(&mut self, parts: u64) {
        let words = self.words((self.events / parts).min(self.events - self.appended));
        self.process(Role::Writer(words)).stop();
        self.appended += words.count;
    }

    pub(crate) fn aggregates(&self) -> u64 {
        (self.events / 25).max(1)
    }

    pub(crate) fn append_these(&mut self, events: Vec<(u64, NewEvent)>) {
        self.appended += events.len() as u64;
        self.events = self.events.max(self.appended);
        self.runtime.block_on(append_all(&self.place, events));
    }

    pub(crate) fn appended(&self) -> Position {
        Position::new(self.appended)
    }

    pub(crate) fn set_appended(&mut self, head: Position) {
        self.appended = head.get();
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

    pub(crate) fn kill_all(&mut self) {
        self.relays.drain(..).chain(self.workers.drain(..)).for_each(|mut process| process.kill());
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
            self.attend();
            sleep(Duration::from_millis(20));
        }
    }

    /// Waits until `is_so` holds, and fails if a process ends or time runs out.
    pub(crate) fn until(&mut self, is_so: impl Fn(&Self) -> bool) {
        let started = Instant::now();
        while !is_so(self) {
            assert!(started.elapsed() < STALL_TIMEOUT, "the condition did not become true in time");
            self.attend();
            sleep(Duration::from_millis(20));
        }
    }

    fn applied(&self) -> Position {
        self.mark().position
    }

    /// Returns the place up to which the model has applied everything.
    pub(crate) fn mark(&self) -> Mark {
        let name = ProjectionName::new(NAME).unwrap();
        // A server that is still starting returns an error, which counts as no progress.
        let mark = async { self.models().await?.mark(&name).await };
        self.runtime.block_on(mark).unwrap_or(Mark::START)
    }

    /// Returns how far the relays are.
    pub(crate) fn relayed(&self) -> Position {
        let relayed = async { self.place.open().await?.relays.position("chaos").await };
        self.runtime.block_on(relayed).unwrap_or_default()
    }

    /// Empties the model and moves it to the beginning of the log.
    pub(crate) fn reset_models(&self) {
        let (name, view) = (ProjectionName::new(NAME).unwrap(), self.worker.keeps_a_view());
        self.runtime.block_on(async {
            let log = self.place.open().await.unwrap().events;
            let models = self.models().await.unwrap();
            if view { models.reset_view(log).await } else { models.reset_tally(&name).await }.unwrap();
        });
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

    pub(crate) fn assert_good(&self) {
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
    async fn mark(&self, name: &ProjectionName) -> retell::Result<Mark> {
        for_each_model!(self, models => models.mark(name).await)
    }

    async fn reset_view(self, log: Arc<dyn EventStore>) -> retell::Result<()> {
        let view = TallyView { cure: PathBuf::new() };
        for_each_model!(self, models => Rebuild::new(view, log, models).reset().await)
    }

    async fn reset_tally(&self, name: &ProjectionName) -> retell::Result<()> {
        for_each_model!(self, models => models.reset(name, Mark::START, emptied()).await)
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

/// Returns the work that empties the tally.
fn emptied<Tx: Tallies>() -> Work<Tx> {
    let failed = |error: BoxError| Error::with_source(ErrorKind::Backend("tally".into()), error);
    Box::new(move |tx| async move { tx.clear().await.map_err(failed) }.boxed())
}

/// Returns host and port of a URL such as `amqp://user:password@host:port/vhost`.
pub(crate) fn address(url: &str) -> String {
    let after = url.rsplit_once('@').map_or(url, |(_, address)| address);
    after.split('/').next().unwrap().to_owned()
}

pub(crate) struct Process {
    role: Role,
    child: Child,
    /// The file that gets the process's standard error.
    errors: File,
    pub(crate) clock: Option<Clock>,
}

impl Process {
    fn start(job: &Job, clock: Option<Clock>) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.envs(clock.iter().flat_map(Clock::environment));
        let errors = tempfile::tempfile().unwrap();
        command.stdin(Stdio::piped()).stderr(errors.try_clone().unwrap());
        let child = command.env(JOB, serde_json::to_string(job).unwrap()).env("RUST_BACKTRACE", "0").spawn().unwrap();
        Self { role: job.role, child, errors, clock }
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap(), signal).unwrap();
    }

    /// Returns whether the process has stopped because the log has another history, which is a failure unless that `is_expected`.
    pub(crate) fn has_stopped_for_history(&mut self, is_expected: bool) -> bool {
        let ended = self.child.try_wait().unwrap();
        let for_history = is_expected && ended.is_some_and(|status| status.code() == Some(HISTORY_CHANGED));
        let is_well = ended.is_none() || for_history;
        assert!(is_well, "a {:?} ended early with {ended:?}: {}", self.role, self.last_errors());
        for_history
    }

    /// Stops the process after it has finished its current work.
    pub(crate) fn stop(mut self) {
        let status = self.end();
        assert!(status.success(), "a {:?} ended with {status}: {}", self.role, self.last_errors());
    }

    /// Stops the process, which may have stopped before because the log has another history.
    pub(crate) fn stop_for_history(mut self) {
        let status = self.end();
        let is_expected = status.success() || status.code() == Some(HISTORY_CHANGED);
        assert!(is_expected, "a {:?} ended with {status}: {}", self.role, self.last_errors());
    }

    /// Returns what the process has written to standard error. The process may still write, at the position that both share.
    pub(crate) fn errors(&self) -> String {
        let mut written = vec![0; usize::try_from(self.errors.metadata().unwrap().len()).unwrap()];
        self.errors.read_exact_at(&mut written, 0).unwrap();
        String::from_utf8_lossy(&written).into_owned()
    }

    /// Returns the end of what the process wrote to standard error.
    fn last_errors(&self) -> String {
        let lines: Vec<_> = self.errors().lines().map(str::to_owned).collect();
        lines[lines.len().saturating_sub(LAST_ERRORS)..].join("\n")
    }

    fn end(&mut self) -> ExitStatus {
        drop(self.child.stdin.take());
        self.child.wait().unwrap()
    }
}

/// Leaves no process running after a failure.
impl Drop for Process {
    fn drop(&mut self) {
        drop(self.child.kill().and_then(|()| self.child.wait()));
    }
}
