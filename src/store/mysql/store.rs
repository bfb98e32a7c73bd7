//! The store: how a log in MySQL or MariaDB is opened, and its ports.

use std::sync::Arc;

use sqlx::{MySqlConnection, MySqlPool};

use crate::error::{ErrorKind, Result};
use crate::store::log::append::{Append, Appended};
#[cfg(doc)]
use crate::store::log::event_store::EventStore;
use crate::store::log::group_commit::GroupCommit;
use crate::store::mysql::connection::{Connections, begin, pool};
use crate::store::mysql::error::{classify, refusal};
use crate::store::mysql::log::append::Writer;
use crate::store::mysql::log::read::Reader;
use crate::store::mysql::options::MySqlOptions;
use crate::store::mysql::{health, migrate};
use crate::store::server::convert::to_sql;
use crate::store::server::health::Health;
use crate::store::server::rounds::Refusal;
use crate::store::server::store::log_ports;

/// While the disk syncs one commit, the next is written.
pub(crate) const COMMITS_AT_ONCE: usize = 2;

/// Bytes of a packet that an event needs beside its payload: its names and the frame, and a good deal of metadata.
const PACKET_RESERVE: usize = 64 * 1024;

/// A log in a MySQL or MariaDB database. Cloning gives another handle.
#[derive(Debug, Clone)]
pub struct MySqlStore {
    pub(crate) writer: Arc<Writer>,
    pub(crate) commits: Arc<GroupCommit>,
    pub(crate) reader: Reader,
    pub(crate) max_payload: usize,
}

impl MySqlStore {
    /// Opens the log in the database at `url`, with default settings and ten connections, and brings its schema up to date.
    ///
    /// # Errors
    /// As [`open_with`](Self::open_with).
    pub async fn connect(url: &str) -> Result<Self> {
        Self::open(pool(url).await?).await
    }

    /// Opens the log over a pool of the caller's, with default settings, and brings its schema up to date.
    ///
    /// # Errors
    /// As [`open_with`](Self::open_with).
    pub async fn open(pool: MySqlPool) -> Result<Self> {
        Self::open_with(pool, MySqlOptions::new()).await
    }

    /// Opens the log over a pool of the caller's, and brings its schema up to date.
    ///
    /// The pool's settings are the caller's. An append takes one connection at a time, a read one, the sequencer one after the other: ten
    /// serve a process well. sqlx asks the server before each use whether it is there; `test_before_acquire(false)` saves that round trip.
    /// A call that gets no connection within `acquire_timeout` is [`ErrorKind::Transient`].
    ///
    /// Limits of time are variables of the session, set in the pool's `after_connect`:
    ///
    /// - `innodb_lock_wait_timeout`, 50 seconds by default: how long an append waits for another to the same stream. After half
    ///   a minute in all it is not tried again, and is [`ErrorKind::Transient`].
    /// - `max_statement_time` (MariaDB, in seconds) or `max_execution_time` (MySQL, in milliseconds, for reads alone): a statement that
    ///   takes longer is [`ErrorKind::Transient`].
    /// - `idle_transaction_timeout` (MariaDB) or `wait_timeout`: when the server gives up a session that nobody hears from. After a
    ///   machine has vanished without closing its connections, it may still hold the sequencer's lock, and no position is given out until
    ///   then. A minute is a good value where positions matter.
    ///
    /// TLS is in the URL (`?ssl-mode=VERIFY_IDENTITY&ssl-ca=..`) or in `MySqlConnectOptions`, with one of sqlx's `tls-*` features in your own
    /// manifest.
    ///
    /// Opening needs the rights to create tables, triggers and views, unless the schema is up to date: then `SELECT`, `INSERT`, `UPDATE` and
    /// `DELETE` on its tables are enough. A server that writes a binary log lets ordinary users create triggers
    /// only with `log_bin_trust_function_creators`.
    ///
    /// # Errors
    /// [`ErrorKind::NewerStore`] if a newer release has changed the schema, [`ErrorKind::Invalid`] if the server does not wait for the
    /// disk and the options do not allow that, [`ErrorKind::Corrupt`] if the commit numbers are behind the data, as after a copy of
    /// the tables by hand: call [`repair`](Self::repair) then. Otherwise what connecting met.
    pub async fn open_with(pool: MySqlPool, options: MySqlOptions) -> Result<Self> {
        let connections = Connections::of(pool);
        let packet = check_server(&connections, &options).await?;
        migrate::apply(&connections).await?;
        check_numbers(&connections).await?;
        let writer = Arc::new(Writer::new(connections.clone(), packet));
        Ok(Self {
            commits: Arc::new(GroupCommit::with_queues(writer.clone(), COMMITS_AT_ONCE)),
            writer,
            reader: Reader { connections },
            max_payload: options.max_payload.min(packet.saturating_sub(PACKET_RESERVE)),
        })
    }

    /// Moves the commit numbers past the data, while nothing else writes to the log.
    ///
    /// # Errors
    /// What the database met.
    pub async fn repair(pool: &MySqlPool, _options: &MySqlOptions) -> Result<()> {
        let failed = |error| classify(error, "repair the commit numbers");
        let mut lease = Connections::of(pool.clone()).lease().await.map_err(failed)?;
        let mut tx = begin(&mut lease).await.map_err(failed)?;
        for sql in [PASS_NUMBERS, DROP_PASSED] {
            sqlx::query(sql).execute(&mut *tx).await.map_err(failed)?;
        }
        let committed = tx.commit().await;
        lease.end(committed).map_err(failed)
    }

