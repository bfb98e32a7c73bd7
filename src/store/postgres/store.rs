//! The store: opens a log in PostgreSQL and implements the log's ports.

use std::sync::Arc;

use sqlx::{PgConnection, PgPool};

use crate::error::{ErrorKind, Result};
use crate::store::log::append::{Append, Appended};
#[cfg(doc)]
use crate::store::log::event_store::EventStore;
use crate::store::log::group_commit::GroupCommit;
use crate::store::log::kinds::Kinds;
use crate::store::postgres::check::{self, Part};
use crate::store::postgres::connection::{Connections, pool};
use crate::store::postgres::error::classify;
use crate::store::postgres::health;
use crate::store::postgres::log::append::Writer;
use crate::store::postgres::log::read::Reader;
use crate::store::postgres::log::signals::Signals;
use crate::store::postgres::options::PostgresOptions;
use crate::store::postgres::schema::Schema;
use crate::store::server::health::Health;
use crate::store::server::store::log_ports;

/// The number of commits in flight: the server writes one while the disk syncs the other. More would split the same work into smaller commits.
pub(crate) const COMMITS_AT_ONCE: usize = 2;

/// A log in one schema of a PostgreSQL database. Clones share one pool.
///
/// # Examples
/// ```no_run
/// use retell::EventReader;
/// use retell::store::postgres::PostgresStore;
///
/// # async fn example() -> retell::Result<()> {
/// let store = PostgresStore::connect("postgres://localhost/shop").await?;
/// println!("the log has {} events", store.head().await?);
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct PostgresStore {
    pub(crate) writer: Arc<Writer>,
    pub(crate) commits: Arc<GroupCommit>,
    pub(crate) schema: Schema,
    pub(crate) reader: Reader,
    /// The connections of the read models, see [`read_model`](Self::read_model).
    pub(crate) models: Connections,
    pub(crate) max_payload: usize,
    pub(crate) kinds: Kinds,
}

impl PostgresStore {
    /// Opens the log in the database at `url`, with default settings and ten connections, and upgrades its schema.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if `url` is not the URL of a PostgreSQL database, otherwise the same as for [`open_with`](Self::open_with).
    pub async fn connect(url: &str) -> Result<Self> {
        Self::connect_with(url, PostgresOptions::new()).await
    }

    /// Opens the log in the database at `url`, with these settings and ten connections.
    ///
    /// # Errors
    /// The same as for [`connect`](Self::connect).
    pub async fn connect_with(url: &str, options: PostgresOptions) -> Result<Self> {
        let (pool, hosts) = pool(url).await?;
        Self::open_with(pool, options.of_url(hosts)).await
    }

    /// Opens the log over the caller's pool, with default settings, and upgrades its schema.
    ///
    /// # Errors
    /// The same as for [`open_with`](Self::open_with).
    pub async fn open(pool: PgPool) -> Result<Self> {
        Self::open_with(pool, PostgresOptions::new()).await
    }

