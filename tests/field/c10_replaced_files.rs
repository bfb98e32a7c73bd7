//! C10. A SQLite file that is deleted, moved or replaced under a store is noticed: an acknowledged append is in the file at the path.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use retell::prelude::*;
use retell::store::{Append, EventStore, ReadModel, Step};
use retell::testing::store::{event, stream, whole_log};
use retell::{Error, ErrorKind, ProjectionName, SqliteOptions, SqliteReadModel};
use tempfile::TempDir;

async fn append(store: &SqliteStore) -> retell::Result<()> {
    store.append(Append::new(stream("1"), ExpectedVersion::Any, vec![event("{}")])).await.map(drop)
}

async fn step(models: &SqliteReadModel, from: u64) -> retell::Result<()> {
    let name = ProjectionName::new("totals").unwrap();
    let step = Step::new(&name, Position::new(from), Position::new(from + 1));
    models.commit(step, Box::new(|_| Box::pin(async { Ok(()) }))).await
}

fn is_replaced(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::FileReplaced(_)) && !error.is_transient()
}

/// Changes the files under a store, read models and a reader, which then must all refuse to work.
async fn is_noticed(what: &str, path: PathBuf, change: impl FnOnce(&Path)) {
    let (store, models) = (SqliteStore::open(&path).await.unwrap(), SqliteReadModel::open(&path).await.unwrap());
    let reader = SqliteStore::open_with(&path, SqliteOptions::new().with_read_only()).await.unwrap();
    append(&store).await.unwrap();
    step(&models, 0).await.unwrap();
    assert_eq!(reader.head().await.unwrap(), Position::new(1));
    change(&path);
    for _ in 0..3 {
        let (appended, stepped) = (append(&store).await.unwrap_err(), step(&models, 1).await.unwrap_err());
        assert!(is_replaced(&appended), "{what}: {appended:#}");
        assert!(is_replaced(&stepped), "{what}: {stepped:#}");
    }
    // A reader compares the files at most every few milliseconds.
    for reads in [&store, &reader] {
        let noticed = async {
            while reads.head().await.is_ok() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            reads.head().await.unwrap_err()
        };
        let error = tokio::time::timeout(Duration::from_secs(30), noticed).await.unwrap();
        assert!(is_replaced(&error), "{what}: {error:#}");
    }
    for store in [store, reader] {
        store.close().await.unwrap();
    }
    models.close().await.unwrap();
}

/// Returns another path in the same folder.
fn beside(path: &Path, ending: &str) -> PathBuf {
    PathBuf::from(format!("{}{ending}", path.display()))
}

/// Deletes, moves or replaces the file at a path.
type Change = fn(&Path);

/// Copies a file, and puts the copy in its place.
fn replace_by_copy(path: &Path) {
    let copy = beside(path, ".copy");
    fs::copy(path, &copy).unwrap();
    fs::rename(copy, path).unwrap();
}

#[tokio::test]
async fn deleted_moved_or_replaced_files_are_noticed() {
    let changes: [(&str, Change); 8] = [
        ("the file is deleted", |path| fs::remove_file(path).unwrap()),
        ("the file is deleted and created", |path| {
            fs::remove_file(path).unwrap();
            fs::write(path, b"").unwrap();
        }),
        ("the file is replaced", replace_by_copy),
        ("the file is renamed", |path| fs::rename(path, beside(path, ".old")).unwrap()),
        ("the write-ahead log is deleted", |path| fs::remove_file(beside(path, "-wal")).unwrap()),
        ("the write-ahead log is replaced", |path| replace_by_copy(&beside(path, "-wal"))),
        ("the shared memory is deleted", |path| fs::remove_file(beside(path, "-shm")).unwrap()),
        ("the folder is renamed", |path| {
            let folder = path.parent().unwrap();
            fs::rename(folder, beside(folder, ".old")).unwrap();
        }),
    ];
    for (what, change) in changes {
        let directory = TempDir::new().unwrap();
        let folder = directory.path().join("logs");
        fs::create_dir(&folder).unwrap();
        is_noticed(what, folder.join("log.db"), change).await;
    }
}

#[tokio::test]
async fn link_to_another_file_is_noticed() {
    let directory = TempDir::new().unwrap();
    let [first, second] = ["first.db", "second.db"].map(|name| directory.path().join(name));
    for path in [&first, &second] {
        append(&SqliteStore::open(path).await.unwrap()).await.unwrap();
    }
    fs::remove_file(&first).unwrap();
    let link = directory.path().join("link.db");
    symlink(&first, &link).unwrap();
    is_noticed("the link is changed", link, |link| {
        fs::remove_file(link).unwrap();
        symlink(link.with_file_name("second.db"), link).unwrap();
    })
    .await;
}

#[tokio::test]
async fn relative_path_survives_nothing_but_the_same_file() {
    let directory = TempDir::new_in(".").unwrap();
    let path = Path::new(directory.path().file_name().unwrap()).join("log.db");
    is_noticed("a relative path", path, |path| fs::remove_file(path).unwrap()).await;
}

/// Every append that was acknowledged while backups and other processes used the file is in it.
#[tokio::test(flavor = "multi_thread")]
async fn use_by_others_is_no_replacement() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("log.db");
    let store = SqliteStore::open(&path).await.unwrap();
    for round in 0..20 {
        let other = SqliteStore::open(&path).await.unwrap();
        append(&other).await.unwrap();
        append(&store).await.unwrap();
        let raw = rusqlite::Connection::open(&path).unwrap();
        raw.execute_batch("PRAGMA wal_checkpoint(TRUNCATE); VACUUM").unwrap();
        raw.execute("VACUUM INTO ?1", [beside(&path, &format!(".backup{round}")).to_str()]).unwrap();
        drop(raw);
        other.close().await.unwrap();
        append(&store).await.unwrap();
    }
    assert_eq!(whole_log(&store).await.unwrap().len(), 60);
    store.close().await.unwrap();
    assert_eq!(SqliteStore::open(&path).await.unwrap().head().await.unwrap(), Position::new(60));
}
