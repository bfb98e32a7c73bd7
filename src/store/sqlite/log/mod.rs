//! The log in SQLite.

pub(crate) mod append;
pub(crate) mod apply;
pub(crate) mod claims;
pub(crate) mod inline;
pub(crate) mod keys;
pub(crate) mod read;
pub(crate) mod relay;
pub(crate) mod replay;
pub(crate) mod row;
pub(crate) mod shapes;
pub(crate) mod snapshot;
