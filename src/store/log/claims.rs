//! The rules of unique values: what an append claims, which holder prevents it, and which stream holds the value afterwards. Drivers read
//! and write the rows.

use std::collections::BTreeMap;

use crate::claim::Claim;
use crate::error::{Error, ErrorKind};
use crate::id::{ClaimScope, ClaimValue, StreamId};
use crate::store::log::append::Append;

/// What one append does with one unique value. A release comes before a reservation, so that two streams can swap a value within one append.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Claimed<'a> {
    /// The scope of the value.
    pub scope: &'a ClaimScope,
    /// The value.
    pub value: &'a ClaimValue,
    /// The stream that reserves it.
    pub reserve: Option<&'a StreamId>,
    /// The stream that releases it.
    pub release: Option<&'a StreamId>,
}

impl<'a> Claimed<'a> {
    /// Returns [`ErrorKind::Taken`] if `holder`, the stream that holds the value now, prevents the append: it is not the stream that reserves
    /// the value, and does not release it in the same append. A store asks this for every value before it writes anything.
    pub fn refusal(&self, holder: Option<&StreamId>) -> Option<Error> {
        let by = holder.filter(|by| self.reserve.is_some_and(|to| to != *by) && self.release != Some(by))?;
        Some(self.taken(by.clone()))
    }

    /// The error of an append that wants a value which another stream holds.
    pub(crate) fn taken(&self, by: StreamId) -> Error {
        let (scope, value) = (self.scope.clone(), self.value.clone());
        ErrorKind::Taken { scope, value, by }.into()
    }

    /// Returns the stream that holds the value once the append is written; `None` if the value is free then.
    pub fn next_holder<'h>(&self, holder: Option<&'h StreamId>) -> Option<&'h StreamId>
    where
        'a: 'h,
    {
        self.reserve.or(holder.filter(|holder| self.release != Some(holder)))
    }
}

/// Returns what an append does with each value it names, in the order of scope and value. A store that locks values locks them in this
/// order: two appends that want the same values then wait for each other at the first of them, never crosswise. If one stream makes several
/// claims on one value, the last one counts.
pub fn claimed(append: &Append) -> Vec<Claimed<'_>> {
    gather(append, |_| {})
}

/// `twice` gets what two streams reserve, or two release.
pub(crate) fn gather<'a>(append: &'a Append, mut twice: impl FnMut(&'a Claim)) -> Vec<Claimed<'a>> {
    let mut values = BTreeMap::new();
    for part in append.streams() {
        for claim in &part.claims {
            let (scope, value) = (claim.scope(), claim.value());
            let claimed =
                values.entry((scope, value)).or_insert(Claimed { scope, value, reserve: None, release: None });
            let (wanted, other) = match claim {
                Claim::Reserve { .. } => (&mut claimed.reserve, &mut claimed.release),
                Claim::Release { .. } => (&mut claimed.release, &mut claimed.reserve),
            };
            *other = other.filter(|stream| **stream != part.stream);
            if wanted.replace(&part.stream).is_some_and(|stream| *stream != part.stream) {
                twice(claim);
            }
        }
    }
    values.into_values().collect()
}
