//! Settings of a rebuild.

use crate::worker::options::WorkerOptions;

/// Settings of a [`Rebuild`](crate::Rebuild).
///
/// # Examples
/// ```
/// use retell::RebuildOptions;
///
/// // For a machine with little memory: smaller transactions, and each row is written more often.
/// let options = RebuildOptions::new().with_rows(20_000).with_payload_bytes(32 * 1024 * 1024);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RebuildOptions {
    pub(super) rows: usize,
    pub(super) payload_bytes: usize,
    pub(super) worker: WorkerOptions,
}

impl RebuildOptions {
    /// Returns the defaults: a transaction for every 200,000 rows that have changed or 256 MiB of events, whichever comes first. That is about
    /// how much is held in memory, and how much is folded again after a crash.
    pub fn new() -> Self {
        Self { rows: 200_000, payload_bytes: 256 * 1024 * 1024, worker: WorkerOptions::new() }
    }

    /// Writes after `rows` rows have changed. The larger this is, the less often a row whose events are far apart is written and read again.
    /// On SQLite other writers of the file wait for the transaction.
    pub fn with_rows(mut self, rows: usize) -> Self {
        self.rows = rows.max(1);
        self
    }

    /// Writes after events of `bytes` in total.
    pub fn with_payload_bytes(mut self, bytes: usize) -> Self {
        self.payload_bytes = bytes.max(1);
        self
    }

    /// Sets how an event that fails is retried and parked.
    pub fn with_worker(mut self, options: WorkerOptions) -> Self {
        self.worker = options;
        self
    }
}

impl Default for RebuildOptions {
    fn default() -> Self {
        Self::new()
    }
}
