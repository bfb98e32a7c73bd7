//! `retell prune`.

use std::time::Duration;

use clap::{Args, ValueEnum};
use retell::CancellationToken;
use retell::operate::{Holder, PruneOptions, PruneTarget, Pruned, PrunedPart};
use retell::store::By;
use serde_json::json;

use crate::args::Who;
use crate::commands::confirm::confirm_on;
use crate::commands::count;
use crate::failure::{Diagnostic, Exit, Failure};
use crate::out::{Answer, Page};
use crate::session::Session;

#[derive(Debug, Args)]
pub(crate) struct Prune {
    table: Table,
    /// The age of the rows that go: a number and s, min, h or d, such as 30d. A retry under an idempotency key that comes later appends again
    #[arg(long, value_name = "AGE", value_parser = age)]
    older_than: Duration,
    /// The most rows of one run
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    limit: u64,
    /// The reason, for `audit`
    #[arg(long, value_name = "TEXT", default_value = "prune")]
    reason: String,
    #[command(flatten)]
    who: Who,
    /// Count the rows, and delete nothing
    #[arg(long)]
    dry_run: bool,
    /// Do it without a question
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Table {
    /// Idempotency keys, except for those of processes
    Keys,
    /// The events that reactions have handled
    Inbox,
    /// Rows of commits that have positions (PostgreSQL)
    Commits,
}

impl Table {
    fn target(self) -> PruneTarget {
        match self {
            Self::Keys => PruneTarget::Keys,
            Self::Inbox => PruneTarget::Inbox,
            Self::Commits => PruneTarget::Commits,
        }
    }

    fn noun(self) -> &'static str {
        match self {
            Self::Keys => "idempotency key",
            Self::Inbox => "inbox row",
            Self::Commits => "commit row",
        }
    }
}

pub(super) async fn answer(session: &Session, prune: &Prune) -> Result<Answer, Failure> {
    let options = PruneOptions::older_than(prune.older_than).with_limit(prune.limit);
    let (by, mut is_planned) = (prune.who.because(&prune.reason), prune.dry_run);
    if !prune.dry_run && !prune.yes {
        let planned = run(session, prune, &options, None).await?;
        if planned.rows() == 0 {
            is_planned = true;
        } else {
            confirm_on("the store", &format!("delete {}", count(planned.rows(), prune.table.noun())), false)?;
        }
    }
    let pruned = run(session, prune, &options, Some(&by).filter(|_| !is_planned)).await?;
    let mut page = Page::default();
    if !pruned.parts.is_empty() {
        page.table(&["TABLE", "REACTION", "ROWS", "THROUGH"], pruned.parts.iter().map(|part| row(&pruned, part)));
    }
    let end = if prune.dry_run { "would be deleted" } else { "deleted" };
    page.line(format!("{} {end}", count(pruned.rows(), prune.table.noun())));
    let holders = pruned.parts.iter().filter_map(|part| part.held_by.as_ref());
    let mut diagnostics: Vec<_> = holders.map(|holder| Diagnostic::note("held", held(holder))).collect();
    let is_stopped = options.stop.is_cancelled();
    if is_stopped {
        diagnostics.push(Diagnostic::note("stopped", "stopped: run the command again"));
    } else if !pruned.is_complete {
        diagnostics.push(Diagnostic::note("truncated", "there may be more rows: run the command again"));
    }
    let mut answer = Answer::new(&json!({ "dry_run": prune.dry_run, "pruned": pruned }), page, diagnostics)?;
    if is_stopped {
        answer.exit = Exit::Partly;
    }
    Ok(answer)
}

/// Runs to the end, or until Ctrl-C. Each of its calls has the time limit of the store.
async fn run(session: &Session, prune: &Prune, options: &PruneOptions, by: Option<&By>) -> Result<Pruned, Failure> {
    let pruning = session.stores.models.prune(&*session.stores.log, prune.table.target(), options, by);
    tokio::pin!(pruning);
    tokio::select! {
        pruned = &mut pruning => return Ok(pruned?),
        stopped = stopped(&options.stop) => stopped?,
    }
    Ok(pruning.await?)
}

async fn stopped(stop: &CancellationToken) -> Result<(), Failure> {
    tokio::signal::ctrl_c().await.map_err(Failure::Output)?;
    stop.cancel();
    Ok(())
}

fn row(pruned: &Pruned, part: &PrunedPart) -> Vec<String> {
    let reaction = part.reaction.as_ref().map_or_else(|| "-".to_owned(), ToString::to_string);
    let through = part.through.map_or_else(|| "-".to_owned(), |position| position.to_string());
    vec![pruned.target.as_str().to_owned(), reaction, part.rows.to_string(), through]
}

fn held(holder: &Holder) -> String {
    let Holder { reaction, position, is_parked, .. } = holder;
    let why = if *is_parked { "has parked an aggregate" } else { "has its checkpoint there" };
    format!("older rows after position {position} stay, because {reaction} {why}")
}

/// Parses a number and its unit.
fn age(text: &str) -> Result<Duration, String> {
    let wrong = || "expected a number and s, min, h or d, such as 30d".to_owned();
    let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?);
    let seconds = match unit {
        "s" => 1,
        "min" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_are_parsed() {
        assert_eq!(age("30d"), Ok(Duration::from_hours(30 * 24)));
        assert_eq!(age("90s"), Ok(Duration::from_secs(90)));
        assert_eq!((age("2h"), age("5min")), (Ok(Duration::from_hours(2)), Ok(Duration::from_mins(5))));
        for wrong in ["", "d", "30", "30w", "-1d", "1.5d", "30 d", "99999999999999999999d", "9999999999999999999d"] {
            assert!(age(wrong).is_err(), "{wrong}");
        }
    }
}
