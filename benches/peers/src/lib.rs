//! What the library and its peers are measured by: one order, one trait that each side implements, and the process that measures a figure.

pub mod measure;
pub mod order;
pub mod side;
