//! The SQLite store when its file, its disk or its caller is at fault: it reports an error and damages nothing.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use retell::error::{Error, ErrorKind, Result};
use retell::event::NewEvent;
use retell::id::{
    AggregateId, EventType, ExpectedVersion, Fence, IdempotencyKey, Position, ProjectionName, StreamId, Version,
};
use retell::store::sqlite::{SqliteOptions, SqliteReadModel, SqliteStore};
use retell::store::{
    Append, Appended, EventReader, EventReaderExt, EventStore, Filter, MAX_PAYLOAD_BYTES, Outcome, ReadModel,
    RelayStore, Replay, Snapshot, Step, UpTo, Work,
};
use retell::testing::read_model::Counting;
use retell::testing::store::{event, events, replayed, stream, whole_log};
use rusqlite::Connection;
use tempfile::TempDir;
use uuid::Uuid;

/// A log in its own directory: stream `a` at version 3 (positions 1, 2 and 4), and stream `b` at version 1 (position
/// 3).
struct Log {
    directory: TempDir,
}

impl Log {
    fn empty() -> Self {
        Self { directory: TempDir::new().unwrap() }
    }

    async fn new() -> Self {
        let log = Self::empty();
        let store = log.open().await;
        append(&store, "a", events(2)).await.unwrap();
        append(&store, "b", events(1)).await.unwrap();
        append(&store, "a", events(1)).await.unwrap();
        store.close().await.unwrap();
        log
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("log.db")
    }

    async fn open(&self) -> SqliteStore {
        SqliteStore::open(self.path()).await.unwrap()
    }

    async fn open_with(&self, options: SqliteOptions) -> SqliteStore {
        SqliteStore::open_with(self.path(), options).await.unwrap()
    }

    /// Opens a connection that bypasses the library.
    fn raw(&self) -> Connection {
        Connection::open(self.path()).unwrap()
    }

    /// Changes the file in a way that the triggers forbid, and then opens it.
    async fn damaged(sql: &str) -> (SqliteStore, Self) {
        let log = Self::new().await;
        let raw = log.raw();
        raw.execute_batch("DROP TRIGGER retell_events_no_update; DROP TRIGGER retell_events_no_delete;").unwrap();
        raw.execute_batch(sql).unwrap();
        raw.close().unwrap();
        (log.open().await, log)
    }
}

async fn append(store: &SqliteStore, id: &str, events: Vec<NewEvent>) -> Result<Appended> {
    store.append(Append::new(stream(id), ExpectedVersion::Any, events)).await
}

async fn replay_a(store: &SqliteStore) -> Result<Vec<u64>> {
    Ok(replayed(store, &stream("a"), Replay::ALL).await?.versions())
}

/// Asserts that the error reports corruption and contains every one of `words`.
fn assert_corrupt<T: std::fmt::Debug>(result: Result<T>, words: &[&str]) {
    let error = result.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Corrupt(_)), "{error:?}");
    assert!(words.iter().all(|word| error.to_string().contains(word)), "{error} does not contain all of {words:?}");
}

#[tokio::test]
async fn a_replay_names_a_damaged_row_by_stream_and_version() {
    let damages = [
        "codec = 9",
        "codec = -1",
        "schema_version = -1",
        "schema_version = 4294967296",
        "event_type = CAST(x'FF' AS TEXT)",
    ];
    for damage in damages {
        let (store, _log) =
            Log::damaged(&format!("UPDATE retell_events SET {damage} WHERE aggregate_id = 'a' AND version = 2")).await;
        assert_corrupt(replay_a(&store).await, &["account/a version 2"]);
        let after = replayed(&store, &stream("a"), Replay::after(Version::new(1))).await;
        assert_corrupt(after, &["account/a version 2"]);
        // Undamaged events stay readable.
        assert_eq!(replayed(&store, &stream("b"), Replay::ALL).await.unwrap().versions(), [1]);
        let up_to = Replay::ALL.with_up_to(UpTo::Version(Version::new(1)));
        assert_eq!(replayed(&store, &stream("a"), up_to).await.unwrap().versions(), [1]);
    }
}

