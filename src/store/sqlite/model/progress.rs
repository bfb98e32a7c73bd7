//! Order per aggregate in a SQLite file. A transaction locks the whole file, so the rows need no locks.

use std::collections::HashMap;

use rusqlite::{Connection, OptionalExtension};

use crate::error::Result;
use crate::id::mark::Mark;
use crate::id::{ProjectionName, StreamId, Version};
use crate::store::model::parking::Parked;
use crate::store::model::processors::check_changes;
use crate::store::model::progress::{Row, Seen, Turn, changes, in_key_order, progress_of};
use crate::store::model::read_model::Work;
use crate::store::sqlite::convert::{event_id_from_sql, event_id_to_sql, from_sql, mark_from_sql, to_sql};
use crate::store::sqlite::error::{Failure, classify_work};
use crate::store::sqlite::model::checkpoint::checkpoint;
use crate::store::sqlite::model::interventions::refuse_if_paused;
use crate::store::sqlite::model::parking::{park, parked_at};
use crate::store::sqlite::model::read_model::SqliteReadModel;
use crate::store::sqlite::transaction::OpenTransaction;

impl SqliteReadModel {
    pub(crate) async fn begin_per_aggregate(&self, projection: &ProjectionName, work: Work<Connection>) -> Result<()> {
        let projection = projection.clone();
        self.writer
            .run_async("set up a projection", move |db, call| {
                let open = OpenTransaction::begin(db)?;
                let found = checkpoint(open.db, &projection)?;
                found.state.check_running(&projection)?;
                found.check_aggregate_order(&projection)?;
                refuse_if_paused(open.db, &projection, found.paused)?;
                open.db.prepare_cached(BEGIN_PER_AGGREGATE)?.execute([projection.as_str()])?;
                call.block_on(work(open.db))?.map_err(classify_work)?;
                open.commit()
            })
            .await
    }

    pub(crate) async fn seen_versions(
        &self,
        projection: &ProjectionName,
        streams: &[StreamId],
    ) -> Result<HashMap<StreamId, Seen>> {
        let (projection, streams) = (projection.clone(), streams.to_vec());
        self.readers
            .run("read progress", move |db| {
                // One snapshot for all rows.
                let tx = db.transaction()?;
                let rows = rows(&tx, &projection, &streams)?;
                Ok(rows.into_iter().map(|(stream, row)| (stream, Seen::of(row))).collect())
            })
            .await
    }

    pub(crate) async fn run_turn(
        &self,
        projection: &ProjectionName,
        known: u64,
        streams: Vec<StreamId>,
        turn: Turn<Connection>,
    ) -> Result<()> {
        let projection = projection.clone();
        self.writer
            .run_async("commit a batch", move |db, call| {
                let open = OpenTransaction::begin(db)?;
                check_changes(&projection, known, checkpoint(open.db, &projection)?.changes)?;
                let streams = in_key_order(streams);
                let rows = rows(open.db, &projection, &streams)?;
                let parked = parked_of(open.db, &projection, &rows)?;
                let before = progress_of(streams, &rows, parked)?;
                let mut after = before.clone();
                call.block_on(turn(open.db, &mut after))?.map_err(classify_work)?;
                let (changed, parking) = changes(&before, &after);
                let mut set = open.db.prepare_cached(SET)?;
                for row in changed {
                    let (kind, id) = (row.stream.aggregate_type().as_str(), row.stream.aggregate_id().as_str());
                    let (applied, seen) = (to_sql(row.applied.get()), to_sql(row.seen.get()));
                    set.execute((projection.as_str(), kind, id, applied, seen, event_id_to_sql(row.seen_id)))?;
                }
                drop(set);
                parking.iter().try_for_each(|change| park(open.db, &projection, change))?;
                open.commit()
            })
            .await
    }

    pub(crate) async fn sweep_to(&self, projection: &ProjectionName, known: u64, from: Mark, to: Mark) -> Result<Mark> {
        let projection = projection.clone();
        self.writer
            .run("advance a swept position", move |db| {
                let mut sweep = db.prepare_cached(SWEEP)?;
                let (old, new) = (event_id_to_sql(from.event_id), event_id_to_sql(to.event_id));
                let (from, to) = (to_sql(from.position.get()), to_sql(to.position.get()));
                let binds = (projection.as_str(), from, old, to, new, to_sql(known));
                let (mark, stored) =
                    sweep.query_row(binds, |row| Ok(((row.get(0)?, row.get(1)?), row.get::<_, i64>(2)?)))?;
                check_changes(&projection, known, from_sql(stored, "count")?)?;
                mark_from_sql(mark)
            })
            .await
    }
}

fn rows(db: &Connection, projection: &ProjectionName, streams: &[StreamId]) -> Result<HashMap<StreamId, Row>, Failure> {
    let mut find = db.prepare_cached(FIND)?;
    let mut rows = HashMap::new();
    for stream in streams {
        let key = (projection.as_str(), stream.aggregate_type().as_str(), stream.aggregate_id().as_str());
        let columns = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
        if let Some((applied, seen, seen_id)) = find.query_row(key, columns).optional()? {
            let version = |number| from_sql(number, "version").map(Version::new);
            rows.insert(stream.clone(), (version(applied)?, version(seen)?, event_id_from_sql(seen_id)));
        }
    }
    Ok(rows)
}

fn parked_of(
    db: &Connection,
    projection: &ProjectionName,
    rows: &HashMap<StreamId, Row>,
) -> Result<Vec<Parked>, Failure> {
    let of_parked = rows.iter().filter(|(_, (applied, seen, _))| seen > applied);
    of_parked.filter_map(|(stream, _)| parked_at(db, projection, stream).transpose()).collect()
}

const BEGIN_PER_AGGREGATE: &str = "
    INSERT INTO retell_checkpoints (projection, position, per_aggregate) VALUES (?1, 0, 1)
    ON CONFLICT (projection) DO UPDATE SET per_aggregate = 1";

const FIND: &str = "
    SELECT applied, seen, seen_id FROM retell_progress WHERE projection = ?1 AND aggregate_type = ?2 AND aggregate_id = ?3";

/// Binds: projection, aggregate type, aggregate id, applied, seen, event seen.
const SET: &str = "
    INSERT INTO retell_progress (projection, aggregate_type, aggregate_id, applied, seen, seen_id)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6)
    ON CONFLICT (projection, aggregate_type, aggregate_id) DO UPDATE
    SET applied = excluded.applied, seen = excluded.seen, seen_id = excluded.seen_id";

/// Binds: projection, old position and event, new position and event, count of changes. A projection without a row is at zero.
const SWEEP: &str = "
    INSERT INTO retell_checkpoints (projection, position, event_id, per_aggregate)
    VALUES (?1, CASE WHEN ?2 = 0 THEN ?4 ELSE 0 END, CASE WHEN ?2 = 0 THEN ?5 END, 1)
    ON CONFLICT (projection) DO UPDATE SET
        position = CASE WHEN state = 'running' AND position = ?2 AND (?3 IS NULL OR event_id = ?3) AND changes = ?6
            THEN ?4 ELSE position END,
        event_id = CASE WHEN state = 'running' AND position = ?2 AND (?3 IS NULL OR event_id = ?3) AND changes = ?6
            THEN ?5 ELSE event_id END
    RETURNING position, event_id, changes";
