//! Events and the caller's own rows in one SQLite transaction.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::mpsc;
use std::time::Duration;

use futures::FutureExt;
use retell::store::sqlite::{SqliteOptions, SqliteReadModel, SqliteStore};
use retell::store::{Append, EventReader, EventStore, Outcome, Snapshot};
use retell::testing::store::{events, stream, whole_log};
use retell::{Error, ErrorKind, ExpectedVersion, IdempotencyKey, Position, Version};
use rusqlite::Connection;
use tempfile::TempDir;

/// The error of an application.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error("out of stock")]
    OutOfStock,
    #[error(transparent)]
    Store(#[from] Error),
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
}

impl Failed {
    fn kind(&self) -> &ErrorKind {
        match self {
            Self::Store(error) => error.kind(),
            other => panic!("{other:?} is not the store's"),
        }
    }
}

/// A log with a table of the application in the same file.
struct Shop {
    directory: TempDir,
    store: SqliteStore,
}

impl Shop {
    async fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let store = SqliteStore::open(directory.path().join("log.db")).await.unwrap();
        let shop = Self { directory, store };
        shop.raw().execute_batch("CREATE TABLE orders (id TEXT PRIMARY KEY)").unwrap();
        shop
    }

    fn raw(&self) -> Connection {
        Connection::open(self.directory.path().join("log.db")).unwrap()
    }

    /// Returns the number of events and the number of the application's rows.
    async fn counts(&self) -> (usize, usize) {
        let rows: u32 = self.raw().query_row("SELECT count(*) FROM orders", [], |row| row.get(0)).unwrap();
        (whole_log(&self.store).await.unwrap().len(), rows as usize)
    }

    async fn write(&self, id: &'static str) -> Result<(), Failed> {
        let (_, row) = self.store.append_with(append(id), move |db| insert(db, id)).await?;
        row.ok_or(Failed::OutOfStock)
    }

    /// Asserts that the writer still accepts appends, with and without work.
    async fn assert_usable(&self, expected: usize) {
        assert_eq!(self.counts().await, (expected, expected));
        self.write("next").await.unwrap();
        self.store.append(append("alone")).await.unwrap();
        assert_eq!(self.counts().await, (expected + 2, expected + 1));
    }
}

fn append(id: &str) -> Append {
    Append::new(stream(id), ExpectedVersion::NoStream, events(1))
}

fn insert(db: &Connection, id: &str) -> Result<(), Failed> {
    db.execute("INSERT INTO orders (id) VALUES (?1)", [id])?;
    Ok(())
}

#[tokio::test]
async fn events_and_rows_are_one_commit() {
    let shop = Shop::new().await;
    let (raw, grown) = (shop.raw(), shop.store.watch_head());
    let (appended, seen) = shop
        .store
        .append_with(append("a"), move |db| {
            insert(db, "a")?;
            let inside: (u32, u32) = db.query_row(
                "SELECT (SELECT count(*) FROM retell_events), (SELECT count(*) FROM orders)",
                [],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )?;
            let outside: u32 = raw.query_row("SELECT count(*) FROM retell_events", [], |row| row.get(0))?;
            Ok::<_, Failed>((inside, outside))
        })
        .await
        .unwrap();
    assert_eq!(seen, Some(((1, 1), 0)), "only the work sees the events");
    assert_eq!((appended.outcome, &appended.versions), (Outcome::Written, &vec![Version::new(1)]));
    assert_eq!(*grown.borrow(), Position::new(1), "readers are notified");
    assert_eq!(shop.store.position_of(appended.token()).await.unwrap(), Some(Position::new(1)));
    shop.assert_usable(1).await;
}

#[tokio::test]
async fn failed_work_undoes_both_and_returns_its_own_error() {
    let shop = Shop::new().await;
    let failing = |db: &Connection| {
        insert(db, "a")?;
        Err::<(), _>(Failed::OutOfStock)
    };
    let error = shop.store.append_with(append("a"), failing).await.unwrap_err();
    assert!(matches!(error, Failed::OutOfStock), "{error:?}");
    let twice = |db: &Connection| insert(db, "a").and_then(|()| insert(db, "a"));
    let error = shop.store.append_with(append("a"), twice).await.unwrap_err();
    assert!(matches!(error, Failed::Sqlite(_)), "{error:?}");
    shop.assert_usable(0).await;
}

#[tokio::test]
async fn a_refused_append_leaves_no_rows() {
    let shop = Shop::new().await;
    shop.write("a").await.unwrap();
    let known = whole_log(&shop.store).await.unwrap()[0].event.clone();
    let error = shop.store.append_with(append("a"), |db| insert(db, "b")).await.unwrap_err();
    let (stream_a, expected, actual) = (stream("a"), ExpectedVersion::NoStream, Version::new(1));
    assert_eq!(*error.kind(), ErrorKind::Conflict { stream: stream_a, expected, actual });
    let duplicate = Append::new(stream("b"), ExpectedVersion::Any, vec![known.clone()]);
    let error = shop.store.append_with(duplicate, |db| insert(db, "b")).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::DuplicateEvent(known.id));
    let empty = Append::new(stream("b"), ExpectedVersion::Any, Vec::new());
    let error = shop.store.append_with(empty, |db| insert(db, "b")).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Invalid(_)), "{error:?}");
    shop.assert_usable(1).await;
}

