//! Database servers that a test starts and may kill, follow and promote.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use std::{fs, thread};

use rustix::process::{Pid, Signal, kill_process};
use sqlx::{AssertSqlSafe, Connection, MySqlConnection, PgConnection, Row};
use tempfile::TempDir;

use crate::programs;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Postgres,
    /// MySQL or MariaDB, whichever the machine has.
    MySql,
}

pub(crate) struct Server {
    kind: Kind,
    directory: TempDir,
    port: u16,
    process: Child,
    /// Arguments in addition to those of every server.
    extra: Vec<String>,
}

impl Server {
    pub(crate) fn start(kind: Kind) -> Self {
        Self::start_with(kind, Vec::new())
    }

    /// Starts a server that others can follow.
    pub(crate) fn start_primary(kind: Kind) -> Self {
        Self::start_with(kind, kind.replicated(1))
    }

    pub(crate) fn start_with(kind: Kind, extra: Vec<String>) -> Self {
        Self::start_at(free_port(), kind, extra)
    }

    fn start_at(port: u16, kind: Kind, extra: Vec<String>) -> Self {
        let directory = kind.directory();
        let made = kind.make(directory.path()).output().unwrap();
        assert!(made.status.success(), "{made:?}");
        Self::on(port, kind, directory, extra)
    }

    fn on(port: u16, kind: Kind, directory: TempDir, extra: Vec<String>) -> Self {
        let process = kind.spawn(directory.path(), port, &extra);
        let mut server = Self { kind, directory, port, process, extra };
        server.wait();
        server
    }

    /// Starts a server that follows this one, a primary. Replication is asynchronous: commits do not wait for it.
    pub(crate) fn replica(&self) -> Self {
        self.replica_at(free_port())
    }

    fn replica_at(&self, port: u16) -> Self {
        match self.kind {
            Kind::Postgres => {
                let directory = self.kind.directory();
                let mut copy = self.kind.program("pg_basebackup");
                copy.arg("-D").arg(directory.path().join("data")).arg("-d").arg(self.url());
                let copied = copy.args(["-R", "-X", "stream", "--checkpoint=fast", "--no-sync"]).output().unwrap();
                assert!(copied.status.success(), "{copied:?}");
                Self::on(port, self.kind, directory, self.extra.clone())
            }
            Kind::MySql => {
                // Starts empty and repeats everything from the primary's first commit.
                let number = 2 + u32::from(port);
                let mut extra = self.kind.replicated(number);
                // From the start: a client that knows its address must not take it for the primary.
                extra.push("--read-only=ON".into());
                let replica = Self::start_at(port, self.kind, extra);
                let port = self.port;
                replica.administer(&if is_mariadb() {
                    format!(
                        "CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {port}, MASTER_USER = 'history',
                         MASTER_USE_GTID = slave_pos; START SLAVE"
                    )
                } else {
                    format!(
                        "CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = {port}, SOURCE_USER = 'history',
                         SOURCE_AUTO_POSITION = 1; START REPLICA"
                    )
                });
                replica
            }
        }
    }

    /// Starts a server that follows this one, a primary whose commits wait until it has them. The server takes the address of one that is
    /// down, if there is one.
    pub(crate) fn synchronous_replica(&self, in_place_of: Option<&Self>) -> Self {
        let replica = self.replica_at(in_place_of.map_or_else(free_port, |down| down.port));
        match self.kind {
            Kind::Postgres => {
                self.administer("ALTER SYSTEM SET synchronous_standby_names = '*'");
                self.administer("SELECT pg_reload_conf()");
                self.until("SELECT count(*)::text FROM pg_stat_replication WHERE sync_state = 'sync'", "1");
            }
            Kind::MySql => {
                let [source, receiver, thread] = if is_mariadb() {
                    ["master", "slave", "SLAVE IO_THREAD"]
                } else {
                    self.administer("INSTALL PLUGIN rpl_semi_sync_source SONAME 'semisync_source.so'");
                    replica.administer("INSTALL PLUGIN rpl_semi_sync_replica SONAME 'semisync_replica.so'");
                    ["source", "replica", "REPLICA IO_THREAD"]
                };
                replica.administer(&format!(
                    "SET GLOBAL rpl_semi_sync_{receiver}_enabled = ON; STOP {thread}; START {thread}"
                ));
                // After the timeout, commits would no longer wait.
                self.administer(&format!(
                    "SET GLOBAL rpl_semi_sync_{source}_wait_point = AFTER_SYNC; SET GLOBAL rpl_semi_sync_{source}_timeout = 600000;
                     SET GLOBAL rpl_semi_sync_{source}_enabled = ON"
                ));
                let clients = format!("Rpl_semi_sync_{source}_clients");
                self.until_status(&format!("SHOW GLOBAL STATUS LIKE '{clients}'"), "Value", |clients| clients == "1");
            }
        }
        replica
    }