#[tokio::test]
async fn a_log_read_names_a_damaged_row_by_position() {
    let damages = [
        "codec = 9",
        "schema_version = -1",
        "version = -2",
        "recorded_at = 9223372036854775807",
        "event_id = x'00'",
        "correlation_id = x'0102'",
        "causation_id = x''",
        "aggregate_type = ''",
        "aggregate_id = CAST(x'FF' AS TEXT)",
        "metadata = 'junk'",
        "metadata = '[]'",
        "metadata = '{\"retries\": 1}'",
        "metadata = CAST(x'FF' AS TEXT)",
    ];
    for damage in damages {
        let (store, _log) = Log::damaged(&format!("UPDATE retell_events SET {damage} WHERE position = 2")).await;
        assert_corrupt(whole_log(&store).await, &["position 2"]);
        let noted = Filter::all().with_event_types([EventType::new("account.noted").unwrap()]);
        assert_corrupt(store.read_all(Position::ZERO, 10, &noted).await, &["position 2"]);
        assert_corrupt(store.newest(&noted.event_types[0], 10).await, &["position 2"]);
        let later = store.read_all(Position::new(2), 10, &Filter::all()).await.unwrap();
        assert_eq!(later.events.len(), 2, "{damage}");
    }
}

#[tokio::test]
async fn a_gap_in_a_stream_is_corruption() {
    for (damage, missing) in [
        ("DELETE FROM retell_events WHERE aggregate_id = 'a' AND version = 1", 1),
        ("DELETE FROM retell_events WHERE aggregate_id = 'a' AND version = 2", 2),
        ("UPDATE retell_events SET version = 7 WHERE aggregate_id = 'a' AND version = 2", 2),
        ("UPDATE retell_events SET version = -2 WHERE aggregate_id = 'a' AND version = 2", 1),
        ("UPDATE retell_events SET version = 0 WHERE aggregate_id = 'a' AND version = 1", 1),
    ] {
        let (store, _log) = Log::damaged(damage).await;
        assert_corrupt(replay_a(&store).await, &[&format!("account/a version {missing}")]);
    }
    let (store, _log) = Log::damaged("UPDATE retell_events SET version = -1 WHERE aggregate_id = 'b'").await;
    assert_corrupt(replayed(&store, &stream("b"), Replay::ALL).await, &["account/b"]);
}

#[tokio::test]
async fn a_gap_in_the_log_is_corruption() {
    for (position, delete) in [(1, "position = 1"), (2, "position = 2"), (2, "position IN (2, 3)")] {
        let (store, _log) = Log::damaged(&format!("DELETE FROM retell_events WHERE {delete}")).await;
        let missing = format!("position {position}");
        assert_corrupt(whole_log(&store).await, &[&missing]);
        assert_corrupt(store.read_all(Position::new(position - 1), 1, &Filter::all()).await, &[&missing]);
    }
    let (store, log) = Log::damaged("DELETE FROM retell_events WHERE position IN (2, 3)").await;
    let first: i64 =
        log.raw().query_row("SELECT recorded_at FROM retell_events WHERE position = 1", [], |row| row.get(0)).unwrap();
    let by_time = store.recorded_after(chrono::DateTime::from_timestamp_micros(first).unwrap(), 10).await;
    assert_corrupt(by_time, &["position"]);
}

#[tokio::test]
async fn a_damaged_outcome_is_reported_with_its_key() {
    let plant = "INSERT INTO retell_keys (idempotency_key, commit_id, fingerprint, streams) VALUES ('pay', 1, zeroblob(32), 'junk')";
    let (store, _log) = Log::damaged(plant).await;
    let key = IdempotencyKey::new("pay").unwrap();
    assert_corrupt(store.find_by_key(&key).await, &["pay"]);
    let append = Append::new(stream("a"), ExpectedVersion::Any, events(1)).with_key(key);
    assert_corrupt(store.append(append).await, &["pay"]);
    assert_eq!(replay_a(&store).await.unwrap(), [1, 2, 3]);
}

