//! A store that lives outside of retell: the log and read models in a [redb] file, written against retell's public API alone.
//!
//! It is an example to copy from; the guide [`writing_a_store`](retell::docs::guide::writing_a_store) explains it. Every call that may wait for
//! the disk runs on a blocking thread, and what a call has written when it returns is durable.

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