    /// Makes a replica whose primary is down accept writes, once it has applied everything that it has received.
    pub(crate) fn take_over(&self) {
        if self.kind == Kind::MySql {
            if is_mariadb() {
                self.administer("STOP SLAVE IO_THREAD");
                let received = self.status("SHOW SLAVE STATUS", "Gtid_IO_Pos");
                self.until(&format!("SELECT CAST(MASTER_GTID_WAIT('{received}', 60) AS CHAR)"), "0");
                self.administer("STOP SLAVE");
            } else {
                self.administer("STOP REPLICA IO_THREAD");
                let received = self.status("SHOW REPLICA STATUS", "Retrieved_Gtid_Set").replace('\n', "");
                self.until(&format!("SELECT CAST(WAIT_FOR_EXECUTED_GTID_SET('{received}', 60) AS CHAR)"), "0");
                self.administer("STOP REPLICA");
            }
        }
        self.promote();
    }

    /// Ends the replication from `primary` once this replica has everything that the primary has now.
    pub(crate) fn leave(&self, primary: &Self) {
        match self.kind {
            Kind::Postgres => {
                let through = primary.ask("SELECT pg_current_wal_lsn()::text");
                self.until(&format!("SELECT (pg_last_wal_replay_lsn() >= '{through}')::text"), "true");
                self.administer("ALTER SYSTEM SET primary_conninfo = ''");
                self.administer("SELECT pg_reload_conf()");
                self.until("SELECT count(*)::text FROM pg_stat_wal_receiver", "0");
            }
            Kind::MySql => {
                if is_mariadb() {
                    let through = primary.ask("SELECT CAST(@@gtid_binlog_pos AS CHAR)");
                    self.until(&format!("SELECT CAST(MASTER_GTID_WAIT('{through}', 60) AS CHAR)"), "0");
                    self.administer("STOP SLAVE");
                } else {
                    let through = primary.ask("SELECT CAST(@@GLOBAL.gtid_executed AS CHAR)");
                    self.until(&format!("SELECT CAST(WAIT_FOR_EXECUTED_GTID_SET('{through}', 60) AS CHAR)"), "0");
                    self.administer("STOP REPLICA");
                }
            }
        }
    }

    /// Makes a replica that has left its primary accept writes.
    pub(crate) fn promote(&self) {
        self.administer(match self.kind {
            Kind::Postgres => "SELECT pg_promote()",
            Kind::MySql if is_mariadb() => "RESET SLAVE ALL; SET GLOBAL read_only = OFF",
            Kind::MySql => "RESET REPLICA ALL; SET GLOBAL read_only = OFF",
        });
    }

    /// Runs statements without a result.
    pub(crate) fn administer(&self, sql: &str) {
        let (url, sql) = (self.url(), AssertSqlSafe(sql.to_owned()));
        Self::block_on(async {
            match self.kind {
                Kind::Postgres => {
                    let mut db = PgConnection::connect(&url).await?;
                    sqlx::raw_sql(sql).execute(&mut db).await.map(drop)
                }
                Kind::MySql => {
                    let mut db = MySqlConnection::connect(&url).await?;
                    sqlx::raw_sql(sql).execute(&mut db).await.map(drop)
                }
            }
        })
        .unwrap();
    }

