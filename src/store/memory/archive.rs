//! Gives out a log in memory, and fills an empty one.

use async_trait::async_trait;
use bytes::Bytes;
use chrono::DateTime;
use uuid::Uuid;

use crate::codec::Codec;
use crate::error::{Error, ErrorKind, Result};
use crate::event::{Metadata, NewEvent, RecordedEvent};
use crate::id::{CommitId, EventType, IdempotencyKey, Position, StreamId, Version};
use crate::store::log::append::{Appended, KeyedOutcome, Outcome};
use crate::store::log::archive::{
    Archive, ArchivedClaim, ArchivedEvent, ArchivedKey, ClaimVisitor, Part, Parts, not_empty, utf8,
};
use crate::store::log::stored_row::StoredRow;
use crate::store::memory::log::{MemoryStore, State};
use crate::store::model::checkpoint::ProjectionState;
use crate::store::model::read_model::ReadModel;

#[async_trait]
impl<T: Clone + Send + Sync + 'static> Archive for MemoryStore<T> {
    async fn claims(&self, visitor: &mut dyn ClaimVisitor) -> Result<bool> {
        let (head, mut claims) = {
            let state = self.log.read();
            let claims = state.reservations.iter().map(|((scope, value), holder)| ArchivedClaim {
                scope: scope.clone(),
                value: value.clone(),
                holder: holder.clone(),
            });
            (state.head(), claims.collect::<Vec<_>>())
        };
        let names = |claim: &ArchivedClaim| (claim.scope.as_str().to_owned(), claim.value.as_str().to_owned());
        claims.sort_by_cached_key(names);
        visitor.head(head)?;
        claims.into_iter().try_for_each(|claim| visitor.claim(claim))?;
        Ok(true)
    }

    async fn archived_keys(
        &self,
        through: Position,
        after: Option<&IdempotencyKey>,
        limit: usize,
    ) -> Result<Option<Vec<ArchivedKey>>> {
        let state = self.log.read();
        let is_after = |key: &IdempotencyKey| after.is_none_or(|after| key.as_str() > after.as_str());
        let kept = state.keys.iter().filter(|(key, kept)| is_after(key) && kept.appended.commit.get() <= through.get());
        let mut kept: Vec<_> = kept.collect();
        kept.sort_by_key(|(key, _)| key.as_str());
        Ok(Some(kept.into_iter().take(limit).map(|(key, kept)| archived(&state, key, kept)).collect()))
    }

    async fn import(&self, head: Position, parts: &mut dyn Parts) -> Result<()> {
        let projections = self.models.projections(usize::MAX).await?;
        let has_inline =
            !self.inlines.is_empty() || projections.iter().any(|each| each.state == ProjectionState::Inline);
        let check = |state: &State| {
            not_empty([
                !state.events.is_empty(),
                !state.keys.is_empty(),
                !state.reservations.is_empty(),
                !state.seals.is_empty(),
                has_inline,
            ])
        };
        check(&self.log.read())?;
        let mut filled = State::default();
        while let Some(part) = parts.next()? {
            fill(&mut filled, part)?;
        }
        {
            let mut state = self.log.write();
            check(&state)?;
            state.fill(filled);
        }
        self.log.head.send_replace(head);
        Ok(())
    }
}

impl State {
    /// Takes the log of `filled`. Relays and leases stay.
    fn fill(&mut self, filled: Self) {
        (self.events, self.ordinals, self.streams) = (filled.events, filled.ordinals, filled.streams);
        (self.ids, self.keys, self.reservations) = (filled.ids, filled.keys, filled.reservations);
        self.seals = filled.seals;
        filled.shapes.values().for_each(|shape| self.register(shape));
    }
}

/// The number of a commit is the position of the append's last event.
fn archived(state: &State, key: &IdempotencyKey, kept: &KeyedOutcome) -> ArchivedKey {
    let last = kept.appended.commit.get().cast_signed();
    let index = usize::try_from(last - 1).unwrap_or(usize::MAX);
    let ordinal = state.ordinals.get(index).copied().unwrap_or(1);
    let versions = kept.before.iter().zip(&kept.appended.versions);
    ArchivedKey {
        key: key.clone(),
        fingerprint: kept.fingerprint,
        commit: last - i64::from(ordinal) + 1,
        last,
        streams: kept
            .streams
            .iter()
            .zip(versions)
            .map(|(stream, (before, after))| (stream.clone(), *before, *after))
            .collect(),
    }
}