#[tokio::test]
async fn a_used_key_does_not_write_the_rows_again() {
    let shop = Shop::new().await;
    let keyed = || append("a").with_key(IdempotencyKey::new("pay").unwrap());
    let (first, row) = shop.store.append_with(keyed(), |db| insert(db, "a")).await.unwrap();
    assert_eq!((first.outcome, row), (Outcome::Written, Some(())));
    let (again, row) = shop.store.append_with(keyed(), |db| insert(db, "a")).await.unwrap();
    assert_eq!((again.outcome, again.commit, row), (Outcome::Repeated, first.commit, None));
    // Failed work does not use up its key.
    let other = || append("b").with_key(IdempotencyKey::new("other").unwrap());
    shop.store.append_with(other(), |_| Err::<(), _>(Failed::OutOfStock)).await.unwrap_err();
    let (appended, _) = shop.store.append_with(other(), |db| insert(db, "b")).await.unwrap();
    assert_eq!(appended.outcome, Outcome::Written);
    shop.assert_usable(2).await;
}

#[tokio::test]
async fn a_panic_undoes_both_and_the_writer_continues() {
    let shop = Shop::new().await;
    let store = shop.store.clone();
    let call = tokio::spawn(async move {
        let work = |db: &Connection| {
            insert(db, "a")?;
            panic!("the work's own");
            #[expect(unreachable_code, reason = "states the type")]
            Ok::<(), Failed>(())
        };
        store.append_with(append("a"), work).await
    });
    let panic = call.await.unwrap_err().into_panic();
    assert_eq!(panic.downcast_ref::<&str>(), Some(&"the work's own"));
    shop.assert_usable(0).await;
}

#[tokio::test]
async fn work_that_ends_the_transaction_writes_nothing() {
    let shop = Shop::new().await;
    shop.write("there").await.unwrap();
    for statements in [
        "COMMIT",
        "ROLLBACK",
        "COMMIT; BEGIN",
        "ROLLBACK; BEGIN",
        "ROLLBACK; BEGIN IMMEDIATE; INSERT INTO orders VALUES ('b')",
        "ROLLBACK; INSERT INTO orders VALUES ('b')",
        "END TRANSACTION",
        // SQLite itself rolls back here; the statements that follow would commit on their own.
        "INSERT OR ROLLBACK INTO orders VALUES ('there')",
    ] {
        let work = move |db: &Connection| {
            insert(db, "a")?;
            for statement in statements.split("; ") {
                // This work ignores its errors.
                drop(db.execute_batch(statement));
            }
            drop(insert(db, "c"));
            Ok::<_, Failed>(())
        };
        let error = shop.store.append_with(append("a"), work).await.unwrap_err();
        let expected = "invalid input: the work of `append_with` ended the transaction";
        assert_eq!(error.to_string(), expected, "{statements}");
        assert_eq!(shop.counts().await, (1, 1), "{statements}");
    }
    shop.assert_usable(1).await;
}

#[tokio::test]
async fn work_may_use_savepoints() {
    let shop = Shop::new().await;
    let work = |db: &Connection| {
        insert(db, "kept")?;
        db.execute_batch("SAVEPOINT s")?;
        insert(db, "undone")?;
        db.execute_batch("ROLLBACK TO s; RELEASE s")?;
        Ok::<_, Failed>(())
    };
    shop.store.append_with(append("a"), work).await.unwrap();
    shop.assert_usable(1).await;
}

#[tokio::test]
async fn a_row_that_fails_at_commit_undoes_the_events() {
    let shop = Shop::new().await;
    let lines = "CREATE TABLE lines (id TEXT REFERENCES orders (id) DEFERRABLE INITIALLY DEFERRED)";
    shop.raw().execute_batch(lines).unwrap();
    let work = |db: &Connection| {
        db.execute("INSERT INTO lines VALUES ('missing')", [])?;
        Ok::<_, Failed>(())
    };
    // rusqlite's bundled SQLite enforces foreign keys.
    let error = shop.store.append_with(append("a"), work).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Backend(_)), "{error:?}");
    shop.assert_usable(0).await;
}

