//! Read models: what projections write, and how far they are.

pub(crate) mod checkpoint;
pub(crate) mod checkpoint_row;
pub(crate) mod deadlines;
pub(crate) mod parking;
pub(crate) mod progress;
pub(crate) mod read_model;
pub(crate) mod views;
pub(crate) mod work;
