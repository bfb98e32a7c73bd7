//! What survives when the writing process is killed, and what several processes do to one file.
//!
//! The test binary starts itself again as the process to be killed, which is why it has a `main` of its own.

#![expect(clippy::unwrap_used, reason = "a test ends at the first thing that is not as it should be")]

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

/// What a child process is to do, and where.
const ROLE: &str = "RETELL_TEST_ROLE";
const DIRECTORY: &str = "RETELL_TEST_DIRECTORY";

/// Set to the number that a failed run has printed, it runs the same rounds again.
const SEED: &str = "RETELL_TEST_SEED";

const WRITERS: usize = 16;
const ROUNDS: u64 = 20;

/// A user without any rights, on every Unix.
const NOBODY: u32 = 65534;

fn main() {
    let Ok(role) = env::var(ROLE) else {
        let tests = vec![
            test(
                "killed_writers_lose_nothing_that_was_acknowledged",
                killed_writers_lose_nothing_that_was_acknowledged,
            ),
            test("eight_processes_open_migrate_and_append_at_once", eight_processes_open_migrate_and_append_at_once),
            test(
                "a_log_without_write_permission_can_be_read_and_refuses_appends",
                a_log_without_write_permission_can_be_read_and_refuses_appends,
            ),
            test(
                "a_log_that_nobody_has_open_is_refused_in_a_directory_without_write_permission",
                a_log_that_nobody_has_open_is_refused_in_a_directory_without_write_permission,
            ),
        ];
        libtest_mimic::run(&Arguments::from_args(), tests).exit()
    };
    let directory = PathBuf::from(env::var(DIRECTORY).unwrap());
    match role.as_str() {
        "write" => block_on(write_until_killed(&directory)).unwrap(),
        "open" => block_on(open_and_append(&directory)).unwrap(),
        "read" => block_on(read_without_permission(&directory.join("log.db"))),
        "be refused" => block_on(be_refused(&directory.join("log.db"))),
        other => panic!("no such role: {other}"),
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

/// Each child appends until it is killed, after a random number of acknowledgements; all of them to one file.
fn killed_writers_lose_nothing_that_was_acknowledged() {
    let seed = env::var(SEED).map_or_else(|_| RandomState::new().build_hasher().finish(), |seed| seed.parse().unwrap());
    eprintln!("{SEED}={seed}");
    let directory = TempDir::new().unwrap();
    let mut acknowledged = Vec::new();
    let mut applied = 0;
    for round in 0..ROUNDS {
        // The first child may die while it makes the file, and one in four while it opens it.
        let wanted = if round % 4 == 0 { round } else { random(seed, round) % 300 };
        acknowledged.extend(acknowledged_before_the_kill(directory.path(), wanted));
        applied = block_on(check(directory.path(), &acknowledged));
    }
    assert!(applied > 0, "no batch of the read model was ever committed");
    assert!(acknowledged.len() > 500, "only {} appends were acknowledged", acknowledged.len());
}

/// The `round`-th number from a seed (the finalizer of SplitMix64).
fn random(seed: u64, round: u64) -> u64 {
    let mut bits = seed.wrapping_add((round + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

/// One acknowledged event: where the store said it is.
#[derive(Debug)]
struct Ack {
    stream: String,
    version: u64,
    event: String,
}

/// Kills a writer once it has acknowledged that many events, and returns all it has acknowledged until it was dead.
fn acknowledged_before_the_kill(directory: &Path, wanted: u64) -> Vec<Ack> {
    let mut writer = child(&env::current_exe().unwrap(), "write", directory).spawn().unwrap();
    let mut lines = BufReader::new(writer.stdout.take().unwrap());
    let mut acks = Vec::new();
    while (acks.len() as u64) < wanted {
        acks.push(next_ack(&mut lines).expect("the writer writes until it is killed"));
    }
    writer.kill().unwrap();
    acks.extend(std::iter::from_fn(|| next_ack(&mut lines)));
    assert_eq!(writer.wait().unwrap().signal(), Some(9), "the writer died on its own");
    acks
}

/// `None` at the end, and for a line that was cut off by the kill.
fn next_ack(lines: &mut BufReader<ChildStdout>) -> Option<Ack> {
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    let mut words = line.strip_suffix('\n')?.split(' ');
    assert_eq!(words.next(), Some("ack"));
    let mut word = || words.next().unwrap().to_owned();
    Some(Ack { stream: word(), version: word().parse().unwrap(), event: word() })
}

/// Returns the read model's checkpoint.
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
        assert!(events.insert(recorded.event.id.to_string(), recorded).is_none(), "position {position} is there twice");
    }
    for ack in acknowledged {
        let found = events.get(&ack.event).unwrap_or_else(|| panic!("{ack:?} is lost"));
        assert_eq!((found.stream.aggregate_id().as_str(), found.version.get()), (&*ack.stream, ack.version));
    }
    check_pairs(&log);
    store.close().await.unwrap();
    assert_sound(&directory.join("log.db"));
    check_read_model(&directory.join("views.db"), log.len() as u64).await
}

/// Appends to two streams are there with both or with none.
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

/// The checkpoint is where the model is, and not ahead of the log.
async fn check_read_model(path: &Path, head: u64) -> u64 {
    let model = SqliteReadModel::open(path).await.unwrap();
    let checkpoint = model.checkpoint(&projection()).await.unwrap().get();
    let count = |db: &Connection| {
        let exists: bool = db.query_row("SELECT count(*) FROM sqlite_schema WHERE name = 'seen'", [], |r| r.get(0))?;
        if !exists {
            return Ok((0, 0));
        }
        db.query_row("SELECT count(*), coalesce(max(position), 0) FROM seen", [], |r| Ok((r.get(0)?, r.get(1)?)))
    };
    let (count, last): (u32, u32) = model.query(count).await.unwrap();
    assert_eq!((u64::from(count), u64::from(last)), (checkpoint, checkpoint), "rows, and the last of them");
    assert!(checkpoint <= head, "the checkpoint {checkpoint} is ahead of the log's head {head}");
    model.close().await.unwrap();
    assert_sound(path);
    checkpoint
}

fn assert_sound(path: &Path) {
    let found: String =
        Connection::open(path).unwrap().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(found, "ok", "{}", path.display());
}

/// The child: many tasks append and print what was acknowledged, and one keeps a read model.
async fn write_until_killed(directory: &Path) -> Result<()> {
    let store = SqliteStore::open(directory.join("log.db")).await?;
    let model = SqliteReadModel::open(directory.join("views.db")).await?;
    let mut tasks = JoinSet::new();
    for writer in 0..WRITERS {
        tasks.spawn(append_for_ever(store.clone(), writer));
    }
    tasks.spawn(project_for_ever(store, model));
    match tasks.join_next().await {
        Some(ended) => ended.unwrap(),
        None => Ok(()),
    }
}

async fn append_for_ever(store: SqliteStore, writer: usize) -> Result<()> {
    let streams = [stream("shared"), stream(&format!("left-{writer}")), stream(&format!("right-{writer}"))];
    loop {
        let [shared, left, right] = streams.each_ref().map(note);
        let single = Append::new(streams[0].clone(), ExpectedVersion::Any, vec![shared]);
        let pair = Append::new(streams[1].clone(), ExpectedVersion::Any, vec![left]).and(
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
            // One write, whole lines: the parent never takes half an acknowledgement for one.
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

async fn project_for_ever(store: SqliteStore, model: SqliteReadModel) -> Result<()> {
    let mut grown = store.watch_head();
    loop {
        let from = model.checkpoint(&projection()).await?;
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

/// None fails, none waits for ever, and nothing is lost.
fn eight_processes_open_migrate_and_append_at_once() {
    for _ in 0..5 {
        let directory = TempDir::new().unwrap();
        let program = env::current_exe().unwrap();
        let mut children: Vec<Child> =
            (0..8).map(|_| child(&program, "open", directory.path()).spawn().unwrap()).collect();
        // Each waits for this word, so that they begin together.
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
        let append =
            Append::new(own.clone(), expected, events(1)).and(stream("shared"), ExpectedVersion::Any, events(1));
        store.append(append).await?;
    }
    store.close().await
}

// -- Without the permission to write --

/// Root may write everything, so as root the reading process runs as somebody else.
fn a_log_without_write_permission_can_be_read_and_refuses_appends() {
    // Nobody has it open, and the reader may make the files that SQLite reads a WAL through.
    let log = GuardedLog::new();
    block_on(log.store.close()).unwrap();
    log.assert_child_succeeds("read", 0o755);

    // Another process has it open: its files are there, and the reader needs to make none.
    let log = GuardedLog::new();
    log.assert_child_succeeds("read", 0o555);
    block_on(log.store.append(Append::new(stream("a"), ExpectedVersion::Any, events(1)))).unwrap();
}

/// SQLite needs one of the two; an error says so, and not an empty log.
fn a_log_that_nobody_has_open_is_refused_in_a_directory_without_write_permission() {
    let log = GuardedLog::new();
    block_on(log.store.close()).unwrap();
    log.assert_child_succeeds("be refused", 0o555);
}

/// A log with three events in a directory of its own, and this program beside it: where the build is may be closed to others.
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

    /// Runs a child that may write no file of the log, and its directory only if the mode lets its owner.
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
