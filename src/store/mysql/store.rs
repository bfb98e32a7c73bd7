//! The store: opens a log in MySQL or MariaDB and implements the log's ports.

use std::sync::Arc;

use sqlx::{MySqlConnection, MySqlPool};

use crate::error::{ErrorKind, Result};
use crate::store::log::append::{Append, Appended};
#[cfg(doc)]
use crate::store::log::event_store::EventStore;
use crate::store::log::group_commit::GroupCommit;
use crate::store::log::kinds::Kinds;
use crate::store::mysql::check::{self, Part};
use crate::store::mysql::connection::{Connections, pool};
use crate::store::mysql::error::{classify, refusal};
use crate::store::mysql::health;
use crate::store::mysql::log::append::Writer;
use crate::store::mysql::log::read::Reader;
use crate::store::mysql::options::MySqlOptions;
use crate::store::server::convert::to_sql;
use crate::store::server::health::Health;
use crate::store::server::rounds::Refusal;
use crate::store::server::store::log_ports;

/// The number of commits in flight: the server writes one while the disk syncs the other.
pub(crate) const COMMITS_AT_ONCE: usize = 2;

/// The bytes of a packet reserved for an event's names, its metadata and the packet's frame.
const PACKET_RESERVE: usize = 64 * 1024;

/// A log in a MySQL or MariaDB database. Clones share one pool.
///
/// # Examples
/// ```no_run
/// use retell::EventReader;
/// use retell::store::mysql::MySqlStore;
///
/// # async fn example() -> retell::Result<()> {
/// let store = MySqlStore::connect("mysql://localhost/shop").await?;
/// println!("the log has {} events", store.head().await?);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct MySqlStore {
    pub(crate) writer: Arc<Writer>,
    pub(crate) commits: Arc<GroupCommit>,
    pub(crate) reader: Reader,
    /// The connections of the read models, see [`read_model`](Self::read_model).
    pub(crate) models: Connections,
    pub(crate) max_payload: usize,
    pub(crate) kinds: Kinds,
}

impl MySqlStore {
    /// Opens the log in the database at `url`, with default settings and ten connections, and upgrades its schema.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if `url` is not the URL of a MySQL database, otherwise the same as for [`open_with`](Self::open_with).
    pub async fn connect(url: &str) -> Result<Self> {
        Self::connect_with(url, MySqlOptions::new()).await
    }

    /// Opens the log in the database at `url`, with these settings and ten connections.
    ///
    /// # Errors
    /// The same as for [`connect`](Self::connect).
    pub async fn connect_with(url: &str, options: MySqlOptions) -> Result<Self> {
        let (pool, hosts) = pool(url).await?;
        Self::open_with(pool, options.of_url(hosts)).await
    }

    /// Opens the log over the caller's pool, with default settings, and upgrades its schema.
    ///
    /// # Errors
    /// The same as for [`open_with`](Self::open_with).
    pub async fn open(pool: MySqlPool) -> Result<Self> {
        Self::open_with(pool, MySqlOptions::new()).await
    }

