//! Keeps the processors that programs register.

use sqlx::Postgres;

use crate::error::Result;
use crate::id::ProjectionName;
use crate::store::model::processors::{Change, RegisteredProcessor};
use crate::store::postgres::error::classify;
use crate::store::postgres::model::checkpoint::{LOCK, lock};
use crate::store::postgres::model::read_model::PostgresReadModel;
use crate::store::server::convert::{ProcessorRow, processors_from_sql, to_sql};
use crate::store::server::lease::Lease;

impl PostgresReadModel {
    pub(crate) async fn registered(&self, projection: &ProjectionName) -> Result<Vec<RegisteredProcessor>> {
        let read = || async {
            let query = sqlx::query_as(self.schema.sql(PROCESSORS)).bind(projection.as_str());
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
            let changed = change_on(self, &mut lease, projection, processor, change);
            let changed = self.connections.limits().call("register a processor", changed).await;
            lease.finish(changed)
        };
        self.connections.repeat("register a processor", change_once).await
    }
}

async fn change_on(
    models: &PostgresReadModel,
    lease: &mut Lease<Postgres>,
    projection: &ProjectionName,
    processor: &RegisteredProcessor,
    change: Change,
) -> Result<bool> {
    let failed = |error| classify(error, "register a processor");
    let mut tx = lease.begin().await.map_err(failed)?;
    // The row is locked first, so the count and the rows change together.
    let number = lock(&models.schema, LOCK, projection, &mut tx).await?.changes + 1;
    let changed = match change {
        Change::Register => sqlx::query(models.schema.sql(REGISTER))
            .bind(projection.as_str())
            .bind(processor.digest())
            .bind(to_sql(number))
            .bind(processor.stored())
            .bind(processor.first_seen)
            .bind(&processor.program),
        Change::Forget => sqlx::query(models.schema.sql(FORGET)).bind(projection.as_str()).bind(processor.digest()),
    };
    let is_changed = changed.execute(&mut *tx).await.map_err(failed)?.rows_affected() > 0;
    if is_changed {
        let count = sqlx::query(models.schema.sql(COUNT)).bind(projection.as_str()).bind(to_sql(number));
        count.execute(&mut *tx).await.map_err(failed)?;
    }
    tx.commit().await.map_err(failed)?;
    Ok(is_changed)
}

const PROCESSORS: &str =
    "SELECT declared, first_seen, program FROM {schema}.processors WHERE projection = $1 ORDER BY number";

/// Binds: projection, digest, number, declared, time, program.
const REGISTER: &str = "
    INSERT INTO {schema}.processors (projection, digest, number, declared, first_seen, program)
    VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING";

pub(crate) const FORGET: &str = "DELETE FROM {schema}.processors WHERE projection = $1 AND digest = $2";

pub(crate) const COUNT: &str = "UPDATE {schema}.checkpoints SET changes = $2 WHERE projection = $1";
