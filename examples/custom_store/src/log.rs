//! The log: appends, reads, unique values, idempotency keys, snapshots, and the state of relays.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use retell::event::{NewEvent, RecordedEvent};
use retell::id::CommitId;
use retell::store::RegisteredShape;
use retell::store::driver::{self, Lease, Verdict, Written, claimed, judge, record, recorded_time};
use retell::store::{
    Append, Appended, BatchAppend, Fingerprint, GroupCommit, KeyedOutcome, MAX_PAYLOAD_BYTES, Outcome, Page, Query,
    RelayStatus, RelayStore, Replay, Select, Snapshot, Token, Visitor,
};
use retell::{
    BoxError, ClaimScope, ClaimValue, Codec, CorrelationId, EventId, EventReader, EventStore, EventType, Fence, Filter,
    IdempotencyKey, Mark, Metadata, Position, Result, StreamId, Version, async_trait,
};
use tokio::sync::watch;
use uuid::Uuid;

use crate::file::{File, corrupt};
use crate::rows::{Readable, Rows, RowsMut, Saved, key, number, rows};

/// `event`, position -> stream, version, time in microseconds, event id, event type, schema version, codec, payload, correlation id,
/// causation id, other metadata as JSON.
type EventRow = (
    (StreamId, Version, i64),
    (EventId, EventType, u32, u8, Bytes),
    (Option<CorrelationId>, Option<EventId>, Option<String>),
);
/// `key`, idempotency key -> the commit, its last event, the fingerprint of the request, and each stream of the append with its versions before
/// and after.
///
/// Rows without a type of their own: `stream`, aggregate type, aggregate id, version -> version, position. `type`, event type, position ->
/// position. `id`, event id -> position. `chain`, correlation id, position -> version, position. `claim`, scope, value -> the stream that holds the value. `head` -> position and time of the last event.
type OutcomeRow = (CommitId, EventId, Fingerprint, Vec<(StreamId, (Version, Version))>);
/// `snapshot`, aggregate type, aggregate id -> version, the event there, fingerprint, state.
type SnapshotRow = (Version, EventId, u64, Bytes);

/// A log in a redb file. Clones share the open file. Only one process at a time can open a file.
#[derive(Debug, Clone)]
pub struct RedbStore {
    pub(crate) file: File,
    head: Arc<watch::Sender<Position>>,
    commits: Arc<GroupCommit>,
}

impl RedbStore {
    /// Opens a log, and creates its file if it does not exist.
    ///
    /// # Errors
    /// [`Transient`](retell::ErrorKind::Transient) if another process has the file open, [`Corrupt`](retell::ErrorKind::Corrupt) if it
    /// is not a sound redb file, [`Backend`](retell::ErrorKind::Backend) if it cannot be opened.
    pub async fn open(path: impl AsRef<Path>) -> Result<Self> {
        let file = File::open(path.as_ref().to_owned()).await?;
        let head = Arc::new(watch::Sender::new(file.read("read the head", |rows| Ok(head_of(rows)?.0)).await?));
        let writer = Writer { file: file.clone(), head: head.clone() };
        Ok(Self { file, head, commits: Arc::new(GroupCommit::new(Arc::new(writer)).with_name("redb")) })
    }
}

/// Commits batches of appends for [`GroupCommit`]: each batch has the appends that waited while the previous commit ran.
struct Writer {
    file: File,
    head: Arc<watch::Sender<Position>>,
}

#[async_trait]
impl BatchAppend for Writer {
    async fn append_batch(&self, batch: Vec<Append>) -> Vec<Result<Appended>> {
        let size = batch.len();
        let written = self.file.write("append", move |tx| {
            let mut rows = rows(tx)?;
            let (mut head, time) = head_of(&rows)?;
            let time = recorded_time(Utc::now(), DateTime::from_timestamp_micros(time)).timestamp_micros();
            let outcomes = batch.into_iter().map(|append| write(&mut rows, append, &mut head, time));
            let outcomes = outcomes.collect::<Result<Vec<_>, BoxError>>()?;
            rows.put("head", &(head, time))?;
            Ok((outcomes, head))
        });
        match written.await {
            Ok((outcomes, head)) => {
                self.head.send_replace(head);
                outcomes
            }
            Err(error) => vec![Err(error); size],
        }
    }
}

