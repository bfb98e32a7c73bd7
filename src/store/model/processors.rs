//! The processors that programs register with a read model: which events each release of a projection reads.

use chrono::{DateTime, SubsecRound, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, ErrorKind, Result};
use crate::id::ProjectionName;
use crate::store::log::query::Filter;
use crate::store::log::shapes::program_name;

/// A projection as a release of a program runs it. Its worker [registers](crate::ReadModel::register_processor) it at the start, so workers of
/// other releases know which events it reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RegisteredProcessor {
    /// The events that it reads, with sorted names.
    pub filter: Filter,
    /// When it was first registered, by the clock of the program, to the microsecond.
    pub first_seen: DateTime<Utc>,
    /// The name of the program that registered it.
    pub program: String,
}

impl RegisteredProcessor {
    /// Creates a processor from its parts. For drivers.
    pub fn new(filter: Filter, first_seen: DateTime<Utc>, program: impl Into<String>) -> Self {
        Self { filter: filter.sorted(), first_seen, program: program.into() }
    }

    /// Creates the processor of this program, to be registered now.
    pub(crate) fn of_this_program(filter: Filter) -> Self {
        Self::new(filter, Utc::now().trunc_subsecs(6), program_name())
    }

    /// Returns the stored form of the filter, which does not depend on the order of its names.
    pub fn stored_filter(&self) -> String {
        let Filter { aggregate_types, event_types } = &self.filter;
        serde_json::json!([aggregate_types, event_types]).to_string()
    }

    /// Returns the SHA-256 hash of the stored filter: a key for drivers. A read model keeps one row for each projection and digest.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.stored_filter().as_bytes()).into()
    }

    /// Parses a stored row. For drivers.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if `filter` is not the [stored form](Self::stored_filter) of a filter.
    pub fn parse(filter: &str, first_seen: DateTime<Utc>, program: impl Into<String>) -> Result<Self> {
        let (aggregate_types, event_types) = serde_json::from_str(filter).map_err(|error| {
            Error::with_source(ErrorKind::Corrupt(format!("filter of a registered processor {filter:?}")), error)
        })?;
        Ok(Self::new(Filter { aggregate_types, event_types }, first_seen, program))
    }
}

/// A change of the registered processors.
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
#[derive(Debug, Clone, Copy)]
pub(crate) enum Change {
    Register,
    Forget,
}

/// Refuses a turn or a sweep of a worker that does not know the registered processors. A store compares the count of its row with that of the
/// worker in the transaction.
///
/// # Errors
/// [`ErrorKind::ProcessorsChanged`] if the counts differ.
pub fn check_changes(projection: &ProjectionName, known: u64, stored: u64) -> Result<()> {
    if known == stored { Ok(()) } else { Err(ErrorKind::ProcessorsChanged(projection.clone()).into()) }
}
