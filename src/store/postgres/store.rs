//! The store: how a log in PostgreSQL is opened, and its ports.

use std::sync::Arc;

use sqlx::{PgConnection, PgPool};

use crate::error::{ErrorKind, Result};
use crate::store::log::append::{Append, Appended};
#[cfg(doc)]
use crate::store::log::event_store::EventStore;
use crate::store::log::group_commit::GroupCommit;
use crate::store::postgres::connection::{Connections, pool};
use crate::store::postgres::error::classify;
use crate::store::postgres::log::append::Writer;
use crate::store::postgres::log::read::Reader;
use crate::store::postgres::log::signals::Signals;
use crate::store::postgres::options::PostgresOptions;
use crate::store::postgres::schema::Schema;
use crate::store::postgres::{health, migrate};
use crate::store::server::health::Health;
use crate::store::server::store::log_ports;

/// While the disk syncs one commit, the next is written. More of them share out the same work in smaller commits.
pub(crate) const COMMITS_AT_ONCE: usize = 2;

/// A log in one schema of a PostgreSQL database. Cloning gives another handle.
#[derive(Debug, Clone)]
pub struct PostgresStore {
    pub(crate) writer: Arc<Writer>,
    pub(crate) commits: Arc<GroupCommit>,
    pub(crate) schema: Schema,
    pub(crate) reader: Reader,
    pub(crate) max_payload: usize,
}

impl PostgresStore {
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
    pub async fn open(pool: PgPool) -> Result<Self> {
        Self::open_with(pool, PostgresOptions::new()).await
    }

    /// Opens the log over a pool of the caller's, and brings its schema up to date.
    ///
    /// That needs the right to make a schema; where it is up to date already, no such right. So a log can be opened on a read replica, or
    /// over sessions that may only read: it is read as far as positions were given out elsewhere, and every write is
    /// [`ErrorKind::ReadOnly`]. A store opened there learns of commits by polling, also after the replica was promoted.
    ///
    /// # Errors
    /// [`ErrorKind::ReadOnly`] for a schema that is not up to date and may not be changed. [`ErrorKind::Invalid`] for a schema name that is not a plain identifier,
    /// [`ErrorKind::NewerStore`] if a newer release has changed the schema, [`ErrorKind::Corrupt`] if the commit numbers are behind the
    /// data, as after logical replication: call [`repair`](Self::repair) then. Otherwise what connecting met.
    pub async fn open_with(pool: PgPool, options: PostgresOptions) -> Result<Self> {
        let schema = Schema::parse(&options.schema)?;
        migrate::apply(&pool, &schema).await?;
        check_numbers(&pool, &schema).await?;
        // A replica takes no `LISTEN`.
        let listen = options.listen && !is_read_only(&pool).await?;
        let signals = Signals::new(listen.then(|| pool.clone()), &schema);
        let connections = Connections::of(pool);
        let writer = Arc::new(Writer::new(connections.clone(), schema.clone(), options.durable, signals));
        Ok(Self {
            commits: Arc::new(GroupCommit::with_queues(writer.clone(), COMMITS_AT_ONCE)),
            writer,
            reader: Reader { connections, schema: schema.clone() },
            max_payload: options.max_payload,
            schema,
        })
    }

    /// Moves the commit numbers past the data, while nothing else writes to the log.
    ///
    /// # Errors
    /// What the database met.
    pub async fn repair(pool: &PgPool, options: &PostgresOptions) -> Result<()> {
        let schema = Schema::parse(&options.schema)?;
        let repaired = sqlx::query(schema.sql(REPAIR_NUMBERS)).execute(pool).await;
        repaired.map(drop).map_err(|error| classify(error, "repair the commit numbers"))
    }

    /// Appends inside a transaction of the caller's, in any isolation level: its rows and the events become durable together, or not at
    /// all. The transaction holds a lane until it ends, and delays nobody. Other processes notice the events by polling.
    ///
    /// # Errors
    /// As [`append`](EventStore::append). The transaction stays usable after each of them; the events are not in it then.
    ///
    /// # Cancel safety
    /// After a dropped call roll the transaction back.
    pub async fn append_in(&self, tx: &mut PgConnection, append: &Append) -> Result<Appended> {
        append.check(self.max_payload)?;
        self.writer.append_in(tx, append).await
    }

    /// How the log is doing: its head, what waits for a position, who holds a lane, how far behind its projections are.
    ///
    /// # Errors
    /// What reading met.
    pub async fn health(&self) -> Result<Health> {
        health::health(self.writer.connections.pool(), &self.schema).await
    }

    /// The pool, for queries of one's own.
    pub fn pool(&self) -> &PgPool {
        self.writer.connections.pool()
    }
}

async fn is_read_only(pool: &PgPool) -> Result<bool> {
    let asked = sqlx::query_scalar(IS_READ_ONLY).fetch_one(pool).await;
    asked.map_err(|error| classify(error, "ask whether the database may be written"))
}

async fn check_numbers(pool: &PgPool, schema: &Schema) -> Result<()> {
    let (last, newest): (i64, i64) = sqlx::query_as(schema.sql(NUMBERS))
        .fetch_one(pool)
        .await
        .map_err(|error| classify(error, "check the commit numbers"))?;
    if last >= newest {
        return Ok(());
    }
    Err(ErrorKind::Corrupt(format!("the next commit number is after {last}, the data has {newest}: repair it")).into())
}

log_ports!(PostgresStore);

const IS_READ_ONLY: &str = "SELECT current_setting('transaction_read_only')::boolean";

const NUMBERS: &str = "
    SELECT (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {schema}.commit_number),
        coalesce((SELECT max(commit_id) FROM {schema}.events), 0)";

const REPAIR_NUMBERS: &str = "
    SELECT setval('{schema}.commit_number', greatest(
        (SELECT last_value FROM {schema}.commit_number),
        (SELECT coalesce(max(commit_id), 1) FROM {schema}.events)))";
