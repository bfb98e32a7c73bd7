//! The log in memory.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::convert::Infallible;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, SubsecRound, Utc};
use tokio::sync::watch;
use tokio::time::Instant;
use uuid::Uuid;

use crate::claim::HeldValue;
use crate::codec::Codec;
use crate::error::{ErrorKind, Result};
use crate::event::RecordedEvent;
use crate::id::mark::Mark;
use crate::id::{
    ClaimScope, ClaimValue, CommitId, EventId, EventType, Fence, IdempotencyKey, Position, StreamId, Version,
};
use crate::store::log::append::{Append, Appended, KeyedOutcome, Outcome};
use crate::store::log::claims::claimed;
use crate::store::log::clock::recorded_time;
use crate::store::log::event_store::{EventStore, MAX_PAYLOAD_BYTES, Snapshot};
use crate::store::log::group_commit::{BatchAppend, GroupCommit};
use crate::store::log::history::{stream_changed, token_at};
use crate::store::log::inline::Inlines;
use crate::store::log::judge::{Verdict, Written, judge, record};
use crate::store::log::kinds::Kinds;
use crate::store::log::lease::Lease;
use crate::store::log::mark::check_mark;
use crate::store::log::query::{Filter, Page, Query, Select};
use crate::store::log::reader::{EventReader, Replay, UpTo, Visitor};
use crate::store::log::relay::{
    LONGEST_LEASE, RelayStatus, RelayStore, check_fence, check_lease_name, check_relay_name,
};
use crate::store::log::replay::snapshot_fits;
use crate::store::log::seal::Seal;
use crate::store::log::shapes::RegisteredShape;
use crate::store::log::snapshots::{KeptSnapshot, snapshot_changes};
use crate::store::log::token::Token;
use crate::store::memory::audit::{add, newest};
use crate::store::memory::model::MemoryReadModel;
use crate::store::model::interventions::{AuditEntry, By};
use crate::store::size::{RowCount, StoreSize, TableSize};

/// The number of events of a stream that a replay copies under one lock.
const REPLAY_CHUNK: usize = 256;

/// A log in memory, with a read model for [inline](mod@crate::inline) projections. Cloning creates another handle to the same log. The log is
/// dropped with its last handle.
///
/// # Examples
/// ```
/// use retell::prelude::*;
///
/// #[derive(Debug, Event, serde::Serialize, serde::Deserialize)]
/// enum ShelfEvent {
///     #[event("shelf.filled")]
///     Filled { books: u32 },
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let log = MemoryStore::new();
/// log.append_events(("shelf", "1"), ExpectedVersion::NoStream, [ShelfEvent::Filled { books: 12 }]).await?;
/// assert_eq!(log.clone().head().await?, Position::new(1));
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
#[derive(Debug)]
pub struct MemoryStore<T: 'static = ()> {
    pub(crate) log: Arc<MemoryLog>,
    pub(crate) commits: Arc<GroupCommit>,
    pub(crate) models: MemoryReadModel<T>,
    pub(crate) inlines: Inlines<T>,
}

impl MemoryStore {
    /// Creates an empty log.
    pub fn new() -> Self {
        Self::with_read_model(MemoryReadModel::new())
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Send + Sync + 'static> MemoryStore<T> {
    /// Creates an empty log whose inline projections write to `models`.
    pub fn with_read_model(models: MemoryReadModel<T>) -> Self {
        let (state, head) = (RwLock::default(), watch::Sender::new(Position::ZERO));
        let log = Arc::new(MemoryLog { state, head, kinds: Kinds::default() });
        Self {
            commits: Arc::new(GroupCommit::new(log.clone()).with_name("memory")),
            log,
            models,
            inlines: Inlines::none(),
        }
    }

    /// Returns the read model that [inline](mod@crate::inline) projections of this log write to. Other projections may use it, too. An append
    /// through a handle with inline projections waits for the open transaction of the read model, and is refused inside a transaction.
    pub fn read_model(&self) -> MemoryReadModel<T> {
        self.models.clone()
    }
}

impl<T: 'static> Clone for MemoryStore<T> {
    fn clone(&self) -> Self {
        let (log, commits) = (self.log.clone(), self.commits.clone());
        Self { log, commits, models: self.models.clone(), inlines: self.inlines.clone() }
    }
}