#[tokio::test]
async fn damaged_checkpoints_are_corruption_and_not_a_fresh_start() {
    let plant = "INSERT INTO retell_checkpoints (projection, position) VALUES ('totals', -1);
                 INSERT INTO retell_relays (relay, position) VALUES ('main', -1);
                 INSERT INTO retell_leases (name, fence, ends_at, given_at) VALUES ('main', -9, 0, 0);";
    let (store, log) = Log::damaged(plant).await;
    assert_corrupt(store.position("main").await, &["-1"]);
    assert_corrupt(store.acquire_lease("main", Uuid::nil(), Duration::from_secs(1)).await, &["-8"]);
    let model = SqliteReadModel::open(log.path()).await.unwrap();
    let totals = ProjectionName::new("totals").unwrap();
    assert_corrupt(model.checkpoint(&totals).await, &["-1"]);
    let work: Work<Connection> = Box::new(|_| panic!("the work must not run on a damaged checkpoint"));
    assert_corrupt(model.commit(Step::new(&totals, Position::ZERO, Position::new(1)), work).await, &["-1"]);
}

#[tokio::test]
async fn a_damaged_snapshot_does_not_become_an_empty_state() {
    let (store, _log) = Log::damaged(
        "INSERT INTO retell_snapshots (aggregate_type, aggregate_id, version, event_id, fingerprint, state)
         VALUES ('account', 'a', -5, x'00', 7, x'00')",
    )
    .await;
    let seen = replayed(&store, &stream("a"), Replay::ALL.with_snapshot(7)).await.unwrap();
    assert_eq!((seen.snapshot.is_none(), seen.versions()), (true, vec![1, 2, 3]));
}

/// Opens the file, reads everything and appends. Returns the first error.
async fn first_error(path: &Path) -> Option<Error> {
    let used = async {
        let store = SqliteStore::open(path).await?;
        for id in ["a", "b", "filler"] {
            replayed(&store, &stream(id), Replay::ALL).await?;
        }
        whole_log(&store).await?;
        append(&store, "a", events(1)).await
    };
    used.await.err()
}

#[tokio::test]
async fn a_corrupt_file_is_reported_and_left_unchanged() {
    let log = Log::new().await;
    let store = log.open().await;
    append(&store, "filler", (0..200).map(|_| event(vec![b'x'; 1_000])).collect()).await.unwrap();
    store.close().await.unwrap();
    let intact = fs::read(log.path()).unwrap();
    assert!(intact.len() > 200_000, "the log is checkpointed into its file");

    let mut garbled = intact.clone();
    garbled[8192..].iter_mut().step_by(3).for_each(|byte| *byte = !*byte);
    let mut header = intact.clone();
    header[..100].fill(b'?');
    let damages = [
        ("pages overwritten", garbled),
        ("header overwritten", header),
        ("all overwritten", vec![0xA5; intact.len()]),
        ("cut in half", intact[..intact.len() / 2].to_vec()),
        ("cut after the first page", intact[..4096].to_vec()),
        ("cut within the header", intact[..50].to_vec()),
        ("a text", b"Dear diary, today nothing happened.\n".repeat(100)),
        ("a short text", b"hello".to_vec()),
    ];
    for (damage, bytes) in damages {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("log.db");
        fs::write(&path, &bytes).unwrap();
        let error = first_error(&path).await.unwrap_or_else(|| panic!("{damage}: no error"));
        assert!(matches!(error.kind(), ErrorKind::Corrupt(_)), "{damage}: {error:?}");
        assert!(fs::read(&path).unwrap() == bytes, "{damage}: the file was changed");
    }
}

