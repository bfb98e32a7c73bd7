//! Looks at a file for everything that would break a promise.

mod models;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rusqlite::Connection;

use crate::error::{Error, ErrorKind, chain};
use crate::finding::{Examine, Finding, Severity};
use crate::store::sqlite::connection::Pool;
use crate::store::sqlite::error::Failure;
use crate::store::sqlite::health::{self, Health};
use crate::store::sqlite::migrate::TABLES;
use crate::store::sqlite::store::SqliteStore;

/// The largest file whose pages are all checked: some seconds of reading.
const CHECKED_BYTES: u64 = 1024 * 1024 * 1024;

/// The size of a write-ahead log that no healthy process leaves.
const LARGE_WAL_BYTES: u64 = 64 * 1024 * 1024;

#[async_trait]
impl Examine for SqliteStore {
    fn part(&self) -> String {
        "log in SQLite".into()
    }

    async fn examine(&self, _: Duration) -> Option<Vec<Finding>> {
        let mut found = Found::default();
        if found.of_file(&self.writer.pool, &self.readers, &WANTED).await {
            found.add("durability", self.writer.pool.run("examine the file", durability).await);
            found.add("health", self.health().await.map(|health| figures(&health)));
        }
        Some(found.0)
    }
}

/// The findings of a file.
#[derive(Default)]
struct Found(Vec<Finding>);

impl Found {
    /// Adds the findings of a check. An error is the finding that it could not run.
    fn add(&mut self, check: &str, found: Result<Vec<Finding>, Error>) {
        match found {
            Ok(found) => self.0.extend(found),
            Err(error) => {
                let causes: Vec<_> = chain(&error).map(ToString::to_string).collect();
                self.0.push(Finding::unknown(check, causes.join(": ")));
            }
        }
    }

    /// Examines what a log and read models share. Returns whether the file is still the one at its path.
    async fn of_file(&mut self, writer: &Arc<Pool>, readers: &Arc<Pool>, wanted: &'static [(&str, &str)]) -> bool {
        if let Err(error) = writer.check_files() {
            let is_closed = matches!(error.kind(), ErrorKind::Closed(_));
            self.add("everything", if is_closed { Err(error) } else { Ok(vec![replaced(&error)]) });
            return false;
        }
        self.add("settings", writer.run("examine the file", settings).await);
        self.add("triggers and indexes", readers.run("examine the schema", |db| schema(db, wanted)).await);
        self.add("pages", readers.run("check the pages", pages).await);
        self.add("write-ahead log", readers.run("examine the write-ahead log", |db| Ok(write_ahead_log(db))).await);
        true
    }
}

fn replaced(error: &Error) -> Finding {
    Finding::new("file-replaced", Severity::Broken, error.to_string())
        .breaks("the program writes to a file that is not at its path any more")
        .remedy("stop every program that has the file open, put one file and no `-wal` or `-shm` of another one there, and start again")
}

fn durability(db: &mut Connection) -> Result<Vec<Finding>, Failure> {
    let mut found = Vec::new();
    let synchronous: i64 = db.pragma_query_value(None, "synchronous", |row| row.get(0))?;
    if synchronous < 2 {
        let (severity, seen) = if synchronous == 1 {
            (Severity::Risk, "synchronous is NORMAL")
        } else {
            (Severity::Broken, "synchronous is OFF")
        };
        found.push(
            Finding::new("synchronous-not-full", severity, seen)
                .breaks("a power failure loses the newest events that were acknowledged")
                .remedy("open the log with `Synchronous::Full`, the default"),
        );
    }
    Ok(found)
}

fn settings(db: &mut Connection) -> Result<Vec<Finding>, Failure> {
    let mut found = Vec::new();
    let journal: String = db.pragma_query_value(None, "journal_mode", |row| row.get(0))?;
    let path = db.path().filter(|path| !path.is_empty()).map(str::to_owned);
    if journal != "wal" && path.is_some() {
        found.push(
            Finding::new("journal-not-wal", Severity::Slow, format!("journal_mode is {journal}"))
                .breaks("readers and the writer wait for each other")
                .remedy("PRAGMA journal_mode = WAL; while no other program has the file open"),
        );
    }
    if let Some(name) = path.as_deref().map(Path::new).and_then(network_file_system) {
        found.push(
            Finding::new("network-file-system", Severity::Broken, format!("the file is on {name}"))
                .breaks("locks and shared memory do not work between machines, so two programs can damage the file")
                .remedy("move the file to a local disk"),
        );
    }
    Ok(found)
}

