//! Read models in a SQLite file of their own: a file has one writer, and that of the log is busy.

pub(crate) mod checkpoint;
pub(crate) mod deadlines;
pub(crate) mod inbox;
pub(crate) mod parking;
pub(crate) mod progress;
pub(crate) mod read_model;
pub(crate) mod views;
