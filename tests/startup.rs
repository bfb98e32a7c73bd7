//! Several processes start at the same moment on an empty database. Needs `POSTGRES_URL` and `MYSQL_URL`.
//!
//! The test binary starts itself as those processes, so it has its own `main`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/databases.rs"]
mod databases;

use std::env;
use std::io::{Read, Write};
use std::process::{Child, Command, Stdio};

use libtest_mimic::{Arguments, Trial};
use retell::testing::store::{events, stream, whole_log};
use retell::{ExpectedVersion, Position, store::Append};
use tokio::runtime::Runtime;

use databases::{Database, Place};

const JOB: &str = "RETELL_STARTUP_JOB";

const PROCESSES: u64 = 8;
const APPENDS: u64 = 10;

fn main() {
    if let Ok(job) = env::var(JOB) {
        let (place, process): (Place, u64) = serde_json::from_str(&job).unwrap();
        return Runtime::new().unwrap().block_on(start(&place, process));
    }
    let tests = [
        trial("eight_processes_open_migrate_and_append_at_once_in_postgres", Database::postgres),
        trial("eight_processes_open_migrate_and_append_at_once_in_mysql", Database::mysql),
        trial("eight_processes_open_migrate_and_append_at_once_in_sqlite", || async { Database::sqlite() }),
    ];
    libtest_mimic::run(&Arguments::from_args(), tests.into()).exit()
}

fn trial<D: Future<Output = Database>>(name: &str, database: impl FnOnce() -> D + Send + 'static) -> Trial {
    Trial::test(name, move || {
        let runtime = Runtime::new().unwrap();
        let database = runtime.block_on(database());
        eight_at_once(&runtime, &database.place);
        Ok(())
    })
}

fn eight_at_once(runtime: &Runtime, place: &Place) {
    let mut processes: Vec<Child> = (0..PROCESSES).map(|process| child(place, process)).collect();
    for process in &mut processes {
        // The process runs and waits for the signal to start.
        process.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    }
    for process in &mut processes {
        process.stdin.as_mut().unwrap().write_all(b"!").unwrap();
    }
    for (process, number) in processes.into_iter().zip(0..) {
        let output = process.wait_with_output().unwrap();
        assert!(output.status.success(), "process {number}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let log = runtime.block_on(async { whole_log(&*place.open().await.unwrap().events).await.unwrap() });
    assert!(
        log.iter().zip(1..).all(|(event, position)| event.position == Position::new(position)),
        "positions have no gaps"
    );
    let versions = |id: String| -> Vec<u64> {
        log.iter().filter(|event| event.stream == stream(&id)).map(|event| event.version.get()).collect()
    };
    assert_eq!(versions("shared".into()), (1..=PROCESSES * APPENDS).collect::<Vec<_>>());
    for process in 0..PROCESSES {
        assert_eq!(versions(process.to_string()), (1..=2 * APPENDS).collect::<Vec<_>>());
    }
}

fn child(place: &Place, process: u64) -> Child {
    let mut command = Command::new(env::current_exe().unwrap());
    command.env(JOB, serde_json::to_string(&(place, process)).unwrap());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Runs in one of the eight processes.
async fn start(place: &Place, process: u64) {
    std::io::stdout().write_all(b"?").unwrap();
    std::io::stdout().flush().unwrap();
    std::io::stdin().read_exact(&mut [0]).unwrap();
    let store = place.open().await.unwrap().events;
    for _ in 0..APPENDS {
        let own = stream(&process.to_string());
        let append = Append::new(stream("shared"), ExpectedVersion::Any, events(1)).with_stream(
            own,
            ExpectedVersion::Any,
            events(2),
        );
        store.append(append).await.unwrap();
        store.head().await.unwrap();
    }
    store.close().await.unwrap();
}
