//! The log and read models in PostgreSQL 14 to 17 (tested on 15).
//!
//! An append takes a free *lane*, checks the versions, draws a commit number, and inserts its events under that number. The *sequencer*
//! assigns positions afterwards, in commit order: any reader that finds commits without positions runs it. The decision record on lanes
//! explains why no event is ever skipped.

mod archive;
mod audit;
mod blockers;
mod check;
mod connection;
mod error;
mod examine;
mod health;
mod inspect;
mod log;
mod migrate;
pub(crate) mod model;
mod options;
mod schema;
mod size;
mod store;

pub use model::read_model::PostgresReadModel;
pub use options::PostgresOptions;
pub use store::PostgresStore;
