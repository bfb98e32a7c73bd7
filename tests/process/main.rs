//! Process managers: events in, commands out, deadlines in between, each once in effect, also where the manager is killed between any two
//! steps; and scenarios of one. Needs `POSTGRES_URL` and `MYSQL_URL`.
//!
//! The test binary starts itself again as the process to be killed, which is why it has a `main` of its own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/databases.rs"]
mod databases;
mod domain;
mod killed;
mod managed;
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
        tests.push(test(format!("killed_between_any_two_steps_it_does_each_thing_once_on_{kind}"), move || {
            killed::does_each_thing_once(&block_on(empty(kind)).place);
        }));
    }
    tests
}
