//! Process managers: events in, commands out, deadlines in between, each once in effect, also where the manager is killed between any two
//! steps. Needs `POSTGRES_URL` and `MYSQL_URL`.
//!
//! The test binary starts itself again as the process to be killed, which is why it has a `main` of its own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/databases.rs"]
mod databases;
mod domain;
mod killed;
mod managed;

use libtest_mimic::{Arguments, Trial};
use tokio::runtime::Runtime;

use databases::Database;
use killed::Job;

fn main() {
    match Job::of_this_process() {
        Some(job) => block_on(job.run()),
        None => libtest_mimic::run(&Arguments::from_args(), tests()).exit(),
    }
}

fn tests() -> Vec<Trial> {
    let mut tests = Vec::new();
    for kind in ["sqlite", "postgres", "mysql"] {
        for (name, run) in managed::TESTS {
            tests.push(test(format!("{name}_on_{kind}"), move || {
                block_on(async { run(empty(kind).await.place.clone()).await });
            }));
        }
        tests.push(test(format!("killed_between_any_two_steps_it_does_each_thing_once_on_{kind}"), move || {
            killed::does_each_thing_once(&block_on(empty(kind)).place);
        }));
    }
    tests
}

fn test(name: String, run: impl FnOnce() + Send + 'static) -> Trial {
    Trial::test(name, move || {
        run();
        Ok(())
    })
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    Runtime::new().unwrap().block_on(work)
}

async fn empty(kind: &str) -> Database {
    match kind {
        "sqlite" => Database::sqlite(),
        "postgres" => Database::postgres().await,
        _ => Database::mysql().await,
    }
}
