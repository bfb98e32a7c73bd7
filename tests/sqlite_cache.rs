//! Readers that scan the whole log leave the writer's pages in the cache. The test counts the reads of its process, so
//! it has a binary of its own.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;

use futures::future::join_all;
use retell::store::Append;
use retell::store::sqlite::SqliteOptions;
use retell::testing::store::{event, stream};
use retell::{EventReaderExt, EventStore, ExpectedVersion, Filter, Position, SqliteStore};

const READERS: usize = 4;

/// Twice the size of SQLite's page cache.
const LOG_BYTES: usize = 128 * 1024 * 1024;

/// A payload that fits into a page. SQLite reads larger ones past its cache.
const PAYLOAD: usize = 3_000;

const APPENDS: u64 = 200;

#[tokio::test]
async fn scanning_readers_leave_the_writers_pages_cached() {
    let folder = tempfile::tempdir().unwrap();
    let options = SqliteOptions::new().with_readers(READERS);
    let store = SqliteStore::open_with(folder.path().join("log.db"), options).await.unwrap();
    for number in 0..LOG_BYTES / PAYLOAD / 500 {
        let events = (0..500).map(|_| event(vec![b' '; PAYLOAD])).collect();
        store.append(Append::new(stream(&format!("large-{number}")), ExpectedVersion::NoStream, events)).await.unwrap();
    }
    let before = reads_of_an_append(&store, "before").await;
    // All readers are busy at once, so each of them reads the whole log.
    join_all((0..READERS).map(|_| scan(&store))).await;
    let after = reads_of_an_append(&store, "after").await;
    assert!(after <= before + 1, "{after} reads an append after the scan, {before} before it");
}

async fn scan(store: &SqliteStore) {
    let mut after = Position::ZERO;
    loop {
        let page = store.read_all(after, 100, &Filter::all()).await.unwrap();
        if page.through == after {
            return;
        }
        after = page.through;
    }
}

/// Returns the minimum of several rounds, because the first rounds load the writer's own pages again.
async fn reads_of_an_append(store: &SqliteStore, id: &str) -> u64 {
    let mut least = u64::MAX;
    for round in 0..5 {
        let before = reads();
        for number in 0..APPENDS {
            let append =
                Append::new(stream(&format!("{id}-{round}-{number}")), ExpectedVersion::NoStream, vec![event("small")]);
            store.append(append).await.unwrap();
        }
        least = least.min((reads() - before) / APPENDS);
    }
    least
}

/// Returns the number of read calls of this process, as Linux counts them.
fn reads() -> u64 {
    let io = fs::read_to_string("/proc/self/io").unwrap();
    io.lines().find_map(|line| line.strip_prefix("syscr: ")?.parse().ok()).unwrap()
}