#[derive(Debug)]
pub(crate) struct MemoryLog {
    state: RwLock<State>,
    pub(crate) head: watch::Sender<Position>,
    kinds: Kinds,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    /// The events in log order: the event at position `p` has index `p - 1`.
    pub(crate) events: Vec<RecordedEvent>,
    /// The number of each event in its commit, from 1.
    pub(crate) ordinals: Vec<i32>,
    /// The indexes of each stream's events in `events`: the event with version `v` has index `v - 1`.
    pub(crate) streams: HashMap<StreamId, Vec<usize>>,
    pub(crate) ids: HashSet<EventId>,
    pub(crate) keys: HashMap<IdempotencyKey, KeyedOutcome>,
    pub(crate) reservations: HashMap<(ClaimScope, ClaimValue), StreamId>,
    /// The snapshots of each stream, in any order.
    pub(super) snapshots: HashMap<StreamId, Vec<Snapshot>>,
    /// By event type, schema version, codec and digest.
    pub(crate) shapes: BTreeMap<(EventType, u32, Codec, [u8; 32]), RegisteredShape>,
    /// By first position.
    pub(crate) seals: BTreeMap<Position, Seal>,
    relayed: HashMap<String, (Mark, Fence)>,
    /// The resets of relays.
    audit: Vec<AuditEntry>,
    leases: HashMap<String, Lease<Instant>>,
}

impl MemoryLog {
    /// Locks the state for reading. A poisoned lock is safe to use, because no code between two related changes can panic.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the state for writing.
    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl BatchAppend for MemoryLog {
    async fn append_batch(&self, batch: Vec<Append>) -> Vec<Result<Appended>> {
        let (results, head) = {
            let mut state = self.write();
            let results = batch.into_iter().map(|append| state.append(append)).collect();
            (results, state.head())
        };
        self.head.send_replace(head);
        results
    }
}

impl State {
    pub(crate) fn head(&self) -> Position {
        Position::new(self.events.len() as u64)
    }

    fn append(&mut self, append: Append) -> Result<Appended> {
        self.append_at(append, Self::next_time)
    }

    /// Judges an append and writes it if it passes. `time` returns a value of [`next_time`](Self::next_time) for the current head.
    pub(crate) fn append_at(&mut self, append: Append, time: impl FnOnce(&Self) -> DateTime<Utc>) -> Result<Appended> {
        let Ok(verdict) = judge(self, &append);
        let versions = match verdict {
            Verdict::Write(versions) => versions,
            Verdict::Repeated(first) => return Ok(first),
            Verdict::Refused(refusal) => return Err(refusal),
        };
        self.keep_claims(&append);
        let Some(last_event) = append.last_new_event() else {
            return Err(ErrorKind::Invalid("the append has no events".into()).into());
        };
        let kept = append.key().map(|key| {
            let streams = append.stream_ids().cloned().collect();
            (key.clone(), (streams, versions.clone(), append.fingerprint()))
        });
        let (events, versions) = record(append, versions, self.head(), time(self));
        for (ordinal, event) in (1..).zip(events) {
            self.push(ordinal, event);
        }
        let commit = CommitId::new(self.head().get());
        let appended = Appended { commit, last_event, versions, outcome: Outcome::Written };
        if let Some((key, (streams, before, fingerprint))) = kept {
            let kept = Appended { outcome: Outcome::Repeated, ..appended.clone() };
            self.keys.insert(key, KeyedOutcome::new(streams, before, fingerprint, kept));
        }
        Ok(appended)
    }

    pub(crate) fn register(&mut self, shape: &RegisteredShape) {
        let key = (shape.event_type.clone(), shape.version, shape.codec, shape.digest());
        self.shapes.entry(key).or_insert_with(|| shape.clone());
    }

    /// Adds the next event of the log.
    pub(crate) fn push(&mut self, ordinal: i32, event: RecordedEvent) {
        self.streams.entry(event.stream.clone()).or_default().push(self.events.len());
        self.ids.insert(event.event.id);
        self.ordinals.push(ordinal);
        self.events.push(event);
    }

