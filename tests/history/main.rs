//! Real processes append to real databases, read them and are killed; a checker then compares the databases with the
//! answers the processes got.
//!
//! The test binary starts itself again as those processes, so it has its own `main`. `RETELL_HISTORY_SECONDS=300` makes
//! each history run that long. `RETELL_TEST_SEED`, set to the value that a run printed, repeats that run's choices: the
//! appends and reads, the processes to kill, and the number of acknowledgements before each kill. How the processes
//! interleave is up to the machine.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod check;
mod child;
mod database;
mod mysql;
mod other_sessions;
#[path = "../support/programs.rs"]
mod programs;
mod server;

use std::collections::HashMap;
use std::env;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{BufRead, BufReader};
use std::mem::take;
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Trial};
use retell::ErrorKind;
use retell::id::ExpectedVersion;
use retell::store::{Append, EventStore};
use retell::testing::store::{events, stream};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::watch;

use check::{Answer, Call, Entry, History, synthetic, violations};
use child::{JOB, Job, Random, Role};
use database::{Database, Fault, Postgres};
use mysql::MySql;
use server::{Kind, Server};

const SEED: &str = "RETELL_TEST_SEED";
const SECONDS: &str = "RETELL_HISTORY_SECONDS";

const WRITERS: usize = 4;
const READERS: usize = 2;

/// Fails the run if no line arrives for this long.
const STALL_TIMEOUT: Duration = Duration::from_mins(5);

fn main() {
    if let Some(job) = child::is_child() {
        return Runtime::new().unwrap().block_on(child::run(job));
    }
    let tests: [(&str, fn()); 17] = [
        ("a_good_history_passes", synthetic::a_good_history_passes),
        ("a_faulty_history_fails", synthetic::a_faulty_history_fails),
        ("sqlite_stays_consistent_when_writers_are_killed", sqlite_stays_consistent_when_writers_are_killed),
        ("postgres_stays_consistent_when_writers_are_killed", postgres_stays_consistent_when_writers_are_killed),
        ("postgres_stays_consistent_under_repeatable_read", postgres_stays_consistent_under_repeatable_read),
        ("postgres_stays_consistent_when_the_server_is_killed", postgres_stays_consistent_when_the_server_is_killed),
        ("postgres_stays_consistent_when_a_synchronous_standby_is_promoted", || {
            stays_consistent_when_a_synchronous_replica_is_promoted(Kind::Postgres);
        }),
        ("mariadb_stays_consistent_when_a_semi_synchronous_replica_is_promoted", || {
            stays_consistent_when_a_synchronous_replica_is_promoted(Kind::MySql);
        }),
        ("a_position_that_was_read_survives_a_server_kill", a_position_that_was_read_survives_a_server_kill),
        ("checker_finds_a_number_drawn_before_the_version_check", || {
            assert_found(postgres, Fault::NumberBeforeCheck, &["is not the next version of its stream"]);
        }),
        ("checker_finds_a_lane_released_before_the_commit", || {
            assert_found(postgres, Fault::LaneReleasedBeforeCommit, &["was acknowledged but is lost"]);
        }),
        ("checker_finds_two_concurrent_sequencers", || {
            assert_found(postgres, Fault::TwoSequencers, &["events are missing between", "in the log twice"]);
        }),
        ("postgres_with_cached_commit_numbers_is_refused", || assert_refused(postgres, Fault::CachedNumbers)),
        ("mariadb_stays_consistent_when_writers_are_killed", mariadb_stays_consistent_when_writers_are_killed),
        ("mariadb_stays_consistent_when_the_server_is_killed", mariadb_stays_consistent_when_the_server_is_killed),
        ("mariadb_with_a_table_without_row_locks_is_refused", || assert_refused(mysql, Fault::TwoSequencers)),
        ("mariadb_with_cached_commit_numbers_is_refused", || assert_refused(mysql, Fault::CachedNumbers)),
    ];
    let trial = |(name, test): (&str, fn())| {
        Trial::test(name, move || {
            test();
            Ok(())
        })
    };
    let mut arguments = Arguments::from_args();
    // One run already has seven processes.
    arguments.test_threads = arguments.test_threads.or(Some(1));
    libtest_mimic::run(&arguments, tests.into_iter().map(trial).collect()).exit()
}

fn sqlite_stays_consistent_when_writers_are_killed() {
    let directory = TempDir::new().unwrap();
    Run::new(Database::Sqlite(directory.path().join("log.db"))).assert_good(2000);
}

