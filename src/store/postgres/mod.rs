//! The log and read models in PostgreSQL, written for 14 to 17 and tested on 15.
//!
//! An append takes a free *lane*, and inserts its events under a commit number that is drawn after the versions were checked. Positions
//! are given out afterwards, in commit order, by the *sequencer*: any reader that finds commits without positions runs it. Why no event
//! is ever skipped is said in the decision record on lanes.

mod connection;
mod error;
mod health;
mod log;
mod migrate;
pub(crate) mod model;
mod options;
mod schema;
mod store;

pub use model::read_model::PostgresReadModel;
pub use options::PostgresOptions;
pub use store::PostgresStore;