    /// Returns the number of rows of each table.
    fn sizes(&self) -> Vec<TableSize> {
        let tables = [
            ("events", self.events.len()),
            ("keys", self.keys.len()),
            ("leases", self.leases.len()),
            ("relays", self.relayed.len()),
            ("reservations", self.reservations.len()),
            ("seals", self.seals.len()),
            ("shapes", self.shapes.len()),
            ("snapshots", self.snapshots.values().map(Vec::len).sum()),
        ];
        tables.map(|(table, rows)| TableSize::new(table, rows as u64, RowCount::Exact, None)).into()
    }

    fn keep_claims(&mut self, append: &Append) {
        for claim in claimed(append) {
            let name = (claim.scope.clone(), claim.value.clone());
            match claim.next_holder(self.reservations.get(&name)).cloned() {
                Some(holder) => drop(self.reservations.insert(name, holder)),
                None => drop(self.reservations.remove(&name)),
            }
        }
    }

    /// Returns the unique values that `stream` holds, in order.
    pub(crate) fn held_values(&self, stream: &StreamId) -> Vec<HeldValue> {
        let held = self.reservations.iter().filter(|(_, holder)| *holder == stream);
        let held = held.map(|((scope, value), _)| HeldValue::new(scope.clone(), value.clone()));
        held.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Returns the [recorded time](recorded_time) of the next append.
    pub(crate) fn next_time(&self) -> DateTime<Utc> {
        recorded_time(Utc::now().trunc_subsecs(6), self.events.last().map(|last| last.recorded_at))
    }

    fn page(&self, mark: Mark, limit: usize, filter: &Filter) -> Result<Page> {
        let after = mark.position;
        if limit == 0 {
            return Ok(Page::new(Vec::new(), mark));
        }
        check_mark(mark, self.mark_at(after).event_id)?;
        let first = usize::try_from(after.get()).unwrap_or(usize::MAX).min(self.events.len());
        let events = self.events[first..].iter().filter(|event| filter.passes(event));
        let end = if self.head() > after { self.end() } else { mark };
        let Ok(page) = Page::fill(events.cloned().map(Ok::<_, Infallible>), limit, end);
        Ok(page)
    }

    /// Returns the mark of the last event.
    pub(crate) fn end(&self) -> Mark {
        self.events.last().map_or(Mark::START, RecordedEvent::mark)
    }

    /// Returns the mark of the event at `position`.
    pub(crate) fn mark_at(&self, position: Position) -> Mark {
        let before = position.get().checked_sub(1).and_then(|before| usize::try_from(before).ok());
        before.and_then(|before| self.events.get(before)).map_or(position.into(), RecordedEvent::mark)
    }

    /// Returns the events of `stream` after the version `after`, in order.
    fn after(&self, stream: &StreamId, after: Version) -> impl Iterator<Item = &RecordedEvent> {
        let places = self.streams.get(stream).map_or(&[] as &[usize], Vec::as_slice);
        let first = usize::try_from(after.get()).unwrap_or(usize::MAX).min(places.len());
        places[first..].iter().map(|&place| &self.events[place])
    }

    /// Returns the event of `stream` at `version`.
    fn event(&self, stream: &StreamId, version: Version) -> Option<&RecordedEvent> {
        let before = version.get().checked_sub(1)?;
        self.after(stream, Version::new(before)).next()
    }

    /// Returns the id of the event of `stream` at `version`.
    fn event_at(&self, stream: &StreamId, version: Version) -> Option<EventId> {
        self.event(stream, version).map(|event| event.event.id)
    }

    /// Returns the newest snapshot that a replay may start from.
    fn snapshot_for(&self, stream: &StreamId, replay: Replay) -> Option<Snapshot> {
        let up_to_version = replay.with_up_to(UpTo::Version(self.last_version(stream, replay.up_to)));
        let fits = |snapshot: &&Snapshot| {
            let is_in_log = self.event_at(stream, snapshot.version) == Some(snapshot.event_id);
            is_in_log && snapshot_fits(up_to_version, snapshot)
        };
        let kept = self.snapshots.get(stream).into_iter().flatten();
        kept.filter(fits).max_by_key(|snapshot| snapshot.version).cloned()
    }

    fn replay_chunk(&self, stream: &StreamId, after: Version, last: Version) -> Vec<RecordedEvent> {
        let wanted = self.after(stream, after).take_while(|event| event.version <= last);
        wanted.take(REPLAY_CHUNK).cloned().collect()
    }

    /// Returns the version that a replay ends with.
    fn last_version(&self, stream: &StreamId, up_to: UpTo) -> Version {
        match up_to {
            UpTo::Head => Version::new(u64::MAX),
            UpTo::Version(version) => version,
            UpTo::Time(time) => {
                let places = self.streams.get(stream).map_or(&[] as &[usize], Vec::as_slice);
                let last = places.iter().rposition(|&place| self.events[place].recorded_at <= time);
                Version::new(last.map_or(0, |last| last as u64 + 1))
            }
        }
    }
}

impl Written for State {
    type Failure = Infallible;

