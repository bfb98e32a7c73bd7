//! Read models: what projections write, and how far they are.

pub(crate) mod checkpoint;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub(crate) mod checkpoint_row;
pub(crate) mod deadlines;
pub(crate) mod parking;
pub(crate) mod progress;
pub(crate) mod read_model;
pub(crate) mod views;
