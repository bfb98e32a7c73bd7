//! The processors that programs register with a read model: which events each release of a projection reads.

use chrono::{DateTime, SubsecRound, Utc};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::error::{Error, ErrorKind, Result};
use crate::id::ProjectionName;
use crate::shape::compare::Changes;
use crate::shape::types::Type;
use crate::store::log::query::Filter;
use crate::store::log::shapes::program_name;

/// The kinds of processors: each runs under the name of a projection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ProcessorKind {
    /// A [`Projection`](crate::Projection).
    Projection,
    /// A generation of a [`View`](crate::View).
    View,
    /// A [`Reaction`](crate::Reaction).
    Reaction,
    /// A [`Process`](crate::Process).
    Process,
}

/// A projection as a release of a program runs it. Its worker [registers](crate::ReadModel::register_processor) it at the start, so workers of
/// other releases know which events it reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RegisteredProcessor {
    /// Its kind.
    pub kind: ProcessorKind,
    /// The events that it reads, with sorted names.
    pub filter: Filter,
    /// The text of the wire shape of the states that it stores; `None` for a projection that does not tell.
    pub state: Option<String>,
    /// When it was first registered, by the clock of the program, to the microsecond.
    pub first_seen: DateTime<Utc>,
    /// The name of the program that registered it.
    pub program: String,
}

impl RegisteredProcessor {
    /// Creates a processor from its parts. For drivers.
    pub fn new(kind: ProcessorKind, filter: Filter, first_seen: DateTime<Utc>, program: impl Into<String>) -> Self {
        Self { kind, filter: filter.sorted(), state: None, first_seen, program: program.into() }
    }

    /// Creates the processor of this program, to be registered now.
    pub(crate) fn of_this_program(kind: ProcessorKind, filter: Filter, state: Option<&Type>) -> Self {
        let now = Utc::now().trunc_subsecs(6);
        Self { state: state.map(Type::to_string), ..Self::new(kind, filter, now, program_name()) }
    }

    /// Sets the wire shape of the states that it stores.
    pub fn with_state(mut self, state: &Type) -> Self {
        self.state = Some(state.to_string());
        self
    }

    /// Returns whether both are of one kind, read the same events and store the same states.
    pub fn is_same(&self, other: &Self) -> bool {
        (self.kind, &self.filter, &self.state) == (other.kind, &other.filter, &other.state)
    }

    /// Returns the stored form of its kind, its filter and its states, which does not depend on the order of names.
    pub fn stored(&self) -> String {
        let Filter { aggregate_types, event_types } = &self.filter;
        serde_json::json!([self.kind, aggregate_types, event_types, self.state]).to_string()
    }

    /// Returns the SHA-256 hash of the [stored form](Self::stored): a key for drivers. A read model keeps one row for each projection and
    /// digest.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.stored().as_bytes()).into()
    }

    /// Parses a stored row. For drivers.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if `stored` is not a [stored form](Self::stored).
    pub fn parse(stored: &str, first_seen: DateTime<Utc>, program: impl Into<String>) -> Result<Self> {
        let (kind, aggregate_types, event_types, state) = serde_json::from_str(stored).map_err(|error| {
            Error::with_source(ErrorKind::Corrupt(format!("registered processor {stored:?}")), error)
        })?;
        Ok(Self { state, ..Self::new(kind, Filter { aggregate_types, event_types }, first_seen, program) })
    }

    /// Refuses a release whose states the releases `before` it cannot read, or the other way around: during a deploy, workers of both read
    /// and write the same states.
    ///
    /// # Errors
    /// [`ErrorKind::StateChanged`], or [`ErrorKind::Corrupt`] if the text of a shape is none.
    pub(crate) fn check_state(&self, projection: &ProjectionName, before: &[Self]) -> Result<()> {
        let parse = |shape: &String| {
            shape.parse::<Type>().map_err(|error| {
                Error::with_source(ErrorKind::Corrupt(format!("a registered processor of {projection}")), error)
            })
        };
        let Some(state) = self.state.as_ref().map(parse).transpose()? else { return Ok(()) };
        for Self { state: known, first_seen, program, .. } in before {
            let Some(known) = known.as_ref().map(parse).transpose()? else { continue };
            let changes = Changes::of_states(&known, &state);
            let broken = changes.backward.iter().chain(&changes.forward).find(|finding| !finding.rule.is_doubt());
            let Some(broken) = broken else { continue };
            return Err(ErrorKind::StateChanged {
                what: format!("projection {projection}"),
                found: format!(
                    "the release of {program} that was registered at {first_seen} stores another shape of state than this program ({broken})"
                ),
                remedy: "keep its fields and give new ones a default, or raise the generation of a view and build it with `Rebuild`; if nothing of that release is stored anymore, call \
                         `ReadModel::forget_processor`",
            }
            .into());
        }
        Ok(())
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