    fn outcome(&self, key: &IdempotencyKey) -> Result<Option<KeyedOutcome>, Infallible> {
        Ok(self.keys.get(key).cloned())
    }

    fn version(&self, stream: &StreamId) -> Result<Version, Infallible> {
        Ok(Version::new(self.streams.get(stream).map_or(0, |events| events.len() as u64)))
    }

    fn last_event(&self, stream: &StreamId) -> Result<Option<EventId>, Infallible> {
        let last = self.streams.get(stream).and_then(|events| events.last());
        Ok(last.map(|&place| self.events[place].event.id))
    }

    fn holder(&self, scope: &ClaimScope, value: &ClaimValue) -> Result<Option<StreamId>, Infallible> {
        Ok(self.reservations.get(&(scope.clone(), value.clone())).cloned())
    }

    fn contains(&self, event: EventId) -> Result<bool, Infallible> {
        Ok(self.ids.contains(&event))
    }
}

#[async_trait]
impl<T: Send + Sync + 'static> EventReader for MemoryStore<T> {
    async fn replay(&self, stream: &StreamId, replay: Replay, visitor: &mut dyn Visitor) -> Result<()> {
        let mut after = replay.after;
        if let Some(known) = replay.after_event {
            let found = self.log.read().event_at(stream, after);
            if found != Some(known) {
                return Err(stream_changed(stream, after, known, found));
            }
        }
        let snapshot = self.log.read().snapshot_for(stream, replay);
        if let Some(snapshot) = snapshot {
            visitor.snapshot(snapshot.version, snapshot.event_id, &snapshot.state)?;
            after = snapshot.version;
        }
        let last = self.log.read().last_version(stream, replay.up_to);
        loop {
            let chunk = self.log.read().replay_chunk(stream, after, last);
            for event in &chunk {
                visitor.event(event.version, event.event.id, event.stored())?;
                after = event.version;
            }
            if chunk.len() < REPLAY_CHUNK {
                return Ok(());
            }
        }
    }

    async fn read(&self, query: Query<'_>) -> Result<Page> {
        let (state, limit) = (self.log.read(), query.limit);
        let events: Vec<_> = match query.select {
            Select::Log { after, filter } => return state.page(after, limit, filter),
            Select::Stream { stream, after } => state.after(stream, after).take(limit).cloned().collect(),
            Select::Newest(event_type) => {
                let newest = state.events.iter().rev().filter(|event| event.event.event_type == *event_type);
                newest.take(limit).cloned().collect()
            }
            Select::RecordedAfter(time) => {
                state.events.iter().filter(|event| event.recorded_at > time).take(limit).cloned().collect()
            }
            Select::Event(id) => {
                state.events.iter().filter(|event| event.event.id == id).take(limit).cloned().collect()
            }
            Select::Chain { id, after } => {
                let is_of = |event: &&RecordedEvent| event.event.metadata.chain(event.event.id) == id;
                let later = state.events.iter().filter(|event| event.position > after);
                later.filter(is_of).take(limit).cloned().collect()
            }
        };
        Ok(Page::found(events))
    }