/// Returns the name of a network file system that holds the file; `None` for any other, or if it is not known.
#[cfg(target_os = "linux")]
fn network_file_system(path: &Path) -> Option<&'static str> {
    let kind = rustix::fs::statfs(path).ok()?.f_type;
    network_name(u32::try_from(kind & 0xffff_ffff).ok()?)
}

#[cfg(not(target_os = "linux"))]
fn network_file_system(_: &Path) -> Option<&'static str> {
    None
}

/// Returns the name of a network file system by its number in Linux.
#[cfg(target_os = "linux")]
const fn network_name(kind: u32) -> Option<&'static str> {
    Some(match kind {
        0x6969 => "NFS",
        0x517b | 0xfe53_4d42 | 0xff53_4d42 => "SMB",
        0x00c3_6400 => "Ceph",
        0x5346_414f => "AFS",
        0x0bd0_0bd0 => "Lustre",
        _ => return None,
    })
}

/// Compares triggers and indexes with those of this release.
fn schema(db: &mut Connection, wanted: &[(&str, &str)]) -> Result<Vec<Finding>, Failure> {
    let mut select = db.prepare_cached(SCHEMA)?;
    let present: Vec<(String, Option<String>)> =
        select.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?;
    let mut found = Vec::new();
    for (kind, name) in wanted {
        let id = match present.iter().find(|(present, _)| present == name) {
            None => format!("{kind}-missing"),
            Some((_, sql)) if !sql.as_deref().is_some_and(|sql| TABLES.contains(sql)) => format!("{kind}-changed"),
            Some(_) => continue,
        };
        found.push(
            Finding::new(id, Severity::Broken, format!("the {kind} {name}"))
                .breaks("stored events, seals or records of changes can be changed, or stored twice")
                .remedy("run `verify`, then create it as in migrations/sqlite/0001_tables.sql"),
        );
    }
    Ok(found)
}

fn pages(db: &mut Connection) -> Result<Vec<Finding>, Failure> {
    let bytes: u64 = db.query_row(BYTES, [], |row| row.get::<_, i64>(0))?.unsigned_abs();
    if bytes > CHECKED_BYTES {
        let reason = format!("the file has {bytes} bytes; run PRAGMA quick_check; on a copy of it");
        return Ok(vec![Finding::unknown("pages", reason)]);
    }
    let mut check = db.prepare(QUICK_CHECK)?;
    let problems: Vec<String> = check.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let problems: Vec<_> = problems.into_iter().filter(|problem| problem != "ok").collect();
    if problems.is_empty() {
        return Ok(Vec::new());
    }
    let found = Finding::new("file-damaged", Severity::Broken, problems.join("; "))
        .breaks("rows are lost or wrong")
        .remedy("restore the file from a backup, or recover it with the command `.recover` of the sqlite3 shell");
    Ok(vec![found])
}

fn figures(health: &Health) -> Vec<Finding> {
    let mut found = Vec::new();
    if let Some(time) = health.future_event {
        found.push(
            Finding::new("event-from-the-future", Severity::Risk, format!("the newest event was recorded at {time}"))
                .breaks("a clock is or was wrong; deadlines that count from the event are late")
                .remedy("run an NTP client on this machine"),
        );
    }
    found
}

fn write_ahead_log(db: &Connection) -> Vec<Finding> {
    let bytes = db.path().map_or(0, |path| health::bytes(Some(format!("{path}-wal"))));
    if bytes <= LARGE_WAL_BYTES {
        return Vec::new();
    }
    let found = Finding::new("wal-large", Severity::Slow, format!("the -wal file has {bytes} bytes"))
        .breaks("reads are slow and the disk fills, because a process keeps a read transaction open")
        .remedy("end the process that keeps it open");
    vec![found]
}

/// The triggers and indexes of events.
const WANTED: [(&str, &str); 8] = [
    ("trigger", "retell_events_no_update"),
    ("trigger", "retell_events_no_delete"),
    ("trigger", "retell_seals_no_update"),
    ("trigger", "retell_seals_no_delete"),
    ("index", "retell_events_stream"),
    ("index", "retell_events_id"),
    ("index", "retell_events_type"),
    ("index", "retell_events_chain"),
];

const SCHEMA: &str = "SELECT name, sql FROM sqlite_schema WHERE type IN ('trigger', 'index')";

const BYTES: &str = "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size";

/// At most ten problems.
const QUICK_CHECK: &str = "PRAGMA quick_check(10)";

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn local_disk_is_no_network() {
        assert_eq!(network_file_system(&std::env::temp_dir()), None);
        assert_eq!(network_name(0x6969), Some("NFS"));
        assert_eq!(network_name(0xef53), None);
    }
}
