//! What becomes of each append of a round: decided in memory, from the versions and the outcomes found.

use crate::error::{Error, ErrorKind, Result};
use crate::event::NewEvent;
use crate::id::{StreamId, Version};
use crate::store::log::append::{Append, Appended, KeptOutcome, Outcome};
use crate::store::server::convert::{commit_id, count};

/// A stream's newest event: its version, and the key of its row.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Newest {
    pub(crate) version: Version,
    pub(crate) commit: i64,
    pub(crate) ordinal: i32,
}

/// What becomes of each append of a round.
pub(crate) struct Plan<'a> {
    appends: Vec<(&'a Append, Fate)>,
    pub(crate) events: usize,
}

enum Fate {
    Written {
        /// The place of its first event in the commit, from 1.
        first: usize,
        /// Its streams' new versions.
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
    /// `taken`: why the append at a place of the round may not have the values it claims.
    pub(crate) fn of(
        round: &[&'a Append],
        found: &[Newest],
        kept: Vec<Option<Result<KeptOutcome>>>,
        taken: impl Fn(usize) -> Option<Error>,
    ) -> Self {
        let mut plan = Self { appends: Vec::with_capacity(round.len()), events: 0 };
        let mut found = found.iter().map(|newest| newest.version);
        for ((append, kept), place) in round.iter().zip(kept).zip(0..) {
            let found: Vec<Version> = found.by_ref().take(append.streams().len()).collect();
            let fate = match (kept, append.key()) {
                (Some(kept), Some(key)) => kept
                    .and_then(|kept| kept.repeat(key, append.stream_ids()))
                    .map_or_else(Fate::Refused, Fate::Repeated),
                _ => plan.write(append, &found, || taken(place)),
            };
            plan.appends.push((append, fate));
        }
        plan
    }

    fn write(&mut self, append: &Append, found: &[Version], taken: impl FnOnce() -> Option<Error>) -> Fate {
        let parts = || append.streams().iter().zip(found);
        if let Some((part, &actual)) = parts().find(|(part, found)| !part.expected.allows(**found)) {
            let (stream, expected) = (part.stream.clone(), part.expected);
            return Fate::Refused(ErrorKind::Conflict { stream, expected, actual }.into());
        }
        if let Some(taken) = taken() {
            return Fate::Refused(taken);
        }
        let first = self.events + 1;
        self.events += append.streams().iter().map(|part| part.events.len()).sum::<usize>();
        Fate::Written { first, versions: parts().map(|(part, found)| found.plus(part.events.len() as u64)).collect() }
    }

    /// The events in the order of their keys, so that two calls that want the same streams meet at the first of them and not crosswise.
    pub(crate) fn rows(&self) -> Vec<NewRow<'a>> {
        let mut rows = Vec::with_capacity(self.events);
        for (append, fate) in &self.appends {
            let Fate::Written { first, versions } = fate else { continue };
            let mut ordinals = *first..;
            for (part, last) in append.streams().iter().zip(versions) {
                let before = last.get() - part.events.len() as u64;
                for ((event, version), ordinal) in part.events.iter().zip(before + 1..).zip(ordinals.by_ref()) {
                    // `Append::check` has refused what cannot be written.
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

    /// Whether the append at a place of the round is written.
    pub(crate) fn is_written(&self, place: usize) -> bool {
        matches!(self.appends.get(place), Some((_, Fate::Written { .. })))
    }

    pub(crate) fn repeats(&self) -> bool {
        self.appends.iter().any(|(_, fate)| matches!(fate, Fate::Repeated(_)))
    }

    /// What was written, each with the place of its last event.
    pub(crate) fn written(&self) -> impl Iterator<Item = (&'a Append, &Vec<Version>, i32)> {
        self.appends.iter().filter_map(|(append, fate)| match fate {
            Fate::Written { first, versions } => Some((*append, versions, last_ordinal(append, *first))),
            _ => None,
        })
    }

    pub(crate) fn outcomes(&mut self, commit: i64) -> Vec<Result<Appended>> {
        let outcome = |(append, fate): (&Append, Fate)| match fate {
            Fate::Written { first, versions } => {
                let commit = commit_id(commit, last_ordinal(append, first));
                Ok(Appended { commit, versions, outcome: Outcome::Written })
            }
            Fate::Refused(error) => Err(error),
            Fate::Repeated(appended) => Ok(appended),
        };
        self.appends.drain(..).map(outcome).collect()
    }
}

fn last_ordinal(append: &Append, first: usize) -> i32 {
    count(first + append.streams().iter().map(|part| part.events.len()).sum::<usize>() - 1)
}