/// Writes one append. The outer error fails the whole commit. The inner error fails only this append, which then has written nothing.
fn write(rows: &mut RowsMut<'_>, append: Append, head: &mut Position, time: i64) -> Result<Result<Appended>, BoxError> {
    let versions = match judge(rows, &append)? {
        Verdict::Write(versions) => versions,
        Verdict::Repeated(first) => return Ok(Ok(first)),
        Verdict::Refused(refusal) => return Ok(Err(refusal)),
    };
    for claim in claimed(&append) {
        let place = key!("claim", claim.scope, claim.value);
        match claim.next_holder(rows.holder(claim.scope, claim.value)?.as_ref()) {
            Some(stream) => rows.put(&place, stream)?,
            None => drop(rows.remove::<StreamId>(&place)?),
        }
    }
    let kept = append.key().cloned().map(|name| (name, append.fingerprint()));
    let before: Vec<_> = append.stream_ids().cloned().zip(versions.iter().copied()).collect();
    let last_event = append.last_new_event().ok_or("the append has no events")?;
    let (events, versions) = record(append, versions, *head, from_micros(time)?);
    for event in events {
        *head = event.position;
        insert(rows, event)?;
    }
    let commit = CommitId::new(head.get());
    if let Some((name, fingerprint)) = kept {
        let streams = before.into_iter().zip(&versions).map(|((stream, before), after)| (stream, (before, *after)));
        rows.put::<OutcomeRow>(&key!("key", name), &(commit, last_event, fingerprint, streams.collect()))?;
    }
    Ok(Ok(Appended::new(commit, last_event, versions, Outcome::Written)))
}

/// Writes an event and its index rows.
fn insert(rows: &mut RowsMut<'_>, recorded: RecordedEvent) -> Result<(), BoxError> {
    let RecordedEvent { position, stream, version, recorded_at, event, .. } = recorded;
    let Metadata { correlation_id, causation_id, .. } = event.metadata;
    let json = event.metadata.to_json().map_err(|problem| corrupt(&stream, problem))?;
    let at = number(position.get());
    rows.put(&key!(versions_of(&stream), number(version.get())), &(version, position))?;
    rows.put(&key!("type", event.event_type, at), &position)?;
    rows.put(&key!("id", event.id.to_string()), &position)?;
    rows.put(&key!("chain", event.metadata.chain(event.id).to_string(), at), &(version, position))?;
    let content = (event.id, event.event_type, event.schema_version, event.codec.number(), event.payload);
    let place = (stream, version, recorded_at.timestamp_micros());
    rows.put::<EventRow>(&key!("event", at), &(place, content, (correlation_id, causation_id, json)))
}

impl<T: Readable> Written for Rows<T> {
    type Failure = BoxError;

    fn outcome(&self, name: &IdempotencyKey) -> Result<Option<KeyedOutcome>, BoxError> {
        Ok(self.get::<OutcomeRow>(&key!("key", name))?.map(|(commit, last_event, fingerprint, kept)| {
            let (streams, (before, after)) = kept.into_iter().unzip();
            let appended = Appended::new(commit, last_event, after, Outcome::Repeated);
            KeyedOutcome::new(streams, before, fingerprint, appended)
        }))
    }

    fn version(&self, stream: &StreamId) -> Result<Version, BoxError> {
        let last = self.below::<(Version, Position)>(&versions_of(stream), "")?.next_back().transpose()?;
        Ok(last.map_or(Version::ZERO, |(_, (version, _))| version))
    }

    fn last_event(&self, stream: &StreamId) -> Result<Option<EventId>, BoxError> {
        let last = self.below::<(Version, Position)>(&versions_of(stream), "")?.next_back().transpose()?;
        last.map(|(_, (_, position))| Ok(at(self, position)?.event.id)).transpose()
    }

    fn holder(&self, scope: &ClaimScope, value: &ClaimValue) -> Result<Option<StreamId>, BoxError> {
        self.get(&key!("claim", scope, value))
    }

    fn contains(&self, event: EventId) -> Result<bool, BoxError> {
        Ok(self.get::<Position>(&key!("id", event.to_string()))?.is_some())
    }
}

/// Returns the common prefix of the keys of a stream's rows.
pub(crate) fn versions_of(stream: &StreamId) -> String {
    key!("stream", stream.aggregate_type(), stream.aggregate_id())
}

pub(crate) fn from_micros(micros: i64) -> Result<DateTime<Utc>> {
    DateTime::from_timestamp_micros(micros).ok_or_else(|| corrupt("time", micros))
}

/// Reads the position and the time of the last event.
fn head_of(rows: &Rows<impl Readable>) -> Result<(Position, i64), BoxError> {
    Ok(rows.get("head")?.unwrap_or((Position::ZERO, i64::MIN)))
}