    /// Returns the one value, a text, that a query returns.
    fn ask(&self, query: &str) -> String {
        let (url, query) = (self.url(), AssertSqlSafe(query.to_owned()));
        Self::block_on(async {
            match self.kind {
                Kind::Postgres => sqlx::query_scalar(query).fetch_one(&mut PgConnection::connect(&url).await?).await,
                Kind::MySql => sqlx::query_scalar(query).fetch_one(&mut MySqlConnection::connect(&url).await?).await,
            }
        })
        .unwrap()
    }

    /// Returns a column of the first row that `SHOW ..` returns.
    fn status(&self, show: &str, column: &str) -> String {
        let (url, show) = (self.url(), AssertSqlSafe(show.to_owned()));
        Self::block_on(async {
            let row = sqlx::raw_sql(show).fetch_one(&mut MySqlConnection::connect(&url).await?).await?;
            let bytes: Vec<u8> = row.try_get_unchecked(column)?;
            Ok(String::from_utf8_lossy(&bytes).into_owned())
        })
        .unwrap()
    }

    fn until_status(&self, show: &str, column: &str, is_reached: fn(&str) -> bool) {
        let started = Instant::now();
        while !is_reached(&self.status(show, column)) {
            assert!(started.elapsed() < Duration::from_mins(1), "{show}: {}", self.log());
            sleep(Duration::from_millis(10));
        }
    }

    fn until(&self, query: &str, answer: &str) {
        let started = Instant::now();
        while self.ask(query) != answer {
            assert!(started.elapsed() < Duration::from_mins(1), "{query} is not {answer}: {}", self.log());
            sleep(Duration::from_millis(10));
        }
    }

    fn block_on<T>(work: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
        tokio::runtime::Runtime::new().unwrap().block_on(work)
    }

    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn url(&self) -> String {
        self.kind.url(&self.host())
    }

    /// Kills the server with SIGKILL and starts a new one on the same files.
    pub(crate) fn kill_and_start(&mut self) {
        self.kill();
        self.process = self.kind.spawn(self.directory.path(), self.port, &self.extra);
        self.wait();
    }

    /// Shuts the server down in its orderly way, which ends its sessions, and starts a new one on the same files.
    pub(crate) fn stop_and_start(&mut self) {
        let signal = match self.kind {
            Kind::Postgres => Signal::INT,
            Kind::MySql => Signal::TERM,
        };
        kill_process(Pid::from_raw(i32::try_from(self.process.id()).unwrap()).unwrap(), signal).unwrap();
        self.process.wait().unwrap();
        self.process = self.kind.spawn(self.directory.path(), self.port, &self.extra);
        self.wait();
    }

