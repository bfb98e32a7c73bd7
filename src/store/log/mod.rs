//! The log: repositories append to it, relays and workers read it.

pub(crate) mod append;
pub(crate) mod archive;

pub(crate) mod blocker;
pub(crate) mod check;
pub(crate) mod claims;
pub(crate) mod clock;
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub(crate) mod columns;
pub(crate) mod event_store;
pub(crate) mod fault;
pub(crate) mod fingerprint;
pub(crate) mod group_commit;
pub(crate) mod history;
pub(crate) mod inline;
pub(crate) mod inspect;
pub(crate) mod judge;
pub(crate) mod keys;
pub(crate) mod kinds;
pub(crate) mod lease;
pub(crate) mod mark;
pub(crate) mod query;
pub(crate) mod reader;
pub(crate) mod relay;
pub(crate) mod replay;
pub(crate) mod seal;
pub(crate) mod shapes;
pub(crate) mod snapshots;
pub(crate) mod stored_row;
pub(crate) mod token;
