//! Keeps the processors that programs register.

use sqlx::MySql;

use crate::error::Result;
use crate::id::ProjectionName;
use crate::store::model::processors::{Change, RegisteredProcessor};
use crate::store::mysql::convert::time_to_sql;
use crate::store::mysql::error::classify;
use crate::store::mysql::model::checkpoint::lock_checkpoint_in;
use crate::store::mysql::model::read_model::MySqlReadModel;
use crate::store::server::convert::{ProcessorRow, processors_from_sql, to_sql};
use crate::store::server::lease::Lease;

impl MySqlReadModel {
    pub(crate) async fn registered(&self, projection: &ProjectionName) -> Result<Vec<RegisteredProcessor>> {
        let read = || async {
            let query = sqlx::query_as(PROCESSORS).bind(projection.as_str().as_bytes());
            let rows: Vec<ProcessorRow> =
                self.connections.all(query).await.map_err(|error| classify(error, "list processors"))?;
            processors_from_sql(rows)
        };
        self.connections.repeat("list processors", read).await
    }

    /// Adds or removes a processor. Returns whether it was new or there.
    pub(crate) async fn change_processor(
        &self,
        projection: &ProjectionName,
        processor: &RegisteredProcessor,
        change: Change,
    ) -> Result<bool> {
        let change_once = || async {
            let lease = self.connections.lease().await;
            let mut lease = lease.map_err(|error| classify(error, "register a processor"))?;
            let changed = change_on(&mut lease, projection, processor, change);
            let changed = self.connections.limits().call("register a processor", changed).await;
            lease.finish(changed)
        };
        self.connections.repeat("register a processor", change_once).await
    }
}

async fn change_on(
    lease: &mut Lease<MySql>,
    projection: &ProjectionName,
    processor: &RegisteredProcessor,
    change: Change,
) -> Result<bool> {
    let failed = |error| classify(error, "register a processor");
    let (name, digest, session) = (projection.as_str().as_bytes(), processor.digest().to_vec(), lease.session());
    let mut tx = lease.begin().await.map_err(failed)?;
    // The row is locked first, so the count and the rows change together.
    let number = lock_checkpoint_in(&mut tx, projection, &session).await?.changes + 1;
    // Unlike `ON DUPLICATE KEY UPDATE`, a query tells on every server whether the row is new.
    let known: Option<(i64,)> =
        sqlx::query_as(KNOWN).bind(name).bind(&digest).fetch_optional(&mut *tx).await.map_err(failed)?;
    let changed = match (change, known) {
        (Change::Register, Some(_)) | (Change::Forget, None) => None,
        (Change::Register, None) => Some(
            sqlx::query(REGISTER)
                .bind(name)
                .bind(digest)
                .bind(to_sql(number))
                .bind(processor.stored().into_bytes())
                .bind(time_to_sql(processor.first_seen))
                .bind(processor.program.as_bytes()),
        ),
        (Change::Forget, Some(_)) => Some(sqlx::query(FORGET).bind(name).bind(digest)),
    };
    let is_changed = changed.is_some();
    if let Some(changed) = changed {
        changed.execute(&mut *tx).await.map_err(failed)?;
        sqlx::query(COUNT).bind(to_sql(number)).bind(name).execute(&mut *tx).await.map_err(failed)?;
    }
    tx.commit().await.map_err(failed)?;
    Ok(is_changed)
}

const PROCESSORS: &str = "
    SELECT CONVERT(declared USING utf8mb4), first_seen, CONVERT(program USING utf8mb4)
    FROM retell_processors WHERE projection = ? ORDER BY number";

const KNOWN: &str = "SELECT number FROM retell_processors WHERE projection = ? AND digest = ?";

/// Binds: projection, digest, number, declared, time, program.
const REGISTER: &str = "
    INSERT INTO retell_processors (projection, digest, number, declared, first_seen, program) VALUES (?, ?, ?, ?, ?, ?)";

pub(crate) const FORGET: &str = "DELETE FROM retell_processors WHERE projection = ? AND digest = ?";

/// Binds: count of changes, projection.
pub(crate) const COUNT: &str = "UPDATE retell_checkpoints SET changes = ? WHERE projection = ?";
