//! The wire shapes of events that a log keeps for programs.

use std::env;

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};

use crate::codec::Codec;
use crate::id::EventType;

/// The wire shape of one version of an event, as a program has registered it with a log.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RegisteredShape {
    /// The stored name of the event.
    pub event_type: EventType,
    /// Its schema version.
    pub version: u32,
    /// The codec of its payloads.
    pub codec: Codec,
    /// The text of the [shape](crate::shape::Type).
    pub shape: String,
    /// When it was first registered, by the clock of the program, to the microsecond.
    pub first_seen: DateTime<Utc>,
    /// The name of the program that registered it.
    pub program: String,
}

impl RegisteredShape {
    /// Creates a shape from its parts. For drivers.
    pub fn new(
        event_type: EventType,
        version: u32,
        codec: Codec,
        shape: impl Into<String>,
        first_seen: DateTime<Utc>,
        program: impl Into<String>,
    ) -> Self {
        Self { event_type, version, codec, shape: shape.into(), first_seen, program: program.into() }
    }

    /// Returns the SHA-256 hash of the shape's text: a key for drivers. A log keeps one row for each event type, version, codec and digest.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.shape.as_bytes()).into()
    }

    /// Returns whether this is the same version with the same shape.
    pub(crate) fn has_shape_of(&self, other: &Self) -> bool {
        (self.version, self.codec, &self.shape) == (other.version, other.codec, &other.shape)
    }
}

/// Returns the name of this program, for what it registers.
pub(crate) fn program_name() -> String {
    let name = || Some(env::current_exe().ok()?.file_stem()?.to_string_lossy().into_owned());
    name().unwrap_or_default()
}
