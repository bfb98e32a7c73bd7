//! The log and read models in MySQL 8 or MariaDB 10.6, or later.
//!
//! An append is one transaction: it reads the versions, draws a commit number, and inserts its events under it. Positions are given out
//! afterwards, in commit order, by the *sequencer*: any reader that finds commits without positions runs it. Why no event is ever
//! skipped is said in the decision record on lanes.
//!
//! All writers must reach one server: where several take writes at once (Galera, group replication with several primaries), each counts
//! commits for itself, and the order is lost.
//!
//! The tables begin with `retell_` and lie in the database the connections have selected.

mod append;
mod connection;
mod migrate;
mod read;
mod read_model;

use std::sync::Arc;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::MySqlPool;
use sqlx::mysql::{MySqlConnectOptions, MySqlPoolOptions};
use tokio::sync::watch;

use crate::error::{Error, ErrorKind, Result};
use crate::event::RecordedEvent;
use crate::id::{CommitId, EventType, IdempotencyKey, MAX_NAME_BYTES, Position, StreamId, check_relay_name};
use crate::store::group_commit::GroupCommit;
use crate::store::sql::{self, from_sql, to_sql};
use crate::store::{
    Append, Appended, EventReader, EventStore, Filter, KeptOutcome, MAX_PAYLOAD_BYTES, Page, RelayCheckpoint, Replay,
    Snapshot, SnapshotStore, Visitor,
};

use append::Writer;
use connection::{begin, classify};
use read::Reader;
pub use read_model::MySqlReadModel;

/// Bytes of a packet that an event needs beside its payload: its names and the frame, and a good deal of metadata.
const PACKET_RESERVE: usize = 64 * 1024;

/// Settings of a log in MySQL or MariaDB. Those of the connections are sqlx's own.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct MySqlOptions {
    durable: bool,
    max_payload: usize,
}

impl MySqlOptions {
    /// Only servers whose commits wait for the disk, payloads up to 16 MiB if the server takes such packets.
    pub fn new() -> Self {
        Self { durable: true, max_payload: MAX_PAYLOAD_BYTES }
    }

    /// Leaves it to the server's `innodb_flush_log_at_trx_commit`, and `sync_binlog` if it writes a binary log, whether a commit waits for
    /// the disk. Where they are not `1`, a crash takes back appends that were acknowledged. MariaDB's default for the second is `0`.
    pub fn with_durability_of_the_server(mut self) -> Self {
        self.durable = false;
        self
    }

    /// The largest payload of one event, in bytes. The server's `max_allowed_packet` less 64 KiB is a limit, too: MariaDB's default of
    /// 16 MiB is a little under our own.
    pub fn with_max_payload(mut self, bytes: usize) -> Self {
        self.max_payload = bytes;
        self
    }
}

impl Default for MySqlOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// A log in a MySQL or MariaDB database. Cloning gives another handle.
#[derive(Debug, Clone)]
pub struct MySqlStore {
    writer: Arc<Writer>,
    reader: Reader,
    commits: Arc<GroupCommit>,
    max_payload: usize,
}

