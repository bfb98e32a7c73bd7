//! Read models in a PostgreSQL database, which may differ from the log's.

pub(crate) mod checkpoint;
pub(crate) mod deadlines;
pub(crate) mod inbox;
pub(crate) mod interventions;
mod listing;
pub(crate) mod parking;
pub(crate) mod processors;
pub(crate) mod progress;
mod pruning;
pub(crate) mod read_model;
pub(crate) mod views;
