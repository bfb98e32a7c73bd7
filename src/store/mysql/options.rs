//! Settings of a log in MySQL or MariaDB.

use crate::store::log::event_store::MAX_PAYLOAD_BYTES;

/// Settings of a log in MySQL or MariaDB. Those of the connections are sqlx's own.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MySqlOptions {
    pub(crate) durable: bool,
    pub(crate) max_payload: usize,
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

    /// Sets the largest payload of one event, in bytes. The server's `max_allowed_packet` less 64 KiB is a limit, too: MariaDB's default of
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
