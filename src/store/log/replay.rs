//! Replays a stream from pages of it, for stores that cannot stream rows.

use crate::error::Result;
use crate::id::StreamId;
use crate::store::log::event_store::Snapshot;
use crate::store::log::reader::{EventReader, EventReaderExt, Replay, Visitor};

/// Events that a replay holds at a time.
const REPLAY_PAGE: usize = 256;

/// Returns whether a replay may start from a snapshot of its stream: the fingerprint is the one it asks for, and the snapshot is neither before
/// its start nor beyond its end.
pub fn snapshot_fits(replay: Replay, snapshot: &Snapshot) -> bool {
    replay.snapshot == Some(snapshot.fingerprint)
        && snapshot.version > replay.after
        && replay.up_to.allows_snapshot(snapshot.version)
}

/// Replays a stream by reading pages of it, from `snapshot` if it [fits](snapshot_fits). Never holds more than one page. It sees only events
/// that have positions, so it is for stores whose appends give them out.
///
/// # Errors
/// The visitor's error as it is, otherwise a [read error](crate::Error#read-errors).
pub async fn replay_in_pages(
    reader: &(impl EventReader + ?Sized),
    stream: &StreamId,
    replay: Replay,
    snapshot: Option<Snapshot>,
    visitor: &mut dyn Visitor,
) -> Result<()> {
    let mut after = replay.after;
    if let Some(snapshot) = snapshot.filter(|snapshot| snapshot_fits(replay, snapshot)) {
        visitor.snapshot(snapshot.version, &snapshot.state)?;
        after = snapshot.version;
    }
    loop {
        let page = reader.read_stream(stream, after, REPLAY_PAGE).await?;
        for event in &page {
            if !replay.up_to.includes(event.version, event.recorded_at) {
                return Ok(());
            }
            visitor.event(event.version, event.stored())?;
            after = event.version;
        }
        if page.len() < REPLAY_PAGE {
            return Ok(());
        }
    }
}
