//! A database that goes back in time under running processes, and the operator who resets what remembers the lost events.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use retell::rusqlite::Connection;
use retell::rusqlite::backup::{Backup, StepResult};
use retell::store::EventReaderExt;
use retell::{Mark, Position};
use tempfile::TempDir;

use crate::databases::Place;
use crate::proxy::Proxy;
use crate::run::{Kind, Process, Run, STALL_TIMEOUT, address};
use crate::server::Server;

/// The exit status of a process that stopped because the log has another history.
pub(crate) const HISTORY_CHANGED: i32 = 86;

/// The part of the run's data that goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Log,
    LogAndModels,
}

/// An older state of the database, ready to take over.
pub(crate) enum Standby {
    /// An asynchronous replica. The processes connect through the proxy.
    Replica(Server, Proxy),
    /// A folder for copies of the files.
    Files(TempDir, Part),
}

impl Standby {
    /// Lets the standby miss everything that is written from now on.
    pub(crate) fn leave(&self, run: &Run) {
        match self {
            Self::Replica(replica, _) => replica.leave(run.server.as_ref().unwrap()),
            Self::Files(folder, part) => {
                for path in part.files(run) {
                    let copy = copy_in(folder, &path);
                    drop(fs::remove_file(&copy));
                    let db = connect(&path);
                    db.execute("VACUUM INTO ?1", [copy.to_str().unwrap()]).unwrap();
                }
            }
        }
    }

    /// Puts the standby in the place of the database, and returns one for the next time.
    pub(crate) fn take_over(self, run: &mut Run) -> Self {
        let next = match self {
            Self::Replica(replica, proxy) => {
                run.server.as_mut().unwrap().kill();
                replica.promote();
                let url = run.url().replacen(&address(run.url()), &address(&replica.url()), 1);
                run.place = if run.kind == Kind::Postgres { Place::Postgres(url) } else { Place::MySql(url) };
                proxy.redirect(address(&replica.url()));
                let next = replica.replica();
                run.server = Some(replica);
                Self::Replica(next, proxy)
            }
            Self::Files(folder, part) => {
                let is_running = run.random.below(2) == 0;
                if !is_running {
                    run.kill_all();
                }
                for path in part.files(run) {
                    if is_running {
                        restore(&copy_in(&folder, &path), &path);
                    } else {
                        replace(&copy_in(&folder, &path), &path);
                    }
                }
                if !is_running {
                    run.start_all();
                }
                Self::Files(folder, part)
            }
        };
        run.continue_from_log();
        next
    }
}

impl Part {
    fn files(self, run: &Run) -> Vec<PathBuf> {
        let Place::Sqlite(log) = &run.place else { unreachable!("a file") };
        match self {
            Self::Log => vec![log.clone()],
            // The read models first, as a backup should do.
            Self::LogAndModels => vec![log.with_extension("models"), log.clone()],
        }
    }
}

fn copy_in(folder: &TempDir, path: &Path) -> PathBuf {
    folder.path().join(path.file_name().unwrap())
}

fn connect(path: &Path) -> Connection {
    let db = Connection::open(path).unwrap();
    db.busy_timeout(STALL_TIMEOUT).unwrap();
    db
}

/// Writes an older state into a file that processes have open.
fn restore(from: &Path, to: &Path) {
    let (from, mut to) = (connect(from), connect(to));
    let backup = Backup::new(&from, &mut to).unwrap();
    let started = Instant::now();
    while !matches!(backup.step(-1).unwrap(), StepResult::Done) {
        assert!(started.elapsed() < STALL_TIMEOUT, "the file stays locked");
        sleep(Duration::from_millis(1));
    }
}

/// Copies an older file over one that no process has open.
fn replace(from: &Path, to: &Path) {
    for side in ["-wal", "-shm"] {
        let mut name = to.to_path_buf().into_os_string();
        name.push(side);
        drop(fs::remove_file(name));
    }
    fs::copy(from, to).unwrap();
}

impl Run {
    /// Does what the operator does: processes that stopped because the log's history changed are started again after a reset, and all others
    /// must be running.
    pub(crate) fn attend(&mut self) {
        let stopped = |processes: &mut Vec<Process>| {
            let stopped = |process: &mut Process| process.has_stopped_for_history(self.history_may_change);
            processes.iter_mut().map(stopped).collect::<Vec<_>>()
        };
        let (relays, workers) = (stopped(&mut self.relays), stopped(&mut self.workers));
        if relays.contains(&true) {
            self.reset_relay();
        }
        for (slot, _) in relays.iter().enumerate().filter(|(_, has_stopped)| **has_stopped) {
            self.relays[slot] = self.process(self.relay);
        }
        if !workers.contains(&true) {
            return;
        }
        // A reset asks for this if the projection has order per aggregate.
        let is_parallel = self.worker.has_order_per_aggregate();
        if is_parallel {
            self.workers.drain(..).for_each(Process::stop_for_history);
        }
        self.reset_models();
        self.resets += 1;
        for (slot, has_stopped) in workers.into_iter().enumerate() {
            if is_parallel {
                let worker = self.process(self.worker);
                self.workers.push(worker);
            } else if has_stopped {
                self.workers[slot] = self.process(self.worker);
            }
        }
    }

    /// Waits until the read model has applied the event at the head of the log, whatever it remembered before.
    pub(crate) fn settle(&mut self) {
        let head = self.runtime.block_on(async {
            let log = self.place.open().await.unwrap().events;
            log.mark_at(log.head().await.unwrap()).await.unwrap()
        });
        let (mut last, mut moved) = (Mark::START, Instant::now());
        while last != head {
            let mark = self.mark();
            if mark != last {
                (last, moved) = (mark, Instant::now());
            }
            assert!(moved.elapsed() < STALL_TIMEOUT, "the model stopped at {last:?}, expected {head:?}");
            self.attend();
            sleep(Duration::from_millis(20));
        }
    }

    /// Takes the log as it is now for the truth: its lost events never happened.
    fn continue_from_log(&mut self) {
        let head = self.runtime.block_on(async { self.place.open().await.unwrap().events.head().await.unwrap() });
        assert!(head < self.appended(), "no event was lost");
        eprintln!("the log went back from {} to {head}", self.appended());
        self.set_appended(head);
    }

    fn url(&self) -> &str {
        match &self.place {
            Place::Postgres(url) | Place::MySql(url) => url,
            Place::Sqlite(_) => unreachable!("a file has no server"),
        }
    }

    fn reset_relay(&self) {
        let reset = async { self.place.open().await?.relays.reset("chaos", Position::ZERO.into()).await };
        self.runtime.block_on(reset).unwrap();
    }
}
