//! The log and read models in SQLite files.
//!
//! The driver calls SQLite through rusqlite on tokio's blocking threads, because one call per statement through an async driver costs more than
//! the statement itself. A log has one connection for writing and a few for reading, which never wait for the writer (WAL).

mod archive;
mod audit;
mod connection;
mod convert;
mod error;
mod examine;
mod health;
mod identity;
mod inspect;
mod log;
mod migrate;
pub(crate) mod model;
mod options;
mod size;
mod store;
mod transaction;

pub use health::Health;
pub use model::read_model::SqliteReadModel;
pub use options::{SqliteOptions, Synchronous};
pub use store::SqliteStore;
