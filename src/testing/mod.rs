//! For tests: scenarios of aggregates, and the suites that every store and broker must pass.

pub mod broker;
pub mod faulty;
pub mod scenario;

pub use scenario::given;
