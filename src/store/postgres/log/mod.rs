//! The log in PostgreSQL.

pub(crate) mod append;
pub(crate) mod binds;
pub(crate) mod claims;
pub(crate) mod inline;
pub(crate) mod keys;
pub(crate) mod read;
pub(crate) mod relay;
pub(crate) mod shapes;
pub(crate) mod signals;
pub(crate) mod snapshot;
pub(crate) mod verdict;
