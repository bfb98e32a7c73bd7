//! `verify-snapshots`: compares snapshots with the events that they stand for.

use std::time::Duration;

use clap::Args;
use retell::repository::SnapshotCheck;
use retell::{AggregateId, AggregateType, StreamId};
use serde_json::json;

use crate::args::stream;
use crate::commands::count;
use crate::commands::typed::{States, Types, unknown};
use crate::failure::{Diagnostic, Exit, Failure};
use crate::out::{Answer, Page, remark};
use crate::ports::Log;
use crate::session::within;

/// The snapshots of one page.
const PAGE: usize = 500;

/// The faults that an answer lists.
const LISTED: usize = 100;

#[derive(Debug, Args)]
pub(crate) struct VerifySnapshots {
    /// Only the aggregates of this type, or this aggregate: TYPE or TYPE/ID
    #[arg(value_name = "TYPE|TYPE/ID")]
    only: Option<String>,
    /// Continue after this aggregate
    #[arg(long, value_name = "TYPE/ID", value_parser = stream, conflicts_with = "only")]
    after: Option<StreamId>,
    /// The most aggregates to compare
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    limit: usize,
}

/// The result of the comparisons.
#[derive(Default)]
struct Compared {
    equal: usize,
    /// Aggregates whose snapshot no release reads any more.
    unread: usize,
    faults: Vec<(StreamId, String)>,
    last: Option<StreamId>,
    /// Whether there is more to compare.
    is_cut: bool,
}

pub(crate) async fn answer(
    types: &Types,
    log: &dyn Log,
    arguments: &VerifySnapshots,
    limit: Duration,
) -> Result<Answer, Failure> {
    let mut compared = Compared::default();
    if let Some(only) = &arguments.only {
        let (kind, id) = only.split_once('/').map_or((only.as_str(), None), |(kind, id)| (kind, Some(id)));
        let states = types.states.get(kind).ok_or_else(|| unknown("aggregate", kind, types.states.keys()))?;
        match id {
            Some(id) => compared.add(&**states, StreamId::parse(kind, id)?, limit).await?,
            None => compared.walk(&**states, log, (kind, None), (arguments.limit, limit)).await?,
        }
    } else {
        for (kind, states) in &types.states {
            let after = match &arguments.after {
                Some(after) if after.aggregate_type().as_str() > *kind => continue,
                Some(after) if after.aggregate_type().as_str() == *kind => Some(after.aggregate_id().clone()),
                _ => None,
            };
            compared.walk(&**states, log, (kind, after), (arguments.limit, limit)).await?;
            if compared.is_cut {
                break;
            }
        }
    }
    compared.answer()
}

impl Compared {
    /// Compares the snapshots of a type, a page at a time.
    async fn walk(
        &mut self,
        states: &dyn States,
        log: &dyn Log,
        (kind, mut after): (&str, Option<AggregateId>),
        (most, limit): (usize, Duration),
    ) -> Result<(), Failure> {
        let kind = AggregateType::new(kind)?;
        let stop = tokio::signal::ctrl_c();
        tokio::pin!(stop);
        loop {
            let left = most - self.number();
            // One more than there is room for tells whether the answer is cut.
            let listed = log.snapshots(&kind, after.as_ref(), PAGE.min(left.saturating_add(1)));
            let Some(ids) = within(limit, "list the snapshots", listed).await? else {
                return Err(Failure::Usage(
                    "this store does not list its snapshots: name an aggregate, TYPE/ID".into(),
                ));
            };
            if ids.is_empty() {
                return Ok(());
            }
            for id in ids {
                if self.number() == most {
                    self.is_cut = true;
                    return Ok(());
                }
                tokio::select! {
                    biased;
                    signal = &mut stop => {
                        signal.map_err(Failure::Output)?;
                        self.is_cut = true;
                        return Ok(());
                    }
                    added = self.add(states, StreamId::new(kind.clone(), id.clone()), limit) => added?,
                }
                after = Some(id);
            }
            remark(&Diagnostic::note("progress", format!("{} compared", count(self.number() as u64, "snapshot"))));
        }
    }

    /// Compares the snapshot of an aggregate.
    async fn add(&mut self, states: &dyn States, stream: StreamId, limit: Duration) -> Result<(), Failure> {
        let check = within(limit, "compare a snapshot", states.verify_snapshot(stream.aggregate_id().clone())).await;
        let fault = match check {
            Ok(SnapshotCheck::Equal(_)) => {
                self.equal += 1;
                None
            }
            Ok(SnapshotCheck::Differs(version)) => {
                Some(format!("the snapshot at version {version} differs from its events"))
            }
            Ok(_) => {
                self.unread += 1;
                None
            }
            // The next aggregate may be readable.
            Err(Failure::Store(error)) if !error.is_transient() => Some(error.to_string()),
            Err(failure) => return Err(failure),
        };
        self.faults.extend(fault.map(|fault| (stream.clone(), fault)));
        self.last = Some(stream);
        Ok(())
    }

    fn number(&self) -> usize {
        self.equal + self.unread + self.faults.len()
    }

    fn answer(self) -> Result<Answer, Failure> {
        let mut page = Page::default();
        let listed = &self.faults[..self.faults.len().min(LISTED)];
        if !listed.is_empty() {
            let rows = listed.iter().map(|(stream, fault)| vec![stream.to_string(), fault.clone()]);
            page.table(&["AGGREGATE", "FAULT"], rows);
        }
        page.pairs([("equal", self.equal.to_string()), ("not read by this program", self.unread.to_string())]);
        let mut diagnostics = Vec::new();
        if !self.faults.is_empty() {
            let text = format!(
                "{} wrong: delete them, and the program writes new ones",
                count(self.faults.len() as u64, "snapshot")
            );
            diagnostics.push(Diagnostic::finding("snapshots", text));
        }
        if listed.len() < self.faults.len() {
            diagnostics.push(Diagnostic::note("truncated", "there are more faults"));
        }
        let faults: Vec<_> = listed.iter().map(|(stream, fault)| json!({ "stream": stream, "fault": fault })).collect();
        let data = json!({
            "equal": self.equal, "unread": self.unread, "different": self.faults.len(), "faults": faults, "last": self.last,
        });
        let mut answer = Answer::new(&data, page, diagnostics)?;
        if self.is_cut {
            let after = self.last.map_or_else(String::new, |last| format!(": continue with --after {last}"));
            answer.diagnostics.push(Diagnostic::note("stopped", format!("there are more snapshots{after}")));
            answer.exit = Exit::Partly;
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests;
