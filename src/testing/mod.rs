//! What tests of event-sourced code need: conformance suites for stores and read models.

pub mod read_model;
pub mod store;
