//! The rows of unique values. An append locks them first and writes them with its events.

use sqlx::mysql::MySqlRow;
use sqlx::{MySql, MySqlConnection, QueryBuilder, Row};

use crate::error::Error;
use crate::id::{ClaimScope, ClaimValue, StreamId};
use crate::store::log::append::Append;
use crate::store::log::claims::{Claimed, claimed};
use crate::store::mysql::convert::text;
use crate::store::mysql::log::statement::{LOOKED_UP, padded};
use crate::store::server::convert::count;

/// The claims of a round's appends, each with the stream that held the value when its row was locked.
pub(crate) struct Claims<'a>(Vec<Claim<'a>>);

struct Claim<'a> {
    /// The index of the claiming append in the round.
    append: usize,
    claimed: Claimed<'a>,
    holder: Option<StreamId>,
}

impl<'a> Claims<'a> {
    /// Locks the claimed values until the transaction ends. Runs no statement if the round claims nothing.
    ///
    /// The locks are taken before the commit's number is drawn, so the log has the append that releases a value before the append that
    /// reserves it next.
    pub(crate) async fn lock(tx: &mut MySqlConnection, round: &[&'a Append]) -> Result<Self, sqlx::Error> {
        let mut claims: Vec<_> = round
            .iter()
            .zip(0..)
            .flat_map(|(append, place)| {
                claimed(append).into_iter().map(move |claimed| Claim { append: place, claimed, holder: None })
            })
            .collect();
        claims.sort_unstable_by_key(|claim| (claim.claimed.scope, claim.claimed.value));
        for chunk in claims.chunks(LOOKED_UP) {
            // A free value gets a row without a holder until the transaction ends, because a missing row cannot be locked.
            write(&mut *tx, chunk.iter().map(|claim| (&claim.claimed, None)), LOCKED).await?;
        }
        for chunk in claims.chunks_mut(LOOKED_UP) {
            find(&mut *tx, chunk).await?;
        }
        Ok(Self(claims))
    }

    /// Returns the error of the append at index `append` of the round, if another stream holds a value that it claims.
    pub(crate) fn refusal(&self, append: usize) -> Option<Error> {
        let own = self.0.iter().filter(|claim| claim.append == append);
        own.into_iter().find_map(|claim| claim.claimed.refusal(claim.holder.as_ref()))
    }

    /// Writes the claims of the appends that were written, and deletes the rows without a holder.
    pub(crate) async fn keep(
        &self,
        tx: &mut MySqlConnection,
        is_written: impl Fn(usize) -> bool,
    ) -> Result<(), sqlx::Error> {
        let (mut held, mut free) = (Vec::new(), Vec::new());
        for Claim { append, claimed, holder } in &self.0 {
            let before = holder.as_ref();
            match if is_written(*append) { claimed.next_holder(before) } else { before } {
                Some(holder) if before == Some(holder) => {}
                Some(holder) => held.push((claimed, Some(holder))),
                None => free.push(claimed),
            }
        }
        for chunk in held.chunks(LOOKED_UP) {
            write(&mut *tx, chunk.iter().copied(), HELD).await?;
        }
        for chunk in free.chunks(LOOKED_UP) {
            remove(&mut *tx, chunk).await?;
        }
        Ok(())
    }
}

/// Returns the stream in a row, or `None` for a row without a holder.
pub(crate) fn holder(row: &MySqlRow) -> Result<Option<StreamId>, sqlx::Error> {
    let (kind, id) = (text(row.try_get("aggregate_type")?)?, text(row.try_get("aggregate_id")?)?);
    if kind.is_empty() {
        return Ok(None);
    }
    StreamId::parse(kind, id).map(Some).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// Binds for each row: scope, value, aggregate type, aggregate id. Repeats the last row as padding, which changes nothing.
async fn write<'c>(
    tx: &mut MySqlConnection,
    rows: impl ExactSizeIterator<Item = (&'c Claimed<'c>, Option<&'c StreamId>)> + Clone,
    end: &str,
) -> Result<(), sqlx::Error> {
    let missing = padded(rows.len(), LOOKED_UP) - rows.len();
    let last = rows.clone().skip(rows.len().saturating_sub(1));
    let mut query = QueryBuilder::new(WRITE);
    query.push_values(rows.chain(last.cycle().take(missing)), |mut row, (claimed, holder)| {
        row.push_bind(claimed.scope.as_str().as_bytes()).push_bind(claimed.value.as_str().as_bytes());
        row.push_bind(holder.map_or(&[][..], |stream| stream.aggregate_type().as_str().as_bytes()));
        row.push_bind(holder.map_or(&[][..], |stream| stream.aggregate_id().as_str().as_bytes()));
    });
    query.push(end);
    query.build().execute(tx).await.map(drop)
}

/// Reads the holders. This is a locking read, because the transaction's snapshot may be older than the rows.
async fn find(tx: &mut MySqlConnection, claims: &mut [Claim<'_>]) -> Result<(), sqlx::Error> {
    let mut query = QueryBuilder::new("");
    for place in 0..padded(claims.len(), LOOKED_UP) {
        query.push(if place == 0 { "" } else { " UNION ALL " });
        query.push(FIND_PLACE).push_bind(count(place)).push(FIND_SCOPE);
        push_value(&mut query, claims.get(place).map(|claim| &claim.claimed), FIND_VALUE);
        query.push(FIND_END);
    }
    for row in query.build().fetch_all(&mut *tx).await? {
        let place: i64 = row.try_get("place")?;
        if let Some(claim) = usize::try_from(place).ok().and_then(|place| claims.get_mut(place)) {
            claim.holder = holder(&row)?;
        }
    }
    Ok(())
}

async fn remove(tx: &mut MySqlConnection, values: &[&Claimed<'_>]) -> Result<(), sqlx::Error> {
    let mut query = QueryBuilder::new(REMOVE);
    for place in 0..padded(values.len(), LOOKED_UP) {
        query.push(if place == 0 { REMOVE_FIRST } else { REMOVE_NEXT });
        push_value(&mut query, values.get(place).copied(), REMOVE_VALUE);
        query.push(REMOVE_EACH);
    }
    query.push(REMOVE_END);
    query.build().execute(tx).await.map(drop)
}

/// Binds the scope and the value of a claim, or NULL for a padding entry.
fn push_value(query: &mut QueryBuilder<MySql>, claimed: Option<&Claimed<'_>>, between: &str) {
    query.push_bind(claimed.map(|claimed| claimed.scope.as_str().as_bytes().to_vec()));
    query.push(between).push_bind(claimed.map(|claimed| claimed.value.as_str().as_bytes().to_vec()));
}

/// Returns the key of a row, for a lookup.
pub(crate) fn key<'v>(scope: &'v ClaimScope, value: &'v ClaimValue) -> (&'v [u8], &'v [u8]) {
    (scope.as_str().as_bytes(), value.as_str().as_bytes())
}

const WRITE: &str = "INSERT INTO retell_reservations (scope, value, aggregate_type, aggregate_id) ";

/// Takes an exclusive lock even if the row exists: two transactions with shared locks would deadlock.
const LOCKED: &str = " ON DUPLICATE KEY UPDATE aggregate_type = retell_reservations.aggregate_type";

const HELD: &str =
    " ON DUPLICATE KEY UPDATE aggregate_type = VALUES(aggregate_type), aggregate_id = VALUES(aggregate_id)";

/// The lookup of a row is these four parts with the binds between them. UNION ALL joins the rows.
const FIND_PLACE: &str = "(SELECT CAST(";
const FIND_SCOPE: &str = " AS SIGNED) AS place, aggregate_type, aggregate_id FROM retell_reservations WHERE scope = ";
const FIND_VALUE: &str = " AND value = ";
const FIND_END: &str = " FOR UPDATE)";

/// Reads the list first and looks up each row by its key: a scan of the table would wait for rows that other transactions have locked.
const REMOVE: &str = "DELETE r FROM (";
const REMOVE_FIRST: &str = "SELECT CAST(";
const REMOVE_NEXT: &str = " UNION ALL SELECT CAST(";
const REMOVE_VALUE: &str = " AS BINARY) AS scope, CAST(";
const REMOVE_EACH: &str = " AS BINARY) AS value";
const REMOVE_END: &str = ") AS c
    STRAIGHT_JOIN retell_reservations AS r FORCE INDEX (PRIMARY) ON r.scope = c.scope AND r.value = c.value";

/// Binds: scope, value.
pub(crate) const HOLDER: &str =
    "SELECT aggregate_type, aggregate_id FROM retell_reservations WHERE scope = ? AND value = ?";
