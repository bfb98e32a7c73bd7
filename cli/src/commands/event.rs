//! `retell event`, and how the events of a log are shown.

use retell::operate::{EventRef, Row};
use retell::store::{EventReaderExt, RegisteredShape};
use retell::{RecordedEvent, StreamId};
use serde::Serialize;

use crate::commands::time;
use crate::commands::why::not_found;
use crate::failure::Failure;
use crate::out::{Answer, Page};
use crate::session::Session;
use crate::text::compact;

/// The most bytes of a payload that cannot be read.
const MAX_RAW: usize = 4_096;

/// An event of the log.
#[derive(Debug, Serialize)]
pub(super) struct Shown {
    stream: StreamId,
    #[serde(flatten)]
    pub(super) row: Row,
    /// The first bytes of a payload that cannot be read, as ASCII with escapes.
    raw: Option<String>,
}

impl Shown {
    pub(super) fn of(event: RecordedEvent, shapes: &[RegisteredShape]) -> Self {
        let (stream, payload) = (event.stream.clone(), event.event.payload.clone());
        let row = Row::of(event, shapes);
        let raw = row.problem.is_some().then(|| payload[..payload.len().min(MAX_RAW)].escape_ascii().to_string());
        Self { stream, row, raw }
    }

    /// Returns the event on one line.
    pub(super) fn line(&self) -> String {
        let Row { position, version, event_type, recorded_at, .. } = &self.row;
        let stream = &self.stream;
        format!("{position}  {}  {stream} {version}  {event_type}  {}", time(*recorded_at), payload(&self.row))
    }
}

/// Returns the payload as JSON, or why it cannot be read.
pub(super) fn payload(row: &Row) -> String {
    match (&row.payload, &row.problem) {
        (Some(payload), _) => compact(payload),
        (None, problem) => {
            format!("({}, {} bytes)", problem.as_deref().unwrap_or("no payload"), row.payload_bytes)
        }
    }
}

pub(super) async fn answer(session: &Session, event: EventRef) -> Result<Answer, Failure> {
    let log = &session.stores.log;
    let found = match event {
        EventRef::Id(id) => session.call("read the event", log.event(id)).await?,
        EventRef::Position(position) => session.call("read the event", log.event_at(position)).await?,
    };
    let Some(found) = found else { return not_found() };
    let shapes = session.call("read the registered shapes", log.registered_shapes()).await?;
    let shown = Shown::of(found, &shapes);
    let mut page = Page::default();
    page.pairs(pairs(&shown));
    Answer::new(&shown, page, Vec::new())
}

pub(super) fn pairs(shown: &Shown) -> Vec<(&'static str, String)> {
    let Shown { stream, row, raw } = shown;
    let mut pairs = vec![
        ("event", row.event_id.to_string()),
        ("type", format!("{}, version {}, {}", row.event_type, row.schema_version, row.codec)),
        ("stream", format!("{stream}, version {}", row.version)),
        ("position", row.position.to_string()),
        ("recorded", time(row.recorded_at)),
    ];
    pairs.extend(row.correlation_id.map(|id| ("correlation", id.to_string())));
    pairs.extend(row.causation_id.map(|id| ("causation", id.to_string())));
    pairs.push(("metadata", compact(&row.metadata)));
    pairs.push(("payload", payload(row)));
    pairs.extend(raw.clone().map(|raw| ("raw", raw)));
    pairs
}
