//! The claims of a round, as the server's `append` takes them.

use sqlx::Postgres;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;

use crate::error::Error;
use crate::id::StreamId;
use crate::store::log::append::Append;
use crate::store::log::claims::{Claimed, claimed};
use crate::store::server::convert::count;

/// A claimed value, with the numbers of the append and the parts that claim it, from 1.
pub(crate) struct NumberedClaim<'a> {
    append: i32,
    claimed: Claimed<'a>,
    reserve: Option<i32>,
    release: Option<i32>,
}

impl NumberedClaim<'_> {
    /// Returns the error of an append that claims a value which the stream `by` holds.
    pub(crate) fn taken(&self, by: StreamId) -> Error {
        self.claimed.taken(by)
    }
}

/// Returns the claims of a round in the order of their values: two calls that claim the same values lock them in the same order and cannot
/// deadlock.
pub(crate) fn numbered<'a>(round: &[&'a Append]) -> Vec<NumberedClaim<'a>> {
    let (mut claims, mut parts) = (Vec::new(), 0);
    for (append, number) in round.iter().zip(1..) {
        let part =
            |stream: &StreamId| append.stream_ids().position(|part| part == stream).map(|n| count(parts + n + 1));
        claims.extend(claimed(append).into_iter().map(|claimed| NumberedClaim {
            append: number,
            reserve: claimed.reserve.and_then(part),
            release: claimed.release.and_then(part),
            claimed,
        }));
        parts += append.streams().len();
    }
    claims.sort_unstable_by_key(|claim| (claim.claimed.scope, claim.claimed.value));
    claims
}

/// Binds five arrays with one entry for each claim, or NULL if there are no claims.
pub(crate) fn bind<'q>(
    query: Query<'q, Postgres, PgArguments>,
    claims: &[NumberedClaim<'q>],
) -> Query<'q, Postgres, PgArguments> {
    query
        .bind(column(claims, |claim| claim.append))
        .bind(column(claims, |claim| claim.claimed.scope.as_str()))
        .bind(column(claims, |claim| claim.claimed.value.as_str()))
        .bind(column(claims, |claim| claim.reserve))
        .bind(column(claims, |claim| claim.release))
}

fn column<'q, T>(claims: &[NumberedClaim<'q>], value: impl Fn(&NumberedClaim<'q>) -> T) -> Option<Vec<T>> {
    (!claims.is_empty()).then(|| claims.iter().map(value).collect())
}
