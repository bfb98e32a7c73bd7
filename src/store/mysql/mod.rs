//! The log and read models in MySQL 8 or MariaDB 10.6, or later.
//!
//! An append is one transaction: it reads the versions, draws a commit number, and inserts its events under it. Positions are given out
//! afterwards, in commit order, by the *sequencer*: any reader that finds commits without positions runs it. Why no event is ever
//! skipped is said in the decision record on lanes.
//!
//! All writers must reach one server: where several take writes at once (Galera, group replication with several primaries), each counts
//! commits for itself, and the order is lost.
//!
//! The tables begin with `retell_` and lie in the database the connections have selected.

mod connection;
mod convert;
mod error;
mod health;
mod log;
mod migrate;
pub(crate) mod model;
mod options;
mod store;

pub use model::read_model::MySqlReadModel;
pub use options::MySqlOptions;
pub use store::MySqlStore;
