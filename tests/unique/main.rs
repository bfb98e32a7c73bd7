//! Unique values from end to end: commands, callers' transactions, and processes that are killed, on every database. Needs `POSTGRES_URL`
//! and `MYSQL_URL`.
//!
//! The test binary starts itself again as the process to be killed, which is why it has a `main` of its own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod callers;
mod commands;
#[path = "../support/databases.rs"]
mod databases;
mod killed;

use std::env;
use std::process::{Command, Stdio};

use libtest_mimic::{Arguments, Trial};
use tokio::runtime::Runtime;

use databases::Database;

/// What a child process is to do.
const ROLE: &str = "RETELL_TEST_ROLE";

fn main() {
    match env::var(ROLE).as_deref() {
        Ok(job) => block_on(killed::write(&serde_json::from_str(job).unwrap())),
        Err(_) => libtest_mimic::run(&Arguments::from_args(), tests()).exit(),
    }
}

fn tests() -> Vec<Trial> {
    let mut tests = vec![
        test("a_sqlite_append_whose_work_fails_reserves_nothing".into(), || {
            block_on(callers::a_sqlite_append_whose_work_fails_reserves_nothing());
        }),
        test("a_callers_transaction_reserves_with_its_commit_on_postgres".into(), || {
            block_on(async { callers::postgres(&Database::postgres().await.place).await });
        }),
        test("a_callers_transaction_reserves_with_its_commit_on_mysql".into(), || {
            block_on(async { callers::mysql(&Database::mysql().await.place).await });
        }),
    ];
    for kind in ["sqlite", "postgres", "mysql"] {
        tests.push(test(format!("of_fifty_users_with_one_address_one_is_registered_on_{kind}"), move || {
            block_on(async { commands::fifty_users(&empty(kind).await.place).await });
        }));
        tests.push(test(format!("killed_writers_leave_no_value_without_its_event_on_{kind}"), move || {
            killed::writers_leave_no_value_without_its_event(&block_on(empty(kind)).place);
        }));
    }
    for (name, run) in commands::TESTS {
        tests.push(test((*name).to_owned(), || block_on(run())));
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

fn child(role: &str) -> Command {
    let mut command = Command::new(env::current_exe().unwrap());
    command.env(ROLE, role).stdout(Stdio::piped());
    command
}
