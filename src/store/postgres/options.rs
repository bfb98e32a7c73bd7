//! Settings of a log in PostgreSQL.

use crate::store::log::event_store::MAX_PAYLOAD_BYTES;

/// Settings of a log in PostgreSQL. Those of the connections are sqlx's own.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PostgresOptions {
    pub(crate) schema: String,
    pub(crate) durable: bool,
    pub(crate) listen: bool,
    pub(crate) max_payload: usize,
}

impl PostgresOptions {
    /// The schema `retell`, commits that wait for the disk whatever the server's default is, one connection that listens for other
    /// processes' commits, payloads up to 16 MiB.
    pub fn new() -> Self {
        Self { schema: "retell".to_owned(), durable: true, listen: true, max_payload: MAX_PAYLOAD_BYTES }
    }

    /// Learns of other processes' commits by polling alone: for a connection pooler that gives a session for one transaction only, where
    /// `LISTEN` cannot work. Nothing else here needs a session of its own; switch sqlx's statement cache off there as well.
    pub fn without_listening(mut self) -> Self {
        self.listen = false;
        self
    }

    /// Sets the schema, a lower-case identifier. One database can hold several logs.
    pub fn with_schema(mut self, schema: impl Into<String>) -> Self {
        self.schema = schema.into();
        self
    }

    /// Leaves it to the server's `synchronous_commit` whether a commit waits for the disk. Where that is `off`, a crash of the server
    /// takes back appends that were acknowledged.
    ///
    /// Positions wait for the disk in any case, since a reader may have acted on one.
    pub fn with_durability_of_the_server(mut self) -> Self {
        self.durable = false;
        self
    }

    /// Sets the largest payload of one event, in bytes.
    pub fn with_max_payload(mut self, bytes: usize) -> Self {
        self.max_payload = bytes;
        self
    }
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self::new()
    }
}
