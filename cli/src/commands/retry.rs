//! `retell parked retry`.

use retell::store::{By, EventReaderExt};
use serde::Serialize;
use serde_json::json;

use crate::args::Retry;
use crate::commands::confirm::confirm;
use crate::commands::count;
use crate::commands::parked::{Row, not_parked, page_of, rows};
use crate::failure::{Diagnostic, Exit, Failure};
use crate::out::{Answer, Page};
use crate::session::Session;
use crate::text::matches;

/// The result for an aggregate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Outcome {
    Planned,
    Retried,
    /// Its processor has applied the event in the meantime.
    NotParked,
    Failed,
}

pub(super) async fn answer(session: &Session, retry: &Retry) -> Result<Answer, Failure> {
    let (found, is_truncated) = rows(session, &retry.processor, retry.aggregate.as_ref()).await?;
    if let (true, Some(aggregate)) = (found.is_empty(), &retry.aggregate) {
        return not_parked(&retry.processor, aggregate);
    }
    let mut chosen = Vec::new();
    for row in found {
        if is_wanted(session, retry, &row).await? {
            chosen.push(row);
        }
    }
    let mut page = Page::default();
    let mut diagnostics = Vec::new();
    if is_truncated {
        diagnostics.push(Diagnostic::note("truncated", "more aggregates are parked: run the command again"));
    }
    if retry.dry_run || chosen.is_empty() {
        if !chosen.is_empty() {
            page_of(&mut page, &chosen);
        }
        diagnostics.push(Diagnostic::note("dry_run", format!("{} would be retried", of(chosen.len()))));
        let items: Vec<_> = chosen.iter().map(|row| item(row, Outcome::Planned)).collect();
        return Answer::new(&json!({ "dry_run": retry.dry_run, "items": items }), page, diagnostics);
    }
    confirm(&format!("retry {} of {}", of(chosen.len()), retry.processor), retry.yes)?;
    carry_out(session, &chosen, &retry.who.because(&reason(retry)), page, diagnostics).await
}

/// Returns the reason for the audit. Without one from the operator, it names the selection.
fn reason(retry: &Retry) -> String {
    if let Some(reason) = &retry.reason {
        return reason.clone();
    }
    let Some(aggregate) = &retry.aggregate else {
        let parts = [("event type", &retry.event_type), ("error", &retry.error)];
        let parts = parts.into_iter().filter_map(|(what, glob)| Some(format!(" with the {what} {}", glob.as_ref()?)));
        return format!("retry of all aggregates{}", parts.collect::<Vec<_>>().join(" and"));
    };
    format!("retry of {aggregate}")
}

async fn is_wanted(session: &Session, retry: &Retry, row: &Row) -> Result<bool, Failure> {
    if retry.error.as_ref().is_some_and(|glob| !matches(glob, &row.error)) {
        return Ok(false);
    }
    let Some(glob) = &retry.event_type else { return Ok(true) };
    let event = session.call("read the event", session.stores.log.event_at(row.position())).await?;
    Ok(event.is_some_and(|event| matches(glob, event.event.event_type.as_str())))
}

async fn carry_out(
    session: &Session,
    chosen: &[Row],
    by: &By,
    mut page: Page,
    mut diagnostics: Vec<Diagnostic>,
) -> Result<Answer, Failure> {
    let (mut items, mut done, mut failed) = (Vec::new(), 0, None);
    for row in chosen {
        let call = session.stores.models.retry_parked(&row.processor, &row.stream, by);
        let outcome = match session.call("retry a parked aggregate", call).await {
            Ok(true) => Outcome::Retried,
            Ok(false) => Outcome::NotParked,
            Err(failure) => {
                diagnostics.push(Diagnostic::of(&failure));
                failed = Some(failure);
                Outcome::Failed
            }
        };
        done += usize::from(outcome == Outcome::Retried);
        items.push(item(row, outcome));
        if failed.is_some() {
            // The next one would fail, too.
            break;
        }
    }
    page.line(format!("{} will be retried at the next sweep of {}", of(done), chosen[0].processor));
    let mut answer = Answer::new(&json!({ "dry_run": false, "items": items }), page, diagnostics)?;
    match failed {
        Some(failure) if done == 0 => return Err(failure),
        Some(_) => answer.exit = Exit::Partly,
        None => {}
    }
    Ok(answer)
}

fn item(row: &Row, outcome: Outcome) -> serde_json::Value {
    json!({ "processor": row.processor, "stream": row.stream, "outcome": outcome })
}

fn of(aggregates: usize) -> String {
    count(aggregates as u64, "aggregate")
}