#[tokio::test]
async fn a_file_of_a_newer_release_is_refused_and_left_unchanged() {
    let log = Log::new().await;
    let raw = log.raw();
    raw.execute_batch("INSERT INTO retell_migrations (number, name) VALUES (99, 'from the future')").unwrap();
    raw.close().unwrap();
    let bytes = fs::read(log.path()).unwrap();
    let newer = ErrorKind::NewerStore { found: 99, known: 1 };
    assert_eq!(*SqliteStore::open(log.path()).await.unwrap_err().kind(), newer);
    let read_only = SqliteOptions::new().with_read_only();
    assert_eq!(*SqliteStore::open_with(log.path(), read_only).await.unwrap_err().kind(), newer);
    assert_eq!(*SqliteReadModel::open(log.path()).await.unwrap_err().kind(), newer);
    assert!(fs::read(log.path()).unwrap() == bytes, "the file was changed");
}

#[tokio::test]
async fn a_read_only_log_refuses_every_write_and_can_be_read() {
    let log = Log::new().await;
    let store = log.open_with(SqliteOptions::new().with_read_only()).await;
    assert_eq!(*append(&store, "a", events(1)).await.unwrap_err().kind(), ErrorKind::ReadOnly);
    let snapshot = Snapshot::new(Version::new(1), retell::EventId::generate(), 1, Vec::new());
    assert_eq!(*store.save_snapshot(&stream("a"), snapshot).await.unwrap_err().kind(), ErrorKind::ReadOnly);
    assert_eq!(
        *store.advance("main", Position::new(1).into(), Fence::ZERO).await.unwrap_err().kind(),
        ErrorKind::ReadOnly
    );
    let lease = store.acquire_lease("main", Uuid::nil(), Duration::from_secs(1)).await;
    assert_eq!(*lease.unwrap_err().kind(), ErrorKind::ReadOnly);
    assert_eq!(replay_a(&store).await.unwrap(), [1, 2, 3]);
    assert_eq!(store.head().await.unwrap(), Position::new(4));

    // It sees the events that another handle appends.
    append(&log.open().await, "a", events(1)).await.unwrap();
    assert_eq!(replay_a(&store).await.unwrap(), [1, 2, 3, 4]);
}

#[tokio::test]
async fn a_read_only_open_does_not_create_a_missing_log() {
    let log = Log::empty();
    let error = SqliteStore::open_with(log.path(), SqliteOptions::new().with_read_only()).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Backend(_)), "{error:?}");
    assert!(!log.path().exists());
}

#[tokio::test]
async fn a_full_quota_refuses_whole_appends_until_raised() {
    let log = Log::empty();
    let quota = SqliteOptions::new().with_max_file_bytes(1024 * 1024);
    let store = log.open_with(quota).await;
    let pair = || {
        let large = || vec![event(vec![b'x'; 20_000]), event(vec![b'x'; 20_000])];
        Append::new(stream("a"), ExpectedVersion::Any, large()).with_stream(stream("b"), ExpectedVersion::Any, large())
    };
    let mut acknowledged = 0;
    let error = loop {
        match store.append(pair()).await {
            Ok(_) => acknowledged += 1,
            Err(error) => break error,
        }
        assert!(acknowledged < 100, "the quota does not limit the file");
    };
    assert_eq!(*error.kind(), ErrorKind::Full);
    assert!(acknowledged > 5);
    assert_eq!(*store.append(pair()).await.unwrap_err().kind(), ErrorKind::Full);
    for id in ["a", "b"] {
        let seen = replayed(&store, &stream(id), Replay::ALL).await.unwrap();
        assert_eq!(seen.versions(), (1..=2 * acknowledged).collect::<Vec<_>>());
    }
    assert_eq!(whole_log(&store).await.unwrap().len() as u64, 4 * acknowledged);
    store.close().await.unwrap();
    assert!(fs::metadata(log.path()).unwrap().len() <= 1024 * 1024);

    let store = log.open_with(SqliteOptions::new().with_max_file_bytes(2 * 1024 * 1024)).await;
    let appended = store.append(pair()).await.unwrap();
    assert_eq!(appended.versions, [2 * acknowledged + 2; 2].map(Version::new));
}

