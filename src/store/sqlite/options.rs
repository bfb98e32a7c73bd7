//! Settings of a SQLite file.

use std::time::Duration;

use crate::store::log::event_store::MAX_PAYLOAD_BYTES;

/// Selects how durable a commit is before it returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Synchronous {
    /// A commit waits for the disk: an acknowledged append survives a power cut.
    Full,
    /// A commit waits for the operating system only: several times faster if the disk is slow. A killed process loses nothing, but a
    /// power cut or a crash of the system may take back the last acknowledged commits. The file stays intact.
    Normal,
}

/// Settings of a SQLite file.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SqliteOptions {
    pub(crate) synchronous: Synchronous,
    pub(crate) read_only: bool,
    pub(crate) readers: usize,
    pub(crate) busy_timeout: Duration,
    pub(crate) max_payload: usize,
    pub(crate) max_file_bytes: Option<u64>,
}

impl SqliteOptions {
    /// Full durability, 2 reading connections, 5 seconds of waiting for another process's write, payloads up to 16 MiB, no limit on
    /// the file.
    ///
    /// SQLite keeps up to 64 MiB of pages in memory for all connections of the process, other uses of SQLite in it among them. A program that
    /// wants another limit sets `PRAGMA soft_heap_limit` by any connection before it opens its first store.
    pub fn new() -> Self {
        Self {
            synchronous: Synchronous::Full,
            read_only: false,
            readers: 2,
            busy_timeout: Duration::from_secs(5),
            max_payload: MAX_PAYLOAD_BYTES,
            max_file_bytes: None,
        }
    }

    /// Sets what a commit waits for. A log is `Full` by default; a read model can be built again, so `Normal` serves it best.
    pub fn with_synchronous(mut self, synchronous: Synchronous) -> Self {
        self.synchronous = synchronous;
        self
    }

    /// Opens an existing file for reading: every write is refused.
    ///
    /// SQLite reads a log through two files next to it. If no process has the log open for writing, SQLite has to create them: in a
    /// directory without write permission, opening fails with [`ReadOnly`](crate::ErrorKind::ReadOnly).
    pub fn with_read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// Sets how many reads may run at once (minimum 1). Each has a connection of its own.
    pub fn with_readers(mut self, readers: usize) -> Self {
        self.readers = readers.max(1);
        self
    }

    /// Sets how long a write waits for another process before it fails as transient.
    pub fn with_busy_timeout(mut self, timeout: Duration) -> Self {
        self.busy_timeout = timeout;
        self
    }

    /// Sets the largest payload of one event, in bytes.
    pub fn with_max_payload(mut self, bytes: usize) -> Self {
        self.max_payload = bytes;
        self
    }

    /// Sets a quota: an append that would grow the file beyond it is refused as if the disk were full.
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