fn parse(position: Position, (place, content, metadata): EventRow) -> Result<RecordedEvent, BoxError> {
    let ((stream, version, micros), (id, event_type, schema_version, codec, payload)) = (place, content);
    let codec = Codec::from_number(codec).ok_or_else(|| corrupt("codec", codec))?;
    let metadata = Metadata::from_parts(metadata.0, metadata.1, metadata.2.as_deref());
    let metadata = metadata.map_err(|problem| corrupt("metadata", problem))?;
    let event = NewEvent::stored(id, event_type, schema_version, codec, payload).with_metadata(metadata);
    Ok(RecordedEvent::new(position, stream, version, from_micros(micros)?, event))
}

/// Reads the event at `position`.
fn at(rows: &Rows<impl Readable>, position: Position) -> Result<RecordedEvent, BoxError> {
    let row = rows.get(&key!("event", number(position.get())))?;
    parse(position, row.ok_or_else(|| corrupt("no event at position", position))?)
}

/// Reads a page of the log.
fn page(rows: &Rows<impl Readable>, mark: Mark, limit: usize, filter: &Filter) -> Result<Page, BoxError> {
    if limit == 0 {
        return Ok(Page::new(Vec::new(), mark));
    }
    let (head, after) = (head_of(rows)?.0, mark.position);
    let mark_of = |position: Position| Ok::<_, BoxError>(at(rows, position)?.mark());
    let found = if after > Position::ZERO && after <= head { mark_of(after)?.event_id } else { None };
    driver::check_mark(mark, found)?;
    let end = if head > after { mark_of(head)? } else { mark };
    let events = (after.get()..end.position.get()).map(|before| at(rows, Position::new(before + 1)));
    Page::fill(events.filter(|event| event.as_ref().map_or(true, |event| filter.passes(event))), limit, end)
}

#[async_trait]
impl EventReader for RedbStore {
    async fn replay(&self, stream: &StreamId, replay: Replay, visitor: &mut dyn Visitor) -> Result<()> {
        let row: Option<SnapshotRow> = match replay.snapshot {
            Some(_) => self.file.get("read a snapshot", snapshot_of(stream)).await?,
            None => None,
        };
        driver::replay_in_pages(self, stream, replay, row.map(kept), visitor).await
    }

    async fn read(&self, query: Query<'_>) -> Result<Page> {
        let limit = query.limit;
        let listed = |index: String, after: u64| {
            self.file.read("read a list of events", move |rows: &Saved| {
                let found = rows.below::<(Version, Position)>(&index, &number(after))?.take(limit);
                found.map(|row| at(rows, row?.1.1)).collect::<Result<_, BoxError>>().map(Page::found)
            })
        };
        match query.select {
            Select::Log { after, filter } => {
                let filter = filter.clone();
                self.file.read("read the log", move |rows| page(rows, after, limit, &filter)).await
            }
            Select::Stream { stream, after } => listed(versions_of(stream), after.get()).await,
            Select::Chain { id, after } => listed(key!("chain", id.to_string()), after.get()).await,
            Select::Newest(event_type) => {
                let event_type = key!("type", event_type);
                let read = move |rows: &Saved| {
                    let positions = rows.below::<Position>(&event_type, "")?.rev().take(limit);
                    positions.map(|row| at(rows, row?.1)).collect::<Result<_, BoxError>>().map(Page::found)
                };
                self.file.read("read the newest events", read).await
            }
            Select::RecordedAfter(time) => {
                let read = move |rows: &Saved| {
                    // Times decrease where the clock was wrong, so this reads the whole log. A larger store would keep an index.
                    let all = (1..=head_of(rows)?.0.get()).map(|position| at(rows, Position::new(position)));
                    let later = all.filter(|event| event.as_ref().map_or(true, |event| event.recorded_at > time));
                    later.take(limit).collect::<Result<_, BoxError>>().map(Page::found)
                };
                self.file.read("read by time", read).await
            }
            Select::Event(id) => {
                let read = move |rows: &Saved| {
                    let position = rows.get(&key!("id", id.to_string()))?.into_iter().take(limit);
                    position.map(|position| at(rows, position)).collect::<Result<_, BoxError>>().map(Page::found)
                };
                self.file.read("find an event", read).await
            }
        }
    }

    async fn head(&self) -> Result<Position> {
        self.file.read("read the head", |rows| Ok(head_of(rows)?.0)).await
    }

