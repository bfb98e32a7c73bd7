//! The log and read models in MySQL 8 or MariaDB 10.6, or later.
//!
//! An append is one transaction: it reads the versions, draws a commit number, and inserts its events under that number. The *sequencer*
//! assigns positions afterwards, in commit order: any reader that finds commits without positions runs it. The decision record on lanes
//! explains why no event is ever skipped.
//!
//! All writers must write to one server. If several servers accept writes (Galera, group replication with several primaries), each one numbers
//! commits separately, and the order is lost.
//!
//! The names of the tables start with `retell_`. They are in the database that the connections have selected.

mod archive;
mod audit;
mod blockers;
mod check;
mod connection;
mod convert;
mod error;
mod examine;
mod fault;
mod health;
mod inspect;
mod log;
mod migrate;
pub(crate) mod model;
mod options;
mod session;
mod size;
mod store;

pub use model::read_model::MySqlReadModel;
pub use options::MySqlOptions;
pub use store::MySqlStore;
