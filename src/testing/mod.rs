//! For tests: scenarios of aggregates, a broker that misbehaves, and the suites that every store, read model and broker must pass.

pub mod broker;
pub mod faulty;
pub mod log_scenario;
pub mod progress;
pub mod read_model;
pub mod scenario;
pub mod store;
pub mod views;

pub use log_scenario::given_log;
pub use scenario::given;
