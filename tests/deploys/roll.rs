//! Starts, stops and kills the processes of both releases, and notes what they print.

use std::collections::{BTreeMap, HashSet};
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use retell::broker::rabbitmq::topology::Topology;
use retell::{Repository, View};
use tokio::runtime::Runtime;

use crate::databases::{Database, Store};
use crate::program::{Job, Line, RELAY, broker};
use crate::releases::{Credit, second};
use crate::trials::child;
use crate::verdict;

/// The commands that each process executes before the next step.
const COMMANDS: usize = 15;

/// Fails the test after this long without progress.
const STALL_TIMEOUT: Duration = Duration::from_mins(1);

/// An acknowledged command.
#[derive(Debug, Clone)]
pub(crate) struct Done {
    pub(crate) program: usize,
    pub(crate) command: String,
    pub(crate) account: String,
    pub(crate) version: u64,
}

/// The lines that processes print, with the number of the process.
type Lines = (Sender<(usize, Line)>, Receiver<(usize, Line)>);

pub(crate) struct Roll {
    pub(crate) database: Database,
    pub(crate) topology: Topology,
    pub(crate) store: Store,
    pub(crate) done: Vec<Done>,
    runtime: Runtime,
    /// The processes that run, by their numbers.
    programs: BTreeMap<usize, Program>,
    started: usize,
    /// The processes that could not execute a command, because the account has events of the newer release.
    behind: HashSet<usize>,
    /// The processes and views whose worker has waited for the newer release.
    waited: HashSet<(usize, String)>,
    lines: Lines,
}

struct Program {
    child: Child,
    reader: JoinHandle<()>,
}

impl Roll {
    pub(crate) fn new(database: Database) -> Self {
        let runtime = Runtime::new().unwrap();
        let store = runtime.block_on(database.place.open()).unwrap();
        let topology = Topology::new().with_prefix(&format!("deploys-{}.", uuid::Uuid::new_v4()));
        runtime.block_on(broker(&topology).declare()).unwrap();
        Self {
            database,
            topology,
            store,
            done: Vec::new(),
            runtime,
            programs: BTreeMap::new(),
            started: 0,
            behind: HashSet::new(),
            waited: HashSet::new(),
            lines: channel(),
        }
    }

    /// Rolls the newer release out, back, and out again. The processes never all stop.
    pub(crate) fn back_and_forth(mut self) {
        let newer = self.roll_out();
        let [killed, stopped] = self.roll_back(newer);
        self.kill(killed);
        let killed = self.start(2);
        self.advance();
        self.stop(stopped);
        let last = self.start(2);
        self.advance();
        self.kill(killed);
        self.advance();
        self.stop(last);
        self.runtime.block_on(verdict::check(&self));
    }

    /// Returns two processes of the newer release.
    fn roll_out(&mut self) -> [usize; 2] {
        let [older, killed] = [self.start(1), self.start(1)];
        self.advance();
        self.until("release 1 keeps the views", |roll| roll.applied_by(1) > 0);
        self.kill(killed);
        let first = self.start(2);
        self.advance();
        self.until_behind(older);
        self.stop(older);
        let second = self.start(2);
        self.advance();
        self.until("release 2 keeps the views", |roll| roll.applied_by(2) > 0);
        [first, second]
    }

    /// Replaces two processes of the newer release by two of the older one.
    fn roll_back(&mut self, [killed, stopped]: [usize; 2]) -> [usize; 2] {
        self.kill(killed);
        let first = self.start(1);
        self.advance();
        self.until_behind(first);
        self.stop(stopped);
        let older = [first, self.start(1)];
        self.advance();
        self.until_behind(older[1]);
        self.leave_an_event_of_the_newer_release();
        for view in [second::Balances::NAME, second::ByAccount::NAME] {
            self.until("a worker of release 1 waits for release 2", |roll| {
                older.iter().any(|&number| roll.waited.contains(&(number, view.to_owned())))
            });
        }
        older
    }