    /// Appends inside a transaction of the caller's: its rows and the events become durable together, or not at all. The connection must
    /// have the log's database selected. Until the transaction ends, others who append to the same streams wait for it, and below serializable
    /// nobody else does. Other processes notice the events by polling.
    ///
    /// Any isolation level will do. Two are worse than read committed:
    ///
    /// - In repeatable read, the versions are those of the transaction's snapshot. Who was faster since is found by a unique key alone. The
    ///   conflict names the least version the stream can have; it is [`ErrorKind::Transient`] if no version was expected, or the append
    ///   has several streams. Begin again.
    /// - In serializable, the server locks what is read, with the gaps beside it: others may wait whose streams stand next to it in the
    ///   index, and two such transactions may well end in a deadlock.
    ///
    /// # Errors
    /// As [`append`](EventStore::append), and [`ErrorKind::Invalid`] if no transaction is open. The transaction stays usable after each of
    /// them, and the events are not in it then. The exception is [`ErrorKind::Transient`]: after a deadlock the server has rolled back the
    /// whole transaction, and each later statement would be one of its own. Roll back and begin again.
    ///
    /// # Cancel safety
    /// After a dropped call close the connection: that rolls the transaction back. sqlx cannot go on with it.
    pub async fn append_in(&self, tx: &mut MySqlConnection, append: &Append) -> Result<Appended> {
        append.check(self.max_payload)?;
        self.writer.append_in(tx, append).await
    }

    /// How the log is doing: its head, what waits for a position, which transactions are open, how far behind its projections are.
    ///
    /// The transactions are those of the whole server, up to a hundred: whatever is open for long, also in another database, keeps the
    /// server from clearing away the queue's deleted rows. Seeing them needs the right `PROCESS`; without it they are
    /// [`NotGranted`](crate::store::OpenTransactions::NotGranted). The server's list may be a tenth of a second old, and older if it is
    /// asked for all the time.
    ///
    /// # Errors
    /// What reading met.
    pub async fn health(&self) -> Result<Health> {
        health::health(&self.writer.connections).await
    }

    /// The pool, for queries of one's own. sqlx cannot go on with a connection after a query on it was dropped half-way: let each come to
    /// its end.
    pub fn pool(&self) -> &MySqlPool {
        self.writer.connections.pool()
    }
}

/// The largest packet the server takes. It alone can say whether commits wait for the disk: no session can ask for it.
async fn check_server(connections: &Connections, options: &MySqlOptions) -> Result<usize> {
    let settings = connections.one(sqlx::query_as(SERVER)).await;
    let (flush, binary_log, sync, packet): (i64, i64, i64, i64) =
        settings.map_err(|error| classify(error, "read the server's settings"))?;
    let forgets = match (flush, binary_log, sync) {
        (1, 0, _) | (1, _, 1) => None,
        // With a binary log, a commit that is not in it is rolled back after a crash.
        (1, ..) => Some(("sync_binlog", sync)),
        _ => Some(("innodb_flush_log_at_trx_commit", flush)),
    };
    if let Some((setting, value)) = forgets.filter(|_| options.durable) {
        let problem = format!(
            "the server forgets commits in a crash: set {setting} to 1 (it is {value}), or allow it with \
             `MySqlOptions::with_durability_of_the_server`"
        );
        return Err(ErrorKind::Invalid(problem).into());
    }
    Ok(usize::try_from(packet).unwrap_or(usize::MAX))
}

/// Draws a number and gives it back: the server says nowhere else, and up to date, which one is next.
async fn check_numbers(connections: &Connections) -> Result<()> {
    let failed = |error| classify(error, "check the commit numbers");
    let mut lease = connections.lease().await.map_err(failed)?;
    let mut tx = begin(&mut lease).await.map_err(failed)?;
    // First the data, since others may be writing.
    let newest: i64 = sqlx::query_scalar(NEWEST_COMMIT).fetch_one(&mut *tx).await.map_err(failed)?;
    let drawn = sqlx::query(DRAW_NUMBER).execute(&mut *tx).await;
    let next = match drawn {
        Ok(drawn) => to_sql(drawn.last_insert_id()),
        // The number is one that waits for its position.
        Err(error) if refusal(&error) == Refusal::Taken => 0,
        Err(error) => return Err(failed(error)),
    };
    let rolled_back = tx.rollback().await;
    lease.end(rolled_back).map_err(failed)?;
    if next > newest {
        return Ok(());
    }
    Err(ErrorKind::Corrupt(format!("the next commit number is {next}, the data has {newest}: repair it")).into())
}

log_ports!(MySqlStore);

const SERVER: &str = "
    SELECT CAST(@@GLOBAL.innodb_flush_log_at_trx_commit AS SIGNED), CAST(@@GLOBAL.log_bin AS SIGNED), CAST(@@GLOBAL.sync_binlog AS SIGNED),
        CAST(@@max_allowed_packet AS SIGNED)";

const NEWEST_COMMIT: &str = "SELECT CAST(COALESCE(MAX(commit_id), 0) AS SIGNED) FROM retell_events";

const DRAW_NUMBER: &str = "INSERT INTO retell_commits (events) VALUES (0)";

/// A number that is written out moves the counter past it.
const PASS_NUMBERS: &str = "
    INSERT IGNORE INTO retell_commits (commit_id, events)
    SELECT MAX(commit_id), 0 FROM retell_events HAVING MAX(commit_id) IS NOT NULL";

const DROP_PASSED: &str = "DELETE FROM retell_commits WHERE events = 0";