fn postgres_stays_consistent_when_writers_are_killed() {
    let database = postgres();
    Run::new(database.clone()).assert_good(1500);
    block_on(database.remove());
}

fn postgres_stays_consistent_under_repeatable_read() {
    let postgres = Postgres { isolation: "repeatable read".to_owned(), ..Database::postgres() };
    let database = Database::Postgres(postgres);
    let mut run = Run::new(database.clone());
    run.plant(Fault::LateLock);
    run.assert_good(1000);
    block_on(database.remove());
}

fn postgres_stays_consistent_when_the_server_is_killed() {
    let server = Server::start(Kind::Postgres);
    let database = Database::Postgres(Postgres::new(server.url()));
    let mut run = Run::new(database);
    run.server = Some(server);
    run.assert_good(1200);
}

fn mariadb_stays_consistent_when_writers_are_killed() {
    let database = mysql();
    Run::new(database.clone()).assert_good(1500);
    block_on(database.remove());
}

fn mariadb_stays_consistent_when_the_server_is_killed() {
    let server = Server::start(Kind::MySql);
    let mut run = Run::new(Database::MySql(MySql::new(server.url())));
    run.server = Some(server);
    run.assert_good(1200);
}

/// The primary is killed, its replica takes over, and a new replica takes the address of the old primary, again and again. The processes know
/// both addresses.
fn stays_consistent_when_a_synchronous_replica_is_promoted(kind: Kind) {
    let primary = Server::start_primary(kind);
    let replica = primary.synchronous_replica(None);
    let (url, hosts) = (primary.url(), vec![primary.host(), replica.host()]);
    let mut run = Run::new(match kind {
        Kind::Postgres => Database::Postgres(Postgres { hosts, ..Postgres::new(url) }),
        Kind::MySql => Database::MySql(MySql { hosts, ..MySql::new(url) }),
    });
    run.server = Some(primary);
    run.replica = Some(replica);
    run.assert_good(1200);
}

/// Holds even on a server whose commits do not wait for the disk. If the position were lost, another event could get
/// it.
fn a_position_that_was_read_survives_a_server_kill() {
    let mut server = Server::start(Kind::Postgres);
    let postgres = Postgres::new(server.url());
    let runtime = Runtime::new().unwrap();
    for round in 1..=3 {
        runtime.block_on(async {
            let store = postgres.open().await.unwrap();
            let append = Append::new(stream("a"), ExpectedVersion::Any, events(1));
            store.append(append).await.unwrap();
            assert_eq!(child::whole_log(&store).await.0.len(), round);
        });
        server.kill_and_start();
        assert_eq!(runtime.block_on(postgres.positions()), i64::try_from(round).unwrap());
    }
}

fn postgres() -> Database {
    Database::Postgres(Database::postgres())
}

fn mysql() -> Database {
    Database::MySql(MySql::named())
}

/// Breaks a rule and expects the checker to see it. A checker that misses broken rules proves nothing.
fn assert_found(database: fn() -> Database, fault: Fault, expected: &[&str]) {
    const ROUNDS: usize = 10;
    let started = Instant::now();
    for round in 1..=ROUNDS {
        let database = database();
        let mut run = Run::new(database.clone());
        run.kills = false;
        run.plant(fault);
        let found = violations(&run.history(500));
        block_on(database.remove());
        if let Some(first) = found.iter().find(|violation| expected.iter().any(|text| violation.contains(text))) {
            let seconds = started.elapsed().as_secs_f32();
            eprintln!("{fault:?}: {} violations in round {round}, {seconds:.1} s: {first}", found.len());
            return;
        }
    }
    panic!("{fault:?} went unnoticed for {ROUNDS} rounds");
}

/// Breaks a rule that the store checks when it opens.
fn assert_refused(database: fn() -> Database, fault: Fault) {
    let database = database();
    let mut run = Run::new(database.clone());
    run.plant(fault);
    let refused = block_on(database.open()).err().expect("the store opened");
    assert!(matches!(refused.kind(), ErrorKind::UnfitServer(_)), "{refused:?}");
    block_on(database.remove());
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    Runtime::new().unwrap().block_on(work)
}

/// One history while it is being made.
struct Run {
    database: Database,
    is_new: bool,
    random: Random,
    /// Whether the run kills writers now and then.
    kills: bool,
    server: Option<Server>,
    /// Has everything that the server has acknowledged.
    replica: Option<Server>,
    /// Whether a call failed that must not fail; the run then ends.
    failed: bool,
    history: History,
    lines: (Sender<Entry>, Receiver<Entry>),
    /// Number of acknowledged appends. Other sessions wait on it.
    acknowledged: watch::Sender<u64>,
}

