//! `retell why`.

use retell::operate::{Answer as Told, EventRef, List, Located, ParkedAggregate, Why};
use retell::store::Pause;
use retell::{Position, ProjectionName};
use serde_json::Value;

use crate::commands::{count, time};
use crate::failure::{Diagnostic, Failure};
use crate::out::{Answer, Page};
use crate::session::Session;

pub(super) async fn answer(
    session: &Session,
    event: EventRef,
    processor: Option<&ProjectionName>,
) -> Result<Answer, Failure> {
    let (log, models) = (&*session.stores.log, &session.stores.models);
    let (whys, is_truncated) = match processor {
        Some(processor) => {
            let why = session.call("follow the event", models.why(log, event, processor)).await?;
            (why.map(|why| vec![why]), false)
        }
        None => match session.call("follow the event", models.why_each(log, event)).await? {
            Some(List { items, truncated, .. }) => (Some(items), truncated),
            None => (None, false),
        },
    };
    let Some(whys) = whys else { return not_found() };
    let mut page = Page::default();
    if let Some(first) = whys.first() {
        page.title(located(&first.event));
    }
    page.table(
        &["PROCESSOR", "ANSWER", "BECAUSE"],
        whys.iter().map(|why| {
            let (answer, because) = told(&why.answer);
            vec![why.processor.to_string(), answer.to_owned(), because]
        }),
    );
    let is_expected = |answer: &Told| matches!(answer, Told::Applied | Told::NotWanted { .. } | Told::Retired { .. });
    let missing = whys.iter().filter(|why| !is_expected(&why.answer));
    let mut diagnostics: Vec<_> = missing.map(missing_in).collect();
    if whys.is_empty() {
        diagnostics.push(Diagnostic::note("no_processors", "no processor has run on these read models"));
    }
    if is_truncated {
        diagnostics.push(Diagnostic::note("truncated", "there are more processors"));
    }
    Answer::new(&whys, page, diagnostics)
}

/// Returns the answer for an event that the log does not have.
pub(super) fn not_found() -> Result<Answer, Failure> {
    let text = "the log does not have this event, or its commit has no position yet";
    Answer::new(&Value::Null, Page::default(), vec![Diagnostic::finding("event_not_found", text)])
}

fn missing_in(why: &Why) -> Diagnostic {
    Diagnostic::finding("not_applied", format!("{}: {}", why.processor, told(&why.answer).0))
}

fn located(event: &Located) -> String {
    let Located { event_id, position, stream, version, event_type, recorded_at, .. } = event;
    format!("{event_type} {event_id}, {stream} version {version}, position {position}, {}", time(*recorded_at))
}

fn told(answer: &Told) -> (&'static str, String) {
    match answer {
        Told::NotWanted { filter } => {
            let types: Vec<_> = filter.event_types.iter().map(ToString::to_string).collect();
            let aggregates: Vec<_> = filter.aggregate_types.iter().map(ToString::to_string).collect();
            ("not wanted", format!("it reads {}", [types, aggregates].concat().join(" ")))
        }
        Told::Applied => ("applied", String::new()),
        Told::Skipped { skipped } => {
            ("skipped", format!("by {} at {}: {}", skipped.by.who, time(skipped.at), skipped.by.reason))
        }
        Told::Paused { paused, checkpoint, .. } => ("paused", pause(paused, *checkpoint)),
        Told::Retired { retired, checkpoint } => ("retired", pause(retired, *checkpoint)),
        Told::Parked { failed } => ("parked", parked(failed)),
        Told::Behind { failed } => ("behind a parked event", parked(failed)),
        Told::NotReached { checkpoint, events } => {
            ("not reached", format!("it is at {checkpoint}, {} before", count(*events, "event")))
        }
        Told::NewerRelease { release, checkpoint, .. } => {
            ("left to a newer release", format!("it is at {checkpoint}, and {} reads such events", release.program))
        }
        Told::Deleting => ("deleting", "this generation of the view is being deleted".to_owned()),
        Told::HistoryChanged { checkpoint } => {
            ("other history", format!("the log does not have its event at {checkpoint}"))
        }
        _ => ("unknown", String::new()),
    }
}

fn pause(Pause { since, by, .. }: &Pause, checkpoint: Position) -> String {
    format!("it is at {checkpoint}, by {} since {}: {}", by.who, time(*since), by.reason)
}

fn parked(failed: &ParkedAggregate) -> String {
    let next = failed.next_attempt.map_or("given up".to_owned(), |at| format!("next attempt {}", time(at)));
    let attempts = count(failed.attempts.into(), "attempt");
    format!("version {} failed, {attempts}, {next}: {}", failed.version, failed.reason)
}
