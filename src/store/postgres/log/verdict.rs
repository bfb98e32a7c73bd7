//! Decodes the server's verdicts on appends. The server has made the decision: nothing here compares versions or holders again.

use std::ops::Range;

use sqlx::Row;
use sqlx::postgres::PgRow;

use crate::error::{Error, ErrorKind, Result};
use crate::id::{StreamId, Version};
use crate::store::log::append::{Append, Appended, Outcome, StreamAppend};
use crate::store::log::history::stream_changed;
use crate::store::postgres::log::claims::NumberedClaim;
use crate::store::server::convert::{commit_id, count, from_sql};

/// The server's verdict on one append.
pub(crate) enum Verdict {
    Written(Appended),
    /// An earlier append under the same key has an outcome.
    Repeated,
    Refused(Error),
}

/// The row that the server's `append` function returns. Its SQL file describes the columns.
pub(crate) struct Answer {
    commit: i64,
    verdicts: Vec<String>,
    culprits: Option<Vec<Option<i32>>>,
    versions: Vec<i64>,
    places: Vec<Option<i32>>,
    holder_types: Option<Vec<String>>,
    holder_ids: Option<Vec<String>>,
}

impl Answer {
    pub(crate) fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            commit: row.try_get("commit_number")?,
            verdicts: row.try_get("verdicts")?,
            culprits: row.try_get("culprits")?,
            versions: row.try_get("versions")?,
            places: row.try_get("places")?,
            holder_types: row.try_get("holder_types")?,
            holder_ids: row.try_get("holder_ids")?,
        })
    }

    /// Returns one verdict for each append of the round, in order.
    pub(crate) fn verdicts(&self, round: &[&Append], claims: &[NumberedClaim<'_>]) -> Vec<Verdict> {
        let mut next = 0;
        let verdict = |(place, append): (usize, &&Append)| {
            let parts = next..next + append.streams().len();
            next = parts.end;
            self.verdict(place, append, parts, claims).unwrap_or_else(|| Verdict::Refused(missing_verdict()))
        };
        round.iter().enumerate().map(verdict).collect()
    }

    /// Returns the verdict on the append at `place`, whose parts are `parts`, or `None` if the row has none.
    fn verdict(
        &self,
        place: usize,
        append: &Append,
        parts: Range<usize>,
        claims: &[NumberedClaim<'_>],
    ) -> Option<Verdict> {
        Some(match self.verdicts.get(place)?.as_str() {
            "written" => self.written(append, parts)?,
            "repeated" => Verdict::Repeated,
            "conflict" => {
                let part = self.culprit(place)?;
                let stream = append.streams().get(part.checked_sub(parts.start)?)?;
                Verdict::Refused(conflict(stream, *self.versions.get(part)?))
            }
            "changed" => {
                let part = self.culprit(place)?;
                let stream = append.streams().get(part.checked_sub(parts.start)?)?;
                Verdict::Refused(changed(stream, *self.versions.get(part)?))
            }
            "taken" => {
                let claim = self.culprit(place)?;
                let (kind, id) = (self.holder_types.as_ref()?.get(claim)?, self.holder_ids.as_ref()?.get(claim)?);
                let by = StreamId::parse(kind, id).map_err(Error::from);
                Verdict::Refused(by.map_or_else(|damaged| damaged, |by| claims[claim].taken(by)))
            }
            _ => return None,
        })
    }

    fn written(&self, append: &Append, parts: Range<usize>) -> Option<Verdict> {
        let (before, last) = (self.versions.get(parts.clone())?, parts.end.checked_sub(1)?);
        let own = count(append.streams().last()?.events.len());
        let commit = commit_id(self.commit, self.places.get(last).copied().flatten()? + own);
        let after = append.streams().iter().zip(before).map(|(part, before)| version_after(part, *before));
        let last_event = append.last_new_event()?;
        let written = |versions| Appended { commit, last_event, versions, outcome: Outcome::Written };
        Some(after.collect::<Result<_>>().map_or_else(Verdict::Refused, |versions| Verdict::Written(written(versions))))
    }

    /// Returns the index of the part or the claim for which the server refused the append.
    fn culprit(&self, place: usize) -> Option<usize> {
        let number = self.culprits.as_ref()?.get(place).copied().flatten()?;
        usize::try_from(number).ok()?.checked_sub(1)
    }
}

/// Decodes the result of `append_one`: the commit and the version before it, or no commit and the version found, and whether that version has
/// another event than required.
pub(crate) fn decode_one(numbers: &[Option<i64>], append: &Append) -> Result<Appended> {
    match (numbers, append.streams()) {
        ([Some(commit), Some(before)], [part]) => {
            let versions = vec![version_after(part, *before)?];
            let last_event = append.last_new_event().ok_or_else(missing_verdict)?;
            Ok(Appended { commit: commit_id(*commit, 1), last_event, versions, outcome: Outcome::Written })
        }
        ([None, Some(found)], [part]) => Err(conflict(part, *found)),
        ([None, Some(found), Some(_)], [part]) => Err(changed(part, *found)),
        _ => Err(missing_verdict()),
    }
}

fn version(stored: i64) -> Result<Version> {
    from_sql(stored, "version").map(Version::new)
}

/// Returns the version of a stream after its part was written.
fn version_after(part: &StreamAppend, before: i64) -> Result<Version> {
    version(before).map(|before| before.plus(part.events.len() as u64))
}

fn conflict(part: &StreamAppend, found: i64) -> Error {
    let (stream, expected) = (part.stream.clone(), part.expected);
    match version(found) {
        Ok(actual) => ErrorKind::Conflict { stream, expected, actual }.into(),
        Err(damaged) => damaged,
    }
}

/// Returns the error of a stream whose last event is not the required one.
fn changed(part: &StreamAppend, found: i64) -> Error {
    match (version(found), part.last_event) {
        (Ok(found), Some(remembered)) => stream_changed(&part.stream, found, remembered, None),
        (Ok(_), None) => missing_verdict(),
        (Err(damaged), _) => damaged,
    }
}

/// Returns the error of a result that is not a verdict.
pub(crate) fn missing_verdict() -> Error {
    ErrorKind::Corrupt("the server returned no verdict on an append".into()).into()
}
