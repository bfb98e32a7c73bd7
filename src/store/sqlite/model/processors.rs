//! Keeps the processors that programs register.

use chrono::DateTime;
use rusqlite::Connection;

use crate::error::Result;
use crate::id::ProjectionName;
use crate::store::model::processors::{Change, RegisteredProcessor};
use crate::store::sqlite::convert::to_sql;
use crate::store::sqlite::error::{Failure, corrupt};
use crate::store::sqlite::model::checkpoint::{checkpoint, set_checkpoint};
use crate::store::sqlite::model::read_model::SqliteReadModel;
use crate::store::sqlite::transaction::OpenTransaction;

impl SqliteReadModel {
    pub(crate) async fn registered(&self, projection: &ProjectionName) -> Result<Vec<RegisteredProcessor>> {
        let projection = projection.clone();
        self.readers.run("list processors", move |db| processors(db, &projection)).await
    }

    /// Adds or removes a processor. Returns whether it was new or there.
    pub(crate) async fn change_processor(
        &self,
        projection: &ProjectionName,
        processor: &RegisteredProcessor,
        change: Change,
    ) -> Result<bool> {
        let (projection, processor) = (projection.clone(), processor.clone());
        let counted = move |db: &mut Connection| {
            let open = OpenTransaction::begin(db)?;
            let found = checkpoint(open.db, &projection)?;
            let (name, number) = (projection.as_str(), found.changes + 1);
            let changed = match change {
                Change::Register => open.db.prepare_cached(REGISTER)?.execute((
                    name,
                    processor.digest(),
                    to_sql(number),
                    processor.stored(),
                    processor.first_seen.timestamp_micros(),
                    &processor.program,
                ))?,
                Change::Forget => open.db.prepare_cached(FORGET)?.execute((name, processor.digest()))?,
            };
            if changed > 0 {
                set_checkpoint(open.db, &projection, found.mark, number)?;
            }
            open.commit()?;
            Ok(changed > 0)
        };
        self.writer.run("register a processor", counted).await
    }
}

fn processors(db: &Connection, projection: &ProjectionName) -> Result<Vec<RegisteredProcessor>, Failure> {
    let mut select = db.prepare_cached(PROCESSORS)?;
    let mut rows = select.query([projection.as_str()])?;
    let mut processors = Vec::new();
    while let Some(row) = rows.next()? {
        let (declared, micros, program): (String, i64, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let damaged = || corrupt(format!("a registered processor of {projection}"));
        let first_seen = DateTime::from_timestamp_micros(micros).ok_or_else(damaged)?;
        processors.push(RegisteredProcessor::parse(&declared, first_seen, program)?);
    }
    Ok(processors)
}

const PROCESSORS: &str =
    "SELECT declared, first_seen, program FROM retell_processors WHERE projection = ?1 ORDER BY number";

/// Binds: projection, digest, number, declared, time, program.
const REGISTER: &str = "
    INSERT INTO retell_processors (projection, digest, number, declared, first_seen, program)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT DO NOTHING";

pub(crate) const FORGET: &str = "DELETE FROM retell_processors WHERE projection = ?1 AND digest = ?2";