    async fn head(&self) -> Result<Position> {
        Ok(self.log.read().head())
    }

    async fn position_of(&self, token: Token) -> Result<Option<Position>> {
        // The number of a commit is the position of its last event.
        let position = Position::new(token.commit().get());
        let place = position.get().checked_sub(1).and_then(|place| usize::try_from(place).ok());
        let state = self.log.read();
        token_at(token, position, place.and_then(|place| state.events.get(place)).map(|event| event.event.id))
    }

    async fn size(&self) -> Result<Option<StoreSize>> {
        Ok(Some(StoreSize::new(self.log.read().sizes(), None)))
    }

    async fn registered_shapes(&self) -> Result<Vec<RegisteredShape>> {
        Ok(self.log.read().shapes.values().cloned().collect())
    }

    async fn next_event_type(&self, after: Option<&EventType>) -> Result<Option<EventType>> {
        let state = self.log.read();
        let types = state.events.iter().map(|event| &event.event.event_type);
        Ok(types.filter(|each| after.is_none_or(|after| *each > after)).min().cloned())
    }

    fn watch_head(&self) -> watch::Receiver<Position> {
        self.log.head.subscribe()
    }
}

#[async_trait]
impl<T: Send + Sync + 'static> EventStore for MemoryStore<T> {
    async fn append(&self, append: Append) -> Result<Appended> {
        append.check(MAX_PAYLOAD_BYTES)?;
        self.log.kinds.check(&append)?;
        if !self.inlines.is_empty() {
            // Another task makes the commit. It cannot detect that it waits for the transaction of this task.
            self.models.transactions.refuse_inside("append")?;
        }
        self.commits.append(append).await
    }

    async fn find_by_key(&self, key: &IdempotencyKey) -> Result<Option<KeyedOutcome>> {
        Ok(self.log.read().keys.get(key).cloned())
    }

    async fn holder(&self, scope: &ClaimScope, value: &ClaimValue) -> Result<Option<StreamId>> {
        Ok(self.log.read().reservations.get(&(scope.clone(), value.clone())).cloned())
    }

    async fn save_snapshot(&self, stream: &StreamId, snapshot: Snapshot) -> Result<()> {
        let mut state = self.log.write();
        let is_in_log = |snapshot: &Snapshot| state.event_at(stream, snapshot.version) == Some(snapshot.event_id);
        if !is_in_log(&snapshot) {
            return Ok(());
        }
        let kept = state.snapshots.get(stream).into_iter().flatten();
        let kept = kept.map(|kept| KeptSnapshot::new(kept.version, kept.fingerprint, is_in_log(kept)));
        let changes = snapshot_changes(&snapshot, &kept.collect::<Vec<_>>());
        if changes.save {
            let kept = state.snapshots.entry(stream.clone()).or_default();
            kept.retain(|kept| kept.version != snapshot.version && !changes.delete.contains(&kept.version));
            kept.push(snapshot);
        }
        Ok(())
    }

    async fn register_shapes(&self, shapes: &[RegisteredShape]) -> Result<()> {
        let mut state = self.log.write();
        for shape in shapes {
            state.register(shape);
        }
        Ok(())
    }

    async fn close(&self) -> Result<()> {
        self.commits.close().await;
        Ok(())
    }
}

