//! Settings of a SQLite file.

use std::time::Duration;

use crate::store::log::event_store::MAX_PAYLOAD_BYTES;

/// Selects what a commit waits for before it returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Synchronous {
    /// A commit waits for the disk: an acknowledged append survives a power failure.
    Full,
    /// A commit waits only for the operating system, which is several times faster on a slow disk. A killed process loses nothing, but a power
    /// failure or a crash of the system may lose the last acknowledged commits. The file stays intact.
    Normal,
}

/// Settings of a SQLite file.
///
/// # Examples
/// ```
/// use retell::store::sqlite::{SqliteOptions, Synchronous};
///
/// let options = SqliteOptions::new().with_synchronous(Synchronous::Normal).with_readers(4);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SqliteOptions {
    pub(crate) synchronous: Synchronous,
    pub(crate) read_only: bool,
    pub(crate) migrate: bool,
    pub(crate) readers: usize,
    pub(crate) busy_timeout: Duration,
    pub(crate) acquire_timeout: Duration,
    pub(crate) max_payload: usize,
    pub(crate) max_file_bytes: Option<u64>,
}

impl SqliteOptions {
    /// Creates the default settings: full durability, 2 connections for reading, a wait of at most 5 seconds for another process's write, payloads up
    /// to 16 MiB, and no limit on the size of the file.
    ///
    /// SQLite keeps up to 64 MiB of pages in memory for all connections of the process, including other uses of SQLite. To set another limit, run
    /// `PRAGMA soft_heap_limit` on any connection before the program opens its first store.
    pub fn new() -> Self {
        Self {
            synchronous: Synchronous::Full,
            read_only: false,
            migrate: true,
            readers: 2,
            busy_timeout: Duration::from_secs(5),
            acquire_timeout: Duration::from_mins(1),
            max_payload: MAX_PAYLOAD_BYTES,
            max_file_bytes: None,
        }
    }

    /// Sets what a commit waits for. The default is `Full`. `Normal` suits read models best, because they can be rebuilt.
    pub fn with_synchronous(mut self, synchronous: Synchronous) -> Self {
        self.synchronous = synchronous;
        self
    }

    /// Opens an existing file for reading only: every write fails with [`ReadOnly`](crate::ErrorKind::ReadOnly).
    ///
    /// SQLite reads a log through two files next to it. If no process has the log open for writing, SQLite has to create them: in a
    /// directory without write permission, opening fails with [`ReadOnly`](crate::ErrorKind::ReadOnly).
    pub fn with_read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Opens only what exists and is up to date, for tools that must change nothing: opening creates no file, upgrades nothing, and fails
    /// with [`NotMigrated`](crate::ErrorKind::NotMigrated) if the schema is missing or not that of this release.
    pub fn without_migration(mut self) -> Self {
        self.migrate = false;
        self
    }

    /// Sets how many reads may run at once (minimum 1). Each uses its own connection.
    pub fn with_readers(mut self, readers: usize) -> Self {
        self.readers = readers.max(1);
        self
    }

    /// Sets how long a write waits for another process before it fails with [`Transient`](crate::ErrorKind::Transient).
    pub fn with_busy_timeout(mut self, timeout: Duration) -> Self {
        self.busy_timeout = timeout;
        self
    }

    /// Sets how long a call waits for a connection of its own process before it fails with [`Transient`](crate::ErrorKind::Transient), one
    /// minute by default. A file has one connection that writes, and the transaction of a projection holds it while its handlers run. The
    /// default is longer than the transactions of a rebuild.
    pub fn with_acquire_timeout(mut self, timeout: Duration) -> Self {
        self.acquire_timeout = timeout;
        self
    }

    /// Sets the largest payload of one event, in bytes.
    pub fn with_max_payload(mut self, bytes: usize) -> Self {
        self.max_payload = bytes;
        self
    }

    /// Sets the largest size of the file, in bytes. An append that would exceed it fails with [`Full`](crate::ErrorKind::Full).
    pub fn with_max_file_bytes(mut self, bytes: u64) -> Self {
        self.max_file_bytes = Some(bytes);
        self
    }
}

impl Default for SqliteOptions {
    fn default() -> Self {
        Self::new()
    }
}
