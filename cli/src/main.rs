//! The command line of retell.
fn main() {}
