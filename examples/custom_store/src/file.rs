//! A redb file: runs calls on blocking threads, queues writers, and translates redb's errors.

use std::fmt::Display;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use redb::{Database, ReadableDatabase, WriteTransaction};
use retell::{BoxError, Error, ErrorKind, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::task::{JoinError, spawn_blocking};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::rows::{ROWS, Rows, Saved, rows};

/// A handle of an open file. Cloning gives another handle.
#[derive(Debug, Clone)]
pub(crate) struct File {
    /// `None` once the file is closed.
    database: Arc<Mutex<Option<Arc<Database>>>>,
    /// redb allows one writer at a time. A call waits here without blocking a thread.
    writer: Arc<tokio::sync::Mutex<()>>,
    calls: TaskTracker,
}

/// A call in flight. The fields drop in order, database first: once every token is dropped, no call holds the database.
struct Call {
    database: Arc<Database>,
    _token: TaskTrackerToken,
}

impl File {
    /// Opens a file, or creates it.
    pub(crate) async fn open(path: PathBuf) -> Result<Self> {
        let database = spawn_blocking(|| Database::create(path)).await.map_err(stopped)?;
        let database = Arc::new(database.map_err(|error| classify("open the file", redb::Error::from(error).into()))?);
        let file =
            Self { database: Arc::new(Mutex::new(Some(database))), writer: Arc::default(), calls: TaskTracker::new() };
        // redb reads only tables that exist.
        file.write("create the table", |tx| rows(tx).map(drop)).await?;
        Ok(file)
    }

    /// Runs `read` on one snapshot of the file.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        attempt: &'static str,
        read: impl FnOnce(&Saved) -> Result<T, BoxError> + Send + 'static,
    ) -> Result<T> {
        let call = self.enter()?;
        let done = spawn_blocking(move || read(&Rows(call.database.begin_read()?.open_table(ROWS)?)));
        done.await.map_err(stopped)?.map_err(|error| classify(attempt, error))
    }

    /// Runs `write` in a transaction, which commits if `write` succeeds. Dropping the future after the write has started does not stop it.
    pub(crate) async fn write<T: Send + 'static>(
        &self,
        attempt: &'static str,
        write: impl FnOnce(&mut WriteTransaction) -> Result<T, BoxError> + Send + 'static,
    ) -> Result<T> {
        let call = self.enter()?;
        let turn = self.writer.clone().lock_owned().await;
        let done = spawn_blocking(move || {
            let _turn = turn;
            let mut tx = call.database.begin_write()?;
            match catch_unwind(AssertUnwindSafe(|| write(&mut tx))) {
                // A committed transaction is durable: redb uses `Durability::Immediate` by default.
                Ok(Ok(value)) => tx.commit().map(|()| value).map_err(BoxError::from),
                Ok(Err(error)) => Err(error),
                Err(panic) => {
                    // redb cannot roll back while a panic unwinds.
                    drop(tx);
                    resume_unwind(panic)
                }
            }
        });
        done.await.map_err(stopped)?.map_err(|error| classify(attempt, error))
    }

    /// Reads the row under `key`.
    pub(crate) async fn get<V: DeserializeOwned + Send + 'static>(
        &self,
        attempt: &'static str,
        key: String,
    ) -> Result<Option<V>> {
        self.read(attempt, move |rows| rows.get(&key)).await
    }

    /// Runs `change` on one row, in its own transaction. Stores the first value that `change` returns, if any, and returns the second one.
    pub(crate) async fn update<V: DeserializeOwned + Serialize, T: Send + 'static>(
        &self,
        attempt: &'static str,
        key: String,
        change: impl FnOnce(Option<V>) -> Result<(Option<V>, T)> + Send + 'static,
    ) -> Result<T> {
        let update = move |tx: &mut WriteTransaction| {
            let mut rows = rows(tx)?;
            let (row, value) = change(rows.get(&key)?)?;
            row.map_or(Ok(()), |row| rows.put(&key, &row))?;
            Ok(value)
        };
        self.write(attempt, update).await
    }

    /// Waits for the calls in flight and closes the file. Later calls fail with [`ErrorKind::Closed`].
    pub(crate) async fn close(&self) {
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.calls.close();
        self.calls.wait().await;
        drop(database);
    }

    /// Registers a call, which [`close`](Self::close) waits for.
    fn enter(&self) -> Result<Call> {
        let database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let database = database.clone().ok_or_else(|| Error::new(ErrorKind::Closed("the store")))?;
        Ok(Call { database, _token: self.calls.token() })
    }
}

/// Translates the failure of a blocking task: a panic continues in the caller, anything else means that the runtime has stopped.
fn stopped(error: JoinError) -> Error {
    error.try_into_panic().map_or_else(|_| ErrorKind::Closed("the runtime").into(), |panic| resume_unwind(panic))
}

/// Translates the error of `attempt`, such as `append`. Returns retell's errors unchanged, and gives every other error the kind that tells a
/// caller how to react.
pub(crate) fn classify(attempt: &str, error: BoxError) -> Error {
    match error.downcast::<Error>() {
        Ok(error) => *error,
        Err(error) => Error::with_source(kind(&*error).unwrap_or_else(|| ErrorKind::Backend(attempt.into())), error),
    }
}

/// Returns the kind of an error whose cause is the file, and `None` for any other error.
pub(crate) fn kind(error: &(dyn std::error::Error + 'static)) -> Option<ErrorKind> {
    if let Some(error) = error.downcast_ref::<postcard::Error>() {
        return Some(ErrorKind::Corrupt(error.to_string()));
    }
    let io = match (error.downcast_ref(), error.downcast_ref()) {
        (Some(redb::Error::Io(io)), _) | (_, Some(redb::StorageError::Io(io))) => io,
        _ => error.downcast_ref::<io::Error>()?,
    };
    match io.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Some(ErrorKind::Full),
        io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => Some(ErrorKind::ReadOnly),
        io::ErrorKind::InvalidData => Some(ErrorKind::Corrupt(io.to_string())),
        _ => None,
    }
}

/// Creates a [`Corrupt`](ErrorKind::Corrupt) error for `row`.
pub(crate) fn corrupt(row: impl Display, problem: impl Display) -> Error {
    ErrorKind::Corrupt(format!("{row}: {problem}")).into()
}