impl MySqlStore {
    /// Opens the log in the database at `url`, with default settings and ten connections, and brings its schema up to date.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub async fn connect(url: &str) -> Result<Self> {
        Self::open(pool(url).await?, &MySqlOptions::new()).await
    }

    /// Opens the log over a pool of the caller's, and brings its schema up to date.
    ///
    /// That needs the rights to create tables, triggers and views. A server that writes a binary log lets ordinary users create triggers
    /// only with `log_bin_trust_function_creators`.
    ///
    /// # Errors
    /// [`ErrorKind::NewerStore`] if a newer release has changed the schema, [`ErrorKind::Invalid`] if the server does not wait for the
    /// disk and the options do not allow that, [`ErrorKind::Corrupt`] if the commit numbers are behind the data, as after a copy of
    /// the tables by hand: call [`repair`](Self::repair) then. Otherwise what connecting met.
    pub async fn open(pool: MySqlPool, options: &MySqlOptions) -> Result<Self> {
        let packet = check_server(&pool, options).await?;
        migrate::apply(&pool).await?;
        check_numbers(&pool).await?;
        let writer = Arc::new(Writer::new(pool.clone(), packet));
        Ok(Self {
            commits: Arc::new(GroupCommit::new(writer.clone())),
            writer,
            reader: Reader { pool },
            max_payload: options.max_payload.min(packet.saturating_sub(PACKET_RESERVE)),
        })
    }

    /// Moves the commit numbers past the data, while nothing else writes to the log.
    ///
    /// # Errors
    /// What the database met.
    pub async fn repair(pool: &MySqlPool, _options: &MySqlOptions) -> Result<()> {
        let failed = |error| classify(error, "repair the commit numbers");
        let mut tx = begin(pool).await.map_err(failed)?;
        for sql in [PASS_NUMBERS, DROP_PASSED] {
            sqlx::query(sql).execute(&mut *tx).await.map_err(failed)?;
        }
        tx.commit().await.map_err(failed)
    }

    /// The pool, for queries of one's own.
    pub fn pool(&self) -> &MySqlPool {
        &self.writer.pool
    }
}

async fn pool(url: &str) -> Result<MySqlPool> {
    let invalid = |error| Error::with_source(ErrorKind::Invalid("not the URL of a MySQL database".into()), error);
    let options: MySqlConnectOptions = url.parse().map_err(invalid)?;
    // Asking before each use costs a round trip; a lost connection is an error that says so.
    let pool = MySqlPoolOptions::new().max_connections(10).test_before_acquire(false).connect_with(options).await;
    pool.map_err(|error| classify(error, "connect"))
}

