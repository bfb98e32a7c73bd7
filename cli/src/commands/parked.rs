//! `retell parked list` and `retell parked show`.

use retell::operate::{MAX_PARKED, MAX_PROCESSORS};
use retell::store::{EventReaderExt, Parked, ParkedState};
use retell::{DateTime, ProjectionName, StreamId, Utc};
use serde::Serialize;
use serde_json::{Value, json};

use crate::commands::event::{Shown, pairs};
use crate::commands::{count, time};
use crate::failure::{Diagnostic, Failure};
use crate::out::{Answer, Page};
use crate::session::Session;

/// A parked aggregate.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) processor: ProjectionName,
    pub(super) stream: StreamId,
    version: u64,
    position: u64,
    state: &'static str,
    attempts: u32,
    next_attempt: Option<DateTime<Utc>>,
    pub(super) error: String,
}

impl Row {
    fn of(processor: &ProjectionName, parked: Parked) -> Self {
        Self {
            processor: processor.clone(),
            version: parked.from_version.get(),
            position: parked.from_position.get(),
            state: parked.state.as_str(),
            attempts: parked.attempts,
            next_attempt: (parked.state == ParkedState::Waiting).then_some(parked.next_at),
            error: parked.error,
            stream: parked.stream,
        }
    }

    pub(super) fn position(&self) -> retell::Position {
        retell::Position::new(self.position)
    }

    fn next(&self) -> String {
        self.next_attempt.map_or("given up".to_owned(), time)
    }
}

/// Returns the parked aggregates of a processor, or only that of `stream`, and whether there are more.
pub(super) async fn rows(
    session: &Session,
    processor: &ProjectionName,
    stream: Option<&StreamId>,
) -> Result<(Vec<Row>, bool), Failure> {
    let models = &session.stores.models;
    let mut parked = session.call("read parked aggregates", models.parked(processor, stream, MAX_PARKED + 1)).await?;
    if parked.is_empty() {
        session.call("list the processors", models.check_name(processor)).await?;
    }
    let is_truncated = parked.len() > MAX_PARKED;
    parked.truncate(MAX_PARKED);
    Ok((parked.into_iter().map(|each| Row::of(processor, each)).collect(), is_truncated))
}

pub(super) async fn list(session: &Session, processor: Option<&ProjectionName>) -> Result<Answer, Failure> {
    let processors = match processor {
        Some(processor) => vec![processor.clone()],
        None => session.call("list the processors", session.stores.models.processors(MAX_PROCESSORS)).await?,
    };
    let (mut items, mut truncated, mut of_retired) = (Vec::new(), false, 0);
    for processor in &processors {
        let (rows, is_truncated) = rows(session, processor, None).await?;
        truncated |= is_truncated;
        if !rows.is_empty() {
            let is_retired = session.call("read the pause", session.stores.models.is_retired(processor)).await?;
            of_retired += if is_retired { rows.len() } else { 0 };
        }
        items.extend(rows);
    }
    let mut page = Page::default();
    let mut diagnostics = Vec::new();
    if !items.is_empty() {
        page_of(&mut page, &items);
    }
    let are_parked = |number: usize| {
        let verb = if number == 1 { "is" } else { "are" };
        format!("{} {verb} parked", count(number as u64, "aggregate"))
    };
    if items.len() > of_retired {
        diagnostics.push(Diagnostic::finding("parked", are_parked(items.len() - of_retired)));
    }
    if of_retired > 0 {
        diagnostics.push(Diagnostic::note("retired", format!("{} in retired processors", are_parked(of_retired))));
    }
    if truncated {
        diagnostics.push(Diagnostic::note("truncated", "there are more of them"));
    }
    Answer::new(&json!({ "items": items, "truncated": truncated }), page, diagnostics)
}

pub(super) fn page_of(page: &mut Page, rows: &[Row]) {
    let head = ["PROCESSOR", "AGGREGATE", "VERSION", "POSITION", "ATTEMPTS", "NEXT", "ERROR"];
    page.table(
        &head,
        rows.iter().map(|row| {
            vec![
                row.processor.to_string(),
                row.stream.to_string(),
                row.version.to_string(),
                row.position.to_string(),
                row.attempts.to_string(),
                row.next(),
                row.error.clone(),
            ]
        }),
    );
}

/// Returns the answer for an aggregate that is not parked.
pub(super) fn not_parked(processor: &ProjectionName, aggregate: &StreamId) -> Result<Answer, Failure> {
    let finding = Diagnostic::finding("not_parked", format!("{processor} has not parked {aggregate}"));
    Answer::new(&Value::Null, Page::default(), vec![finding])
}

pub(super) async fn show(
    session: &Session,
    processor: &ProjectionName,
    aggregate: &StreamId,
) -> Result<Answer, Failure> {
    let (rows, _) = rows(session, processor, Some(aggregate)).await?;
    let Some(row) = rows.into_iter().next() else { return not_parked(processor, aggregate) };
    let log = &session.stores.log;
    let event = session.call("read the event", log.event_at(row.position())).await?;
    let shapes = session.call("read the registered shapes", log.registered_shapes()).await?;
    let event = event.filter(|event| event.stream == *aggregate).map(|event| Shown::of(event, &shapes));
    let mut page = Page::default();
    page.pairs([
        ("processor", row.processor.to_string()),
        ("aggregate", row.stream.to_string()),
        ("failed at", format!("version {}, position {}", row.version, row.position)),
        ("attempts", row.attempts.to_string()),
        ("next", row.next()),
        ("error", row.error.clone()),
    ]);
    page.line("");
    match &event {
        Some(event) => page.pairs(pairs(event)),
        None => page.line("the log does not have the event"),
    }
    Answer::new(&json!({ "parked": row, "event": event }), page, Vec::new())
}
