//! `retell tail`.

use std::time::Duration;

use retell::error::Result;
use retell::store::{EventReader, EventReaderExt, Filter, Page as Read};
use retell::{EventType, Position, RecordedEvent};

use crate::args::Tail;
use crate::commands::event::Shown;
use crate::failure::{Exit, Failure};
use crate::out::{Out, Page};
use crate::ports::Log;
use crate::session::Session;
use crate::text::matches;

/// The events of one read.
const PAGE: usize = 200;

/// The events that are shown without `-n`.
const LINES: usize = 10;

/// The pause between two looks at a log that has not grown.
const PAUSE: Duration = Duration::from_millis(500);

pub(super) async fn print(session: &Session, tail: &Tail, out: &Out) -> Result<Exit, Failure> {
    let log = &*session.stores.log;
    let wanted = Wanted { glob: tail.event_type.as_deref() };
    let head = session.call("read the head", log.head()).await?;
    let (mut after, mut left) = (head, tail.lines.unwrap_or(usize::MAX));
    if let Some(from) = tail.from {
        after = Position::new(from.get().saturating_sub(1));
    } else {
        let newest = session.call("read the newest events", newest(log, head, &wanted, tail)).await?;
        show(session, newest, out).await?;
        // The number of lines limits only the events before.
        left = usize::MAX;
        if !tail.follow {
            return Ok(Exit::Good);
        }
    }
    let filter = wanted.filter();
    loop {
        let read = session.call("read the log", log.read_all(after, PAGE, &filter)).await?;
        let is_end = read.through <= after;
        after = after.max(read.through);
        let Read { events, .. } = read;
        let events: Vec<_> = events.into_iter().filter(|event| wanted.is(event)).take(left).collect();
        left -= events.len();
        show(session, events, out).await?;
        if left == 0 || is_end && !tail.follow {
            return Ok(Exit::Good);
        }
        if is_end {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// The events that are shown.
struct Wanted<'a> {
    glob: Option<&'a str>,
}

impl Wanted<'_> {
    fn is(&self, event: &RecordedEvent) -> bool {
        self.is_type(&event.event.event_type)
    }

    fn is_type(&self, event_type: &EventType) -> bool {
        self.glob.is_none_or(|glob| matches(glob, event_type.as_str()))
    }

    /// Returns a filter for the store. A pattern may match types that do not exist yet, so it is compared here.
    fn filter(&self) -> Filter {
        let exact = self.glob.filter(|glob| !glob.contains(['*', '?'])).and_then(|name| EventType::new(name).ok());
        Filter::all().with_event_types(exact)
    }
}

/// Returns the newest events up to `head`, in log order. Finds those of a type by the index of types.
async fn newest(log: &dyn Log, head: Position, wanted: &Wanted<'_>, tail: &Tail) -> Result<Vec<RecordedEvent>> {
    let lines = tail.lines.unwrap_or(LINES);
    if wanted.glob.is_none() {
        let before = Position::new(head.get().saturating_sub(lines as u64));
        let mut events = Vec::new();
        let mut after = before;
        while after < head {
            let read = log.read_all(after, PAGE.min(lines), &Filter::all()).await?;
            if read.through <= after {
                break;
            }
            after = read.through;
            events.extend(read.events.into_iter().filter(|event| event.position <= head));
        }
        return Ok(events);
    }
    let mut events = Vec::new();
    for event_type in log.event_types().await?.iter().filter(|event_type| wanted.is_type(event_type)) {
        let newest = log.newest(event_type, lines).await?;
        events.extend(newest.into_iter().filter(|event| event.position <= head));
    }
    events.sort_unstable_by_key(|event| event.position);
    Ok(events.split_off(events.len().saturating_sub(lines)))
}

async fn show(session: &Session, events: Vec<RecordedEvent>, out: &Out) -> Result<(), Failure> {
    if events.is_empty() {
        return Ok(());
    }
    // A program may have registered more of them since the last page.
    let shapes = session.call("read the registered shapes", session.stores.log.registered_shapes()).await?;
    for event in events {
        let shown = Shown::of(event, &shapes);
        let mut page = Page::default();
        page.line(shown.line());
        out.row(&shown, &page)?;
    }
    Ok(())
}