    async fn position_of(&self, token: Token) -> Result<Option<Position>> {
        // A commit's number is the position of its last event.
        let position = Position::new(token.commit().get());
        let written = position > Position::ZERO && position <= *self.head.borrow();
        let find = move |rows: &Saved| written.then(|| Ok(at(rows, position)?.event.id)).transpose();
        driver::token_at(token, position, self.file.read("find a commit's position", find).await?)
    }

    async fn registered_shapes(&self) -> Result<Vec<RegisteredShape>> {
        let list = |rows: &Saved| {
            let shapes = rows.below::<ShapeRow>("shape", "")?.map(|row| {
                let (name, version, codec, shape, first_seen, program) = row?.1;
                let codec = Codec::from_number(codec).ok_or("a newer release has registered a codec")?;
                Ok(RegisteredShape::new(name, version, codec, shape, first_seen, program))
            });
            shapes.collect()
        };
        self.file.read("list the registered shapes", list).await
    }

    async fn next_event_type(&self, after: Option<&EventType>) -> Result<Option<EventType>> {
        // Behind every row of that type: the byte 1 follows NUL, which separates the parts of a key.
        let after = after.map(|after| format!("{after}\x01")).unwrap_or_default();
        let find = move |rows: &Saved| {
            let row = rows.below::<Position>("type", &after)?.next().transpose()?;
            row.map(|(_, position)| Ok(at(rows, position)?.event.event_type)).transpose()
        };
        self.file.read("find an event type", find).await
    }

    fn watch_head(&self) -> watch::Receiver<Position> {
        self.head.subscribe()
    }
}

fn kept((version, event, fingerprint, state): SnapshotRow) -> Snapshot {
    Snapshot::new(version, event, fingerprint, state.into())
}

fn snapshot_of(stream: &StreamId) -> String {
    key!("snapshot", stream.aggregate_type(), stream.aggregate_id())
}

#[async_trait]
impl EventStore for RedbStore {
    async fn append(&self, append: Append) -> Result<Appended> {
        append.check(MAX_PAYLOAD_BYTES)?;
        self.commits.append(append).await
    }

    async fn find_by_key(&self, name: &IdempotencyKey) -> Result<Option<KeyedOutcome>> {
        let name = name.clone();
        self.file.read("look up an idempotency key", move |rows| rows.outcome(&name)).await
    }

    async fn holder(&self, scope: &ClaimScope, value: &ClaimValue) -> Result<Option<StreamId>> {
        self.file.get("look up a unique value", key!("claim", scope, value)).await
    }

    async fn save_snapshot(&self, stream: &StreamId, snapshot: Snapshot) -> Result<()> {
        let (place, versions) = (snapshot_of(stream), versions_of(stream));
        let save = move |tx: &mut redb::WriteTransaction| {
            let mut rows = rows(tx)?;
            let event_at = |version: Version| -> Result<Option<EventId>, BoxError> {
                let row = rows.get::<(Version, Position)>(&key!(versions, number(version.get())))?;
                row.map(|(_, position)| Ok(at(&rows, position)?.event.id)).transpose()
            };
            if driver::snapshot_replaces(&snapshot, rows.get(&place)?.map(kept).as_ref(), event_at)? {
                let Snapshot { version, event_id, fingerprint, state, .. } = snapshot;
                rows.put::<SnapshotRow>(&place, &(version, event_id, fingerprint, state.into()))?;
            }
            Ok(())
        };
        self.file.write("save a snapshot", save).await
    }

    async fn register_shapes(&self, shapes: &[RegisteredShape]) -> Result<()> {
        let shapes = shapes.to_vec();
        let register = move |tx: &mut redb::WriteTransaction| {
            let mut rows = rows(tx)?;
            for shape in shapes {
                let [version, codec] = [shape.version.into(), shape.codec.number().into()].map(number);
                let place = key!("shape", shape.event_type, version, codec, format!("{:02x?}", shape.digest()));
                if rows.get::<ShapeRow>(&place)?.is_none() {
                    let RegisteredShape { event_type, version, codec, shape, first_seen, program, .. } = shape;
                    let row = (event_type, version, codec.number(), shape, first_seen, program);
                    rows.put::<ShapeRow>(&place, &row)?;
                }
            }
            Ok(())
        };
        self.file.write("register shapes", register).await
    }

    async fn close(&self) -> Result<()> {
        self.commits.close().await;
        self.file.close().await;
        Ok(())
    }
}

