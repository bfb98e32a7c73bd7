//! The store: opens a log in a SQLite file and implements the log's ports.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::Connection;
use tokio::sync::watch;

use crate::error::{Error, Result};
use crate::id::{ClaimScope, ClaimValue, EventType, IdempotencyKey, Position, StreamId};
use crate::store::log::append::{Append, Appended, KeyedOutcome};
use crate::store::log::event_store::{EventStore, Snapshot};
use crate::store::log::group_commit::GroupCommit;
use crate::store::log::history::token_at;
use crate::store::log::inline::Inlines;
use crate::store::log::kinds::Kinds;
use crate::store::log::query::{Page, Query, Select};
use crate::store::log::reader::{EventReader, Replay, Visitor};
use crate::store::log::shapes::RegisteredShape;
use crate::store::log::token::Token;
use crate::store::size::StoreSize;
use crate::store::sqlite::connection::{Location, Pool};
use crate::store::sqlite::health::{self, Health};
use crate::store::sqlite::log::append::{self, Writer};
use crate::store::sqlite::log::{claims, read, replay, shapes};
use crate::store::sqlite::options::SqliteOptions;
use crate::store::sqlite::size::size_of_log;

/// A log in one SQLite file. Clones share the connections.
///
/// Several processes may open the same file. An append then waits for the commits of the other processes.
///
/// # Examples
/// ```
/// use retell::EventReader;
/// use retell::store::sqlite::SqliteStore;
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let store = SqliteStore::in_memory().await?;
/// assert_eq!(store.head().await?.get(), 0);
/// # Ok::<(), retell::Error>(())
/// # }).unwrap();
/// ```
#[derive(Debug, Clone)]
pub struct SqliteStore {
    pub(crate) writer: Arc<Writer>,
    pub(crate) readers: Arc<Pool>,
    pub(crate) commits: Arc<GroupCommit>,
    pub(crate) max_payload: usize,
    pub(crate) kinds: Kinds,
}

impl SqliteStore {
    /// Opens a log with default settings, and creates the file if it does not exist.
    ///
    /// # Errors
    /// The same as for [`open_with`](Self::open_with).
    pub async fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path, SqliteOptions::new()).await
    }

    /// Opens a log, and creates the file if it does not exist.
    ///
    /// # Errors
    /// - [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) if the file is not a valid SQLite database
    /// - [`ErrorKind::NewerStore`](crate::ErrorKind::NewerStore) if a newer release has changed the schema
    /// - [`ErrorKind::Backend`](crate::ErrorKind::Backend) if SQLite cannot open the file
    /// - otherwise a [write error](crate::Error#write-errors)
    pub async fn open_with(path: impl AsRef<Path>, options: SqliteOptions) -> Result<Self> {
        Self::at(Location::File(path.as_ref().to_owned()), options).await
    }

    /// Opens a log in memory. It is lost when the last handle is dropped. Reads and appends take turns.
    ///
    /// # Errors
    /// [`ErrorKind::Backend`](crate::ErrorKind::Backend) if SQLite cannot open the database.
    pub async fn in_memory() -> Result<Self> {
        Self::at(Location::Memory, SqliteOptions::new()).await
    }

    /// Appends and writes the caller's rows in the same transaction: both become durable together, or neither does.
    ///
    /// `work` runs on a blocking thread, after the events are written and before the commit. It gets the log's own connection, so its tables are in
    /// the log's file. `work` does not run if the append is refused. It also does not run if the append's key was used before: the first append
    /// has already written the rows, and the second value is `None`. If `work` returns an error, nothing is written and this call returns that
    /// error unchanged. If `work` panics, nothing is written and the panic continues in the caller.
    ///
    /// A file has one writer. While `work` runs, other appends and snapshots wait, including those of other processes; reads do not. `work` must not
    /// wait for another append to this log.
    ///
    /// `work` must not execute `BEGIN`, `COMMIT` or `ROLLBACK`. Savepoints are fine.
    ///
    /// # Errors
    /// - the error that `work` returns
    /// - the errors of [`append`](EventStore::append), converted to `E`
    /// - [`Invalid`](crate::ErrorKind::Invalid) if `work` ended the transaction, or continued after a failed statement had ended it. Nothing is
    ///   written, neither before nor after that statement.
    ///
    /// # Panics
    /// If `work` panics.
    ///
    /// # Cancel safety
    /// If the call is dropped, it may still write everything, but never a part.
    ///
    /// # Examples
    /// ```
    /// use retell::store::sqlite::SqliteStore;
    /// use retell::testing::store::{event, stream};
    /// use retell::{ExpectedVersion, error::BoxError, store::Append};
    ///
    /// # tokio_test(async {
    /// let store = SqliteStore::in_memory().await?;
    /// let append = Append::new(stream("7"), ExpectedVersion::NoStream, vec![event("{}")]);
    /// let (appended, row) = store
    ///     .append_with(append, |db| {
    ///         db.execute_batch("CREATE TABLE notes (text TEXT)")?;
    ///         db.execute("INSERT INTO notes VALUES ('7 was opened')", [])?;
    ///         Ok::<_, BoxError>(db.last_insert_rowid())
    ///     })
    ///     .await?;
    /// assert_eq!((appended.versions[0].get(), row), (1, Some(1)));
    /// # Ok::<(), BoxError>(())
    /// # });
    /// # fn tokio_test(work: impl Future<Output = Result<(), BoxError>>) {
    /// #     tokio::runtime::Runtime::new().unwrap().block_on(work).unwrap();
    /// # }
    /// ```
    pub async fn append_with<T: Send + 'static, E: From<Error> + Send + 'static>(
        &self,
        append: Append,
        work: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<(Appended, Option<T>), E> {
        append.check(self.max_payload)?;
        self.kinds.check(&append)?;
        self.writer.append_with(append, work).await
    }

    /// Returns the health of the log: its head, how far behind the projections in its file are, and the sizes of its files.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    pub async fn health(&self) -> Result<Health> {
        self.readers.run("read the log's health", health::health).await
    }

    async fn at(location: Location, options: SqliteOptions) -> Result<Self> {
        let max_payload = options.max_payload;
        let (writers, readers) = Pool::open(location, options).await?;
        let head = readers.run("read the head", |db| read::head(db)).await?;
        let writer = Arc::new(Writer { pool: writers, head: watch::Sender::new(head), inline: Inlines::none() });
        let commits = Arc::new(GroupCommit::new(writer.clone()).with_name("sqlite"));
        Ok(Self { commits, writer, readers, max_payload, kinds: Kinds::default() })
    }
}

