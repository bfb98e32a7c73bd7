//! Code that the drivers for database servers share. It does not depend on the SQL dialect.

pub(crate) mod archive;
pub(crate) mod connections;
pub(crate) mod convert;
pub(crate) mod examine;
pub(crate) mod fault;
pub(crate) mod health;
pub(crate) mod hosts;
pub(crate) mod inline;
pub(crate) mod lease;
pub(crate) mod limits;
pub(crate) mod orphans;
pub(crate) mod page;
pub(crate) mod report;
pub(crate) mod rounds;
pub(crate) mod row;
pub(crate) mod sessions;
pub(crate) mod store;
pub(crate) mod stray;
