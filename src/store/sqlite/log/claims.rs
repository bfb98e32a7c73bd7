//! Reads and writes the rows of unique values. The caller holds the write lock, so the rows read here do not change until the commit.

use rusqlite::{Connection, OptionalExtension};

use crate::error::Error;
use crate::id::{ClaimScope, ClaimValue, StreamId};
use crate::store::log::append::Append;
use crate::store::log::claims::claimed;
use crate::store::sqlite::error::Failure;

/// Returns the error of an append if another stream holds a value that it claims.
pub(crate) fn refusal(db: &Connection, append: &Append) -> Result<Option<Error>, Failure> {
    for claim in claimed(append) {
        if let Some(refusal) = claim.refusal(holder(db, claim.scope, claim.value)?.as_ref()) {
            return Ok(Some(refusal));
        }
    }
    Ok(None)
}

/// Writes the claims of an append.
pub(crate) fn keep(db: &Connection, append: &Append) -> Result<(), Failure> {
    for claim in claimed(append) {
        let (scope, value) = (claim.scope.as_str(), claim.value.as_str());
        match claim.next_holder(holder(db, claim.scope, claim.value)?.as_ref()) {
            Some(to) => {
                let names = (to.aggregate_type().as_str(), to.aggregate_id().as_str());
                db.prepare_cached(RESERVE)?.execute((scope, value, names.0, names.1))?
            }
            None => db.prepare_cached(RELEASE)?.execute((scope, value))?,
        };
    }
    Ok(())
}

/// Returns the stream that holds a value.
pub(crate) fn holder(db: &Connection, scope: &ClaimScope, value: &ClaimValue) -> Result<Option<StreamId>, Failure> {
    let row: Option<(String, String)> = db
        .prepare_cached(HOLDER)?
        .query_row((scope.as_str(), value.as_str()), |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    Ok(row.map(|(kind, id)| StreamId::parse(&kind, &id)).transpose().map_err(Error::from)?)
}

const HOLDER: &str = "SELECT aggregate_type, aggregate_id FROM retell_reservations WHERE scope = ?1 AND value = ?2";

/// Binds: scope, value, aggregate type, aggregate id.
pub(crate) const RESERVE: &str = "
    INSERT INTO retell_reservations (scope, value, aggregate_type, aggregate_id) VALUES (?1, ?2, ?3, ?4)
    ON CONFLICT (scope, value) DO UPDATE SET aggregate_type = excluded.aggregate_type, aggregate_id = excluded.aggregate_id";

const RELEASE: &str = "DELETE FROM retell_reservations WHERE scope = ?1 AND value = ?2";