    /// Opens the log over the caller's pool and upgrades its schema.
    ///
    /// If the schema does not exist, this needs the right to create it. An upgrade needs the right to create tables and functions in it. A schema
    /// that is up to date needs no such rights, so a log can be opened on a read replica or over read-only sessions. There, reads end at the last position that a writable session has assigned, and every write fails
    /// with [`ErrorKind::ReadOnly`]. A store opened there finds commits by polling, even after the replica is promoted.
    ///
    /// # Errors
    /// - [`ErrorKind::Invalid`] if the schema's name is not a plain identifier
    /// - [`ErrorKind::UnfitServer`] with a list of all problems and their remedies: if the server's settings or its behavior would break a promise,
    ///   if the database is not in UTF-8, if a connection pooler loses prepared statements, or if the database user lacks rights
    /// - [`ErrorKind::NewerStore`] if a newer release has changed the schema
    /// - [`ErrorKind::ReadOnly`] if the schema is out of date and the database is read-only
    /// - [`ErrorKind::Corrupt`] if the commit numbers are behind the data, as after logical replication: call [`repair`](Self::repair)
    /// - otherwise a [write error](crate::Error#write-errors)
    pub async fn open_with(pool: PgPool, options: PostgresOptions) -> Result<Self> {
        let schema = Schema::parse(&options.schema)?;
        let connections = Connections::open(pool, options.limits, &options.hosts).await?;
        // Boxed, because the future is large and a program keeps it within its own.
        let opened = Box::pin(async {
            let pool = connections.pool();
            let read_only = check::open(pool, &schema, Part::Log, options.migrate).await?;
            // Before the test, which draws numbers.
            check::explain(check_numbers(pool, &schema).await)?;
            let pooled = !read_only && options.migrate && check::test(pool, &schema).await?;
            // A replica does not support `LISTEN`, and a session that a pooler shares cannot receive anything.
            Ok((read_only, options.listen && options.migrate && !read_only && !pooled))
        });
        let (read_only, listen) = options.limits.long().call("open the log", opened).await?;
        let signals = Signals::new(listen.then(|| connections.clone()), &schema);
        let writer = Arc::new(Writer::new(connections.clone(), schema.clone(), options.durable, signals));
        Ok(Self {
            commits: Arc::new(GroupCommit::with_queues(writer.clone(), COMMITS_AT_ONCE).with_name("postgres")),
            writer,
            models: connections.apart(),
            reader: Reader { connections, schema: schema.clone(), expects_writes: !read_only },
            kinds: Kinds::default(),
            max_payload: options.max_payload,
            schema,
        })
    }

    /// Moves the commit numbers past the data. Nothing else may write to the log at the same time.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the schema's name is not a plain identifier, otherwise a [write error](crate::Error#write-errors).
    pub async fn repair(pool: &PgPool, options: &PostgresOptions) -> Result<()> {
        let schema = Schema::parse(&options.schema)?;
        let failed = |error| classify(error, "repair the commit numbers");
        let connections = Connections::open(pool.clone(), options.limits.long(), &options.hosts).await?;
        connections.execute(sqlx::query(schema.sql(REPAIR_NUMBERS))).await.map_err(failed)
    }

    /// Appends inside the caller's transaction, in any isolation level: the caller's rows and the events become durable together, or not at
    /// all. The transaction holds a lane until it ends, which delays no other writer. Other processes find the events by polling.
    ///
    /// # Errors
    /// The same as for [`append`](EventStore::append), and [`ErrorKind::Invalid`] if no transaction is open. After an error the transaction
    /// stays usable and does not contain the events.
    ///
    /// # Cancel safety
    /// If the call is dropped, roll the transaction back.
    pub async fn append_in(&self, tx: &mut PgConnection, append: &Append) -> Result<Appended> {
        append.check(self.max_payload)?;
        self.kinds.check(append)?;
        self.writer.connections.call("append", self.writer.append_in(tx, append)).await
    }

    /// Returns the health of the log: its head, the number of commits without a position, the transactions that hold a lane, and how far behind
    /// its projections are.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    pub async fn health(&self) -> Result<Health> {
        let connections = &self.writer.connections;
        connections.repeat("read the log's health", || health::health(connections, &self.schema)).await
    }

    /// Returns the pool, for the caller's queries.
    pub fn pool(&self) -> &PgPool {
        self.writer.connections.pool()
    }
}

/// Checks that the next commit number is after those of the data.
pub(crate) async fn check_numbers(pool: &PgPool, schema: &Schema) -> Result<()> {
    let (last, newest): (i64, i64) = sqlx::query_as(schema.sql(NUMBERS))
        .fetch_one(pool)
        .await
        .map_err(|error| classify(error, "check the commit numbers"))?;
    if last >= newest {
        return Ok(());
    }
    Err(ErrorKind::Corrupt(format!("the last commit number is {last}, but the data has {newest}: call `repair`"))
        .into())
}

log_ports!(PostgresStore);

const NUMBERS: &str = "
    SELECT (SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {schema}.commit_number),
        coalesce((SELECT max(commit_id) FROM {schema}.events), 0)";

const REPAIR_NUMBERS: &str = "
    SELECT setval('{schema}.commit_number', greatest(
        (SELECT last_value FROM {schema}.commit_number),
        (SELECT coalesce(max(commit_id), 1) FROM {schema}.events)))";
