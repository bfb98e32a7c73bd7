//! The limit of SQLite itself: rusqlite on the calling thread, on the library's own tables, without checks, queues or sharing.

use std::path::Path;

use retell::rusqlite::Connection;
use uuid::Uuid;

use super::by_hand::{State, encode};
use super::order::OrderEvent;

/// Opens a file that the library has created.
pub(crate) fn open(path: &Path) -> Connection {
    let db = Connection::open(path).unwrap();
    db.pragma_update(None, "synchronous", "FULL").unwrap();
    db.pragma_update(None, "cache_size", -16 * 1024).unwrap();
    db
}

/// Appends `events` events, each to a new stream, in one durable transaction.
pub(crate) fn append(db: &mut Connection, events: u64) {
    let tx = db.transaction().unwrap();
    {
        let mut insert = tx.prepare_cached(INSERT).unwrap();
        for number in 0..events {
            let (event_type, payload) = encode(OrderEvent::numbered(number));
            let (event, order) = (Uuid::now_v7(), Uuid::now_v7().to_string());
            insert.execute((event.as_bytes(), order, event_type, number.cast_signed(), payload)).unwrap();
        }
    }
    tx.commit().unwrap();
}

/// Loads, decodes and folds an order's events.
pub(crate) fn load(db: &Connection, id: &str) -> State {
    let (mut state, mut statement) = (State::default(), db.prepare_cached(LOAD).unwrap());
    let mut rows = statement.query([id]).unwrap();
    while let Some(row) = rows.next().unwrap() {
        state.fold(row.get_ref(0).unwrap().as_str().unwrap(), row.get_ref(1).unwrap().as_blob().unwrap()).unwrap();
    }
    state
}

/// Binds: event id, aggregate id, event type, recorded at, payload.
const INSERT: &str = "
    INSERT INTO retell_events
        (event_id, aggregate_type, aggregate_id, version, event_type, schema_version, codec, recorded_at, payload)
    VALUES (?1, 'order', ?2, 1, ?3, 1, 0, ?4, ?5)";

/// Binds: aggregate id.
const LOAD: &str = "
    SELECT event_type, payload FROM retell_events WHERE aggregate_type = 'order' AND aggregate_id = ?1 ORDER BY version";
