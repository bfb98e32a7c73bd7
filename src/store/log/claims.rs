//! The rules of unique values: the values that an append claims, the holder that prevents the append, and the stream that holds the value
//! afterwards. Drivers read and write the rows.

use std::collections::BTreeMap;

use crate::claim::Claim;
use crate::error::{Error, ErrorKind};
use crate::id::{ClaimScope, ClaimValue, StreamId};
use crate::store::log::append::Append;

/// The claims of one append on one unique value. The release comes before the reservation, so a value can move from one stream to another
/// within one append.
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
    /// Returns [`ErrorKind::Taken`] if `holder`, the stream that holds the value now, prevents the append: the append reserves the value for
    /// another stream, and `holder` does not release it in the same append. A store calls this for every value before it writes anything.
    pub fn refusal(&self, holder: Option<&StreamId>) -> Option<Error> {
        let by = holder.filter(|by| self.reserve.is_some_and(|to| to != *by) && self.release != Some(by))?;
        Some(self.taken(by.clone()))
    }

    /// Returns the error of an append that reserves a value that the stream `by` holds.
    pub(crate) fn taken(&self, by: StreamId) -> Error {
        let (scope, value) = (self.scope.clone(), self.value.clone());
        ErrorKind::Taken { scope, value, by }.into()
    }

    /// Returns the stream that holds the value after the append; `None` if the value is then free.
    pub fn next_holder<'h>(&self, holder: Option<&'h StreamId>) -> Option<&'h StreamId>
    where
        'a: 'h,
    {
        self.reserve.or(holder.filter(|holder| self.release != Some(holder)))
    }
}

/// Returns the claims of an append, grouped by value, in the order of scope and value.
///
/// A store that locks values locks them in this order, so two appends that claim the same values cannot deadlock. If one stream makes
/// several claims on the same value, the last one counts.
pub fn claimed(append: &Append) -> Vec<Claimed<'_>> {
    gather(append, |_| {})
}

/// Groups the claims of an append by value. Calls `contradiction` for a value that two streams reserve or two streams release.
pub(crate) fn gather<'a>(append: &'a Append, mut contradiction: impl FnMut(&'a Claim)) -> Vec<Claimed<'a>> {
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
                contradiction(claim);
            }
        }
    }
    values.into_values().collect()
}
