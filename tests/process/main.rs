//! Process managers: events lead to commands and deadlines, each with one effect, even if the manager is killed between any two steps; and
//! scenarios of one process. Needs `POSTGRES_URL` and `MYSQL_URL`.
//!
//! The test binary starts itself as the process to kill, so it has its own `main`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/databases.rs"]
mod databases;
mod domain;
mod killed;
mod managed;
#[path = "../support/models.rs"]
mod models;
mod scenarios;
#[path = "../support/trials.rs"]
mod trials;

use libtest_mimic::Trial;

use trials::{KINDS, block_on, empty, test};

fn main() {
    trials::run(tests, killed::Job::run);
}

fn tests() -> Vec<Trial> {
    let mut tests: Vec<_> = scenarios::TESTS.into_iter().map(|(name, run)| test(name, run)).collect();
    for kind in KINDS {
        for (name, run) in managed::TESTS {
            tests.push(test(format!("{name}_on_{kind}"), move || {
                block_on(async { run(empty(kind).await.place.clone()).await });
            }));
        }
        tests.push(test(format!("a_manager_killed_between_steps_does_each_once_on_{kind}"), move || {
            killed::does_each_thing_once(&block_on(empty(kind)).place);
        }));
    }
    tests
}
