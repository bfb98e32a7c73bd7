//! `retell show`.

use std::collections::BTreeSet;

use retell::event::StoredEvent;
use retell::operate::{self, MAX_ROWS, Row};
use retell::store::{EventReader, Replay, UpTo, Visitor};
use retell::{DateTime, EventId, StreamId, Utc, Version};
use serde::Serialize;
use serde_json::{Value, json};

use crate::args::{At, Show};
use crate::commands::event::payload;
use crate::commands::time;
use crate::failure::{Diagnostic, Failure};
use crate::out::{Answer, Page};
use crate::session::Session;
use crate::text::compact;

pub(super) async fn answer(session: &Session, show: &Show) -> Result<Answer, Failure> {
    if let Some([one, other]) = show.diff.as_deref() {
        return diff(session, &show.stream, Version::new(one.get()), Version::new(other.get())).await;
    }
    let after = Version::new(show.from.get() - 1);
    let end = match show.at {
        None => None,
        Some(At::Version(version)) => Some(version),
        Some(At::Time(time)) => Some(last_by(session, &show.stream, time).await?),
    };
    let within = end.map(|end| usize::try_from(end.since(after)).unwrap_or(usize::MAX));
    let limit = show.limit.min(MAX_ROWS).min(within.unwrap_or(usize::MAX));
    let log = &*session.stores.log;
    let mut found = session.call("read the stream", operate::stream(log, &show.stream, after, limit)).await?;
    let last = found.rows.last().map_or(after, |row| row.version);
    found.truncated &= end.is_none_or(|end| last < end);
    let mut page = Page::default();
    for row in &found.rows {
        let Row { version, event_type, schema_version, recorded_at, position, .. } = row;
        page.title(format!("{version}  {event_type} {schema_version}, position {position}, {}", time(*recorded_at)));
        page.line(format!("    {}", payload(row)));
    }
    let mut diagnostics = Vec::new();
    if found.rows.is_empty() {
        let text = format!("{} has no such events", show.stream);
        diagnostics.push(Diagnostic::finding("no_events", text));
    }
    if found.truncated {
        let text = format!("there are more events: --from {}", last.next());
        diagnostics.push(Diagnostic::note("truncated", text));
    }
    Answer::new(&found, page, diagnostics)
}

/// Returns the version of the last event of a stream recorded by a time. The prefix up to it has all earlier events, also those that were
/// recorded while the clock was wrong.
async fn last_by(session: &Session, stream: &StreamId, time: DateTime<Utc>) -> Result<Version, Failure> {
    struct Last(Version);

    impl Visitor for Last {
        fn snapshot(&mut self, _: Version, _: EventId, _: &[u8]) -> retell::Result<()> {
            Ok(())
        }

        fn event(&mut self, version: Version, _: EventId, _: StoredEvent<'_>) -> retell::Result<()> {
            self.0 = version;
            Ok(())
        }
    }

    let mut last = Last(Version::ZERO);
    let replay = Replay::ALL.with_up_to(UpTo::Time(time));
    session.call("read the stream", session.stores.log.replay(stream, replay, &mut last)).await?;
    Ok(last.0)
}

/// A place in which two payloads differ. A missing value is absent.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Change {
    path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    before: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<Value>,
}

async fn diff(session: &Session, stream: &StreamId, one: Version, other: Version) -> Result<Answer, Failure> {
    let (one, other) = (row_at(session, stream, one).await?, row_at(session, stream, other).await?);
    let (Some(one), Some(other)) = (one, other) else {
        let missing = Diagnostic::finding("no_events", format!("{stream} does not have both versions"));
        return Answer::new(&Value::Null, Page::default(), vec![missing]);
    };
    let mut changes = Vec::new();
    let mut diagnostics = Vec::new();
    match (&one.payload, &other.payload) {
        (Some(before), Some(after)) => compare("", Some(before), Some(after), &mut changes),
        _ => diagnostics.push(Diagnostic::finding("unreadable", "a payload cannot be read")),
    }
    let mut page = Page::default();
    for (sign, row) in [("-", &one), ("+", &other)] {
        page.title(format!("{sign} {} {}, {}", row.version, row.event_type, time(row.recorded_at)));
    }
    for Change { path, before, after } in &changes {
        for (sign, value) in [("-", before), ("+", after)] {
            if let Some(value) = value {
                let place = if path.is_empty() { "(payload)" } else { path };
                page.line(format!("{sign} {place}: {}", compact(value)));
            }
        }
    }
    let event = |row: &Row| json!({ "version": row.version, "event_type": row.event_type, "problem": row.problem });
    let data = json!({ "stream": stream, "before": event(&one), "after": event(&other), "changes": changes });
    Answer::new(&data, page, diagnostics)
}

async fn row_at(session: &Session, stream: &StreamId, version: Version) -> Result<Option<Row>, Failure> {
    let before = Version::new(version.get().saturating_sub(1));
    let found = session.call("read the stream", operate::stream(&*session.stores.log, stream, before, 1)).await?;
    Ok(found.rows.into_iter().find(|row| row.version == version))
}

/// Adds the places in which two values differ. Objects and lists are compared part by part.
fn compare(path: &str, before: Option<&Value>, after: Option<&Value>, changes: &mut Vec<Change>) {
    match (before, after) {
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            for name in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
                let dot = if path.is_empty() { "" } else { "." };
                compare(&format!("{path}{dot}{name}"), old.get(name), new.get(name), changes);
            }
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) => {
            for place in 0..old.len().max(new.len()) {
                compare(&format!("{path}[{place}]"), old.get(place), new.get(place), changes);
            }
        }
        _ if before == after => {}
        _ => changes.push(Change { path: path.to_owned(), before: before.cloned(), after: after.cloned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_compared_part_by_part() {
        let (before, after) =
            (json!({"a": 1, "b": [{"c": 2}, 3], "d": 4}), json!({"a": 1, "b": [{"c": 5}], "e": null}));
        let mut changes = Vec::new();
        compare("", Some(&before), Some(&after), &mut changes);
        let change = |path: &str, before, after| Change { path: path.to_owned(), before, after };
        assert_eq!(
            changes,
            [
                change("b[0].c", Some(json!(2)), Some(json!(5))),
                change("b[1]", Some(json!(3)), None),
                change("d", Some(json!(4)), None),
                change("e", None, Some(Value::Null)),
            ]
        );
    }
}