    /// Opens the log over the caller's pool and upgrades its schema.
    ///
    /// The caller chooses the pool's settings. An append, a read and the sequencer each use one connection at a time; ten connections are
    /// enough for a process. By default, sqlx tests a connection before each use, and `test_before_acquire(false)` saves that round trip. A call
    /// that gets no connection within `acquire_timeout` fails with [`ErrorKind::Transient`].
    ///
    /// Timeouts are session variables. Set them in the pool's `after_connect`:
    ///
    /// - `innodb_lock_wait_timeout` (50 seconds by default) limits how long an append waits for another append to the same stream. After
    ///   30 seconds in total it is not retried and fails with [`ErrorKind::Transient`].
    /// - `max_statement_time` (MariaDB, in seconds) or `max_execution_time` (MySQL, in milliseconds, reads only): a statement that takes
    ///   longer fails with [`ErrorKind::Transient`].
    /// - `idle_transaction_timeout` (MariaDB) or `wait_timeout` limits how long the server keeps a silent session. A machine that vanished
    ///   without closing its connections may still hold the sequencer's lock, and until the timeout no commit gets a position. If positions
    ///   must not wait long, one minute is a good value.
    ///
    /// Configure TLS in the URL (`?ssl-mode=VERIFY_IDENTITY&ssl-ca=..`) or in `MySqlConnectOptions`, and enable one of sqlx's `tls-*` features
    /// in your own manifest.
    ///
    /// An upgrade needs the rights to create tables, triggers and views. If the schema is up to date, `SELECT`, `INSERT`, `UPDATE` and `DELETE` on
    /// its tables are enough. A server that writes a binary log lets ordinary users create triggers only with
    /// `log_bin_trust_function_creators`.
    ///
    /// # Errors
    /// - [`ErrorKind::UnfitServer`] with a list of all problems and their remedies: if the server's commits do not wait for the disk and `options`
    ///   does not allow that, if its settings or its behavior would break a promise, or if the database user lacks rights
    /// - [`ErrorKind::NewerStore`] if a newer release has changed the schema
    /// - [`ErrorKind::Corrupt`] if the commit numbers are behind the data, as after a manual copy of the tables: call
    ///   [`repair`](Self::repair)
    /// - otherwise a [write error](crate::Error#write-errors)
    pub async fn open_with(pool: MySqlPool, options: MySqlOptions) -> Result<Self> {
        let connections = Connections::open(pool, options.limits, &options.hosts).await?;
        // Boxed, because the future is large and a program keeps it within its own.
        let opened = Box::pin(async {
            let opened = check::open(&connections, Part::Log { durable: options.durable }, options.migrate).await?;
            if !opened.read_only && options.migrate {
                // Before the test, which draws numbers.
                check_numbers(&connections).await?;
                check::test(&connections).await?;
            }
            Ok(opened)
        });
        let opened = options.limits.long().call("open the log", opened).await?;
        let writer = Arc::new(Writer::new(connections.clone(), &opened));
        Ok(Self {
            commits: Arc::new(GroupCommit::with_queues(writer.clone(), COMMITS_AT_ONCE).with_name("mysql")),
            writer,
            models: connections.apart(),
            reader: Reader { connections },
            kinds: Kinds::default(),
            max_payload: options.max_payload.min(opened.packet.saturating_sub(PACKET_RESERVE)),
        })
    }

    /// Moves the commit numbers past the data. Nothing else may write to the log at the same time.
    ///
    /// # Errors
    /// A [write error](crate::Error#write-errors).
    pub async fn repair(pool: &MySqlPool, options: &MySqlOptions) -> Result<()> {
        let failed = |error| classify(error, "repair the commit numbers");
        let limits = options.limits.long();
        let mut lease = Connections::open(pool.clone(), limits, &options.hosts).await?.lease().await.map_err(failed)?;
        let repaired = limits.statements(async {
            let mut tx = lease.begin().await?;
            for sql in [ADVANCE_COUNTER, DELETE_PLACEHOLDER] {
                sqlx::query(sql).execute(&mut *tx).await?;
            }
            tx.commit().await
        });
        let repaired = repaired.await;
        lease.end(repaired).map_err(failed)
    }

