//! A store outside of retell: the log and read models in a [redb] file, built on retell's public API alone.
//!
//! Copy from this example to write your own store. The guide [`writing_a_store`](retell::docs::guide::writing_a_store) explains it. Every call
//! that may wait for the disk runs on a blocking thread. A call returns after its changes are durable.

mod deadlines;
mod file;
mod log;
mod model;
mod rows;
mod views;

pub use log::RedbStore;
pub use model::RedbReadModel;

#[cfg(test)]
mod conformance;
