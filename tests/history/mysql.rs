//! Logs in MySQL or MariaDB: opening them, breaking their rules on purpose, and other sessions that disturb them.

use std::env;
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::Sender;

use retell::error::Result;
use retell::id::ExpectedVersion;
use retell::store::Append;
use retell::store::mysql::{MySqlOptions, MySqlStore};
use retell::testing::store::{event, stream};
use serde::{Deserialize, Serialize};
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions, MySqlConnection};
use tokio::runtime::Runtime;
use tokio::sync::watch;

use crate::check::{Answer, Call, Entry, Part};
use crate::child::now;
use crate::database::Fault;
use crate::other_sessions::{OTHER_SESSIONS, OtherSession};
use crate::server::is_mariadb;

/// Serializable is left out: an idle session would hold locks on the gaps between other sessions' streams, and each
/// would wait for the other.
const ISOLATION: [&str; 3] = ["READ UNCOMMITTED", "READ COMMITTED", "REPEATABLE READ"];

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MySql {
    pub(crate) url: String,
    /// The servers of which one is the primary, if there is more than the one of the URL.
    pub(crate) hosts: Vec<String>,
    pub(crate) name: String,
}

impl MySql {
    /// Creates a log on the server at `MYSQL_URL`.
    pub(crate) fn named() -> Self {
        Self::new(env::var("MYSQL_URL").expect("MYSQL_URL is not set: tests/run.sh starts a MySQL or MariaDB server"))
    }

    pub(crate) fn new(url: String) -> Self {
        static DATABASES: AtomicU32 = AtomicU32::new(0);
        let name = format!("h{}_{}", std::process::id(), DATABASES.fetch_add(1, Ordering::SeqCst));
        Self { url, hosts: Vec::new(), name }
    }

    pub(crate) async fn create(&self) {
        let mut server = MySqlConnectOptions::from_str(&self.url).unwrap().connect().await.unwrap();
        run(&mut server, &format!("CREATE DATABASE {}", self.name)).await.unwrap();
    }

    pub(crate) async fn remove(&self) {
        let database = format!("DROP DATABASE {}", self.name);
        // The server is temporary, so a failure is only reported.
        if let Err(error) = run(&mut self.connect().await.unwrap(), &database).await {
            eprintln!("{database} fails: {error}");
        }
    }

    fn options(&self) -> MySqlConnectOptions {
        MySqlConnectOptions::from_str(&self.url).unwrap().database(&self.name)
    }

    pub(crate) async fn open(&self) -> Result<MySqlStore> {
        let pool = MySqlPoolOptions::new().max_connections(3).test_before_acquire(false);
        let options = MySqlOptions::new().with_hosts(&self.hosts);
        MySqlStore::open_with(pool.connect_lazy_with(self.options()), options).await
    }

    async fn connect(&self) -> sqlx::Result<MySqlConnection> {
        self.options().connect().await
    }

    /// Breaks one rule of the protocol, and slows the step where that matters.
    pub(crate) async fn plant(&self, fault: Fault) {
        let statements: &[&str] = match fault {
            // MyISAM has no row locks.
            Fault::TwoSequencers => &[
                "ALTER TABLE retell_sequencer ENGINE = MyISAM",
                "ALTER TABLE retell_log DROP PRIMARY KEY, DROP KEY log_commit, ADD KEY first (first_position), ADD KEY id (commit_id)",
                "CREATE TRIGGER slow BEFORE INSERT ON retell_log FOR EACH ROW SET @slept = IF(RAND() < 0.05, SLEEP(0.003), 0)",
            ],
            // Each session draws fifty numbers and uses them one after the other.
            Fault::CachedNumbers => &[
                "CREATE TABLE drawn (id BIGINT AUTO_INCREMENT PRIMARY KEY)",
                "CREATE TRIGGER cached BEFORE INSERT ON retell_commits FOR EACH ROW BEGIN
                    IF @next IS NULL OR @next % 50 = 49 THEN
                        INSERT INTO drawn () VALUES ();
                        SET @next = LAST_INSERT_ID() * 50;
                    ELSE
                        SET @next = @next + 1;
                    END IF;
                    SET NEW.commit_id = @next;
                END",
            ],
            other => panic!("{other:?} does not apply to MySQL"),
        };
        let mut db = self.connect().await.unwrap();
        for statement in statements {
            run(&mut db, statement).await.unwrap();
        }
    }