#[tokio::test]
async fn a_quota_too_small_for_the_tables_is_full() {
    let log = Log::empty();
    let options = SqliteOptions::new().with_max_file_bytes(8192);
    assert_eq!(*SqliteStore::open_with(log.path(), options).await.unwrap_err().kind(), ErrorKind::Full);
    append(&log.open().await, "a", events(1)).await.unwrap();
}

#[tokio::test]
async fn a_lock_timeout_is_transient_and_appends_work_afterwards() {
    let log = Log::new().await;
    let impatient = SqliteOptions::new().with_busy_timeout(Duration::from_millis(20));
    let store = log.open_with(impatient.clone()).await;
    let other = log.raw();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let error = append(&store, "a", events(1)).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Transient(_)) && error.is_transient(), "{error:?}");
    assert_eq!(replay_a(&store).await.unwrap(), [1, 2, 3], "readers do not wait for a writer");
    let error = SqliteStore::open_with(log.path(), impatient).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");

    other.execute_batch("ROLLBACK").unwrap();
    assert_eq!(append(&store, "a", events(1)).await.unwrap().versions, [Version::new(4)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn appends_wait_for_the_short_transactions_of_another_process() {
    let log = Log::new().await;
    let store = log.open().await;
    let other = log.raw();
    other.busy_timeout(Duration::from_secs(5)).unwrap();
    let other_process = tokio::task::spawn_blocking(move || {
        (0..100).try_for_each(|_| other.execute_batch("BEGIN IMMEDIATE; SELECT count(*) FROM retell_events; COMMIT"))
    });
    for version in 4..=53 {
        assert_eq!(append(&store, "a", events(1)).await.unwrap().versions, [Version::new(version)]);
    }
    other_process.await.unwrap().unwrap();
}

#[test]
fn invalid_names_are_refused_before_they_reach_a_store() {
    for (name, rule) in [("", "empty"), ("a\0b", "NUL"), (&*"x".repeat(1024 * 1024), "1048576 bytes")] {
        let errors = [
            AggregateId::new(name).map(drop).unwrap_err(),
            EventType::new(name).map(drop).unwrap_err(),
            IdempotencyKey::new(name).map(drop).unwrap_err(),
            StreamId::parse("account", name).map(drop).unwrap_err(),
            StreamId::parse(name, "1").map(drop).unwrap_err(),
        ];
        for error in errors.map(Error::from) {
            assert!(matches!(error.kind(), ErrorKind::Invalid(problem) if problem.contains(rule)), "{error}");
        }
    }
}

#[tokio::test]
async fn a_too_large_event_is_refused_with_its_stream_and_type() {
    let log = Log::new().await;
    for (limit, bytes) in [(MAX_PAYLOAD_BYTES, 20 * 1024 * 1024), (10, 11)] {
        let store = log.open_with(SqliteOptions::new().with_max_payload(limit)).await;
        let error = append(&store, "a", vec![event("1"), event(vec![b'x'; bytes])]).await.unwrap_err();
        let what = "event account.noted for account/a".to_owned();
        assert_eq!(*error.kind(), ErrorKind::TooLarge { what, bytes, limit });
        assert_eq!(replay_a(&store).await.unwrap(), [1, 2, 3]);
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn stored_events_cannot_be_changed_or_deleted() {
    let log = Log::new().await;
    let raw = log.raw();
    for sql in [
        "UPDATE retell_events SET payload = x'00' WHERE position = 1",
        "UPDATE retell_events SET position = 9 WHERE position = 4",
        "DELETE FROM retell_events WHERE position = 4",
        "DELETE FROM retell_events",
    ] {
        let error = raw.execute_batch(sql).unwrap_err().to_string();
        assert!(error.contains("events are immutable"), "{sql}: {error}");
    }
    assert_eq!(whole_log(&log.open().await).await.unwrap().len(), 4);
}

#[tokio::test]
async fn a_log_shares_a_file_with_an_applications_tables() {
    let log = Log::empty();
    let raw = log.raw();
    raw.execute_batch(
        "CREATE TABLE customers (id INTEGER PRIMARY KEY, name TEXT NOT NULL);
         CREATE TABLE migrations (number INTEGER PRIMARY KEY);
         INSERT INTO customers (name) VALUES ('Ada'); INSERT INTO migrations VALUES (99);",
    )
    .unwrap();
    let store = log.open().await;
    append(&store, "a", events(2)).await.unwrap();
    raw.execute_batch("INSERT INTO customers (name) VALUES ('Grace')").unwrap();
    append(&store, "a", events(1)).await.unwrap();
    let customers: u32 = raw.query_row("SELECT count(*) FROM customers", [], |row| row.get(0)).unwrap();
    assert_eq!((customers, replay_a(&store).await.unwrap()), (2, vec![1, 2, 3]));
}

#[tokio::test]
async fn a_path_that_cannot_be_a_file_is_a_backend_error() {
    let directory = TempDir::new().unwrap();
    for path in [directory.path().join("missing/log.db"), directory.path().to_owned()] {
        let error = SqliteStore::open(&path).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Backend(_)), "{path:?}: {error:?}");
        assert!(std::error::Error::source(&error).is_some(), "{path:?}: the cause is kept");
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn reopening_finds_everything_that_was_written() {
    let log = Log::new().await;
    let store = log.open().await;
    let key = IdempotencyKey::new("pay").unwrap();
    let append = || Append::new(stream("a"), ExpectedVersion::Exact(Version::new(3)), events(1)).with_key(key.clone());
    let first = store.append(append()).await.unwrap();
    let second = retell::testing::store::event_at(&store, &stream("a"), 2).await;
    let snapshot = Snapshot::new(Version::new(2), second, 7, vec![1, 2]);
    store.save_snapshot(&stream("a"), snapshot).await.unwrap();
    store.advance("main", Position::new(3).into(), Fence::ZERO).await.unwrap();
    let before = whole_log(&store).await.unwrap();
    store.close().await.unwrap();

    let store = log.open().await;
    assert_eq!(whole_log(&store).await.unwrap(), before);
    let repeated = Appended::new(first.commit, first.last_event, first.versions, Outcome::Repeated);
    assert_eq!(store.append(append()).await.unwrap(), repeated);
    let seen = replayed(&store, &stream("a"), Replay::ALL.with_snapshot(7)).await.unwrap();
    assert_eq!((seen.snapshot.clone(), seen.versions()), (Some((Version::new(2), vec![1, 2])), vec![3, 4]));
    assert_eq!(store.position("main").await.unwrap(), Position::new(3));
}

#[tokio::test]
async fn close_waits_for_appends_in_flight() {
    let log = Log::new().await;
    let store = log.open().await;
    let ids: Vec<_> = (0..100).map(|number| format!("new {number}")).collect();
    let mut appends: Vec<_> = ids.iter().map(|id| Box::pin(append(&store, id, events(1)))).collect();
    for append in &mut appends {
        assert!(futures::poll!(append).is_pending());
    }
    store.close().await.unwrap();
    for append in appends {
        append.await.unwrap();
    }
    assert_eq!(whole_log(&log.open().await).await.unwrap().len(), 104);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_handles_of_one_file_share_one_order() {
    let log = Log::empty();
    let (one, two) = (log.open().await, log.open().await);
    let mut total = 0;
    for version in 0..20 {
        let race = |store: &SqliteStore| {
            let store = store.clone();
            let expected = ExpectedVersion::Exact(Version::new(version));
            async move { store.append(Append::new(stream("a"), expected, events(1))).await }
        };
        let outcomes: [_; 2] = tokio::join!(race(&one), race(&two)).into();
        assert_eq!(outcomes.iter().filter(|outcome| outcome.is_ok()).count(), 1);
        assert!(outcomes.iter().filter_map(|outcome| outcome.as_ref().err()).all(Error::is_conflict));
        total += 1;
        for outcome in outcomes.into_iter().flatten() {
            for store in [&one, &two] {
                assert_eq!(store.position_of(outcome.token()).await.unwrap(), Some(Position::new(total)));
            }
        }
    }
    assert_eq!(whole_log(&one).await.unwrap(), whole_log(&two).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_of_two_handles_to_move_a_checkpoint_fails() {
    let log = Log::empty();
    let models = [SqliteReadModel::open(log.path()).await.unwrap(), SqliteReadModel::open(log.path()).await.unwrap()];
    let totals = ProjectionName::new("totals").unwrap();
    for from in (0..50).map(Position::new) {
        let [one, two] = models
            .each_ref()
            .map(|model| model.commit(Step::new(&totals, from, from.next()), SqliteReadModel::count()));
        let (one, two) = tokio::join!(one, two);
        let moved = one.and(two).unwrap_err();
        let (projection, actual) = (totals.clone(), from.next());
        assert_eq!(*moved.kind(), ErrorKind::CheckpointMoved { projection, expected: from, actual });
    }
    assert_eq!(models[0].counted().await.unwrap(), 50);
}

#[tokio::test]
async fn open_waits_up_to_the_timeout_for_another_writer() {
    let log = Log::empty();
    let other = log.raw();
    other.execute_batch("CREATE TABLE customers (id INTEGER); BEGIN IMMEDIATE").unwrap();
    let timeout = Duration::from_millis(200);
    let began = Instant::now();
    let error = SqliteStore::open_with(log.path(), SqliteOptions::new().with_busy_timeout(timeout)).await.unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    assert!(began.elapsed() >= timeout, "gave up after {:?}", began.elapsed());
    other.execute_batch("COMMIT").unwrap();
    assert_eq!(append(&log.open().await, "a", events(1)).await.unwrap().versions, [Version::new(1)]);
}

#[tokio::test]
async fn health_reports_head_projection_lag_and_file_sizes() {
    let log = Log::new().await;
    let store = log.open().await;
    let same_file = SqliteReadModel::open(log.path()).await.unwrap();
    let own_file = SqliteReadModel::open(log.directory.path().join("views.db")).await.unwrap();
    let (here, there) = (ProjectionName::new("here").unwrap(), ProjectionName::new("there").unwrap());
    same_file.commit(Step::new(&here, Position::ZERO, Position::new(3)), SqliteReadModel::count()).await.unwrap();
    own_file.commit(Step::new(&there, Position::ZERO, Position::new(1)), SqliteReadModel::count()).await.unwrap();

    let health = store.health().await.unwrap();
    assert_eq!((health.head, health.projections), (Position::new(4), vec![(here, 1)]));
    assert_eq!(health.file_bytes, fs::metadata(log.path()).unwrap().len());
    assert_eq!(own_file.behind(health.head).await.unwrap(), [(there, 3)]);

    // An open read transaction keeps SQLite from checkpointing its write-ahead log.
    let raw = log.raw();
    raw.execute_batch("BEGIN; SELECT count(*) FROM retell_events").unwrap();
    append(&store, "large", vec![event(vec![b'x'; 8 * 1024 * 1024])]).await.unwrap();
    assert!(store.health().await.unwrap().wal_bytes > 8 * 1024 * 1024);
    let memory = SqliteStore::in_memory().await.unwrap().health().await.unwrap();
    assert_eq!((memory.head, memory.file_bytes, memory.wal_bytes), (Position::ZERO, 0, 0));
}
