//! The rules of unique values: what an append wants, who keeps it from that, and who holds what afterwards. Drivers read and write the rows.

use std::collections::BTreeMap;

use crate::claim::Claim;
use crate::error::{Error, ErrorKind, Result};
use crate::id::{ClaimScope, ClaimValue, StreamId};
use crate::store::log::append::Append;

/// What one append does with one value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claimed<'a> {
    pub(crate) scope: &'a ClaimScope,
    pub(crate) value: &'a ClaimValue,
    /// Who wants to hold it.
    pub(crate) reserve: Option<&'a StreamId>,
    /// Who gives it up; first, so that two streams can swap within one append.
    pub(crate) release: Option<&'a StreamId>,
}

impl<'a> Claimed<'a> {
    /// Why it may not be reserved: another stream holds it, and does not give it up here.
    pub(crate) fn refusal(&self, holder: Option<&StreamId>) -> Option<Error> {
        let by = holder.filter(|by| self.reserve.is_some_and(|to| to != *by) && self.release != Some(by))?;
        Some(self.taken(by.clone()))
    }

    /// The error of an append that wants a value which another stream holds.
    pub(crate) fn taken(&self, by: StreamId) -> Error {
        let (scope, value) = (self.scope.clone(), self.value.clone());
        ErrorKind::Taken { scope, value, by }.into()
    }

    /// Who holds it once the append is written.
    pub(crate) fn next_holder<'h>(&self, holder: Option<&'h StreamId>) -> Option<&'h StreamId>
    where
        'a: 'h,
    {
        self.reserve.or(holder.filter(|holder| self.release != Some(holder)))
    }
}

/// What an append does with each value it names, in the order of scope and value: two who want the same values meet at the first of them
/// and not crosswise. Of several claims that one stream makes on one value, the last counts.
pub(crate) fn claimed(append: &Append) -> Vec<Claimed<'_>> {
    gather(append, |_| {})
}

/// Refuses claims that contradict each other whoever holds what.
pub(crate) fn check(append: &Append) -> Result<()> {
    let mut twice = None;
    gather(append, |claim| twice = Some(claim));
    let Some(claim) = twice else { return Ok(()) };
    let verb = if matches!(claim, Claim::Reserve { .. }) { "reserves" } else { "releases" };
    let problem = format!("append {verb} {} {} for two streams", claim.scope(), claim.value());
    Err(ErrorKind::Invalid(problem).into())
}

/// `twice` gets what two streams reserve, or two release.
fn gather<'a>(append: &'a Append, mut twice: impl FnMut(&'a Claim)) -> Vec<Claimed<'a>> {
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
