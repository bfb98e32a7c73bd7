//! Drills under running programs: an older dump is restored, an older file is copied over, a replica without the tail is promoted.

use std::fs;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use retell::inline::inline;
use retell::prelude::*;
use retell::store::ViewStore;
use retell::store::postgres::PostgresOptions;
use retell::view::ViewProjection;
use retell::{DeadlineStore, ErrorKind, MySqlStore, PostgresStore, RelayStore, SqliteReadModel, SqliteStore};
use rusqlite::backup::{Backup, StepResult};
use sqlx::mysql::MySqlConnectOptions;
use tempfile::TempDir;

use super::positions::{Filled, IN_LOG_ORDER, rows};
use super::program::{INLINE, Program};
use crate::databases::Place;
use crate::programs;
use crate::proxy::Proxy;
use crate::server;
use crate::servers::{Kind, Server, is_mariadb};

/// An older state of the database that can take its place.
enum Older {
    /// A plain file of `pg_dump --clean`.
    PostgresDump { url: String, folder: TempDir },
    /// A file of `mariadb-dump` or `mysqldump`.
    MariaDbDump { url: String, folder: TempDir },
    /// Files of SQLite, and copies that are restored beneath open connections.
    Files { files: Vec<PathBuf>, copies: PathBuf },
    /// An asynchronous replica. The program connects through the proxy.
    Replica { primary: Option<Arc<Server>>, replica: Arc<Server>, proxy: Proxy },
}

/// Runs `work`, which starts runtimes or waits for programs.
async fn aside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.unwrap()
}

fn client(url: &str, program: &str) -> Command {
    let options: MySqlConnectOptions = url.parse().unwrap();
    let mut client = programs::client(program);
    client.arg(format!("--host={}", options.get_host())).arg(format!("--port={}", options.get_port()));
    client.arg(format!("--user={}", options.get_username())).arg("--protocol=tcp");
    client
}

impl Older {
    /// Keeps the state of the database as it is now.
    async fn keep(&mut self) {
        match self {
            Self::PostgresDump { url, folder } => {
                let mut dump = server::program("pg_dump");
                dump.args(["--clean", "--if-exists", "--dbname", url, "--file"]).arg(folder.path().join("dump.sql"));
                aside(move || server::run(&mut dump)).await;
            }
            Self::MariaDbDump { url, folder } => {
                let mut dump = client(url, if is_mariadb() { "mariadb-dump" } else { "mysqldump" });
                dump.args(["--single-transaction", url.rsplit_once('/').unwrap().1]);
                dump.arg(format!("--result-file={}", folder.path().join("dump.sql").display()));
                if !is_mariadb() {
                    // The dump goes back to its own server, which has these transactions.
                    dump.arg("--set-gtid-purged=OFF");
                }
                aside(move || server::run(&mut dump)).await;
            }
            Self::Files { files, copies } => {
                for file in files {
                    let copy = copies.join(file.file_name().unwrap());
                    rusqlite::Connection::open(&*file)
                        .unwrap()
                        .execute("VACUUM INTO ?1", [copy.to_str().unwrap()])
                        .unwrap();
                }
            }
            Self::Replica { primary, replica, .. } => {
                let (primary, replica) = (primary.clone().unwrap(), replica.clone());
                aside(move || replica.leave(&primary)).await;
            }
        }
    }

