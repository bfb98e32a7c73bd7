//! The names of the projections that this process runs.

use std::collections::HashSet;
use std::sync::{LazyLock, PoisonError, RwLock};

/// The names for which this process has created a worker, a rebuild or an inline projection. Such a name is no mistake, even before the first
/// start has left a trace in the read model.
static RUN_HERE: LazyLock<RwLock<HashSet<String>>> = LazyLock::new(RwLock::default);

/// Adds the name of a projection that this process runs.
pub(crate) fn add(name: &str) {
    if !is_run_here(name) {
        RUN_HERE.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned());
    }
}

/// Returns whether this process runs a projection called `name`.
pub(crate) fn is_run_here(name: &str) -> bool {
    RUN_HERE.read().unwrap_or_else(PoisonError::into_inner).contains(name)
}
