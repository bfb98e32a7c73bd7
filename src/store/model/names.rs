//! The names of the projections and relays that this process runs.

use std::collections::HashSet;
use std::sync::{LazyLock, PoisonError, RwLock};

/// Names that this process has used. Such a name is no mistake, even before the first start has left a trace in the database.
type Names = LazyLock<RwLock<HashSet<String>>>;

/// The names for which this process has created a worker, a rebuild or an inline projection.
static PROJECTIONS: Names = LazyLock::new(RwLock::default);

/// The names for which this process has created a relay.
static RELAYS: Names = LazyLock::new(RwLock::default);

/// Adds the name of a projection that this process runs.
pub(crate) fn add(name: &str) {
    put(&PROJECTIONS, name);
}

/// Returns whether this process runs a projection called `name`.
pub(crate) fn is_run_here(name: &str) -> bool {
    has(&PROJECTIONS, name)
}

/// Adds the name of a relay that this process runs.
pub(crate) fn add_relay(name: &str) {
    put(&RELAYS, name);
}

/// Returns whether this process runs a relay called `name`.
pub(crate) fn is_relay_run_here(name: &str) -> bool {
    has(&RELAYS, name)
}

fn put(names: &Names, name: &str) {
    if !has(names, name) {
        names.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
    }
}

fn has(names: &Names, name: &str) -> bool {
    names.read().unwrap_or_else(PoisonError::into_inner).contains(name)
}