    /// Puts the kept state in the place of the database.
    async fn take_over(&mut self) {
        match self {
            Self::PostgresDump { url, folder } => {
                let (url, file) = (url.clone(), folder.path().join("dump.sql"));
                aside(move || {
                    // The server may end one of two transactions that wait for each other.
                    for _ in 0..20 {
                        let mut restore = server::program("psql");
                        restore.args(["--quiet", "--single-transaction", "--set", "ON_ERROR_STOP=1", "--dbname", &url]);
                        let restored = restore.arg("--file").arg(&file).output().unwrap();
                        if restored.status.success() {
                            return;
                        }
                        let said = String::from_utf8_lossy(&restored.stderr).into_owned();
                        assert!(said.contains("deadlock detected"), "{said}");
                    }
                    panic!("the dump was not restored");
                })
                .await;
            }
            Self::MariaDbDump { url, folder } => {
                let mut restore = client(url, if is_mariadb() { "mariadb" } else { "mysql" });
                let dump = File::open(folder.path().join("dump.sql")).unwrap();
                restore.arg(url.rsplit_once('/').unwrap().1).stdin(dump);
                aside(move || {
                    let restored = restore.output().unwrap();
                    assert!(restored.status.success(), "{restored:?}");
                })
                .await;
            }
            Self::Files { files, copies } => {
                for file in files {
                    restore(&copies.join(file.file_name().unwrap()), file);
                }
            }
            Self::Replica { primary, replica, proxy } => {
                let (primary, replica) = (primary.take().unwrap(), replica.clone());
                let address = aside(move || {
                    // The last handle kills the server.
                    drop(Arc::into_inner(primary).unwrap());
                    replica.promote();
                    address(&replica.url())
                })
                .await;
                proxy.redirect(address);
            }
        }
    }
}

/// Writes an older state into a file that the program has open, as `.restore` of SQLite's shell does.
fn restore(from: &Path, to: &Path) {
    let [from, mut to] = [from, to].map(|path| rusqlite::Connection::open(path).unwrap());
    to.busy_timeout(server::TIMEOUT).unwrap();
    let backup = Backup::new(&from, &mut to).unwrap();
    until_done(|| matches!(backup.step(-1).unwrap(), StepResult::Done));
}

fn until_done(mut step: impl FnMut() -> bool) {
    let started = Instant::now();
    while !step() {
        assert!(started.elapsed() < server::TIMEOUT, "the file stays locked");
        sleep(Duration::from_millis(1));
    }
}

/// Copies an older file over one that the program may have open, without what SQLite had next to that one.
fn copy_over(from: &Path, to: &Path) {
    for side in ["-wal", "-shm"] {
        drop(fs::remove_file(format!("{}{side}", to.display())));
    }
    fs::copy(from, to).unwrap();
}

/// Returns the host and the port of a URL.
fn address(url: &str) -> String {
    url.rsplit_once('@').unwrap().1.split_once('/').unwrap().0.to_owned()
}

/// A primary behind a proxy with a replica that follows it, and the URL of a database on it.
async fn cluster(kind: Kind) -> (Older, String, ()) {
    let (replica, url, primary) = aside(move || {
        let primary = Server::start_primary(kind);
        (primary.replica(), primary.url(), primary)
    })
    .await;
    let place = if kind == Kind::Postgres { Place::Postgres } else { Place::MySql };
    place(url.clone()).run("CREATE DATABASE shelves").await;
    let proxy = Proxy::start(address(&url)).await;
    let (start, _) = url.rsplit_once('/').unwrap();
    let url = format!("{}/shelves", start.replacen(&address(&url), &proxy.address.to_string(), 1));
    (Older::Replica { primary: Some(Arc::new(primary)), replica: Arc::new(replica), proxy }, url, ())
}

/// The log went back and the read models did not: every part says so until it is reset, and then agrees with the log.
async fn log_alone<S, M>(open: impl AsyncFn() -> S, models: M, mut older: Older)
where
    S: EventStore + RelayStore + Clone,
    M: ViewStore + DeadlineStore + Clone,
{
    let mut program = Program::new(open().await, models.clone(), models);
    program.start(&open().await);
    loses_its_tail(&mut program, &mut older, &open).await;
    let before = program.view_rows().await;
    program.fill(100..110).await;
    assert!(!program.withdraw(700).await, "the lost state would allow it");
    assert!(program.withdraw(500).await);
    program.has_failed(3).await;
    // The log outgrows every remembered place, and that hides nothing.
    program.fill(110..170).await;
    program.has_failed(5).await;
    assert_eq!(program.view_rows().await, before, "no row mixes two histories");
    program.reset().await;
    program.agrees_with_log().await;
    program.stop().await;
}

