//! Durability when the writing process is killed, and many processes on one file.
//!
//! The test binary starts itself again as the process to kill, so it has its own `main`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;
use std::env;
use std::fs::{self, Permissions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};

use libtest_mimic::{Arguments, Trial};
use retell::error::{Error, ErrorKind, Result};
use retell::event::{NewEvent, RecordedEvent};
use retell::id::{ExpectedVersion, Position, ProjectionName, StreamId, Version};
use retell::store::sqlite::{SqliteOptions, SqliteReadModel, SqliteStore};
use retell::store::{Append, EventReader, EventReaderExt, EventStore, Filter, ReadModel, Replay, Step, Work};
use retell::testing::store::{event, events, replayed, stream, whole_log};
use rusqlite::Connection;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

/// The environment variable that names the role of a child process; `DIRECTORY` names its directory.
const ROLE: &str = "RETELL_TEST_ROLE";
const DIRECTORY: &str = "RETELL_TEST_DIRECTORY";

/// Set to the value that a failed run printed, it repeats that run's rounds.
const SEED: &str = "RETELL_TEST_SEED";

const WRITERS: usize = 16;
const ROUNDS: u64 = 20;

/// The id of an account without permissions, which every Unix has.
const NOBODY: u32 = 65534;

fn main() {
    let Ok(role) = env::var(ROLE) else {
        let tests = vec![
            test("killed_writers_lose_no_acknowledged_append", killed_writers_lose_no_acknowledged_append),
            test("eight_processes_open_migrate_and_append_at_once", eight_processes_open_migrate_and_append_at_once),
            test("a_log_without_write_permission_is_read_only", a_log_without_write_permission_is_read_only),
            test("a_closed_log_in_a_read_only_directory_is_refused", a_closed_log_in_a_read_only_directory_is_refused),
        ];
        libtest_mimic::run(&Arguments::from_args(), tests).exit()
    };
    let directory = PathBuf::from(env::var(DIRECTORY).unwrap());
    match role.as_str() {
        "write" => block_on(write_until_killed(&directory)).unwrap(),
        "open" => block_on(open_and_append(&directory)).unwrap(),
        "read" => block_on(read_without_permission(&directory.join("log.db"))),
        "be refused" => block_on(be_refused(&directory.join("log.db"))),
        other => panic!("unknown role: {other}"),
    }
}

fn test(name: &str, run: fn()) -> Trial {
    Trial::test(name, move || {
        run();
        Ok(())
    })
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    Runtime::new().unwrap().block_on(work)
}

fn child(program: &Path, role: &str, directory: &Path) -> Command {
    let mut command = Command::new(program);
    command.env(ROLE, role).env(DIRECTORY, directory).stdin(Stdio::piped()).stdout(Stdio::piped());
    command
}

// -- Killed writers --

/// Starts one writer after the other on one file, and kills each after a random number of acknowledgements.
fn killed_writers_lose_no_acknowledged_append() {
    let seed = env::var(SEED).map_or_else(|_| RandomState::new().build_hasher().finish(), |seed| seed.parse().unwrap());
    eprintln!("{SEED}={seed}");
    let directory = TempDir::new().unwrap();
    let mut acknowledged = Vec::new();
    let mut applied = 0;
    for round in 0..ROUNDS {
        // The first child may be killed while it creates the file. One in four is killed while it opens the file or
        // soon after.
        let wanted = if round % 4 == 0 { round } else { random(seed, round) % 300 };
        acknowledged.extend(acknowledged_before_the_kill(directory.path(), wanted));
        applied = block_on(check(directory.path(), &acknowledged));
    }
    assert!(applied > 0, "no batch of the read model was ever committed");
    assert!(acknowledged.len() > 500, "only {} appends were acknowledged", acknowledged.len());
}

