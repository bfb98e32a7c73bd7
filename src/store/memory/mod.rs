//! The log and the read models in memory, for tests and for data that may be lost.

mod archive;
mod audit;
mod inline;
mod inspect;
pub(crate) mod log;
pub(crate) mod model;

pub use log::MemoryStore;
pub use model::MemoryReadModel;
