//! Keeps the wire shapes that programs register.

use chrono::DateTime;
use rusqlite::{Connection, Row};

use crate::codec::Codec;
use crate::error::Result;
use crate::id::EventType;
use crate::store::log::shapes::RegisteredShape;
use crate::store::sqlite::convert::from_sql;
use crate::store::sqlite::error::{Failure, corrupt};
use crate::store::sqlite::log::append::Writer;

pub(crate) fn registered(db: &Connection) -> Result<Vec<RegisteredShape>, Failure> {
    let mut select = db.prepare_cached(SHAPES)?;
    let mut rows = select.query([])?;
    let mut shapes = Vec::new();
    while let Some(row) = rows.next()? {
        // A codec that is unknown here is one of a newer release.
        if let Some(codec) = Codec::from_number(row.get(2)?) {
            shapes.push(shape(row, codec)?);
        }
    }
    Ok(shapes)
}

fn shape(row: &Row<'_>, codec: Codec) -> Result<RegisteredShape, Failure> {
    let (name, micros): (String, i64) = (row.get(0)?, row.get(4)?);
    let damaged = || corrupt(format!("the registered shape of {name}, version {}", row.get_unwrap::<_, i64>(1)));
    let event_type = EventType::new(name.as_str()).map_err(|_| damaged())?;
    let version = u32::try_from(from_sql(row.get(1)?, "schema version")?).map_err(|_| damaged())?;
    let first_seen = DateTime::from_timestamp_micros(micros).ok_or_else(damaged)?;
    Ok(RegisteredShape::new(event_type, version, codec, row.get::<_, String>(3)?, first_seen, row.get::<_, String>(5)?))
}

impl Writer {
    pub(crate) async fn register_shapes(&self, shapes: &[RegisteredShape]) -> Result<()> {
        let shapes = shapes.to_vec();
        self.pool.run("register shapes", move |db| register(db, &shapes)).await
    }
}

pub(crate) fn register(db: &Connection, shapes: &[RegisteredShape]) -> Result<(), Failure> {
    let mut register = db.prepare_cached(REGISTER)?;
    for shape in shapes {
        register.execute((
            shape.event_type.as_str(),
            shape.version,
            shape.codec.number(),
            shape.digest(),
            &shape.shape,
            shape.first_seen.timestamp_micros(),
            &shape.program,
        ))?;
    }
    Ok(())
}

const SHAPES: &str = "
    SELECT event_type, schema_version, codec, shape, first_seen, program FROM retell_shapes
    ORDER BY event_type, schema_version, codec, digest";

/// Binds: event type, schema version, codec, digest, shape, time, program.
const REGISTER: &str = "
    INSERT INTO retell_shapes (event_type, schema_version, codec, digest, shape, first_seen, program)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT DO NOTHING";
