//! Conversions of what a verification reads from a database server.

use chrono::{DateTime, Utc};

use crate::claim::HeldValue;
use crate::error::{ErrorKind, Result};
use crate::id::Position;
use crate::store::log::fault::{Fault, FaultId};
use crate::store::log::seal::{Seal, SealDigest};
use crate::store::server::convert::from_sql;

/// Position, aggregate type, aggregate id, version, detail.
pub(crate) type StrayRow = (Option<i64>, Option<String>, Option<String>, Option<i64>, String);

/// Converts stray rows to faults of this kind.
pub(crate) fn faults(id: FaultId, rows: Vec<StrayRow>) -> impl Iterator<Item = Fault> {
    rows.into_iter().map(move |(position, aggregate_type, aggregate_id, version, detail)| {
        let mut fault = Fault::new(id, detail);
        if let Some(position) = position.and_then(|position| u64::try_from(position).ok()).map(Position::new) {
            fault = fault.with_positions(position, position);
        }
        match (aggregate_type, aggregate_id) {
            (Some(aggregate_type), Some(aggregate_id)) => fault.with_stream(&aggregate_type, &aggregate_id, version),
            _ => fault,
        }
    })
}

/// Converts scopes and values.
pub(crate) fn held_values(rows: Vec<(String, String)>) -> Result<Vec<HeldValue>> {
    let parse = |(scope, value): (String, String)| {
        HeldValue::parse(&scope, &value)
            .map_err(|problem| ErrorKind::Corrupt(format!("a held value: {problem}")).into())
    };
    rows.into_iter().map(parse).collect()
}

/// First position, last position, previous digest, digest, time.
pub(crate) type SealRow = (i64, i64, Vec<u8>, Vec<u8>, DateTime<Utc>);

/// Converts a stored seal.
pub(crate) fn seal_from_sql((first, last, previous, digest, sealed_at): SealRow) -> Result<Seal> {
    let position = |number| from_sql(number, "position").map(Position::new);
    Ok(Seal::new(position(first)?, position(last)?, digest_from_sql(&previous)?, digest_from_sql(&digest)?, sealed_at))
}

fn digest_from_sql(bytes: &[u8]) -> Result<SealDigest> {
    let digest = bytes.try_into().map(SealDigest::from_bytes);
    digest.map_err(|_| ErrorKind::Corrupt(format!("a seal has a digest of {} bytes", bytes.len())).into())
}
