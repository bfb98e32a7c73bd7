//! Settings of a log in MySQL or MariaDB.

use std::time::Duration;

use crate::store::log::event_store::MAX_PAYLOAD_BYTES;
use crate::store::server::limits::Limits;

/// Settings of a log in MySQL or MariaDB. Settings of the connections belong to sqlx's pool.
///
/// # Examples
/// ```
/// use retell::store::mysql::MySqlOptions;
///
/// let options = MySqlOptions::new().with_max_payload(1024 * 1024);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct MySqlOptions {
    pub(crate) durable: bool,
    pub(crate) migrate: bool,
    pub(crate) max_payload: usize,
    pub(crate) limits: Limits,
    pub(crate) hosts: Vec<String>,
}

impl MySqlOptions {
    /// Creates the default settings: only servers whose commits wait for the disk, and payloads up to 16 MiB if the server accepts packets of
    /// that size.
    pub fn new() -> Self {
        Self {
            durable: true,
            migrate: true,
            max_payload: MAX_PAYLOAD_BYTES,
            limits: Limits::default(),
            hosts: Vec::new(),
        }
    }

    /// Lets the server's `innodb_flush_log_at_trx_commit` decide whether a commit waits for the disk, and also `sync_binlog` if the server writes a
    /// binary log. If one of them is not `1`, a crash can lose acknowledged appends. MariaDB's default for `sync_binlog` is `0`.
    pub fn with_durability_of_the_server(mut self) -> Self {
        self.durable = false;
        self
    }

    /// Opens only what exists and is up to date, for tools that must change nothing: opening creates no table, upgrades nothing, and fails
    /// with [`NotMigrated`](crate::ErrorKind::NotMigrated) if the schema is missing or not that of this release.
    /// It also skips the self-test, which draws commit numbers.
    pub fn without_migration(mut self) -> Self {
        self.migrate = false;
        self
    }

    /// Sets the largest payload of one event, in bytes. The server's `max_allowed_packet` minus 64 KiB is a second limit. With MariaDB's default
    /// of 16 MiB, that limit is slightly below this library's default.
    pub fn with_max_payload(mut self, bytes: usize) -> Self {
        self.max_payload = bytes;
        self
    }

    /// Sets the longest time that a call waits for the server, 30 seconds by default. After that, the connection is closed and the call fails
    /// with [`Transient`](crate::ErrorKind::Transient). A healthy server answers within seconds; the default leaves room for a stalled disk.
    ///
    /// The limit applies to each call of this library, except that a long answer only has to continue within it. Handlers of your own have the
    /// limits of their workers. An upgrade of the schema may take ten minutes.
    pub fn with_call_timeout(mut self, timeout: Duration) -> Self {
        self.limits.call = timeout;
        self
    }

    /// Sets the longest time that a call waits for a connection, 5 seconds by default. The pool's own `acquire_timeout` is a second limit. While
    /// the server cannot be reached, only the first call waits this long; the next ones fail within 250 milliseconds, until it is back.
    pub fn with_acquire_timeout(mut self, timeout: Duration) -> Self {
        self.limits.wait = timeout;
        self
    }

    /// Names the servers of the database, a primary and its standbys, each as `host` or `host:port`. New connections go to the one that accepts
    /// writes. After a failed call, all of them are asked again which one that is. Everything else, such as the user and TLS, is that of the pool.
    ///
    /// A URL can name them too: `mysql://shop:secret@db1.example.com,db2.example.com/shop`. By default, there is only the server of the pool.
    pub fn with_hosts<H: Into<String>>(mut self, hosts: impl IntoIterator<Item = H>) -> Self {
        self.hosts = hosts.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the servers that a URL names, if it names several.
    pub(crate) fn of_url(self, hosts: Vec<String>) -> Self {
        if hosts.is_empty() { self } else { self.with_hosts(hosts) }
    }
}

impl Default for MySqlOptions {
    fn default() -> Self {
        Self::new()
    }
}
