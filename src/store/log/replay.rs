//! Replays a stream from pages of it, for stores that cannot stream rows.

use chrono::{DateTime, Utc};

#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::event::RecordedEvent;
use crate::id::{EventId, StreamId, Version};
use crate::store::log::event_store::Snapshot;
use crate::store::log::history::stream_changed;
use crate::store::log::reader::{EventReader, EventReaderExt, Replay, UpTo, Visitor};

/// Events that a replay holds at a time.
const REPLAY_PAGE: usize = 256;

/// Returns whether a replay may start from a snapshot of its stream: the fingerprint is the one it asks for, and the snapshot is neither before
/// its start nor beyond its end. The log must also have the snapshot's event under its version.
pub fn snapshot_fits(replay: Replay, snapshot: &Snapshot) -> bool {
    replay.snapshot == Some(snapshot.fingerprint)
        && replay.after_event.is_none()
        && snapshot.version > replay.after
        && replay.up_to.allows_snapshot(snapshot.version)
}

/// Replays a stream by reading pages of it, from `snapshot` if it [fits](snapshot_fits) and the stream has its event. Never holds more than one page. It sees only events
/// that have positions, so it is for stores whose appends give them out. A replay up to a time reads the stream twice.
///
/// # Errors
/// The visitor's error as it is, [`ErrorKind::HistoryChanged`] if the stream does not have the event that the replay continues after, otherwise
/// a [read error](crate::Error#read-errors).
pub async fn replay_in_pages(
    reader: &(impl EventReader + ?Sized),
    stream: &StreamId,
    replay: Replay,
    snapshot: Option<Snapshot>,
    visitor: &mut dyn Visitor,
) -> Result<()> {
    let mut last = (replay.after, replay.after_event);
    if let Some(snapshot) = snapshot.filter(|snapshot| snapshot_fits(replay, snapshot)) {
        let start = (snapshot.version, Some(snapshot.event_id));
        match next_page(reader, stream, start, 0).await {
            Ok(_) => {
                visitor.snapshot(snapshot.version, snapshot.event_id, &snapshot.state)?;
                last = start;
            }
            // The snapshot belongs to another history, so it does not count.
            Err(error) if error.is_history_changed() => {}
            Err(error) => return Err(error),
        }
    }
    let end = match replay.up_to {
        UpTo::Head => Version::new(u64::MAX),
        UpTo::Version(version) => version,
        UpTo::Time(time) => last_recorded_by(reader, stream, last.0, time).await?,
    };
    loop {
        let page = next_page(reader, stream, last, REPLAY_PAGE).await?;
        for event in &page {
            if event.version > end {
                return Ok(());
            }
            visitor.event(event.version, event.event.id, event.stored())?;
            last = (event.version, Some(event.event.id));
        }
        if page.len() < REPLAY_PAGE {
            return Ok(());
        }
    }
}

/// Returns the version of the last event after `after` that was recorded at `time` or earlier; `after` if there is none. An event before it may
/// have a later time, so all events are read.
async fn last_recorded_by(
    reader: &(impl EventReader + ?Sized),
    stream: &StreamId,
    after: Version,
    time: DateTime<Utc>,
) -> Result<Version> {
    let (mut last, mut read) = (after, after);
    loop {
        let page = reader.read_stream(stream, read, REPLAY_PAGE).await?;
        last = page.iter().rev().find(|event| event.recorded_at <= time).map_or(last, |event| event.version);
        match page.last() {
            Some(event) if page.len() == REPLAY_PAGE => read = event.version,
            _ => return Ok(last),
        }
    }
}

/// Returns the events after a version. If the id of the event at that version is known, reads it once more and compares the id.
async fn next_page(
    reader: &(impl EventReader + ?Sized),
    stream: &StreamId,
    (after, known): (Version, Option<EventId>),
    limit: usize,
) -> Result<Vec<RecordedEvent>> {
    let Some(known) = known else { return reader.read_stream(stream, after, limit).await };
    let mut page = reader.read_stream(stream, Version::new(after.get().saturating_sub(1)), limit + 1).await?;
    match page.first() {
        Some(first) if (first.version, first.event.id) == (after, known) => {
            page.remove(0);
            Ok(page)
        }
        first => Err(stream_changed(stream, after, known, first.map(|event| event.event.id))),
    }
}
