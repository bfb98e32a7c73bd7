//! Opens, reads and writes logs that earlier releases have left. Needs `POSTGRES_URL` and `MYSQL_URL`.
//!
//! Each folder of `tests/fixtures` that is named after a release has a dump of the same log for each database.
//! `tests/fixtures/make.sh` creates the dumps of the current version with this program, so it has its own `main`.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/databases.rs"]
mod databases;
mod dump;
mod log;
#[path = "../support/programs.rs"]
mod programs;

use std::path::PathBuf;
use std::{env, fs};

use libtest_mimic::{Arguments, Trial};
use tokio::runtime::Runtime;

use databases::Database;

/// The names of the dumps, one for each database.
const KINDS: [&str; 3] = ["sqlite", "postgres", "mysql"];

fn main() {
    if env::var_os("RETELL_MAKE_FIXTURES").is_some() {
        return KINDS.into_iter().for_each(make);
    }
    let mut tests = Vec::new();
    for release in releases() {
        for kind in KINDS {
            let (release, name) = (release.clone(), format!("a_{kind}_log_of_{release}_is_opened_read_and_written"));
            let schema = format!("a_{kind}_schema_of_{release}_becomes_a_fresh_one");
            let fixture = release.clone();
            tests.push(Trial::test(name, move || {
                opened(&release, kind);
                Ok(())
            }));
            tests.push(Trial::test(schema, move || {
                becomes_fresh(&fixture, kind);
                Ok(())
            }));
        }
    }
    assert!(!tests.is_empty(), "there are no fixtures");
    libtest_mimic::run(&Arguments::from_args(), tests).exit()
}

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

fn releases() -> Vec<String> {
    let entries = fs::read_dir(fixtures()).unwrap().map(|entry| entry.unwrap());
    let folders = entries.filter(|entry| entry.file_type().unwrap().is_dir());
    let names = folders.map(|entry| entry.file_name().into_string().unwrap());
    // The folder also has other files that outlive the code.
    let mut releases: Vec<_> = names.filter(|name| name.starts_with(|first: char| first.is_ascii_digit())).collect();
    releases.sort();
    releases
}

async fn empty(kind: &str) -> Database {
    match kind {
        "sqlite" => Database::sqlite(),
        "postgres" => Database::postgres().await,
        _ => Database::mysql().await,
    }
}

fn make(kind: &str) {
    let runtime = Runtime::new().unwrap();
    let database = runtime.block_on(empty(kind));
    let sql = runtime.block_on(async {
        log::write(&database.place).await;
        dump::steady(&database.place).await;
        dump::of(&database.place).await
    });
    let folder = fixtures().join(env!("CARGO_PKG_VERSION"));
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(kind).with_extension("sql"), sql).unwrap();
    eprintln!("{}", folder.join(kind).with_extension("sql").display());
}

/// Returns a database with the dump of a release.
async fn restore(release: &str, kind: &str) -> Database {
    let database = empty(kind).await;
    let sql = fs::read_to_string(fixtures().join(release).join(kind).with_extension("sql")).unwrap();
    if kind == "mysql" {
        // MySQL keeps the semicolon after a trigger as a part of its body if more statements follow.
        for statement in sql.split(";\n").filter(|statement| !statement.trim().is_empty()) {
            database.place.run(statement).await;
        }
    } else {
        database.place.run(&sql).await;
    }
    database
}

/// Asserts that opening a log upgrades its schema to exactly that of a new log.
fn becomes_fresh(release: &str, kind: &str) {
    let runtime = Runtime::new().unwrap();
    let (old, new) = runtime.block_on(async { (restore(release, kind).await, empty(kind).await) });
    let schema = |database: &Database| {
        runtime.block_on(async {
            database.place.open().await.unwrap().events.close().await.unwrap();
            dump::schema(&database.place).await
        })
    };
    let (old, new) = (schema(&old), schema(&new));
    assert!(new.contains("checkpoints"), "{new}");
    for (old, new) in old.lines().zip(new.lines()) {
        assert_eq!(old, new);
    }
    assert_eq!(old, new);
}

fn opened(release: &str, kind: &str) {
    let runtime = Runtime::new().unwrap();
    let database = runtime.block_on(restore(release, kind));
    runtime.block_on(async {
        log::check(&database.place).await;
    });
}