fn fill(state: &mut State, part: Part) -> Result<()> {
    match part {
        Part::Events(events) => events.iter().try_for_each(|event| add_event(state, event))?,
        Part::Commits(_) => {}
        Part::Keys(keys) => keys.into_iter().try_for_each(|key| add_key(state, key))?,
        Part::Claims(claims) => {
            state.reservations.extend(claims.into_iter().map(|claim| ((claim.scope, claim.value), claim.holder)));
        }
        Part::Shapes(shapes) => shapes.iter().for_each(|shape| state.register(shape)),
        Part::Seals(seals) => state.seals.extend(seals.into_iter().map(|seal| (seal.first, seal))),
    }
    Ok(())
}

fn add_event(state: &mut State, event: &ArchivedEvent) -> Result<()> {
    let position = event.position();
    let failed = |problem: String| Error::new(ErrorKind::Invalid(format!("position {position}: {problem}")));
    let recorded = recorded(event)?;
    // Metadata is kept decoded here.
    if StoredRow::of(&recorded)? != event.row {
        return Err(failed("a log in memory cannot keep the event exactly".into()));
    }
    let due = state.streams.get(&recorded.stream).map_or(1, |events| events.len() as u64 + 1);
    if recorded.version.get() != due {
        return Err(failed(format!("{} has version {}, expected {due}", recorded.stream, recorded.version)));
    }
    if state.ids.contains(&recorded.event.id) {
        return Err(ErrorKind::DuplicateEvent(recorded.event.id).into());
    }
    state.push(event.ordinal, recorded);
    Ok(())
}

fn recorded(event: &ArchivedEvent) -> Result<RecordedEvent> {
    let (position, row) = (event.position(), &event.row);
    let failed = |problem: String| Error::new(ErrorKind::Invalid(format!("position {position}: {problem}")));
    let uuid = |bytes: &[u8]| Uuid::from_slice(bytes).map_err(|error| failed(error.to_string()));
    let text = |bytes| utf8(bytes, "text of an event");
    let correlation = row.correlation_id.as_deref().map(uuid).transpose()?;
    let causation = row.causation_id.as_deref().map(uuid).transpose()?;
    let metadata = row.metadata.as_deref().map(text).transpose()?;
    let metadata = Metadata::from_parts(correlation.map(Into::into), causation.map(Into::into), metadata)
        .map_err(|error| failed(format!("metadata: {error}")))?;
    let codec = u8::try_from(row.codec).ok().and_then(Codec::from_number);
    let codec = codec.ok_or_else(|| failed(format!("unknown codec {}", row.codec)))?;
    let schema = u32::try_from(row.schema_version).map_err(|error| failed(error.to_string()))?;
    let time = DateTime::from_timestamp_micros(row.recorded_at);
    let (event_type, payload) = (EventType::new(text(&row.event_type)?)?, Bytes::from(row.payload.clone()));
    Ok(RecordedEvent::new(
        Position::new(position.unsigned_abs()),
        StreamId::parse(text(&row.aggregate_type)?, text(&row.aggregate_id)?)?,
        Version::new(row.version.unsigned_abs()),
        time.ok_or_else(|| failed(format!("time {}", row.recorded_at)))?,
        NewEvent::stored(uuid(&row.event_id)?.into(), event_type, schema, codec, payload).with_metadata(metadata),
    ))
}

fn add_key(state: &mut State, key: ArchivedKey) -> Result<()> {
    let index = usize::try_from(key.last - 1).ok();
    let last_event = index.and_then(|index| state.events.get(index)).map(|event| event.event.id);
    let last_event = last_event.ok_or_else(|| {
        Error::new(ErrorKind::BadExport(format!("the events of idempotency key {} are missing", key.key)))
    })?;
    let (mut streams, mut before, mut after) = (Vec::new(), Vec::new(), Vec::new());
    for (stream, from, to) in key.streams {
        streams.push(stream);
        before.push(from);
        after.push(to);
    }
    let appended = Appended::new(CommitId::new(key.last.unsigned_abs()), last_event, after, Outcome::Repeated);
    state.keys.insert(key.key, KeyedOutcome::new(streams, before, key.fingerprint, appended));
    Ok(())
}
