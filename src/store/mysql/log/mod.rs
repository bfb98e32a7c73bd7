//! The log in MySQL or MariaDB.

pub(crate) mod append;
pub(crate) mod claims;
pub(crate) mod inline;
pub(crate) mod insert;
pub(crate) mod keys;
pub(crate) mod plan;
pub(crate) mod read;
pub(crate) mod relay;
pub(crate) mod sequence;
pub(crate) mod shapes;
pub(crate) mod snapshot;
pub(crate) mod statement;
