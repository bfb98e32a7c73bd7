//! An example of metrics.
fn main() {}