impl Run {
    fn new(database: Database) -> Self {
        let seed =
            env::var(SEED).map_or_else(|_| RandomState::new().build_hasher().finish(), |seed| seed.parse().unwrap());
        eprintln!("{SEED}={seed}");
        Self {
            database,
            is_new: true,
            random: Random(seed),
            kills: true,
            server: None,
            replica: None,
            failed: false,
            history: History::default(),
            lines: channel(),
            acknowledged: watch::Sender::new(0),
        }
    }

    fn plant(&mut self, fault: Fault) {
        block_on(async {
            self.create().await;
            self.database.plant(fault).await;
        });
    }

    async fn create(&mut self) {
        // SQLite's file is created by the processes themselves, all at the same moment.
        if !take(&mut self.is_new) || matches!(self.database, Database::Sqlite(_)) {
            return;
        }
        self.database.create().await;
        self.database.open().await.unwrap();
    }

    fn assert_good(self, wanted: u64) {
        let started = Instant::now();
        let server = self.server.is_some();
        let history = self.history(wanted);
        let count = |kind: fn(&Entry) -> bool| history.entries.iter().filter(|entry| kind(entry)).count();
        let calls = count(|entry| matches!(entry, Entry::Called(_)));
        let refused = count(|entry| matches!(entry, Entry::Answered { answer: Answer::Refused, .. }));
        let unknown = count(|entry| matches!(entry, Entry::Answered { answer: Answer::Unknown(_), .. }));
        let pages = count(|entry| matches!(entry, Entry::Read(_)));
        let (events, seconds) = (history.log.len(), started.elapsed().as_secs_f32());
        eprintln!(
            "{calls} calls, {refused} refused, {unknown} unknown, {pages} pages, {events} events, {seconds:.1} s"
        );
        let interrupted = history.entries.iter().find(|entry| matches!(entry, Entry::Interrupted(_)));
        assert!(server || interrupted.is_none(), "{interrupted:?}");
        let found = violations(&history);
        assert!(found.is_empty(), "{} violations: {:#?}", found.len(), &found[..found.len().min(10)]);
    }

    /// Runs until `wanted` appends were acknowledged or, in the long form, until the time is over.
    fn history(mut self, wanted: u64) -> History {
        // The search for a planted fault uses short rounds in the long form too.
        let seconds = env::var(SECONDS).ok().filter(|_| self.kills);
        let until = seconds.map(|s| Instant::now() + Duration::from_secs(s.parse().unwrap()));
        let runtime = Runtime::new().unwrap();
        runtime.block_on(self.create());
        match &self.database {
            Database::Sqlite(_) => {}
            Database::Postgres(postgres) => {
                other_sessions::start(&runtime, postgres, &self.lines.0, &self.acknowledged);
            }
            Database::MySql(mysql) => mysql.start_other_sessions(&runtime, &self.lines.0, &self.acknowledged),
        }
        let mut writers: Vec<Process> =
            (0..WRITERS).map(|slot| self.start(Role::Write, format!("w{slot}"), vec![])).collect();
        let readers: Vec<Process> =
            (0..READERS).map(|slot| self.start(Role::Read, format!("r{slot}"), vec![])).collect();

        let every = wanted / 6;
        for disturbance in 1u64.. {
            let at = disturbance * every + self.random.below(every / 2);
            self.wait_for(at);
            let over = self.failed || until.map_or(at >= wanted, |until| Instant::now() >= until);
            if over {
                break;
            }
            match &mut self.server {
                Some(server) if disturbance % 2 == 0 => match self.replica.take() {
                    Some(replica) => self.replica = Some(fail_over(server, replica)),
                    None => server.kill_and_start(),
                },
                _ if self.kills => {
                    let slot = usize::try_from(self.random.below(WRITERS as u64)).unwrap();
                    self.replace(&mut writers[slot], format!("w{slot}-{disturbance}"));
                }
                _ => {}
            }
        }
        // The other sessions end their transactions, the writers finish their appends, and then the readers read to the
        // end.
        drop(take(&mut self.acknowledged));
        // A failed run can show nothing more, and its processes might never end.
        let end = |mut process: Process| if self.failed { drop(process.kill()) } else { process.stop() };
        writers.into_iter().for_each(end);
        readers.into_iter().for_each(end);
        drop(runtime);
        self.finish()
    }

