//! Gives the rows of a log in memory to a verification, and keeps seals.

use std::time::Duration;

use async_trait::async_trait;

use crate::claim::HeldValue;
use crate::error::Result;
use crate::finding::{Examine, Finding};
use crate::id::{AggregateId, AggregateType, Position, StreamId};
use crate::store::log::append::KeyedOutcome;
use crate::store::log::inspect::{Cursor, Inspect, LogRow};
use crate::store::log::keys::KeyRow;
use crate::store::log::query::PAGE_BYTES;
use crate::store::log::seal::Seal;
use crate::store::log::stored_row::StoredRow;
use crate::store::memory::log::{MemoryStore, State};
use crate::store::memory::model::MemoryReadModel;

#[async_trait]
impl<T: Send + Sync + 'static> Inspect for MemoryStore<T> {
    async fn rows(&self, from: Cursor, limit: usize) -> Result<Option<Vec<LogRow>>> {
        let after = match from {
            Cursor::Position(after) => after.get(),
            Cursor::Row { first, ordinal } => (first + i64::from(ordinal) - 1).unsigned_abs(),
        };
        let (state, mut bytes) = (self.log.read(), 0);
        let places = usize::try_from(after).unwrap_or(usize::MAX)..state.events.len();
        let rows = places.take(limit).take_while(|place| {
            let has_room = bytes < PAGE_BYTES;
            bytes += state.events[*place].payload_bytes();
            has_room
        });
        rows.map(|place| row(&state, place)).collect::<Result<_>>().map(Some)
    }

    async fn snapshots(
        &self,
        aggregate_type: &AggregateType,
        after: Option<&AggregateId>,
        limit: usize,
    ) -> Result<Option<Vec<AggregateId>>> {
        let state = self.log.read();
        let of_type = state.snapshots.keys().filter(|stream| stream.aggregate_type() == aggregate_type);
        let mut ids: Vec<_> = of_type.map(StreamId::aggregate_id).filter(|id| Some(*id) > after).cloned().collect();
        ids.sort_unstable();
        ids.truncate(limit);
        Ok(Some(ids))
    }

    async fn held_values(&self, stream: &StreamId, limit: usize) -> Result<Option<Vec<HeldValue>>> {
        let mut held = self.log.read().held_values(stream);
        held.truncate(limit);
        Ok(Some(held))
    }

    async fn seals(&self, after: Position, limit: usize) -> Result<Option<Vec<Seal>>> {
        let state = self.log.read();
        Ok(Some(state.seals.values().filter(|seal| seal.last > after).take(limit).cloned().collect()))
    }

    async fn last_seal(&self) -> Result<Option<Seal>> {
        Ok(self.log.read().seals.values().next_back().cloned())
    }

    async fn add_seal(&self, seal: &Seal) -> Result<()> {
        self.log.write().seals.entry(seal.first).or_insert_with(|| seal.clone());
        Ok(())
    }

    async fn keys(&self, after: &str, limit: usize) -> Result<Option<Vec<KeyRow>>> {
        let state = self.log.read();
        let listed = state.keys.iter().filter(|(key, _)| key.as_str() > after);
        let mut rows: Vec<_> = listed.map(|(key, kept)| key_row(key.as_str(), kept)).collect();
        rows.sort_unstable_by(|one, other| one.key.cmp(&other.key));
        rows.truncate(limit);
        Ok(Some(rows))
    }

    async fn delete_keys(&self, after: &str, last: &str, through: Position) -> Result<u64> {
        let mut state = self.log.write();
        let before = state.keys.len();
        state.keys.retain(|key, kept| {
            let row = key_row(key.as_str(), kept);
            let is_old = row.position.is_some_and(|position| position <= through);
            key.as_str() <= after || key.as_str() > last || !is_old || row.is_of_process()
        });
        Ok((before - state.keys.len()) as u64)
    }
}

/// The commit of an append is the position of its last event.
fn key_row(key: &str, kept: &KeyedOutcome) -> KeyRow {
    KeyRow::new(key, Some(Position::new(kept.appended.commit.get())), true)
}

fn row(state: &State, place: usize) -> Result<LogRow> {
    let (event, ordinal) = (&state.events[place], state.ordinals[place]);
    let before = event.version.get().checked_sub(2).and_then(|before| usize::try_from(before).ok());
    let previous = before.and_then(|before| state.streams.get(&event.stream)?.get(before));
    let signed = |position: Position| position.get().cast_signed();
    Ok(LogRow {
        first: signed(event.position) - i64::from(ordinal) + 1,
        ordinal,
        events: ordinal,
        is_on_time: true,
        previous: previous.map(|place| signed(state.events[*place].position)),
        event: Some(StoredRow::of(event)?),
    })
}

/// Nothing outside of the process can break a promise of a log in memory.
#[async_trait]
impl<T: Send + Sync + 'static> Examine for MemoryStore<T> {
    fn part(&self) -> String {
        "log in memory".into()
    }

    async fn examine(&self, _: Duration) -> Option<Vec<Finding>> {
        Some(Vec::new())
    }
}

/// As for the log.
#[async_trait]
impl<T: Send + Sync + 'static> Examine for MemoryReadModel<T> {
    fn part(&self) -> String {
        "read models in memory".into()
    }

    async fn examine(&self, _: Duration) -> Option<Vec<Finding>> {
        Some(Vec::new())
    }
}
