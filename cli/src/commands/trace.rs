//! `retell trace`.

use clap::Args;
use retell::Uuid;
use retell::operate::{self, ChainRef, Link, Located, MAX_ROWS};
use serde_json::Value;

use crate::commands::time;
use crate::failure::{Diagnostic, Failure};
use crate::out::{Answer, Page};
use crate::session::Session;

/// The deepest event that is indented by its depth. Deeper ones show their depth as a number.
const MAX_INDENT: usize = 20;

#[derive(Debug, Args)]
pub(crate) struct Trace {
    /// The correlation id, or the id or the position of one of the events
    #[arg(value_name = "CORRELATION|EVENT", value_parser = traced)]
    of: ChainRef,
    /// The most events, up to 1,000
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
}

fn traced(text: &str) -> Result<ChainRef, String> {
    if let Ok(position) = text.parse() {
        return Ok(ChainRef::Position(position));
    }
    let id = text.parse::<Uuid>().map(ChainRef::Id);
    id.map_err(|_| "expected a correlation id, the id of an event (a UUID), or a position".into())
}

pub(super) async fn answer(session: &Session, trace: &Trace) -> Result<Answer, Failure> {
    let limit = trace.limit.clamp(1, MAX_ROWS);
    let log = &*session.stores.log;
    let Some(chain) = session.call("follow the request", operate::chain(log, trace.of, limit)).await? else {
        let text = "the log has no such events, or their commits have no positions yet";
        return Answer::new(&Value::Null, Page::default(), vec![Diagnostic::finding("no_events", text)]);
    };
    let mut page = Page::default();
    page.title(format!("request {}", chain.correlation_id));
    page.lines("", chain.tree().map(line));
    let mut diagnostics = Vec::new();
    if chain.truncated {
        let text = if limit < MAX_ROWS { "there are more events: --limit" } else { "there are more events" };
        diagnostics.push(Diagnostic::note("truncated", text));
    }
    Answer::new(&chain, page, diagnostics)
}

/// Returns an event on one line, indented by the number of its causes.
fn line(link: &Link) -> String {
    let Located { event_id, position, stream, version, event_type, recorded_at, .. } = &link.event;
    let depth = usize::try_from(link.depth).unwrap_or(usize::MAX);
    let begin = match depth {
        0 => String::new(),
        1..=MAX_INDENT => format!("{}`- ", "   ".repeat(depth - 1)),
        _ => format!("{}`- (depth {depth}) ", "   ".repeat(MAX_INDENT - 1)),
    };
    let strange = match (link.cause, link.causation_id) {
        (None, Some(cause)) => format!(", caused by {cause}, which is not before it in this request"),
        _ => String::new(),
    };
    let at = time(*recorded_at);
    format!("{begin}{event_type}  {stream} {version}  position {position}  {at}  {event_id}{strange}")
}
