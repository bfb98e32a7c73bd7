//! Who listens to the events. Each keeps a read model of its own.

pub mod analytics;
pub mod audit;
pub mod notification;
pub mod search;