    /// Starts sessions that run until the count of acknowledged appends is dropped. A server that is killed ends them.
    pub(crate) fn start_other_sessions(
        &self,
        runtime: &Runtime,
        lines: &Sender<Entry>,
        acknowledged: &watch::Sender<u64>,
    ) {
        let (mysql, idle) = (self.clone(), acknowledged.subscribe());
        runtime.spawn(async move { mysql.hold_snapshot(idle).await });
        for number in 0..OTHER_SESSIONS {
            let session = OtherSession { number, lines: lines.clone(), acknowledged: acknowledged.subscribe() };
            let (mysql, failures) = (self.clone(), lines.clone());
            runtime.spawn(async move {
                if let Err(error) = mysql.disturb(session).await {
                    drop(failures.send(Entry::Failed(format!("another session: {error}"))));
                }
            });
        }
    }

    /// Keeps a snapshot open the whole time, so that the server cannot purge old row versions.
    async fn hold_snapshot(self, mut acknowledged: watch::Receiver<u64>) -> sqlx::Result<()> {
        let mut db = self.connect().await?;
        run(&mut db, "START TRANSACTION WITH CONSISTENT SNAPSHOT").await?;
        drop(acknowledged.wait_for(|_| false).await);
        run(&mut db, "ROLLBACK").await
    }

    async fn disturb(&self, mut session: OtherSession) -> std::result::Result<(), String> {
        let store = self.open().await.map_err(|error| format!("{error:?}"))?;
        for number in 0.. {
            match self.transaction(&store, &mut session, number).await {
                Ok(true) => {}
                Ok(false) => break,
                // The test killed the server.
                Err(error) if error.is_transient() => break,
                Err(error) => return Err(format!("{error:?}")),
            }
        }
        Ok(())
    }

    /// Takes a transaction id early, rolls back a first attempt, appends, and commits or rolls back long after
    /// concurrent appends. Returns `false` at the end of the run.
    async fn transaction(&self, store: &MySqlStore, session: &mut OtherSession, number: usize) -> Result<bool> {
        let lost = |error: sqlx::Error| {
            let lost = matches!(error, sqlx::Error::Io(_) | sqlx::Error::Database(_));
            assert!(lost, "{error:?}");
            retell::ErrorKind::Transient("reach the server".into())
        };
        let mut tx = self.connect().await.map_err(lost)?;
        let isolation = ISOLATION[number % 3];
        let begin = format!("SET TRANSACTION ISOLATION LEVEL {isolation}; START TRANSACTION");
        run(&mut tx, &begin).await.map_err(lost)?;
        run(&mut tx, "INSERT INTO retell_relays (relay, position) VALUES (UUID(), 0)").await.map_err(lost)?;
        session.wait(50).await;
        let id = format!("session{}", session.number);
        let part = Part { stream: id.clone(), expected: None, events: 1 };
        let call = Call { append: format!("{id}.{number}"), at: now(), parts: vec![part], keyed: false };
        let append = || Append::new(stream(&id), ExpectedVersion::Any, vec![event(call.event(0, 0))]);
        session.record(Entry::Called(call.clone()));
        // In repeatable read, MySQL keeps the locks of what is rolled back to a savepoint, and every append waits for them.
        if is_mariadb() || isolation != "REPEATABLE READ" {
            run(&mut tx, "SAVEPOINT tried").await.map_err(lost)?;
            store.append_in(&mut tx, &append()).await?;
            run(&mut tx, "ROLLBACK TO SAVEPOINT tried").await.map_err(lost)?;
        }
        let appended = store.append_in(&mut tx, &append()).await?;
        let goes_on = session.wait(100).await;
        let answer = if number % 10 == 3 || number % 10 == 7 {
            run(&mut tx, "ROLLBACK").await.map_err(lost)?;
            Answer::Refused
        } else {
            run(&mut tx, "COMMIT").await.map_err(lost)?;
            let versions = appended.versions.iter().map(|version| version.get()).collect();
            Answer::Written { token: appended.token().to_string(), versions }
        };
        session.record(Entry::Answered { append: call.append.clone(), at: now(), answer });
        Ok(goes_on)
    }
}

async fn run(db: &mut MySqlConnection, sql: &str) -> sqlx::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(db).await.map(drop)
}
