//! Watches over the whole log: every position exactly once and in order, and how many events of each type there were.

use std::collections::BTreeMap;

use retell::rusqlite::{self, Connection};
use retell::{AnyEvent, BoxError, Envelope, EventType, Projection, async_trait};

use super::unsigned;

#[derive(Debug)]
pub struct Audit;

/// The library has broken its promise.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("position {found} came after position {last}")]
struct OutOfOrder {
    last: u64,
    found: u64,
}

#[async_trait]
impl Projection for Audit {
    type Event = AnyEvent;
    type Tx = Connection;

    fn name(&self) -> &'static str {
        "audit"
    }

    async fn setup(&self, db: &mut Connection) -> Result<(), BoxError> {
        Ok(db.execute_batch(TABLES)?)
    }

    async fn apply(&self, db: &mut Connection, event: Envelope<AnyEvent>) -> Result<(), BoxError> {
        self.apply_batch(db, vec![event]).await
    }

    async fn apply_batch(&self, db: &mut Connection, events: Vec<Envelope<AnyEvent>>) -> Result<(), BoxError> {
        let mut last = db.prepare_cached(LAST)?.query_row([], |row| unsigned(row, 0))?;
        let mut types: BTreeMap<EventType, i64> = BTreeMap::new();
        for event in events {
            last = follow(last, event.position.get())?;
            *types.entry(event.event.event_type).or_default() += 1;
        }
        for (event_type, count) in types {
            db.prepare_cached(ADD_TO_TYPE)?.execute((event_type.as_str(), count))?;
        }
        db.prepare_cached(SET_LAST)?.execute([i64::try_from(last)?])?;
        Ok(())
    }
}

fn follow(last: u64, found: u64) -> Result<u64, OutOfOrder> {
    if found == last + 1 { Ok(found) } else { Err(OutOfOrder { last, found }) }
}

/// How many events of each type there were.
pub fn events_by_type(db: &Connection) -> rusqlite::Result<BTreeMap<String, u64>> {
    db.prepare_cached(TYPES)?.query_map([], |row| Ok((row.get(0)?, unsigned(row, 1)?)))?.collect()
}

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS audit_types (
        event_type TEXT PRIMARY KEY, events INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS audit_last (
        one INTEGER PRIMARY KEY CHECK (one = 1), position INTEGER NOT NULL
    ) STRICT;
    INSERT INTO audit_last (one, position) VALUES (1, 0) ON CONFLICT DO NOTHING;";

const LAST: &str = "SELECT position FROM audit_last";

const SET_LAST: &str = "UPDATE audit_last SET position = ?1";

const ADD_TO_TYPE: &str = "
    INSERT INTO audit_types (event_type, events) VALUES (?1, ?2)
    ON CONFLICT (event_type) DO UPDATE SET events = events + excluded.events";

const TYPES: &str = "SELECT event_type, events FROM audit_types";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repeat_and_a_hole_are_found() {
        assert_eq!(follow(0, 1), Ok(1));
        assert_eq!(follow(4, 4), Err(OutOfOrder { last: 4, found: 4 }));
        assert_eq!(follow(4, 6), Err(OutOfOrder { last: 4, found: 6 }));
    }
}
