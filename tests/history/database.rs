//! The databases under test, and how their rules are broken on purpose.

use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};
use std::{env, fs};

use retell::error::Result;
use retell::store::EventStore;
use retell::store::postgres::{PostgresOptions, PostgresStore};
use retell::store::sqlite::SqliteStore;
use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;

/// Where a log is: what a child process needs to know to open it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Database {
    Sqlite(PathBuf),
    Postgres(Postgres),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Postgres {
    pub(crate) url: String,
    pub(crate) schema: String,
    /// The default of the sessions.
    pub(crate) isolation: String,
}

impl Database {
    /// A new log on the server at `POSTGRES_URL`.
    pub(crate) fn postgres() -> Postgres {
        let url = env::var("POSTGRES_URL").expect("POSTGRES_URL names a PostgreSQL server: tests/run.sh starts one");
        Postgres::new(url)
    }

    pub(crate) async fn open(&self) -> Result<Arc<dyn EventStore>> {
        Ok(match self {
            Self::Sqlite(path) => Arc::new(SqliteStore::open(path).await?),
            Self::Postgres(postgres) => Arc::new(postgres.open().await?),
        })
    }

    /// How many stores each writing process opens: each has one commit under way at a time.
    pub(crate) fn stores(&self) -> usize {
        match self {
            Self::Sqlite(_) => 1,
            Self::Postgres(_) => 4,
        }
    }
}

impl Postgres {
    pub(crate) fn new(url: String) -> Self {
        static SCHEMAS: AtomicU32 = AtomicU32::new(0);
        let schema = format!("h{}_{}", std::process::id(), SCHEMAS.fetch_add(1, Ordering::SeqCst));
        Self { url, schema, isolation: "read committed".to_owned() }
    }

    pub(crate) fn connect_options(&self) -> PgConnectOptions {
        PgConnectOptions::from_str(&self.url).unwrap().options([("default_transaction_isolation", &self.isolation)])
    }

    pub(crate) async fn open(&self) -> Result<PostgresStore> {
        let pool = PgPoolOptions::new().max_connections(3).test_before_acquire(false);
        let options = PostgresOptions::new().with_schema(self.schema.clone());
        PostgresStore::open(pool.connect_lazy_with(self.connect_options()), &options).await
    }

    pub(crate) async fn connect(&self) -> PgConnection {
        PgConnection::connect_with(&self.connect_options()).await.unwrap()
    }

    /// How many events have a position.
    pub(crate) async fn positions(&self) -> i64 {
        let sql = format!("SELECT coalesce(sum(events), 0) FROM {}.log", self.schema);
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut self.connect().await).await.unwrap()
    }

    pub(crate) async fn drop_schema(&self) {
        run(&mut self.connect().await, &format!("DROP SCHEMA {} CASCADE", self.schema)).await;
    }

    /// Breaks one rule of the protocol, and makes the moment longer in which that matters.
    pub(crate) async fn plant(&self, fault: Fault) {
        let db = &mut self.connect().await;
        match fault {
            Fault::NumberBeforeCheck => {
                let lane = format!("held_lane := {}.take_lane(lane_hint);", self.schema);
                let number = format!("nextval('{}.commit_number')", self.schema);
                let early = format!("{lane} early := {number}; PERFORM pg_sleep(0.003 * random());");
                let declared = ("held_lane integer;", "held_lane integer; early bigint;");
                self.change(db, "append", &[(&number, "early"), (&lane, &early), declared]).await;
            }
            Fault::LaneReleasedBeforeCommit => {
                let taken = "pg_try_advisory_xact_lock(log_key, lane)";
                let released = "pg_try_advisory_lock(log_key, lane) AND pg_advisory_unlock(log_key, lane)";
                // Few lanes, so that two appends meet in one.
                let few = ("(hint + step) % 64", "(hint + step) % 2");
                self.change(db, "take_lane", &[(taken, released), few]).await;
                let written = "VALUES (held_lane, commit_number, total, at);";
                let slow = format!("{written} PERFORM pg_sleep(0.003 * random());");
                self.change(db, "append", &[(written, &slow)]).await;
            }
            Fault::TwoSequencers => {
                let constraints = "DROP CONSTRAINT log_pkey, DROP CONSTRAINT log_commit_id_key";
                run(db, &format!("ALTER TABLE {}.log {constraints}", self.schema)).await;
                let unlocked = ("NOT pg_try_advisory_xact_lock(log_key, 64)", "false");
                let slow = ("RETURN head;", "PERFORM pg_sleep(0.003); RETURN head;");
                self.change(db, "sequence_commits", &[unlocked, slow]).await;
            }
            Fault::LateLock => {
                let lock = "IF NOT pg_try_advisory_xact_lock(log_key, 64)";
                self.change(db, "sequence_commits", &[(lock, &format!("PERFORM pg_sleep(0.003 * random()); {lock}"))])
                    .await;
            }
            Fault::CachedNumbers => run(db, &format!("ALTER SEQUENCE {}.commit_number CACHE 50", self.schema)).await,
        }
    }

    /// Replaces parts of a function's text. Each must be there.
    async fn change(&self, db: &mut PgConnection, function: &str, changes: &[(&str, &str)]) {
        let definition =
            "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname = $1 AND pronamespace = $2::regnamespace";
        let text: String =
            sqlx::query_scalar(definition).bind(function).bind(&self.schema).fetch_one(&mut *db).await.unwrap();
        let broken = changes.iter().fold(text, |text, (from, to)| {
            assert!(text.contains(from), "{from:?} is not in {text}");
            text.replace(from, to)
        });
        run(db, &broken).await;
    }
}