#[async_trait]
impl<T: Send + Sync + 'static> RelayStore for MemoryStore<T> {
    async fn mark(&self, relay: &str) -> Result<Mark> {
        check_relay_name(relay)?;
        Ok(self.log.read().relayed.get(relay).map_or(Mark::START, |(mark, _)| *mark))
    }

    async fn relays(&self) -> Result<Option<Vec<String>>> {
        let state = self.log.read();
        let names: BTreeSet<&String> = state.relayed.keys().chain(state.leases.keys()).collect();
        Ok(Some(names.into_iter().cloned().collect()))
    }

    async fn relay_statuses(&self, limit: usize) -> Result<Option<Vec<RelayStatus>>> {
        let (state, now) = (self.log.read(), Instant::now());
        let names: BTreeSet<&String> = state.relayed.keys().chain(state.leases.keys()).collect();
        let status = |name: &String| {
            let mark = state.relayed.get(name).map_or(Mark::START, |(mark, _)| *mark);
            let held = state.leases.get(name).and_then(|lease| lease.held).filter(|(_, end)| *end > now);
            let leader = held.map(|(holder, end)| (holder, (Utc::now() + (end - now)).trunc_subsecs(6)));
            RelayStatus::new(name.clone(), mark).with_leader(leader)
        };
        Ok(Some(names.into_iter().take(limit).map(status).collect()))
    }

    async fn advance(&self, relay: &str, to: Mark, fence: Fence) -> Result<()> {
        check_relay_name(relay)?;
        let mut state = self.log.write();
        let (relayed, newest) = state.relayed.get(relay).copied().unwrap_or_default();
        check_fence(relay, fence, newest)?;
        check_mark(to, state.mark_at(to.position).event_id)?;
        let reached = if to.position > relayed.position { to } else { relayed };
        state.relayed.insert(relay.to_owned(), (reached, fence));
        Ok(())
    }

    async fn reset(&self, relay: &str, to: Mark) -> Result<()> {
        self.reset_by(relay, to, &By::program("no reason given")).await
    }

    async fn relay_audit(&self, limit: usize, before: Option<u64>) -> Result<Vec<AuditEntry>> {
        Ok(newest(&self.log.read().audit, limit, before))
    }

    async fn reset_by(&self, relay: &str, to: Mark, by: &By) -> Result<()> {
        by.check()?;
        check_relay_name(relay)?;
        self.check_relay(relay).await?;
        let mut state = self.log.write();
        let fence = state.leases.get_mut(relay).map_or(Fence::ZERO, |lease| {
            (lease.fence, lease.held) = (lease.fence.next(), None);
            lease.fence
        });
        let (relayed, newest) = state.relayed.entry(relay.to_owned()).or_default();
        (*relayed, *newest) = (to, fence.max(*newest));
        add(&mut state.audit, AuditEntry::reset_relay(relay, to.position, by));
        Ok(())
    }

    async fn acquire_lease(&self, name: &str, holder: Uuid, length: Duration) -> Result<Option<Fence>> {
        check_lease_name(name)?;
        let now = Instant::now();
        let mut state = self.log.write();
        let lease = state.leases.entry(name.to_owned()).or_default();
        Ok(lease.acquire(holder, now, now + length.min(LONGEST_LEASE)))
    }

    async fn release_lease(&self, name: &str, holder: Uuid) -> Result<()> {
        check_lease_name(name)?;
        if let Some(lease) = self.log.write().leases.get_mut(name) {
            lease.release(holder);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::codec::Codec;
    use crate::event::NewEvent;
    use crate::id::{EventType, ExpectedVersion};
    use crate::store::log::reader::EventReaderExt;

    #[tokio::test]
    async fn wrong_time_is_not_followed() -> Result<()> {
        let log = MemoryStore::new();
        let stream = StreamId::parse("shelf", "1")?;
        let append = || {
            let (id, event_type) = (EventId::generate(), EventType::new("shelf.filled").expect("a valid name"));
            let event = NewEvent::stored(id, event_type, 1, Codec::Json, "{}".into());
            log.append(Append::new(stream.clone(), ExpectedVersion::Any, vec![event]))
        };
        append().await?;
        append().await?;
        let future = Utc::now() + TimeDelta::days(25_000);
        log.log.write().events[1].recorded_at = future;
        let now = Utc::now();
        append().await?;
        {
            let state = log.log.read();
            assert!(state.events[2].recorded_at - now < TimeDelta::hours(1));
            assert_eq!(state.last_version(&stream, UpTo::Time(state.events[0].recorded_at)).get(), 1);
            assert_eq!(state.last_version(&stream, UpTo::Time(state.events[2].recorded_at)).get(), 3);
        }
        let found = log.recorded_after(now + TimeDelta::hours(1), 10).await?;
        assert_eq!(found.iter().map(|event| event.position.get()).collect::<Vec<_>>(), [2]);
        Ok(())
    }
}
