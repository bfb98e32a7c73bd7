//! Seals: chained digests of ranges of the log.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};
use sha2::{Digest, Sha256};

use crate::id::Position;
use crate::store::log::stored_row::StoredRow;

/// Names the form of the digested bytes. Another form gets another name.
const FORM: &[u8] = b"retell seal 1\n";

/// A SHA-256 digest of a range of the log. It displays as 64 hexadecimal digits.
///
/// # Examples
/// ```
/// use retell::store::SealDigest;
///
/// assert!(SealDigest::NONE.to_string().starts_with("0000"));
/// ```
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SealDigest([u8; 32]);

impl SealDigest {
    /// The digest before the first seal: zeros.
    pub const NONE: Self = Self([0; 32]);

    /// Creates a digest from its bytes.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Returns the bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for SealDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SealDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SealDigest({self})")
    }
}

impl Serialize for SealDigest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The digest of a range of the log, over every stored column of its events and over the seal before.
///
/// # The digested bytes
/// `digest` is the SHA-256 hash of these bytes, in this order. Numbers are big-endian, `u64` unless stated otherwise. A text or a payload follows its
/// length in bytes. An optional value follows one byte: 0 if it is absent, 1 if it is present.
///
/// 1. the text `retell seal 1` and a line feed
/// 2. `previous`, the first position and the last position
/// 3. for each event: position, event id (16 bytes), aggregate type, aggregate id, version, event type, schema version, codec (0 is
///    JSON, 1 is compact), time in microseconds since 1970 (`i64`), optional correlation id (16 bytes), optional causation id
///    (16 bytes), optional metadata as its stored JSON text, payload as stored
///
/// The form has nothing of a particular store, so a copy of the log that keeps these columns has the same seals. Commits are not part of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Seal {
    /// The first position of the range.
    pub first: Position,
    /// The last position of the range.
    pub last: Position,
    /// The digest of the seal before; [`SealDigest::NONE`] in the first one.
    pub previous: SealDigest,
    /// The digest of this seal.
    pub digest: SealDigest,
    /// When the range was sealed, by the clock of the process that did it. Not digested.
    pub sealed_at: DateTime<Utc>,
}

impl Seal {
    /// Creates the seal of the range from `first` to `last`.
    pub fn new(
        first: Position,
        last: Position,
        previous: SealDigest,
        digest: SealDigest,
        sealed_at: DateTime<Utc>,
    ) -> Self {
        Self { first, last, previous, digest, sealed_at }
    }
}

/// Computes the digest of a range.
pub(crate) struct Sealer {
    hash: Sha256,
    /// One event. Hashing it at once is faster than each column separately.
    bytes: Vec<u8>,
}

impl Sealer {
    pub(crate) fn begin(previous: SealDigest, first: Position, last: Position) -> Self {
        let mut hash = Sha256::new();
        hash.update(FORM);
        hash.update(previous.as_bytes());
        hash.update(first.get().to_be_bytes());
        hash.update(last.get().to_be_bytes());
        Self { hash, bytes: Vec::new() }
    }

    pub(crate) fn add(&mut self, position: Position, row: &StoredRow) {
        self.bytes.clear();
        self.number(position.get());
        self.bytes.extend_from_slice(&row.event_id);
        self.text(&row.aggregate_type);
        self.text(&row.aggregate_id);
        self.number(row.version.cast_unsigned());
        self.text(&row.event_type);
        self.number(row.schema_version.cast_unsigned());
        self.number(row.codec.cast_unsigned());
        self.number(row.recorded_at.cast_unsigned());
        for id in [&row.correlation_id, &row.causation_id] {
            self.bytes.push(u8::from(id.is_some()));
            self.bytes.extend_from_slice(id.as_deref().unwrap_or_default());
        }
        self.bytes.push(u8::from(row.metadata.is_some()));
        if let Some(metadata) = &row.metadata {
            self.text(metadata);
        }
        self.text(&row.payload);
        self.hash.update(&self.bytes);
    }

    pub(crate) fn end(self) -> SealDigest {
        SealDigest(self.hash.finalize().into())
    }

    fn number(&mut self, number: u64) {
        self.bytes.extend_from_slice(&number.to_be_bytes());
    }

    fn text(&mut self, text: &[u8]) {
        self.number(text.len() as u64);
        self.bytes.extend_from_slice(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row() -> StoredRow {
        StoredRow {
            event_id: vec![1; 16],
            aggregate_type: b"order".to_vec(),
            aggregate_id: b"17".to_vec(),
            version: 2,
            event_type: b"order.placed".to_vec(),
            schema_version: 1,
            codec: 0,
            recorded_at: 1_700_000_000_000_000,
            correlation_id: None,
            causation_id: Some(vec![2; 16]),
            metadata: Some(br#"{"source":"shop"}"#.to_vec()),
            payload: b"{}".to_vec(),
        }
    }

    fn digest(row: &StoredRow) -> String {
        let mut sealer = Sealer::begin(SealDigest::NONE, Position::new(1), Position::new(1));
        sealer.add(Position::new(1), row);
        sealer.end().to_string()
    }

    #[test]
    fn form_never_changes() {
        let mut expected = Sha256::new();
        expected.update(b"retell seal 1\n");
        expected.update([0; 32]);
        for number in [1_u64, 1, 1] {
            expected.update(number.to_be_bytes());
        }
        expected.update([1; 16]);
        expected.update(b"\0\0\0\0\0\0\0\x05order\0\0\0\0\0\0\0\x0217\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x0corder.placed\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0");
        expected.update(1_700_000_000_000_000_i64.to_be_bytes());
        expected.update(b"\0\x01");
        expected.update([2; 16]);
        expected.update(b"\x01\0\0\0\0\0\0\0\x11{\"source\":\"shop\"}\0\0\0\0\0\0\0\x02{}");
        let expected = SealDigest(expected.finalize().into()).to_string();
        assert_eq!(digest(&row()), expected);
    }

    #[test]
    fn each_column_changes_the_digest() {
        let changes: [fn(&mut StoredRow); 12] = [
            |row| row.event_id[0] = 9,
            |row| row.aggregate_type.push(b'x'),
            |row| row.aggregate_id.push(b'x'),
            |row| row.version = 3,
            |row| row.event_type.push(b'x'),
            |row| row.schema_version = 2,
            |row| row.codec = 1,
            |row| row.recorded_at += 1,
            |row| row.correlation_id = row.causation_id.take(),
            |row| row.causation_id = None,
            |row| row.metadata = None,
            |row| row.payload.push(b' '),
        ];
        let before = digest(&row());
        for (number, change) in changes.iter().enumerate() {
            let mut other = row();
            change(&mut other);
            assert_ne!(digest(&other), before, "change {number}");
        }
    }
}