/// Returns the `round`-th number of a seed (the finalizer of SplitMix64).
fn random(seed: u64, round: u64) -> u64 {
    let mut bits = seed.wrapping_add((round + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

/// An acknowledged event, at the place that the store reported.
#[derive(Debug)]
struct Ack {
    stream: String,
    version: u64,
    event: String,
}

/// Kills a writer once it has acknowledged `wanted` events, and returns everything that it acknowledged before it died.
fn acknowledged_before_the_kill(directory: &Path, wanted: u64) -> Vec<Ack> {
    let mut writer = child(&env::current_exe().unwrap(), "write", directory).spawn().unwrap();
    let mut lines = BufReader::new(writer.stdout.take().unwrap());
    let mut acks = Vec::new();
    while (acks.len() as u64) < wanted {
        acks.push(next_ack(&mut lines).expect("the writer writes until it is killed"));
    }
    writer.kill().unwrap();
    acks.extend(std::iter::from_fn(|| next_ack(&mut lines)));
    assert_eq!(writer.wait().unwrap().signal(), Some(9), "the writer ended before the kill");
    acks
}

/// Returns `None` at the end of the output, and for a line that the kill has cut off.
fn next_ack(lines: &mut BufReader<ChildStdout>) -> Option<Ack> {
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    let mut words = line.strip_suffix('\n')?.split(' ');
    assert_eq!(words.next(), Some("ack"));
    let mut word = || words.next().unwrap().to_owned();
    Some(Ack { stream: word(), version: word().parse().unwrap(), event: word() })
}

/// Checks the log and the read model, and returns the read model's checkpoint.
async fn check(directory: &Path, acknowledged: &[Ack]) -> u64 {
    let store = SqliteStore::open(directory.join("log.db")).await.unwrap();
    let log = whole_log(&store).await.unwrap();
    let mut events = HashMap::new();
    let mut versions: HashMap<&StreamId, Version> = HashMap::new();
    for (recorded, position) in log.iter().zip(1..) {
        assert_eq!(recorded.position, Position::new(position), "positions are contiguous");
        let version = versions.entry(&recorded.stream).or_default();
        *version = version.next();
        assert_eq!(recorded.version, *version, "versions are contiguous");
        assert_eq!(recorded.event.payload, payload(&recorded.stream), "position {position}");
        assert!(
            events.insert(recorded.event.id.to_string(), recorded).is_none(),
            "the event at position {position} is in the log twice"
        );
    }
    for ack in acknowledged {
        let found = events.get(&ack.event).unwrap_or_else(|| panic!("{ack:?} is lost"));
        assert_eq!((found.stream.aggregate_id().as_str(), found.version.get()), (&*ack.stream, ack.version));
    }
    check_pairs(&log);
    store.close().await.unwrap();
    assert_intact(&directory.join("log.db"));
    check_read_model(&directory.join("views.db"), log.len() as u64).await
}

/// Asserts that appends to two streams are in the log in full or not at all.
fn check_pairs(log: &[RecordedEvent]) {
    let mut log = log.iter();
    while let Some(event) = log.next() {
        if let Some(writer) = event.stream.aggregate_id().as_str().strip_prefix("left-") {
            let right = log.next().unwrap_or_else(|| panic!("half an append at position {}", event.position));
            assert_eq!(right.stream, stream(&format!("right-{writer}")));
            assert_eq!(right.version, event.version);
        }
    }
}

/// Asserts that the checkpoint matches the model's rows and is not ahead of the log.
async fn check_read_model(path: &Path, head: u64) -> u64 {
    let model = SqliteReadModel::open(path).await.unwrap();
    let checkpoint = model.mark(&projection()).await.unwrap().position.get();
    let count = |db: &Connection| {
        let exists: bool = db.query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'seen'", [], |r| r.get(0))?;
        if !exists {
            return Ok((0, 0));
        }
        db.query_row("SELECT count(*), coalesce(max(position), 0) FROM seen", [], |r| Ok((r.get(0)?, r.get(1)?)))
    };
    let (count, last): (u32, u32) = model.query(count).await.unwrap();
    assert_eq!((u64::from(count), u64::from(last)), (checkpoint, checkpoint), "the model's rows match its checkpoint");
    assert!(checkpoint <= head, "the checkpoint {checkpoint} is ahead of the log's head {head}");
    model.close().await.unwrap();
    assert_intact(path);
    checkpoint
}

fn assert_intact(path: &Path) {
    let found: String =
        Connection::open(path).unwrap().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(found, "ok", "{}", path.display());
}

/// The work of a child: many tasks append and print their acknowledgements, and one maintains a read model.
async fn write_until_killed(directory: &Path) -> Result<()> {
    let store = SqliteStore::open(directory.join("log.db")).await?;
    let model = SqliteReadModel::open(directory.join("views.db")).await?;
    let mut tasks = JoinSet::new();
    for writer in 0..WRITERS {
        tasks.spawn(append_forever(store.clone(), writer));
    }
    tasks.spawn(project_forever(store, model));
    match tasks.join_next().await {
        Some(ended) => ended.unwrap(),
        None => Ok(()),
    }
}

async fn append_forever(store: SqliteStore, writer: usize) -> Result<()> {
    let streams = [stream("shared"), stream(&format!("left-{writer}")), stream(&format!("right-{writer}"))];
    loop {
        let [shared, left, right] = streams.each_ref().map(note);
        let single = Append::new(streams[0].clone(), ExpectedVersion::Any, vec![shared]);
        let pair = Append::new(streams[1].clone(), ExpectedVersion::Any, vec![left]).with_stream(
            streams[2].clone(),
            ExpectedVersion::Any,
            vec![right],
        );
        for append in [single, pair] {
            let appended = store.append(append.clone()).await?;
            let acks =
                append.streams().iter().zip(&appended.versions).map(|(part, version)| {
                    format!("ack {} {version} {}\n", part.stream.aggregate_id(), part.events[0].id)
                });
            // A single write of whole lines, so that the parent never takes a partial acknowledgement for a whole one.
            std::io::stdout().write_all(acks.collect::<String>().as_bytes()).unwrap();
        }
    }
}

fn note(stream: &StreamId) -> NewEvent {
    event(payload(stream))
}

fn payload(stream: &StreamId) -> Vec<u8> {
    format!("{stream}, {}", "x".repeat(500)).into_bytes()
}

async fn project_forever(store: SqliteStore, model: SqliteReadModel) -> Result<()> {
    let mut grown = store.watch_head();
    loop {
        let from = model.mark(&projection()).await?.position;
        grown.wait_for(|head| *head > from).await.expect("the store is open");
        let page = store.read_all(from, 20, &Filter::all()).await?;
        let positions: Vec<_> = page.events.iter().map(|event| event.position.get().cast_signed()).collect();
        let work: Work<Connection> = Box::new(move |db| {
            let written = keep_positions(db, &positions);
            Box::pin(async { written.map_err(|error| Error::with_source(ErrorKind::Backend("count".into()), error)) })
        });
        model.commit(Step::new(&projection(), from, page.through), work).await?;
    }
}

fn keep_positions(db: &Connection, positions: &[i64]) -> rusqlite::Result<()> {
    db.execute_batch("CREATE TABLE IF NOT EXISTS seen (position INTEGER PRIMARY KEY) STRICT")?;
    let mut insert = db.prepare_cached("INSERT INTO seen (position) VALUES (?1)")?;
    positions.iter().try_for_each(|position| insert.execute([position]).map(drop))
}

fn projection() -> ProjectionName {
    ProjectionName::new("seen").unwrap()
}

// -- Many processes at once --

/// Asserts that no process fails or waits forever, and that no event is lost.
fn eight_processes_open_migrate_and_append_at_once() {
    for _ in 0..5 {
        let directory = TempDir::new().unwrap();
        let program = env::current_exe().unwrap();
        let mut children: Vec<Child> =
            (0..8).map(|_| child(&program, "open", directory.path()).spawn().unwrap()).collect();
        // Each child waits for this line, so that they start together.
        for child in &mut children {
            child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        }
        let ends: Vec<_> = children.into_iter().map(|child| child.wait_with_output().unwrap().status).collect();
        assert!(ends.iter().all(ExitStatus::success), "{ends:?}");
        let log = block_on(async {
            whole_log(&SqliteStore::open(directory.path().join("log.db")).await.unwrap()).await.unwrap()
        });
        assert_eq!(log.len(), 8 * 10 * 2);
        let shared = log.iter().filter(|event| event.stream == stream("shared")).map(|event| event.version.get());
        assert_eq!(shared.collect::<Vec<_>>(), (1..=80).collect::<Vec<_>>());
        assert!(log.iter().map(|event| event.recorded_at).is_sorted());
    }
}

async fn open_and_append(directory: &Path) -> Result<()> {
    std::io::stdin().read_line(&mut String::new()).unwrap();
    let store = SqliteStore::open(directory.join("log.db")).await?;
    let own = stream(&std::process::id().to_string());
    for number in 0..10 {
        let expected = ExpectedVersion::Exact(Version::new(number));
        let append = Append::new(own.clone(), expected, events(1)).with_stream(
            stream("shared"),
            ExpectedVersion::Any,
            events(1),
        );
        store.append(append).await?;
    }
    store.close().await
}

// -- Without the permission to write --

/// Root may write every file, so under root the reading process runs as another user.
fn a_log_without_write_permission_is_read_only() {
    // No process has the log open, and the reader may create the files that SQLite needs to read a write-ahead log.
    let log = GuardedLog::new();
    block_on(log.store.close()).unwrap();
    log.assert_child_succeeds("read", 0o755);

    // Another process has the log open, so these files exist and the reader does not have to create them.
    let log = GuardedLog::new();
    log.assert_child_succeeds("read", 0o555);
    block_on(log.store.append(Append::new(stream("a"), ExpectedVersion::Any, events(1)))).unwrap();
}

/// SQLite needs either an open log or the permission to create files. Without both it must return an error, and not an
/// empty log.
fn a_closed_log_in_a_read_only_directory_is_refused() {
    let log = GuardedLog::new();
    block_on(log.store.close()).unwrap();
    log.assert_child_succeeds("be refused", 0o555);
}

/// A log with three events in its own directory, next to a copy of this program: other users may have no access to the
/// build folder.
struct GuardedLog {
    directory: TempDir,
    store: SqliteStore,
    _runtime: Runtime,
}

impl GuardedLog {
    fn new() -> Self {
        let directory = TempDir::new().unwrap();
        fs::copy(env::current_exe().unwrap(), directory.path().join("program")).unwrap();
        let runtime = Runtime::new().unwrap();
        let store = runtime.block_on(async {
            let store = SqliteStore::open(directory.path().join("log.db")).await.unwrap();
            store.append(Append::new(stream("a"), ExpectedVersion::Any, events(3))).await.unwrap();
            store
        });
        Self { directory, store, _runtime: runtime }
    }

    /// Runs a child that may not write the log's files. It may write their directory only if `directory_mode` allows
    /// that.
    fn assert_child_succeeds(&self, role: &str, directory_mode: u32) {
        let directory = self.directory.path();
        let mut reader = child(&directory.join("program"), role, directory);
        if fs::metadata(directory).unwrap().uid() == 0 {
            reader.uid(NOBODY).gid(NOBODY);
            chown(directory, Some(NOBODY), None).unwrap();
        }
        for file in ["log.db", "log.db-wal", "log.db-shm"].map(|name| directory.join(name)) {
            if file.exists() {
                fs::set_permissions(file, Permissions::from_mode(0o444)).unwrap();
            }
        }
        fs::set_permissions(directory, Permissions::from_mode(directory_mode)).unwrap();
        let status = reader.status().unwrap();
        fs::set_permissions(directory, Permissions::from_mode(0o755)).unwrap();
        assert!(status.success(), "cannot {role} in a directory of mode {directory_mode:o}");
    }
}

async fn read_without_permission(path: &Path) {
    let error = SqliteStore::open(path).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::ReadOnly, "{error:?}");
    let store = SqliteStore::open_with(path, SqliteOptions::new().with_read_only()).await.unwrap();
    assert_eq!(replayed(&store, &stream("a"), Replay::ALL).await.unwrap().versions(), [1, 2, 3]);
    let append = Append::new(stream("a"), ExpectedVersion::Any, events(1));
    assert_eq!(*store.append(append).await.unwrap_err().kind(), ErrorKind::ReadOnly);
    store.close().await.unwrap();
}

async fn be_refused(path: &Path) {
    for options in [SqliteOptions::new(), SqliteOptions::new().with_read_only()] {
        let error = SqliteStore::open_with(path, options).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::ReadOnly, "{error:?}");
    }
}