async fn run(db: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(db).await.unwrap();
}

/// A rule of the protocol that is broken.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    NumberBeforeCheck,
    LaneReleasedBeforeCommit,
    TwoSequencers,
    CachedNumbers,
    /// Not a fault, where the snapshot is older than the lock anyway: the unique constraint steps in.
    LateLock,
}

/// A PostgreSQL server of our own, which may be killed.
pub(crate) struct Server {
    directory: TempDir,
    port: u16,
    process: Child,
}

impl Server {
    pub(crate) fn start() -> Self {
        let directory = if is_root() {
            // The server's user must get there, and a temporary folder of root's may be closed to it.
            let directory = TempDir::new_in("/tmp").unwrap();
            chown(directory.path(), Some(user_id("postgres")), None).unwrap();
            directory
        } else {
            TempDir::new().unwrap()
        };
        let data = directory.path().join("data");
        let made = program("initdb")
            .arg("-D")
            .arg(&data)
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"])
            .output();
        let made = made.unwrap();
        assert!(made.status.success(), "{made:?}");
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = spawn(directory.path(), port);
        let mut server = Self { directory, port, process };
        server.wait();
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// SIGKILL, and a new server on the same files.
    pub(crate) fn kill_and_start(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.process = spawn(self.directory.path(), self.port);
        self.wait();
    }

    /// Waits until it answers. Started while processes of the killed one are still there, it ends at once and is started again.
    fn wait(&mut self) {
        let started = Instant::now();
        let url = self.url();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        while runtime.block_on(PgConnection::connect(&url)).is_err() {
            assert!(started.elapsed() < Duration::from_mins(1), "the server does not start: {:?}", self.log());
            if self.process.try_wait().unwrap().is_some() {
                self.process = spawn(self.directory.path(), self.port);
            }
            sleep(Duration::from_millis(20));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let ended = self.process.kill().and_then(|()| self.process.wait());
        drop(ended);
    }
}

fn spawn(directory: &Path, port: u16) -> Child {
    let log = fs::File::options().create(true).append(true).open(directory.join("log")).unwrap();
    let mut server = program("postgres");
    server.arg("-D").arg(directory.join("data")).arg("-p").arg(port.to_string());
    // The library's commits wait for the disk wherever the server's default is another.
    for setting in
        ["listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=200", "synchronous_commit=off"]
    {
        server.args(["-c", setting]);
    }
    server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
}

/// A program of the server's, as the user it insists on where we are root.
fn program(name: &str) -> Command {
    let mut folders: Vec<PathBuf> =
        fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten().map(|e| e.path().join("bin")).collect();
    folders.sort();
    folders.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    let found = folders.iter().map(|folder| folder.join(name)).find(|path| path.exists());
    let path = found.unwrap_or_else(|| panic!("{name} of PostgreSQL is missing: install its server package"));
    if !is_root() {
        return Command::new(path);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--init-groups", "--"]).arg(path);
    command
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

fn user_id(user: &str) -> u32 {
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let line = users.lines().find(|line| line.split(':').next() == Some(user)).expect("the server's user exists");
    line.split(':').nth(2).unwrap().parse().unwrap()
}
