//! Runs inline projections within a commit: applies its events, and catches up a model that is behind.

use rusqlite::Connection;
use tokio::runtime::Handle;

use crate::event::RecordedEvent;
use crate::id::Position;
use crate::id::mark::Mark;
use crate::store::log::inline::{self, Inline, Inlines};
use crate::store::log::mark::{changed, remembered_by};
use crate::store::sqlite::error::{Failure, classify_work};
use crate::store::sqlite::log::read;
use crate::store::sqlite::model::checkpoint::{SET_INLINE, checkpoint, set_checkpoint};
use crate::store::sqlite::model::interventions::refuse_if_paused;

/// The events that a catch-up reads and applies at a time.
const BATCH: usize = 1_000;

/// Applies the events of a commit that began after `before` and ends with `head`.
pub(crate) fn apply(
    db: &mut Connection,
    runtime: &Handle,
    inlines: &Inlines<Connection>,
    before: Position,
    events: &[RecordedEvent],
) -> Result<(), Failure> {
    let Some(head) = events.last().map(RecordedEvent::mark) else { return Ok(()) };
    for inline in inlines.iter() {
        let found = checkpoint(db, inline.projection())?;
        found.check_log_order(inline.projection())?;
        // The file's log may have been replaced by one that is as long.
        if found.mark.position == before && found.mark.is_at(read::mark_at(db, before)?) {
            runtime.block_on(inline::apply(&**inline, db, events)).map_err(classify_work)?;
            set_checkpoint(db, inline.projection(), head, found.changes)?;
        } else {
            // Another process has appended without running the projection, or the log has another history, which is an error.
            catch_up(db, runtime, &**inline, head)?;
        }
    }
    Ok(())
}

/// Catches a model up to `head`, the end of the log.
pub(crate) fn catch_up(
    db: &mut Connection,
    runtime: &Handle,
    inline: &dyn Inline<Connection>,
    head: Mark,
) -> Result<(), Failure> {
    let projection = inline.projection();
    let found = checkpoint(db, projection)?;
    found.check_log_order(projection)?;
    refuse_if_paused(db, projection, found.paused)?;
    let (mut at, remedy) = (found.mark, "reset it");
    let of_projection = |failure| match failure {
        Failure::Own(error) => Failure::Own(remembered_by(error, || format!("projection {projection}"), remedy)),
        other @ Failure::Sqlite(_) => other,
    };
    if at.position > head.position {
        return Err(of_projection(Failure::Own(changed(at, None))));
    }
    while at.position < head.position {
        let page = read::page_in(db, at, BATCH, inline.filter()).map_err(of_projection)?;
        runtime.block_on(inline::apply(inline, db, &page.events)).map_err(classify_work)?;
        at = page.mark();
    }
    set_checkpoint(db, projection, head, found.changes)?;
    db.prepare_cached(SET_INLINE)?.execute((projection.as_str(), true))?;
    Ok(())
}