    /// Executes a command of release 2, which has no process now. Only its workers can apply the event.
    fn leave_an_event_of_the_newer_release(&mut self) {
        let accounts = Repository::<second::Account>::over(self.store.events.clone());
        let (account, command) = ("test".to_owned(), "test.0".to_owned());
        let credit = Credit { command: command.clone(), cents: 1 };
        let executed = self.runtime.block_on(accounts.execute(&*account, credit)).unwrap();
        self.done.push(Done { program: 0, command, account, version: executed.version.get() });
    }

    fn start(&mut self, release: u32) -> usize {
        self.started += 1;
        let (number, lines) = (self.started, self.lines.0.clone());
        let (place, topology) = (self.database.place.clone(), self.topology.clone());
        let job = Job { release, name: format!("p{number}"), place, topology };
        let mut child = child(&job).stdin(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let reader = spawn(move || {
            for line in output.lines() {
                lines.send((number, serde_json::from_str(&line.unwrap()).unwrap())).unwrap();
            }
        });
        self.programs.insert(number, Program { child, reader });
        number
    }

    fn kill(&mut self, number: usize) {
        let mut program = self.programs.remove(&number).unwrap();
        program.child.kill().unwrap();
        assert_eq!(program.child.wait().unwrap().signal(), Some(9), "process {number} ended before the kill");
        self.read_to_end(program.reader);
    }

    /// Stops a process in order.
    fn stop(&mut self, number: usize) {
        let mut program = self.programs.remove(&number).unwrap();
        drop(program.child.stdin.take());
        let status = program.child.wait().unwrap();
        assert!(status.success(), "process {number} ended with {status}");
        self.read_to_end(program.reader);
    }

    fn read_to_end(&mut self, reader: JoinHandle<()>) {
        reader.join().unwrap();
        self.read();
    }

    fn read(&mut self) {
        while let Ok((program, line)) = self.lines.1.try_recv() {
            match line {
                Line::Done { command, account, version } => {
                    self.done.push(Done { program, command, account, version });
                }
                Line::Behind => {
                    self.behind.insert(program);
                }
                Line::Waits { view } => {
                    self.waited.insert((program, view));
                }
            }
        }
    }

    fn executed_by(&self, number: usize) -> usize {
        self.done.iter().filter(|done| done.program == number).count()
    }

    /// Waits until each process has executed more commands, and the relay has published what the log had before.
    fn advance(&mut self) {
        let wanted: Vec<_> =
            self.programs.keys().map(|&number| (number, self.executed_by(number) + COMMANDS)).collect();
        let head = self.runtime.block_on(self.store.events.head()).unwrap();
        self.until("each process executes commands", |roll| {
            wanted.iter().all(|&(number, commands)| roll.executed_by(number) >= commands)
        });
        self.until("the relay publishes", |roll| {
            roll.runtime.block_on(roll.store.relays.mark(RELAY)).unwrap().position >= head
        });
    }

    /// Waits until a process of the older release has found events that it does not know, and has then executed other commands.
    fn until_behind(&mut self, number: usize) {
        self.until("the older release is behind", |roll| roll.behind.contains(&number));
        let commands = self.executed_by(number) + 1;
        self.until("it continues on other accounts", |roll| roll.executed_by(number) >= commands);
    }

    /// Returns the number of events that the release has applied to the view for which it has applied fewer.
    fn applied_by(&self, release: usize) -> u64 {
        let rows = self.runtime.block_on(verdict::rows(&self.database.place));
        let applied = rows.iter().map(|rows| rows.values().map(|row| row.applied_by[release - 1]).sum::<u64>());
        applied.min().unwrap_or_default()
    }

    fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let started = Instant::now();
        loop {
            self.read();
            if holds(self) {
                return;
            }
            for (number, program) in &mut self.programs {
                let ended = program.child.try_wait().unwrap();
                assert!(ended.is_none(), "process {number} ended early: {ended:?}");
            }
            assert!(started.elapsed() < STALL_TIMEOUT, "not in time: {what}");
            sleep(Duration::from_millis(20));
        }
    }
}

/// Leaves no process running after a failure.
impl Drop for Roll {
    fn drop(&mut self) {
        for program in self.programs.values_mut() {
            drop(program.child.kill().and_then(|()| program.child.wait()));
        }
    }
}