/// The log and the read models went back together, to one moment: every part continues from there. `models` are in the log's database, as
/// the rows of an inline projection are.
async fn together<S, M>(open: impl AsyncFn() -> S, log: S, models: M, deadlines: M, mut older: Older)
where
    S: EventStore + RelayStore + Clone,
    M: ViewStore + DeadlineStore + Clone,
{
    let mut program = Program::new(log, models, deadlines);
    program.start(&open().await);
    loses_its_tail(&mut program, &mut older, &open).await;
    program.fill(100..110).await;
    assert!(!program.withdraw(700).await, "the lost state would allow it");
    program.agrees_with_log().await;
    program.fill(110..170).await;
    program.agrees_with_log().await;
    // In the transaction of each append, so it never lags.
    assert_eq!(rows(&program.models, INLINE).await, rows(&program.models, IN_LOG_ORDER).await);
    for (task, error) in program.seen.failures() {
        assert!(task.contains("relay") && error.is_history_changed(), "{task}: {error:#}");
    }
    program.stop().await;
}

/// Everything of the log is applied when it goes back.
async fn loses_its_tail<S, M>(program: &mut Program<S, M>, older: &mut Older, open: &impl AsyncFn() -> S)
where
    S: EventStore + RelayStore + Clone,
    M: ViewStore + DeadlineStore + Clone,
{
    program.fill(0..20).await;
    program.deposit(6).await;
    program.flush().await;
    program.agrees_with_log().await;
    older.keep().await;
    program.fill(20..27).await;
    program.deposit(4).await;
    program.flush().await;
    program.agrees_with_log().await;
    program.frames_have_arrived().await;
    // Not in one transaction: the tasks must not see the half of it. The other handle stays open, with its cached state.
    let stops = matches!(older, Older::MariaDbDump { .. });
    if stops {
        program.stop().await;
    }
    older.take_over().await;
    if stops {
        program.start(&open().await);
    }
}

macro_rules! drills {
    ($store:ty: $log:ident, $everything:ident, $database:expr) => {
        #[tokio::test(flavor = "multi_thread")]
        async fn $log() {
            let (older, url, _kept) = $database;
            let open = async || <$store>::connect(&url).await.unwrap();
            log_alone(open, SqliteReadModel::in_memory().await.unwrap(), older).await;
        }

        #[tokio::test(flavor = "multi_thread")]
        async fn $everything() {
            let (older, url, _kept) = $database;
            let open = async || <$store>::connect(&url).await.unwrap();
            let store = open().await;
            let models = store.read_model();
            let log = inline(store, ViewProjection::new(INLINE, models.clone())).await.unwrap();
            together(open, log, models.clone(), models, older).await;
        }
    };
}

/// A server of its own, whose `pg_dump` has its version.
async fn postgres_dump() -> (Older, String, server::Server) {
    let server = aside(server::Server::start).await;
    (Older::PostgresDump { url: server.url(), folder: server::folder() }, server.url(), server)
}

/// A server of its own, whose `mariadb-dump` has its version.
async fn mariadb_dump() -> (Older, String, Server) {
    let server = aside(|| Server::start(Kind::MySql)).await;
    Place::MySql(server.url()).run("CREATE DATABASE shelves").await;
    let url = format!("{}/shelves", server.url().rsplit_once('/').unwrap().0);
    (Older::MariaDbDump { url: url.clone(), folder: TempDir::new().unwrap() }, url, server)
}

/// A program whose open transaction holds a lane, and one that begins after a dump was restored, must ask for the same lock.
#[tokio::test(flavor = "multi_thread")]
async fn keys_of_locks_outlive_a_restored_dump() {
    let (mut older, url, _server) = postgres_dump().await;
    let store = PostgresStore::connect(&url).await.unwrap();
    let (pool, schema) = (sqlx::PgPool::connect(&url).await.unwrap(), PostgresOptions::new().with_schema("other"));
    let other = PostgresStore::open_with(pool, schema).await.unwrap();
    let key = async |schema: &str| {
        let key = sqlx::AssertSqlSafe(format!("SELECT {schema}.lane_key()"));
        sqlx::query_scalar::<_, i32>(key).fetch_one(store.pool()).await.unwrap()
    };
    let before = key("retell").await;
    assert_ne!(before, key("other").await, "two logs of a database do not wait for each other");
    other.close().await.unwrap();
    append_one(&store).await;
    older.keep().await;
    older.take_over().await;
    assert_eq!(key("retell").await, before);
    append_one(&store).await;
    store.close().await.unwrap();
}

