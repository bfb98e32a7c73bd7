//! The `main` of a test binary that starts itself again as the process to kill.

use std::env;
use std::process::{Command, Stdio};

use libtest_mimic::{Arguments, Trial};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;

use crate::databases::Database;

/// The environment variable that holds the job of a child process as JSON.
const JOB: &str = "RETELL_TEST_JOB";

pub(crate) const KINDS: [&str; 3] = ["sqlite", "postgres", "mysql"];

/// Runs the tests, or the job if this is a child process.
pub(crate) fn run<J: DeserializeOwned>(tests: impl FnOnce() -> Vec<Trial>, work: impl AsyncFnOnce(J)) {
    match env::var(JOB) {
        Ok(job) => block_on(work(serde_json::from_str(&job).unwrap())),
        Err(_) => libtest_mimic::run(&Arguments::from_args(), tests()).exit(),
    }
}

/// Returns a command that starts this binary as a child with a job.
pub(crate) fn child(job: &impl Serialize) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.env(JOB, serde_json::to_string(job).unwrap()).stdout(Stdio::piped());
    command
}

pub(crate) fn test(name: impl Into<String>, run: impl FnOnce() + Send + 'static) -> Trial {
    Trial::test(name, move || {
        run();
        Ok(())
    })
}

pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> T {
    Runtime::new().unwrap().block_on(work)
}

pub(crate) async fn empty(kind: &str) -> Database {
    match kind {
        "sqlite" => Database::sqlite(),
        "postgres" => Database::postgres().await,
        _ => Database::mysql().await,
    }
}
