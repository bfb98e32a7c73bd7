//! Fingerprints tell the requests under one idempotency key apart.

use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::codec::Codec;
use crate::codec::tree::Tree;
use crate::event::NewEvent;

/// A hash of the request that an idempotency key was used for. A store keeps it with the key, and refuses another request under the key.
///
/// # Examples
/// ```
/// use retell::store::Fingerprint;
///
/// let hold = Fingerprint::of_request("hold", br#"{"seat":1}"#);
/// assert_eq!(hold, Fingerprint::of_request("hold", br#"{"seat":1}"#));
/// assert_ne!(hold, Fingerprint::of_request("hold", br#"{"seat":2}"#));
/// assert_ne!(hold, Fingerprint::of_request("sell", br#"{"seat":1}"#));
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fingerprint([u8; Self::BYTES]);

impl Fingerprint {
    /// The number of bytes that a store keeps.
    pub const BYTES: usize = 32;

    /// Computes the fingerprint of the request `bytes` of the kind `kind`.
    pub fn of_request(kind: &str, bytes: &[u8]) -> Self {
        let mut hash = Hash::new("request");
        hash.part(kind.as_bytes());
        hash.part(bytes);
        hash.end()
    }

    /// Creates a fingerprint from the bytes that a store has kept.
    pub const fn from_bytes(bytes: [u8; Self::BYTES]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes for a store to keep.
    pub const fn as_bytes(&self) -> &[u8; Self::BYTES] {
        &self.0
    }

    /// Computes the fingerprint of commands of the kind `kind`, whatever they ask for.
    pub(crate) fn of_kind(kind: &str) -> Self {
        let mut hash = Hash::new("command");
        hash.part(kind.as_bytes());
        hash.end()
    }

    /// Returns the fingerprint for keys that the library derives, each of which belongs to one request only.
    pub(crate) fn of_derived_key() -> Self {
        Hash::new("derived").end()
    }

    /// Computes the fingerprint of an append from the types and payloads of its events. `parts` has the events of each stream.
    // The hashes of a log are compared for as long as the log exists, so the form that is hashed never changes.
    pub(crate) fn of_events<'e>(parts: impl Iterator<Item = &'e [NewEvent]>) -> Self {
        let mut hash = Hash::new("events");
        for events in parts {
            hash.number(events.len());
            for event in events {
                hash.event(event);
            }
        }
        hash.end()
    }
}

/// Shows the first bytes in hexadecimal digits.
impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = u64::from_be_bytes(self.0[..8].try_into().unwrap_or_default());
        write!(f, "Fingerprint({first:016x}..)")
    }
}

/// Hashes parts, each with its length, so that no two lists of parts lead to the same bytes.
struct Hash(Sha256);

impl Hash {
    fn new(domain: &str) -> Self {
        let mut hash = Self(Sha256::new());
        hash.part(domain.as_bytes());
        hash
    }

    fn number(&mut self, number: usize) {
        self.0.update((number as u64).to_be_bytes());
    }

    fn part(&mut self, bytes: &[u8]) {
        self.number(bytes.len());
        self.0.update(bytes);
    }

    fn event(&mut self, event: &NewEvent) {
        self.part(event.event_type.as_str().as_bytes());
        // A hash map's entries come in another order in each process, so JSON is hashed as a tree.
        let tree = (event.codec == Codec::Json).then(|| Tree::parse(&event.payload)).flatten();
        match tree {
            Some(tree) => tree.visit(&mut |part| self.0.update(part)),
            None => self.part(&event.payload),
        }
    }

    fn end(self) -> Fingerprint {
        Fingerprint(self.0.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::id::{EventId, EventType};

    fn of(event_type: &str, codec: Codec, payload: &'static str) -> Fingerprint {
        let event_type = EventType::new(event_type).unwrap();
        let event = NewEvent::stored(EventId::generate(), event_type, 1, codec, Bytes::from(payload));
        Fingerprint::of_events([&[event][..]].into_iter())
    }

    #[test]
    fn fingerprint_of_events_never_changes() {
        let known = of("hall.held", Codec::Json, r#"{"seat":1,"rows":[2.5,"x"]}"#);
        assert_eq!(known, of("hall.held", Codec::Json, r#"{"rows":[2.5,"x"],"seat":1}"#));
        assert_eq!(format!("{known:?}"), "Fingerprint(2fc11f079d626c99..)");
    }

    #[test]
    fn type_and_payload_of_an_event_count() {
        let held = of("hall.held", Codec::Json, r#"{"seat":1}"#);
        assert_ne!(held, of("hall.held", Codec::Json, r#"{"seat":2}"#));
        assert_ne!(held, of("hall.sold", Codec::Json, r#"{"seat":1}"#));
        assert_ne!(of("hall.held", Codec::Compact, "1"), of("hall.held", Codec::Compact, "2"));
        assert_ne!(of("hall.held", Codec::Json, "no json 1"), of("hall.held", Codec::Json, "no json 2"));
    }
}