/// The largest packet the server takes. It alone can say whether commits wait for the disk: no session can ask for it.
async fn check_server(pool: &MySqlPool, options: &MySqlOptions) -> Result<usize> {
    let (flush, binary_log, sync, packet): (i64, i64, i64, i64) =
        sqlx::query_as(SERVER).fetch_one(pool).await.map_err(|error| classify(error, "read the server's settings"))?;
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
async fn check_numbers(pool: &MySqlPool) -> Result<()> {
    let failed = |error| classify(error, "check the commit numbers");
    let mut tx = begin(pool).await.map_err(failed)?;
    // First the data, since others may be writing.
    let newest: i64 = sqlx::query_scalar(NEWEST_COMMIT).fetch_one(&mut *tx).await.map_err(failed)?;
    let drawn = sqlx::query(DRAW_NUMBER).execute(&mut *tx).await;
    let next = match drawn {
        Ok(drawn) => to_sql(drawn.last_insert_id()),
        // The number is one that waits for its position.
        Err(error) if connection::refusal(&error) == sql::Refusal::Taken => 0,
        Err(error) => return Err(failed(error)),
    };
    tx.rollback().await.map_err(failed)?;
    if next > newest {
        return Ok(());
    }
    Err(ErrorKind::Corrupt(format!("the next commit number is {next}, the data has {newest}: repair it")).into())
}

#[async_trait]
impl EventReader for MySqlStore {
    async fn replay(&self, stream: &StreamId, replay: Replay, visitor: &mut dyn Visitor) -> Result<()> {
        self.reader.replay(stream, replay, visitor).await
    }

    async fn read_all(&self, after: Position, limit: usize, filter: &Filter) -> Result<Page> {
        sql::page(&self.reader, after, limit, filter).await
    }

    async fn newest(&self, event_type: &EventType, limit: usize) -> Result<Vec<RecordedEvent>> {
        self.reader.newest(event_type, limit).await
    }

    async fn recorded_after(&self, time: DateTime<Utc>, limit: usize) -> Result<Vec<RecordedEvent>> {
        self.reader.recorded_after(time, limit).await
    }

    async fn head(&self) -> Result<Position> {
        self.reader.head().await
    }

    async fn position_of(&self, commit: CommitId) -> Result<Option<Position>> {
        self.reader.position_of(commit).await
    }

    fn grown(&self) -> watch::Receiver<Position> {
        self.writer.grown.subscribe()
    }
}

#[async_trait]
impl EventStore for MySqlStore {
    async fn append(&self, append: Append) -> Result<Appended> {
        append.check(self.max_payload)?;
        self.commits.append(append).await
    }

    async fn outcome(&self, key: &IdempotencyKey) -> Result<Option<KeptOutcome>> {
        self.writer.outcome(key).await
    }

    async fn close(&self) -> Result<()> {
        self.commits.close().await;
        self.writer.pool.close().await;
        Ok(())
    }
}

#[async_trait]
impl SnapshotStore for MySqlStore {
    async fn save_snapshot(&self, stream: &StreamId, snapshot: Snapshot) -> Result<()> {
        let (version, fingerprint) = (to_sql(snapshot.version.get()), snapshot.fingerprint.cast_signed());
        let saved = sqlx::query(SAVE_SNAPSHOT)
            .bind(stream.aggregate_type().as_str().as_bytes())
            .bind(stream.aggregate_id().as_str().as_bytes())
            .bind(version)
            .bind(fingerprint)
            .bind(&snapshot.state)
            .bind(fingerprint)
            .bind(version)
            .bind(&snapshot.state)
            .bind(fingerprint)
            .bind(version)
            .bind(version)
            .bind(fingerprint)
            .execute(&self.writer.pool)
            .await;
        saved.map(drop).map_err(|error| classify(error, "save a snapshot"))
    }
}

#[async_trait]
impl RelayCheckpoint for MySqlStore {
    async fn relayed(&self, relay: &str) -> Result<Position> {
        check_relay_name(relay)?;
        let position: Option<i64> = sqlx::query_scalar(RELAYED)
            .bind(relay.as_bytes())
            .fetch_optional(&self.writer.pool)
            .await
            .map_err(|error| classify(error, "read a relay's position"))?;
        from_sql(position.unwrap_or(0), "position").map(Position::new)
    }

    async fn set_relayed(&self, relay: &str, position: Position) -> Result<()> {
        check_relay_name(relay)?;
        // A server that is not in strict mode would cut the name short.
        if relay.len() > MAX_NAME_BYTES {
            let problem = format!("relay name with {} bytes, at most {MAX_NAME_BYTES} are allowed", relay.len());
            return Err(ErrorKind::Invalid(problem).into());
        }
        let position = to_sql(position.get());
        let set = sqlx::query(SET_RELAYED)
            .bind(relay.as_bytes())
            .bind(position)
            .bind(position)
            .execute(&self.writer.pool)
            .await;
        set.map(drop).map_err(|error| classify(error, "move a relay's position"))
    }
}

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

/// Binds: aggregate type, aggregate id, version, fingerprint, state; then fingerprint, version, state; fingerprint, version, version;
/// fingerprint. The server assigns from left to right, and each assignment sees those before it.
const SAVE_SNAPSHOT: &str = "
    INSERT INTO retell_snapshots (aggregate_type, aggregate_id, version, fingerprint, state)
    VALUES (?, ?, ?, ?, ?)
    ON DUPLICATE KEY UPDATE
        state = IF(fingerprint <> ? OR version < ?, ?, state),
        version = IF(fingerprint <> ?, ?, GREATEST(version, ?)),
        fingerprint = ?";

const RELAYED: &str = "SELECT position FROM retell_relays WHERE relay = ?";

/// Binds: relay, position, position.
const SET_RELAYED: &str = "
    INSERT INTO retell_relays (relay, position) VALUES (?, ?) ON DUPLICATE KEY UPDATE position = GREATEST(position, ?)";
