//! Tools for tests: scenarios for aggregates, views and processes; a broker and read models that fail on purpose; and the conformance
//! suites that every store, read model and broker must pass.

pub mod broker;
mod compatibility;
pub mod deadlines;
pub mod faulty;
mod golden;
pub mod inbox;
pub mod inline;
pub mod interventions;
pub mod listing;
pub mod log_scenario;
pub mod process_scenario;
pub mod processors;
pub mod progress;
pub mod read_model;
mod record;
pub mod scenario;
pub mod store;
pub mod views;

pub use compatibility::{assert_compatible, assert_forward_compatible};
pub use golden::{assert_golden, assert_golden_of_lock};
pub use log_scenario::given_log;
pub use process_scenario::given_process;
pub use scenario::given;
