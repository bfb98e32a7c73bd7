//! Decides the outcome of each append of a round in memory, from the versions and the outcomes found.

use crate::error::{Error, ErrorKind, Result};
use crate::event::NewEvent;
use crate::id::{EventId, StreamId, Version};
use crate::store::log::append::{Append, Appended, KeyedOutcome, Outcome};
use crate::store::log::history::stream_changed;
use crate::store::server::convert::{commit_id, count};

/// A stream's newest event: its version, and the key of its row.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Newest {
    pub(crate) version: Version,
    pub(crate) commit: i64,
    pub(crate) ordinal: i32,
    pub(crate) event: Option<EventId>,
}

/// The decision on each append of a round.
pub(crate) struct Plan<'a> {
    appends: Vec<(&'a Append, Decision)>,
    pub(crate) events: usize,
}

enum Decision {
    Written {
        /// The ordinal of its first event in the commit, from 1.
        first: usize,
        /// The id of its last event.
        last_event: EventId,
        /// The new versions of its streams.
        versions: Vec<Version>,
    },
    Refused(Error),
    Repeated(Appended),
}

/// One event to insert.
pub(crate) struct NewRow<'a> {
    pub(crate) ordinal: usize,
    pub(crate) stream: &'a StreamId,
    pub(crate) version: Version,
    pub(crate) event: &'a NewEvent,
    pub(crate) metadata: Option<String>,
}

impl NewRow<'_> {
    pub(crate) fn bytes(&self) -> usize {
        self.event.payload.len() + self.metadata.as_ref().map_or(0, String::len) + 1_024
    }
}

impl<'a> Plan<'a> {
    /// Decides on each append. `taken` returns the error of the append at an index of the round if a value that it claims is taken.
    pub(crate) fn new(
        round: &[&'a Append],
        found: &[Newest],
        kept: Vec<Option<Result<KeyedOutcome>>>,
        taken: impl Fn(usize) -> Option<Error>,
    ) -> Self {
        let mut plan = Self { appends: Vec::with_capacity(round.len()), events: 0 };
        let mut found = found;
        for ((append, kept), place) in round.iter().zip(kept).zip(0..) {
            let (own, rest) = found.split_at(append.streams().len().min(found.len()));
            found = rest;
            let decision = match kept {
                Some(kept) => {
                    kept.and_then(|kept| kept.repeat(append)).map_or_else(Decision::Refused, Decision::Repeated)
                }
                None => plan.write(append, own, || taken(place)),
            };
            plan.appends.push((append, decision));
        }
        plan
    }

    fn write(&mut self, append: &Append, found: &[Newest], taken: impl FnOnce() -> Option<Error>) -> Decision {
        let parts = || append.streams().iter().zip(found);
        for (part, newest) in parts() {
            let actual = newest.version;
            if !part.expected.allows(actual) {
                let (stream, expected) = (part.stream.clone(), part.expected);
                return Decision::Refused(ErrorKind::Conflict { stream, expected, actual }.into());
            }
            if let Some(remembered) = part.last_event
                && newest.event != Some(remembered)
            {
                return Decision::Refused(stream_changed(&part.stream, actual, remembered, newest.event));
            }
        }
        if let Some(taken) = taken() {
            return Decision::Refused(taken);
        }
        let Some(last_event) = append.last_new_event() else {
            return Decision::Refused(ErrorKind::Invalid("the append has no events".into()).into());
        };
        let first = self.events + 1;
        self.events += append.streams().iter().map(|part| part.events.len()).sum::<usize>();
        Decision::Written {
            first,
            last_event,
            versions: parts().map(|(part, found)| found.version.plus(part.events.len() as u64)).collect(),
        }
    }

    /// Returns the events in the order of their keys, so that two calls that append to the same streams lock them in the same order and cannot
    /// deadlock.
    pub(crate) fn rows(&self) -> Vec<NewRow<'a>> {
        let mut rows = Vec::with_capacity(self.events);
        for (append, decision) in &self.appends {
            let Decision::Written { first, versions, .. } = decision else { continue };
            let mut ordinals = *first..;
            for (part, last) in append.streams().iter().zip(versions) {
                let before = last.get() - part.events.len() as u64;
                for ((event, version), ordinal) in part.events.iter().zip(before + 1..).zip(ordinals.by_ref()) {
                    // `Append::check` has refused metadata that cannot be encoded.
                    let metadata = event.metadata.to_json().ok().flatten();
                    rows.push(NewRow {
                        ordinal,
                        stream: &part.stream,
                        version: Version::new(version),
                        event,
                        metadata,
                    });
                }
            }
        }
        let names = |row: &NewRow<'a>| (row.stream.aggregate_type().as_str(), row.stream.aggregate_id().as_str());
        rows.sort_by(|a, b| names(a).cmp(&names(b)).then(a.version.cmp(&b.version)));
        rows
    }

    /// Returns whether the append at index `place` of the round is written.
    pub(crate) fn is_written(&self, place: usize) -> bool {
        matches!(self.appends.get(place), Some((_, Decision::Written { .. })))
    }

    pub(crate) fn repeats(&self) -> bool {
        self.appends.iter().any(|(_, decision)| matches!(decision, Decision::Repeated(_)))
    }

    /// Returns the appends to write, each with the new versions of its streams and the ordinal of its last event.
    pub(crate) fn written(&self) -> impl Iterator<Item = (&'a Append, &Vec<Version>, i32)> {
        self.appends.iter().filter_map(|(append, decision)| match decision {
            Decision::Written { first, versions, .. } => Some((*append, versions, last_ordinal(append, *first))),
            _ => None,
        })
    }

    pub(crate) fn outcomes(&mut self, commit: i64) -> Vec<Result<Appended>> {
        let outcome = |(append, decision): (&Append, Decision)| match decision {
            Decision::Written { first, last_event, versions } => {
                let commit = commit_id(commit, last_ordinal(append, first));
                Ok(Appended { commit, last_event, versions, outcome: Outcome::Written })
            }
            Decision::Refused(error) => Err(error),
            Decision::Repeated(appended) => Ok(appended),
        };
        self.appends.drain(..).map(outcome).collect()
    }
}

fn last_ordinal(append: &Append, first: usize) -> i32 {
    count(first + append.streams().iter().map(|part| part.events.len()).sum::<usize>() - 1)
}
