//! Keeps the wire shapes that programs register, and finds the event types of the log.

use chrono::NaiveDateTime;

use crate::error::Result;
use crate::id::EventType;
use crate::store::log::shapes::RegisteredShape;
use crate::store::mysql::convert::time_to_sql;
use crate::store::mysql::error::classify;
use crate::store::mysql::log::append::Writer;
use crate::store::mysql::log::read::Reader;
use crate::store::server::convert::{event_type_from_sql, shapes_from_sql};

/// Event type, schema version, codec, shape, time, program.
type Row = (String, i64, i16, String, NaiveDateTime, String);

impl Reader {
    pub(crate) async fn registered_shapes(&self) -> Result<Vec<RegisteredShape>> {
        let rows: Vec<Row> = self
            .connections
            .all(sqlx::query_as(SHAPES))
            .await
            .map_err(|error| classify(error, "list the registered shapes"))?;
        let in_utc =
            |(name, version, codec, shape, time, program): Row| (name, version, codec, shape, time.and_utc(), program);
        shapes_from_sql(rows.into_iter().map(in_utc).collect())
    }

    pub(crate) async fn next_event_type(&self, after: Option<&EventType>) -> Result<Option<EventType>> {
        let after = after.map_or("", EventType::as_str).as_bytes();
        let next: Option<(String,)> = self
            .connections
            .optional(sqlx::query_as(NEXT_EVENT_TYPE).bind(after))
            .await
            .map_err(|error| classify(error, "find an event type"))?;
        event_type_from_sql(next)
    }
}

impl Writer {
    pub(crate) async fn register_shapes(&self, shapes: &[RegisteredShape]) -> Result<()> {
        for shape in shapes {
            let register = sqlx::query(REGISTER)
                .bind(shape.event_type.as_str().as_bytes())
                .bind(i64::from(shape.version))
                .bind(i16::from(shape.codec.number()))
                .bind(shape.digest().to_vec())
                .bind(shape.shape.as_bytes())
                .bind(time_to_sql(shape.first_seen))
                .bind(shape.program.as_bytes());
            self.connections.execute(register).await.map_err(|error| classify(error, "register shapes"))?;
        }
        Ok(())
    }
}

const SHAPES: &str = "
    SELECT CONVERT(event_type USING utf8mb4), schema_version, codec, CONVERT(shape USING utf8mb4), first_seen, CONVERT(program USING utf8mb4)
    FROM retell_shapes ORDER BY event_type, schema_version, codec, digest";

/// Binds: after. One step in the index of event types. Only the row that is found is converted.
const NEXT_EVENT_TYPE: &str = "
    SELECT CONVERT(found.event_type USING utf8mb4)
    FROM (SELECT event_type FROM retell_events WHERE event_type > ? ORDER BY event_type LIMIT 1) AS found";

/// Binds: event type, schema version, codec, digest, shape, time, program.
pub(crate) const REGISTER: &str = "
    INSERT INTO retell_shapes (event_type, schema_version, codec, digest, shape, first_seen, program)
    VALUES (?, ?, ?, ?, ?, ?, ?) ON DUPLICATE KEY UPDATE program = program";
