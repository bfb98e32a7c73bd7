//! Keeps the wire shapes that programs register, and finds the event types of the log.

use crate::error::Result;
use crate::id::EventType;
use crate::store::log::shapes::RegisteredShape;
use crate::store::postgres::error::classify;
use crate::store::postgres::log::append::Writer;
use crate::store::postgres::log::read::Reader;
use crate::store::server::convert::{event_type_from_sql, shapes_from_sql};

impl Reader {
    pub(crate) async fn registered_shapes(&self) -> Result<Vec<RegisteredShape>> {
        let rows = self.connections.all(sqlx::query_as(self.schema.sql(SHAPES))).await;
        shapes_from_sql(rows.map_err(|error| classify(error, "list the registered shapes"))?)
    }

    pub(crate) async fn next_event_type(&self, after: Option<&EventType>) -> Result<Option<EventType>> {
        let next: Option<(String,)> = self
            .connections
            .optional(sqlx::query_as(self.schema.sql(NEXT_EVENT_TYPE)).bind(after.map_or("", EventType::as_str)))
            .await
            .map_err(|error| classify(error, "find an event type"))?;
        event_type_from_sql(next)
    }
}

impl Writer {
    pub(crate) async fn register_shapes(&self, shapes: &[RegisteredShape]) -> Result<()> {
        for shape in shapes {
            let register = sqlx::query(self.schema.sql(REGISTER))
                .bind(shape.event_type.as_str())
                .bind(i64::from(shape.version))
                .bind(i16::from(shape.codec.number()))
                .bind(shape.digest())
                .bind(&shape.shape)
                .bind(shape.first_seen)
                .bind(&shape.program);
            self.connections.execute(register).await.map_err(|error| classify(error, "register shapes"))?;
        }
        Ok(())
    }
}

const SHAPES: &str = "
    SELECT event_type, schema_version, codec, shape, first_seen, program FROM {schema}.shapes
    ORDER BY event_type, schema_version, codec, digest";

/// Binds: after. One step in the index of event types.
const NEXT_EVENT_TYPE: &str = "
    SELECT event_type FROM {schema}.events WHERE event_type > $1 ORDER BY event_type LIMIT 1";

/// Binds: event type, schema version, codec, digest, shape, time, program.
pub(crate) const REGISTER: &str = "
    INSERT INTO {schema}.shapes (event_type, schema_version, codec, digest, shape, first_seen, program)
    VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING";