#[tokio::test]
async fn a_quota_that_the_rows_exceed_undoes_both() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("log.db");
    let quota = SqliteOptions::new().with_max_file_bytes(512 * 1024);
    let store = SqliteStore::open_with(&path, quota).await.unwrap();
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE large (bytes BLOB)").unwrap();
    let work = |bytes: u32| {
        move |db: &Connection| {
            drop(db.execute("INSERT INTO large VALUES (zeroblob(?1))", [bytes]));
            Ok::<_, Failed>(())
        }
    };
    let error = store.append_with(append("a"), work(1024 * 1024)).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Invalid(_)), "SQLite rolled back, and the work ignored it: {error:?}");
    assert_eq!(whole_log(&store).await.unwrap(), []);
    store.append_with(append("a"), work(1024)).await.unwrap();
    assert_eq!(whole_log(&store).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_work_delays_writers_but_not_readers() {
    let shop = Shop::new().await;
    shop.write("a").await.unwrap();
    let (go, wait) = mpsc::channel::<()>();
    let (started, running) = tokio::sync::oneshot::channel();
    let store = shop.store.clone();
    let slow = tokio::spawn(async move {
        let work = move |db: &Connection| {
            started.send(()).unwrap();
            wait.recv_timeout(Duration::from_mins(5)).unwrap();
            insert(db, "slow")
        };
        store.append_with(append("slow"), work).await
    });
    running.await.unwrap();
    let mut other = Box::pin(shop.store.append(append("other")));
    let snapshot = Snapshot::new(Version::new(1), retell::EventId::generate(), 1, vec![1]);
    let waiting = stream("a");
    let mut save = Box::pin(shop.store.save_snapshot(&waiting, snapshot));
    assert!((&mut other).now_or_never().is_none() && (&mut save).now_or_never().is_none());
    for _ in 0..10 {
        assert_eq!(shop.counts().await, (1, 1), "readers proceed and see nothing of the slow work");
        assert!((&mut other).now_or_never().is_none() && (&mut save).now_or_never().is_none());
    }
    go.send(()).unwrap();
    // Polls all three together: the writer's queue gives a call its turn even if nothing polls it, and the calls behind
    // it would wait.
    let (slow, other, saved) = tokio::join!(slow, other, save);
    slow.unwrap().unwrap();
    other.unwrap();
    saved.unwrap();
    let ids: Vec<_> =
        whole_log(&shop.store).await.unwrap().iter().map(|e| e.stream.aggregate_id().to_string()).collect();
    assert_eq!(ids, ["a", "slow", "other"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_with_and_without_work_share_one_order() {
    let shop = Shop::new().await;
    let other = SqliteStore::open(shop.directory.path().join("log.db")).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..8 {
        let store = if task % 2 == 0 { shop.store.clone() } else { other.clone() };
        tasks.spawn(async move {
            for number in 0..20 {
                let id = format!("{task} {number}");
                if number % 2 == 0 {
                    store.append(append(&id)).await.unwrap();
                } else {
                    let row = id.clone();
                    store.append_with(append(&id), move |db| insert(db, &row)).await.unwrap();
                }
            }
        });
    }
    let grown = shop.store.watch_head();
    let mut last = Position::ZERO;
    while !tasks.is_empty() {
        tokio::select! {
            joined = tasks.join_next() => joined.unwrap().unwrap(),
            () = tokio::task::yield_now() => {}
        }
        let now = *grown.borrow();
        assert!(now >= last, "the head never goes back");
        last = now;
    }
    assert_eq!(shop.counts().await, (160, 80));
    let log = whole_log(&shop.store).await.unwrap();
    assert!(log.iter().zip(1..).all(|(event, position)| event.position == Position::new(position)));
}

#[tokio::test]
async fn a_dropped_call_writes_both_or_neither() {
    let shop = Shop::new().await;
    for number in 0..50 {
        let id = number.to_string();
        let row = id.clone();
        drop(shop.store.append_with(append(&id), move |db| insert(db, &row)).now_or_never());
    }
    shop.write("last").await.unwrap();
    let (events, rows) = shop.counts().await;
    assert!(events >= 1 && events == rows, "{events} events and {rows} rows");
    assert_eq!(shop.store.watch_head().borrow().get(), events as u64);
}

#[tokio::test]
async fn a_closed_or_read_only_store_runs_no_work() {
    let shop = Shop::new().await;
    let path = shop.directory.path().join("log.db");
    let read_only = SqliteStore::open_with(&path, SqliteOptions::new().with_read_only()).await.unwrap();
    let never = |_: &Connection| -> Result<(), Failed> { panic!("the work must not run") };
    assert_eq!(*read_only.append_with(append("a"), never).await.unwrap_err().kind(), ErrorKind::ReadOnly);
    shop.store.close().await.unwrap();
    let error = shop.store.append_with(append("a"), never).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Closed(_)), "{error:?}");
}

#[tokio::test]
async fn queries_of_a_read_model_see_rows_of_the_same_file() {
    let shop = Shop::new().await;
    let model = SqliteReadModel::open(shop.directory.path().join("log.db")).await.unwrap();
    shop.write("a").await.unwrap();
    let orders: u32 =
        model.query(|db| db.query_row("SELECT count(*) FROM orders", [], |row| row.get(0))).await.unwrap();
    assert_eq!(orders, 1);
}
