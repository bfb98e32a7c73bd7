//! Read models in a separate SQLite file: a file has one writer, and the log's writer is busy with appends.

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