async fn append_one(store: &PostgresStore) {
    store.append_events(("shelf", "0"), ExpectedVersion::Any, [Filled(0)]).await.unwrap();
}

drills!(PostgresStore: older_dump_of_the_log_on_postgres, older_dump_of_everything_on_postgres, postgres_dump().await);
drills!(MySqlStore: older_dump_of_the_log_on_mariadb, older_dump_of_everything_on_mariadb, mariadb_dump().await);
drills!(PostgresStore: promoted_replica_of_the_log_on_postgres, promoted_replica_of_everything_on_postgres, cluster(Kind::Postgres).await);
drills!(MySqlStore: promoted_replica_of_the_log_on_mariadb, promoted_replica_of_everything_on_mariadb, cluster(Kind::MySql).await);

/// The files of a log and of read models, and their older state.
struct Files {
    log: PathBuf,
    models: PathBuf,
    copies: TempDir,
    _folder: TempDir,
}

impl Files {
    fn new() -> Self {
        let folder = TempDir::new().unwrap();
        let [log, models] = ["log.db", "models.db"].map(|name| folder.path().join(name));
        Self { log, models, copies: TempDir::new().unwrap(), _folder: folder }
    }

    /// The read models first, as a backup should do.
    fn all(&self) -> Vec<PathBuf> {
        vec![self.models.clone(), self.log.clone()]
    }

    fn older(&self, files: Vec<PathBuf>) -> Older {
        Older::Files { files, copies: self.copies.path().to_owned() }
    }

    async fn store(&self) -> SqliteStore {
        SqliteStore::open(&self.log).await.unwrap()
    }

    async fn models(&self) -> SqliteReadModel {
        SqliteReadModel::open(&self.models).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn older_file_of_the_log_on_sqlite() {
    let files = Files::new();
    log_alone(async || files.store().await, files.models().await, files.older(vec![files.log.clone()])).await;
}

/// The views and the reaction are in the log's file, and the process manager has one of its own.
#[tokio::test(flavor = "multi_thread")]
async fn older_files_of_everything_on_sqlite() {
    let files = Files::new();
    let store = files.store().await;
    let models = store.read_model();
    let log = inline(store, ViewProjection::new(INLINE, models.clone())).await.unwrap();
    together(async || files.store().await, log, models, files.models().await, files.older(files.all())).await;
}

/// The program has the files open. Every call is refused until it is started again, and then every part compares its place.
#[tokio::test(flavor = "multi_thread")]
async fn files_copied_over_open_ones_end_the_program() {
    for is_together in [false, true] {
        let files = Files::new();
        let mut program = Program::new(files.store().await, files.models().await, files.models().await);
        program.start(&files.store().await);
        program.fill(0..20).await;
        program.agrees_with_log().await;
        files.older(files.all()).keep().await;
        program.fill(20..27).await;
        program.agrees_with_log().await;
        let before = program.view_rows().await;
        let copied = if is_together { files.all() } else { vec![files.log.clone()] };
        for file in &copied {
            copy_over(&files.copies.path().join(file.file_name().unwrap()), file);
        }
        let refused = program.log.append_events(("shelf", "0"), ExpectedVersion::Any, [Filled(7)]).await.unwrap_err();
        assert!(matches!(refused.kind(), ErrorKind::FileReplaced(_)) && !refused.is_transient(), "{refused:#}");
        program.every_task_says("was deleted, moved or replaced").await;
        let seen = program.seen.clone();
        program.stop().await;
        // Nothing of the lost commits is written into the files that were copied here.
        program.close().await;
        seen.forget_failures();

        let mut program = Program::new(files.store().await, files.models().await, files.models().await).with_seen(seen);
        program.start(&files.store().await);
        program.fill(100..170).await;
        if !is_together {
            program.has_failed(3).await;
            assert_eq!(program.view_rows().await, before, "no row mixes two histories");
            program.reset().await;
        }
        program.agrees_with_log().await;
        program.stop().await;
    }
}