#[async_trait]
impl EventReader for SqliteStore {
    async fn replay(&self, stream: &StreamId, replay: Replay, visitor: &mut dyn Visitor) -> Result<()> {
        replay::replay(&self.readers, stream, replay, visitor).await
    }

    async fn read(&self, query: Query<'_>) -> Result<Page> {
        let (readers, limit) = (&self.readers, query.limit);
        let found = match query.select {
            Select::Log { after, filter } => {
                let filter = filter.clone();
                return readers.run("read the log", move |db| read::page(db, after, limit, &filter)).await;
            }
            Select::Stream { stream, after } => {
                let stream = stream.clone();
                readers.run("read a stream", move |db| read::stream(db, &stream, after, limit)).await
            }
            Select::Newest(event_type) => {
                let event_type = event_type.clone();
                readers.run("read the newest events", move |db| read::newest(db, &event_type, limit)).await
            }
            Select::RecordedAfter(time) => {
                readers.run("read by time", move |db| read::recorded_after(db, time, limit)).await
            }
            Select::Event(id) => readers.run("find an event", move |db| read::event(db, id, limit)).await,
            Select::Chain { id, after } => {
                readers.run("read a chain", move |db| read::chain(db, id, after, limit)).await
            }
        };
        found.map(Page::found)
    }

    async fn head(&self) -> Result<Position> {
        self.readers.run("read the head", |db| read::head(db)).await
    }

    async fn position_of(&self, token: Token) -> Result<Option<Position>> {
        // The number of a commit is the position of its last event.
        let position = Position::new(token.commit().get());
        let found = self.readers.run("find a commit's position", move |db| read::mark_at(db, position)).await?;
        token_at(token, position, found.event_id)
    }

    async fn size(&self) -> Result<Option<StoreSize>> {
        self.readers.run("read the sizes of tables", |db| size_of_log(db)).await.map(Some)
    }

    async fn registered_shapes(&self) -> Result<Vec<RegisteredShape>> {
        self.readers.run("list the registered shapes", |db| shapes::registered(db)).await
    }

    async fn next_event_type(&self, after: Option<&EventType>) -> Result<Option<EventType>> {
        let after = after.cloned();
        self.readers.run("find an event type", move |db| read::next_event_type(db, after.as_ref())).await
    }

    fn watch_head(&self) -> watch::Receiver<Position> {
        self.writer.head.subscribe()
    }
}

#[async_trait]
impl EventStore for SqliteStore {
    async fn append(&self, append: Append) -> Result<Appended> {
        append.check(self.max_payload)?;
        self.kinds.check(&append)?;
        self.writer.pool.check_free()?;
        self.commits.append(append).await
    }

    async fn find_by_key(&self, key: &IdempotencyKey) -> Result<Option<KeyedOutcome>> {
        let key = key.clone();
        self.readers.run("look up an idempotency key", move |db| append::find_by_key(db, &key)).await
    }

    async fn holder(&self, scope: &ClaimScope, value: &ClaimValue) -> Result<Option<StreamId>> {
        let (scope, value) = (scope.clone(), value.clone());
        self.readers.run("look up a unique value", move |db| claims::holder(db, &scope, &value)).await
    }

    async fn save_snapshot(&self, stream: &StreamId, snapshot: Snapshot) -> Result<()> {
        self.writer.save_snapshot(stream, snapshot).await
    }

    async fn register_shapes(&self, shapes: &[RegisteredShape]) -> Result<()> {
        self.writer.register_shapes(shapes).await
    }

    async fn close(&self) -> Result<()> {
        self.commits.close().await;
        self.readers.close().await?;
        self.writer.pool.close().await
    }
}
