//! Audits the whole log: every position occurs exactly once and in order. Counts the events of each type.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use retell::{AnyEvent, BoxError, Envelope, EventType, Projection, async_trait};

use crate::database::{Database, Insert, Row, Select};
use crate::read_models::ReadModels;

pub const NAME: &str = "audit";

pub struct Audit<D>(pub PhantomData<fn() -> D>);

/// The library delivered positions out of order, which it promises not to do.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("position {found} came after position {last}")]
struct OutOfOrder {
    last: u64,
    found: u64,
}

#[async_trait]
impl<D: Database> Projection for Audit<D> {
    const NAME: &'static str = NAME;
    type Event = AnyEvent;
    type Tx = D;

    async fn setup(&self, db: &mut D) -> Result<(), BoxError> {
        db.create(TABLES).await
    }

    async fn apply(&self, db: &mut D, event: Envelope<AnyEvent>) -> Result<(), BoxError> {
        self.apply_batch(db, vec![event]).await
    }

    async fn apply_batch(&self, db: &mut D, events: Vec<Envelope<AnyEvent>>) -> Result<(), BoxError> {
        let mut last = match db.select(&LAST, Row::default()).await?.first() {
            Some(row) => row.number(0)?,
            None => 0,
        };
        let mut types: BTreeMap<EventType, i64> = BTreeMap::new();
        for event in events {
            last = follow(last, event.position.get())?;
            *types.entry(event.event.event_type).or_default() += 1;
        }
        let types = types.into_iter().map(|(name, count)| Row::from([name.as_str().to_owned().into(), count.into()]));
        db.insert(&ADD_TO_TYPE, types.collect()).await?;
        db.insert(&SET_LAST, vec![Row::from([1.into(), i64::try_from(last)?.into()])]).await
    }
}

fn follow(last: u64, found: u64) -> Result<u64, OutOfOrder> {
    if found == last + 1 { Ok(found) } else { Err(OutOfOrder { last, found }) }
}

/// Returns the number of events of each type.
pub async fn events_by_type(models: &impl ReadModels) -> Result<BTreeMap<String, u64>, BoxError> {
    let rows = models.select(&TYPES, Row::default()).await?;
    rows.iter().map(|row| Ok((row.text(0)?, row.number(1)?))).collect()
}

const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS audit_types (
        event_type VARCHAR(100) PRIMARY KEY, events BIGINT NOT NULL
    );
    CREATE TABLE IF NOT EXISTS audit_last (
        one BIGINT PRIMARY KEY, position BIGINT NOT NULL
    );";

const LAST: Select = Select::same("SELECT position FROM audit_last");

const SET_LAST: Insert = Insert {
    into: "INSERT INTO audit_last (one, position)",
    on_conflict: "ON CONFLICT (one) DO UPDATE SET position = excluded.position",
    on_duplicate_key: "ON DUPLICATE KEY UPDATE position = VALUES(position)",
};

const ADD_TO_TYPE: Insert = Insert {
    into: "INSERT INTO audit_types (event_type, events)",
    on_conflict: "ON CONFLICT (event_type) DO UPDATE SET events = audit_types.events + excluded.events",
    on_duplicate_key: "ON DUPLICATE KEY UPDATE events = events + VALUES(events)",
};

const TYPES: Select = Select::same("SELECT event_type, events FROM audit_types");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeated_and_missing_positions_are_detected() {
        assert_eq!(follow(0, 1), Ok(1));
        assert_eq!(follow(4, 4), Err(OutOfOrder { last: 4, found: 4 }));
        assert_eq!(follow(4, 6), Err(OutOfOrder { last: 4, found: 6 }));
    }
}
