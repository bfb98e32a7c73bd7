//! Projections within the log's own transactions. Their checkpoints are kept as a worker keeps them, and so is their order.

use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::Connection;
use tokio::runtime::Handle;

use crate::error::{ErrorKind, Result};
use crate::event::RecordedEvent;
use crate::id::Position;
use crate::store::log::group_commit::GroupCommit;
use crate::store::log::inline::{Inline, InlineStore, Inlines, wanted};
use crate::store::model::progress::in_aggregate_order;
use crate::store::sqlite::SqliteStore;
use crate::store::sqlite::connection::{Failure, classify_work};
use crate::store::sqlite::log::append::Writer;
use crate::store::sqlite::log::read;
use crate::store::sqlite::model::{self, OpenTransaction, SqliteReadModel, checkpoint, is_per_aggregate};

/// Events that are read and applied at a time where the model is behind.
const BATCH: usize = 1_000;

impl SqliteStore {
    /// The read models that lie in the log's own file, such as those of [inline](crate::inline) projections. A worker that writes there
    /// takes turns with the appends; other read models have a file of their own.
    pub fn read_model(&self) -> SqliteReadModel {
        SqliteReadModel { writer: self.writer.pool.clone(), readers: self.readers.clone() }
    }
}

#[async_trait]
impl InlineStore for SqliteStore {
    type Tx = Connection;

    async fn with_inline(&self, inline: Arc<dyn Inline<Connection>>) -> Result<Self> {
        let (runtime, new) = (Handle::current(), inline.clone());
        self.writer
            .pool
            .run("set up an inline projection", move |db| {
                let open = OpenTransaction::begin(db)?;
                if !model::parked(open.db, new.projection())?.is_empty() {
                    let problem =
                        format!("projection {} has parked aggregates: it cannot go on inline", new.projection());
                    return Err(Failure::Own(ErrorKind::Invalid(problem).into()));
                }
                runtime.block_on(new.set_up(open.db)).map_err(classify_work)?;
                let head = read::head(open.db)?;
                catch_up(open.db, &runtime, &*new, head)?;
                open.commit()
            })
            .await?;
        let inline = self.writer.inline.and(inline);
        let writer = Arc::new(Writer { pool: self.writer.pool.clone(), head: self.writer.head.clone(), inline });
        Ok(Self { commits: Arc::new(GroupCommit::new(writer.clone())), writer, ..self.clone() })
    }
}

/// Applies the events of a commit that began after `before` and ends with `head`.
pub(crate) fn apply(
    db: &mut Connection,
    runtime: &Handle,
    inlines: &Inlines<Connection>,
    before: Position,
    events: &[RecordedEvent],
) -> Result<(), Failure> {
    let Some(head) = events.last().map(|event| event.position) else { return Ok(()) };
    for inline in inlines.iter() {
        let (at, changes) = checkpoint(db, inline.projection())?;
        if at == before && !is_per_aggregate(db, inline.projection())? {
            apply_wanted(db, runtime, &**inline, events)?;
            model::set_checkpoint(db, inline.projection(), head, changes)?;
        } else {
            // Somebody has appended past the projection.
            catch_up(db, runtime, &**inline, head)?;
        }
    }
    Ok(())
}

/// Brings a model to the log's end.
fn catch_up(
    db: &mut Connection,
    runtime: &Handle,
    inline: &dyn Inline<Connection>,
    head: Position,
) -> Result<(), Failure> {
    let projection = inline.projection();
    if is_per_aggregate(db, projection)? {
        return Err(in_aggregate_order(projection).into());
    }
    let (mut at, changes) = checkpoint(db, projection)?;
    if at > head {
        let kind = ErrorKind::CheckpointAhead { projection: projection.clone(), checkpoint: at, head };
        return Err(Failure::Own(kind.into()));
    }
    while at < head {
        let page = read::page_in(db, at, BATCH, inline.filter())?;
        apply_wanted(db, runtime, inline, &page.events)?;
        at = page.through;
    }
    model::set_checkpoint(db, projection, head, changes)
}

fn apply_wanted(
    db: &mut Connection,
    runtime: &Handle,
    inline: &dyn Inline<Connection>,
    events: &[RecordedEvent],
) -> Result<(), Failure> {
    let wanted = wanted(inline.filter(), events);
    if !wanted.is_empty() {
        runtime.block_on(inline.apply(db, wanted)).map_err(classify_work)?;
    }
    Ok(())
}
