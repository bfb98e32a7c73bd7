//! Read models: the rows that projections write, and the progress of each projection.

pub(crate) mod checkpoint;
pub(crate) mod checkpoint_row;
pub(crate) mod deadlines;
pub(crate) mod interventions;
pub(crate) mod listing;
pub(crate) mod names;
pub(crate) mod parking;
pub(crate) mod processors;
pub(crate) mod progress;
pub(crate) mod pruning;
pub(crate) mod read_model;
pub(crate) mod skipped;
pub(crate) mod views;
pub(crate) mod work;
