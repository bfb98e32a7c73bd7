//! Settings of a log in PostgreSQL.

use std::time::Duration;

use crate::store::log::event_store::MAX_PAYLOAD_BYTES;
use crate::store::server::limits::Limits;

/// Settings of a log in PostgreSQL. Settings of the connections belong to sqlx's pool.
///
/// # Examples
/// ```
/// use retell::store::postgres::PostgresOptions;
///
/// let options = PostgresOptions::new().with_schema("orders").with_max_payload(1024 * 1024);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PostgresOptions {
    pub(crate) schema: String,
    pub(crate) durable: bool,
    pub(crate) listen: bool,
    pub(crate) migrate: bool,
    pub(crate) max_payload: usize,
    pub(crate) limits: Limits,
    pub(crate) hosts: Vec<String>,
}

impl PostgresOptions {
    /// Creates the default settings: the schema `retell`, commits that wait for the disk regardless of the server's default, one connection
    /// that listens for the commits of other processes, and payloads up to 16 MiB.
    pub fn new() -> Self {
        Self {
            schema: "retell".to_owned(),
            durable: true,
            listen: true,
            migrate: true,
            max_payload: MAX_PAYLOAD_BYTES,
            limits: Limits::default(),
            hosts: Vec::new(),
        }
    }

    /// Turns `LISTEN` off, so the store finds the commits of other processes only by polling, and uses one connection less.
    ///
    /// Behind a connection pooler in transaction mode, where `LISTEN` cannot work, this happens on its own. Such a pooler must keep prepared
    /// statements: PgBouncer does from version 1.21 on, with `max_prepared_statements` above 0. Any other is refused when the store opens. Add
    /// `ignore_startup_parameters = extra_float_digits` to its configuration, because sqlx sends that parameter.
    pub fn without_listening(mut self) -> Self {
        self.listen = false;
        self
    }

    /// Opens only what exists and is up to date, for tools that must change nothing: opening creates no table, upgrades nothing, and fails
    /// with [`NotMigrated`](crate::ErrorKind::NotMigrated) if the schema is missing or not that of this release.
    /// It also skips the self-test, which draws commit numbers. The store does not listen: it finds commits by polling.
    pub fn without_migration(mut self) -> Self {
        self.migrate = false;
        self
    }

    /// Sets the name of the schema, a lower-case identifier. One database can hold several logs, each in its own schema.
    pub fn with_schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = schema.into();
        self
    }

    /// Lets the server's `synchronous_commit` decide whether a commit waits for the disk. If it is `off`, a crash of the server can lose
    /// acknowledged appends.
    ///
    /// The assignment of positions always waits for the disk, because a reader may have acted on a position.
    pub fn with_durability_of_the_server(mut self) -> Self {
        self.durable = false;
        self
    }

    /// Sets the largest payload of one event, in bytes.
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
    /// A URL can name them too: `postgres://shop:secret@db1.example.com,db2.example.com/shop`. By default, there is only the server of the pool.
    pub fn with_hosts<H: Into<String>>(mut self, hosts: impl IntoIterator<Item = H>) -> Self {
        self.hosts = hosts.into_iter().map(Into::into).collect();
        self
    }

    /// Sets the servers that a URL names, if it names several.
    pub(crate) fn of_url(self, hosts: Vec<String>) -> Self {
        if hosts.is_empty() { self } else { self.with_hosts(hosts) }
    }
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self::new()
    }
}