    /// Appends inside the caller's transaction: the caller's rows and the events become durable together, or not at all. The connection must
    /// have the log's database selected. Until the transaction ends, other appends to the same streams wait for it. Below serializable, no
    /// other append waits. Other processes find the events by polling.
    ///
    /// Every isolation level works. In read committed, an append that loses the race against another writer is tried once more. If it loses again,
    /// the error is [`ErrorKind::Transient`], and MySQL rolls the whole transaction back. Two levels are worse:
    ///
    /// - In repeatable read, the default, the versions are those of the transaction's snapshot, so only a unique key detects a later concurrent
    ///   append. The error is then [`ErrorKind::Transient`]: begin a new transaction. MySQL keeps locks that would block every other append, so
    ///   the whole transaction is rolled back. It keeps such locks, too, if you roll an append back to a savepoint of your own: then end the
    ///   transaction soon. On MariaDB it continues, and if the append expected a version and has one stream, the error is a
    ///   [`Conflict`](ErrorKind::Conflict) that names the lowest version that the stream can have.
    /// - In serializable, the server locks the rows that it reads and the gaps next to them. Appends to streams nearby in the index may wait, and
    ///   two such transactions may deadlock. From 11.6 on, MariaDB rolls a transaction back that lost a race (`innodb_snapshot_isolation`).
    ///
    /// # Errors
    /// The same as for [`append`](EventStore::append), and [`ErrorKind::Invalid`] if no transaction is open. After an error the transaction stays
    /// usable and does not contain the events. The exception is [`ErrorKind::Transient`]: after a deadlock, a lost race in repeatable read,
    /// or two in a row in read committed, the whole transaction may be rolled back, and each later statement would commit separately. Roll back and
    /// begin again.
    ///
    /// # Cancel safety
    /// If the call is dropped, close the connection, which rolls the transaction back. sqlx cannot use the connection any more.
    pub async fn append_in(&self, tx: &mut MySqlConnection, append: &Append) -> Result<Appended> {
        append.check(self.max_payload)?;
        self.kinds.check(append)?;
        self.writer.connections.call("append", self.writer.append_in(tx, append)).await
    }

    /// Returns the health of the log: its head, the number of commits without a position, the open transactions, and how far behind its
    /// projections are.
    ///
    /// The transactions are those of the whole server, at most 100: a transaction that is open for a long time, even in another database, keeps
    /// the server from purging deleted rows of the log's tables. To see them, the user needs the right `PROCESS`. Without it they are
    /// [`NotGranted`](crate::store::OpenTransactions::NotGranted). The server's list may be 0.1 seconds old, or older if it is read
    /// continuously.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    pub async fn health(&self) -> Result<Health> {
        let connections = &self.writer.connections;
        connections.repeat("read the log's health", || health::health(connections)).await
    }

    /// Returns the pool, for the caller's queries. Let each query run to its end: sqlx cannot use a connection after a query on it was dropped
    /// half-way.
    pub fn pool(&self) -> &MySqlPool {
        self.writer.connections.pool()
    }
}

/// Draws a number and rolls back: the server offers no other current source of the next number.
pub(crate) async fn check_numbers(connections: &Connections) -> Result<()> {
    let failed = |error| classify(error, "check the commit numbers");
    let mut lease = connections.lease().await.map_err(failed)?;
    let mut tx = lease.begin().await.map_err(failed)?;
    // The data is read first, because other processes may be writing.
    let newest: i64 = sqlx::query_scalar(NEWEST_COMMIT).fetch_one(&mut *tx).await.map_err(failed)?;
    let drawn = sqlx::query(DRAW_NUMBER).execute(&mut *tx).await;
    let next = match drawn {
        Ok(drawn) => to_sql(drawn.last_insert_id()),
        // A commit with this number exists and waits for its position.
        Err(error) if refusal(&error) == Refusal::Taken => 0,
        Err(error) => return Err(failed(error)),
    };
    let rolled_back = tx.rollback().await;
    lease.end(rolled_back).map_err(failed)?;
    if next > newest {
        return Ok(());
    }
    Err(ErrorKind::Corrupt(format!("the next commit number is {next}, but the data has {newest}: call `repair`"))
        .into())
}

log_ports!(MySqlStore);

const NEWEST_COMMIT: &str = "SELECT CAST(COALESCE(MAX(commit_id), 0) AS SIGNED) FROM retell_events";

const DRAW_NUMBER: &str = "INSERT INTO retell_commits (events) VALUES (0)";

/// An explicit number in an insert moves the counter past that number.
const ADVANCE_COUNTER: &str = "
    INSERT IGNORE INTO retell_commits (commit_id, events)
    SELECT MAX(commit_id), 0 FROM retell_events HAVING MAX(commit_id) IS NOT NULL";

const DELETE_PLACEHOLDER: &str = "DELETE FROM retell_commits WHERE events = 0";