    /// Kills the server with SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Waits until the server answers. A new server exits at once while processes of the killed one remain, so this
    /// starts it again.
    fn wait(&mut self) {
        let started = Instant::now();
        let url = self.url();
        // On a thread of its own, because the caller may be inside a runtime.
        let answers = |kind: Kind| {
            let ask = || tokio::runtime::Runtime::new().unwrap().block_on(kind.answers(&url));
            thread::scope(|scope| scope.spawn(ask).join().unwrap())
        };
        while !answers(self.kind) {
            assert!(started.elapsed() < Duration::from_mins(1), "the server does not start: {:?}", self.log());
            if self.process.try_wait().unwrap().is_some() {
                self.process = self.kind.spawn(self.directory.path(), self.port, &self.extra);
            }
            sleep(Duration::from_millis(20));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Drop for Server {
    fn drop(&mut self) {
        let ended = self.process.kill().and_then(|()| self.process.wait());
        drop(ended);
    }
}

impl Kind {
    /// Returns the URL of the database that every such server has.
    pub(crate) fn url(self, hosts: &str) -> String {
        match self {
            Self::Postgres => format!("postgres://postgres@{hosts}/postgres"),
            Self::MySql => format!("mysql://history@{hosts}/mysql"),
        }
    }

    fn user(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::MySql => "mysql",
        }
    }

    /// Returns a folder that the server's user may use.
    fn directory(self) -> TempDir {
        programs::folder(self.user())
    }

    /// Returns the arguments of a server that takes part in replication.
    fn replicated(self, number: u32) -> Vec<String> {
        match self {
            Self::Postgres => Vec::new(),
            Self::MySql if !is_mariadb() => {
                vec![format!("--server-id={number}"), "--gtid-mode=ON".into(), "--enforce-gtid-consistency=ON".into()]
            }
            Self::MySql => vec![
                format!("--server-id={number}"),
                "--log-bin=binlog".into(),
                "--binlog-format=ROW".into(),
                "--sync-binlog=1".into(),
                "--log-slave-updates".into(),
                "--log-bin-trust-function-creators=1".into(),
            ],
        }
    }

    /// Returns the command that creates the server's files.
    fn make(self, directory: &Path) -> Command {
        let data = directory.join("data");
        match self {
            Self::Postgres => {
                let mut made = self.program("initdb");
                made.arg("-D").arg(data).args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]);
                made
            }
            Self::MySql if !is_mariadb() => {
                let mut made = self.program("mysqld");
                made.env("TMPDIR", directory);
                made.arg("--no-defaults").arg("--initialize-insecure").arg(format!("--datadir={}", data.display()));
                made
            }
            Self::MySql => {
                let mut made = self.program("mariadb-install-db");
                // Our own temporary folder may be closed to the server's user.
                made.env("TMPDIR", directory);
                made.arg("--no-defaults").arg(format!("--datadir={}", data.display()));
                made.args(["--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"]);
                made
            }
        }
    }

    fn spawn(self, directory: &Path, port: u16, extra: &[String]) -> Child {
        let log = fs::File::options().create(true).append(true).open(directory.join("log")).unwrap();
        let data = directory.join("data");
        let mut server = match self {
            Self::Postgres => {
                let mut server = self.program("postgres");
                server.arg("-D").arg(data).arg("-p").arg(port.to_string());
                // The library's commits must wait for the disk even if the server's default does not.
                for setting in [
                    "listen_addresses=127.0.0.1",
                    "unix_socket_directories=",
                    "max_connections=200",
                    "synchronous_commit=off",
                ] {
                    server.args(["-c", setting]);
                }
                server
            }
            Self::MySql => {
                let user = directory.join("user.sql");
                fs::write(
                    &user,
                    "CREATE USER IF NOT EXISTS history@'127.0.0.1';\nGRANT ALL ON *.* TO history@'127.0.0.1' WITH GRANT OPTION;\n",
                )
                .unwrap();
                let mut server = self.program(if is_mariadb() { "mariadbd" } else { "mysqld" });
                server.env("TMPDIR", directory);
                server.arg("--no-defaults").arg(format!("--datadir={}", data.display()));
                server.arg(format!("--socket={}", directory.join("socket").display()));
                server.arg(format!("--init-file={}", user.display())).arg(format!("--port={port}"));
                server.args(["--bind-address=127.0.0.1", "--skip-name-resolve", "--max-connections=200"]);
                if !is_mariadb() {
                    // The X protocol takes a port of its own. The server writes a binary log, with which only an administrator may
                    // create triggers.
                    server.args(["--mysqlx=OFF", "--log-bin-trust-function-creators=1"]);
                }
                server
            }
        };
        server.args(extra).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
    }

    async fn answers(self, url: &str) -> bool {
        match self {
            Self::Postgres => PgConnection::connect(url).await.is_ok(),
            Self::MySql => MySqlConnection::connect(url).await.is_ok(),
        }
    }

    /// Returns a command for one of the server's programs. Run by root, it switches to the user that the server
    /// requires.
    fn program(self, name: &str) -> Command {
        let path = programs::find(name);
        programs::as_user(
            self.user(),
            path.unwrap_or_else(|| panic!("{name} is missing: install the package of its server")),
        )
    }
}

/// Returns whether the machine has MariaDB and not MySQL.
pub(crate) fn is_mariadb() -> bool {
    programs::find("mariadbd").is_some()
}
