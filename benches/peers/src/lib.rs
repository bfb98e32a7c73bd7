//! Shared code of the comparison: one order, the trait that each side implements, and the process that measures a figure.

pub mod measure;
pub mod order;
pub mod side;
