//! A rolling deploy with real processes: two releases of one program run side by side between a real RabbitMQ and a real database. They are
//! started, stopped and killed in turn while all of them execute commands, relay and keep views.
//!
//! The test binary starts itself as the processes, so it has its own `main`. Needs `AMQP_URL`, `POSTGRES_URL` and `MYSQL_URL`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/databases.rs"]
mod databases;
#[path = "../support/models.rs"]
mod models;
mod program;
mod releases;
mod roll;
#[path = "../support/trials.rs"]
mod trials;
mod verdict;

use libtest_mimic::Trial;

use program::Job;
use roll::Roll;
use trials::{KINDS, block_on, empty, test};

fn main() {
    trials::run(tests, Job::run);
}

fn tests() -> Vec<Trial> {
    let on = |kind| {
        test(format!("two_releases_change_places_on_{kind}"), move || Roll::new(block_on(empty(kind))).back_and_forth())
    };
    KINDS.into_iter().map(on).collect()
}