    fn start(&mut self, role: Role, name: String, retries: Vec<Call>) -> Process {
        let seed = self.random.below(u64::MAX);
        let job = Job { role, database: self.database.clone(), seed, name, retries };
        Process::start(&job, self.lines.0.clone())
    }

    fn wait_for(&mut self, acknowledged: u64) {
        while !self.failed && *self.acknowledged.borrow() < acknowledged {
            let entry = self.lines.1.recv_timeout(STALL_TIMEOUT).expect("a process records a line in time");
            self.keep(entry);
        }
    }

    fn keep(&mut self, entry: Entry) {
        if let Entry::Answered { answer, .. } = &entry
            && answer.acknowledged().is_some()
        {
            self.acknowledged.send_modify(|acknowledged| *acknowledged += 1);
        }
        self.failed |= matches!(entry, Entry::Failed(_));
        self.history.entries.push(entry);
    }

    /// Kills a writer and starts a new one, which takes over the keyed appends without a known outcome.
    fn replace(&mut self, writer: &mut Process, name: String) {
        let dead = writer.kill();
        while let Ok(entry) = self.lines.1.try_recv() {
            self.keep(entry);
        }
        let mut open = HashMap::new();
        for entry in &self.history.entries {
            match entry {
                Entry::Called(call) if call.keyed && call.append.starts_with(&format!("{dead}.")) => {
                    open.insert(&call.append, call);
                }
                Entry::Answered { append, answer, .. } if !matches!(answer, Answer::Unknown(_)) => {
                    open.remove(append);
                }
                _ => {}
            }
        }
        let retries = open.into_values().cloned().collect();
        *writer = self.start(Role::Write, name, retries);
    }

    /// Adds the final log and the positions of some of its appends.
    fn finish(mut self) -> History {
        drop(self.lines.0);
        self.history.entries.extend(self.lines.1.iter());
        let mut asked = Vec::new();
        block_on(async {
            let store = self.database.open().await.unwrap();
            let (log, failed) = child::whole_log(&*store).await;
            self.history.log = log;
            asked.extend(failed.map(Entry::Failed));
            let acknowledged = self.history.entries.iter().filter_map(|entry| match entry {
                Entry::Answered { append, answer, .. } => Some((append, answer.acknowledged()?.0.parse().unwrap())),
                _ => None,
            });
            for (append, token) in acknowledged.step_by(10) {
                match store.position_of(token).await {
                    Ok(Some(position)) => {
                        let position = position.get();
                        asked.push(Entry::Placed { append: append.clone(), position });
                    }
                    other => asked.push(Entry::Failed(format!("position of {append}: {other:?}"))),
                }
            }
            store.close().await.unwrap();
        });
        self.history.entries.extend(asked);
        self.history
    }
}

/// Replaces a primary by its replica, and returns a new replica.
fn fail_over(primary: &mut Server, replica: Server) -> Server {
    let mut old = std::mem::replace(primary, replica);
    old.kill();
    primary.take_over();
    primary.synchronous_replica(Some(&old))
}

/// A child process, and the thread that receives its lines.
struct Process {
    name: String,
    child: Child,
    lines: JoinHandle<()>,
}

impl Process {
    fn start(job: &Job, lines: Sender<Entry>) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.env(JOB, serde_json::to_string(job).unwrap()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let lines = spawn(move || {
            for line in output.split(b'\n').map_while(Result::ok) {
                // The kill may have cut off the last line.
                let Ok(entry) = serde_json::from_slice(&line) else { return };
                lines.send(entry).unwrap();
            }
        });
        Self { name: job.name.clone(), child, lines }
    }

    /// Kills the process with SIGKILL and returns its name. All its lines are in the channel when this returns.
    fn kill(&mut self) -> String {
        self.child.kill().unwrap();
        assert_eq!(self.child.wait().unwrap().signal(), Some(9), "{} ended before the kill", self.name);
        let lines = std::mem::replace(&mut self.lines, spawn(|| ()));
        lines.join().unwrap();
        self.name.clone()
    }

    /// Stops the process after it has finished its current work.
    fn stop(mut self) {
        drop(self.child.stdin.take());
        let status: ExitStatus = self.child.wait().unwrap();
        assert!(status.success(), "{} ended with {status}", self.name);
        self.lines.join().unwrap();
    }
}
