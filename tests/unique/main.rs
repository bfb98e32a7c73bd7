//! Tests of unique values from end to end, on every database: commands, callers' transactions, and processes that are
//! killed. Needs `POSTGRES_URL` and `MYSQL_URL`.
//!
//! The test binary starts itself again as the process to kill, so it has its own `main`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod callers;
mod commands;
#[path = "../support/databases.rs"]
mod databases;
mod killed;
#[path = "../support/trials.rs"]
mod trials;

use libtest_mimic::Trial;

use databases::Database;
use killed::Job;
use trials::{KINDS, block_on, empty, test};

fn main() {
    trials::run(tests, async |job: Job| killed::write(&job).await);
}

fn tests() -> Vec<Trial> {
    let mut tests = vec![
        test("a_sqlite_append_whose_work_fails_reserves_nothing", || {
            block_on(callers::a_sqlite_append_whose_work_fails_reserves_nothing());
        }),
        test("a_callers_transaction_reserves_with_its_commit_on_postgres", || {
            block_on(async { callers::postgres(&Database::postgres().await.place).await });
        }),
        test("a_callers_transaction_reserves_with_its_commit_on_mysql", || {
            block_on(async { callers::mysql(&Database::mysql().await.place).await });
        }),
    ];
    for kind in KINDS {
        tests.push(test(format!("one_of_fifty_users_gets_the_address_on_{kind}"), move || {
            block_on(async { commands::fifty_users(&empty(kind).await.place).await });
        }));
        tests.push(test(format!("killed_writers_leave_no_value_without_its_event_on_{kind}"), move || {
            killed::writers_leave_no_value_without_its_event(&block_on(empty(kind)).place);
        }));
    }
    for (name, run) in commands::TESTS {
        tests.push(test(*name, || block_on(run())));
    }
    tests
}
