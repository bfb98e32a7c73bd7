//! What a call of the server's `append_claiming` takes and returns beside that of `append`.

use std::collections::HashMap;

use sqlx::postgres::{PgArguments, PgRow};
use sqlx::query::Query;
use sqlx::{Postgres, Row};

use crate::error::{Error, ErrorKind};
use crate::id::StreamId;
use crate::store::log::append::Append;
use crate::store::log::claims::{Claimed, claimed};
use crate::store::server::convert::count;

/// A value that is claimed, with what the server knows the append and its streams by.
pub(crate) struct NumberedClaim<'a> {
    append: i32,
    claimed: Claimed<'a>,
    reserve: Option<i32>,
    release: Option<i32>,
}

impl NumberedClaim<'_> {
    fn refusal(&self, aggregate_type: &str, id: &str) -> Error {
        match StreamId::parse(aggregate_type, id) {
            Ok(by) => self.claimed.refusal(Some(&by)).unwrap_or_else(|| unexplained(&by)),
            Err(error) => error.into(),
        }
    }
}

/// The server and we do not agree on what is taken.
fn unexplained(by: &StreamId) -> Error {
    ErrorKind::Corrupt(format!("a value was refused for {by}, which does not keep it")).into()
}

/// What the appends claim, in the order in which the server takes it: whoever wants the same meets at the first and not crosswise.
pub(crate) fn of<'a>(round: &[&'a Append]) -> Vec<NumberedClaim<'a>> {
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

pub(crate) fn bind<'q>(
    query: Query<'q, Postgres, PgArguments>,
    claims: &[NumberedClaim<'q>],
) -> Query<'q, Postgres, PgArguments> {
    query
        .bind(claims.iter().map(|claim| claim.append).collect::<Vec<_>>())
        .bind(claims.iter().map(|claim| claim.claimed.scope.as_str()).collect::<Vec<_>>())
        .bind(claims.iter().map(|claim| claim.claimed.value.as_str()).collect::<Vec<_>>())
        .bind(claims.iter().map(|claim| claim.reserve).collect::<Vec<_>>())
        .bind(claims.iter().map(|claim| claim.release).collect::<Vec<_>>())
}

/// The appends, from 1, of which a value is taken, each with its refusal: by the first such value.
pub(crate) fn taken(row: &PgRow, claims: &[NumberedClaim<'_>]) -> Result<HashMap<i32, Error>, sqlx::Error> {
    let numbers: Option<Vec<i32>> = row.try_get("taken")?;
    let types: Option<Vec<String>> = row.try_get("taken_type")?;
    let ids: Option<Vec<String>> = row.try_get("taken_id")?;
    let holders = types.into_iter().flatten().zip(ids.into_iter().flatten());
    let mut taken = HashMap::new();
    for (number, (aggregate_type, id)) in numbers.into_iter().flatten().zip(holders) {
        if let Some(claim) = usize::try_from(number - 1).ok().and_then(|place| claims.get(place)) {
            taken.entry(claim.append).or_insert_with(|| claim.refusal(&aggregate_type, &id));
        }
    }
    Ok(taken)
}