/// `shape`, event type, version, codec, digest -> event type, version, codec, shape, time, program.
type ShapeRow = (EventType, u32, u8, String, DateTime<Utc>, String);
/// `relay`, name -> position and event, newest fence.
type RelayRow = (Mark, Fence);
/// `lease`, name -> fence, the holder and the end in microseconds. A lease without a holder is free.
type LeaseRow = (Fence, Option<(Uuid, i64)>);

fn lease_of(row: Option<LeaseRow>) -> Lease<i64> {
    let (fence, held) = row.unwrap_or_default();
    Lease::new(fence, held)
}

#[async_trait]
impl RelayStore for RedbStore {
    async fn mark(&self, relay: &str) -> Result<Mark> {
        driver::check_relay_name(relay)?;
        let row: Option<RelayRow> = self.file.get("read a relay's position", key!("relay", relay)).await?;
        Ok(row.unwrap_or_default().0)
    }

    async fn relay_statuses(&self, limit: usize) -> Result<Option<Vec<RelayStatus>>> {
        let list = move |rows: &Saved| {
            let leads = rows.below::<LeaseRow>("lease", "")?.map(|row| Ok(row?.0));
            let names = rows.below::<RelayRow>("relay", "")?.map(|row| Ok(row?.0)).chain(leads);
            let names = names.collect::<Result<BTreeSet<_>, BoxError>>()?.into_iter().take(limit);
            let status = |name: String| {
                let (mark, _) = rows.get::<RelayRow>(&key!("relay", name))?.unwrap_or_default();
                let (_, held) = rows.get::<LeaseRow>(&key!("lease", name))?.unwrap_or_default();
                let held = held.filter(|(_, end)| *end > Utc::now().timestamp_micros());
                let leader = match held {
                    Some((holder, end)) => Some((holder, from_micros(end)?)),
                    None => None,
                };
                Ok(RelayStatus::new(name, mark).with_leader(leader))
            };
            names.map(status).collect::<Result<_, BoxError>>().map(Some)
        };
        self.file.read("list the relays", list).await
    }

    async fn advance(&self, relay: &str, to: Mark, fence: Fence) -> Result<()> {
        driver::check_relay_name(relay)?;
        let (name, key) = (relay.to_owned(), key!("relay", relay));
        let advance = move |tx: &mut redb::WriteTransaction| {
            let mut rows = rows(tx)?;
            let (stored, newest) = rows.get::<RelayRow>(&key)?.unwrap_or_default();
            driver::check_fence(&name, fence, newest)?;
            let is_in_log = to.position <= head_of(&rows)?.0 && to.position > Position::ZERO;
            let found = if is_in_log { Some(at(&rows, to.position)?.event.id) } else { None };
            driver::check_mark(to, found)?;
            let to = if to.position > stored.position { to } else { stored };
            rows.put::<RelayRow>(&key, &(to, fence))?;
            Ok(())
        };
        self.file.write("move a relay's position", advance).await
    }

    async fn reset(&self, relay: &str, to: Mark) -> Result<()> {
        driver::check_relay_name(relay)?;
        // The lease ends first: the leader that takes it next has a fence that the second update does not exceed.
        let end = |row: Option<LeaseRow>| {
            let fence = row.map_or(Fence::ZERO, |(fence, _)| fence.next());
            Ok((row.map(|_| (fence, None)), fence))
        };
        let fence = self.file.update("end a lease", key!("lease", relay), end).await?;
        let reset = move |row: Option<RelayRow>| Ok((Some((to, fence.max(row.unwrap_or_default().1))), ()));
        self.file.update("reset a relay", key!("relay", relay), reset).await
    }

    async fn acquire_lease(&self, name: &str, holder: Uuid, length: Duration) -> Result<Option<Fence>> {
        driver::check_lease_name(name)?;
        let acquire = move |row: Option<LeaseRow>| {
            let (mut lease, now) = (lease_of(row), Utc::now());
            let end = now + length.min(driver::LONGEST_LEASE);
            let fence = lease.acquire(holder, now.timestamp_micros(), end.timestamp_micros());
            Ok((fence.map(|_| (lease.fence, lease.held)), fence))
        };
        self.file.update("acquire a lease", key!("lease", name), acquire).await
    }

    async fn release_lease(&self, name: &str, holder: Uuid) -> Result<()> {
        driver::check_lease_name(name)?;
        let release = move |row: Option<LeaseRow>| {
            let mut lease = lease_of(row);
            lease.release(holder);
            Ok((row.map(|_| (lease.fence, lease.held)), ()))
        };
        self.file.update("release a lease", key!("lease", name), release).await
    }
}
