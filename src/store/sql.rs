//! What the drivers for database servers share, whatever their SQL: how appends are gathered and tried again, and how rows become events.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::Bytes;
use chrono::{DateTime, SubsecRound, Utc};
use futures::FutureExt;
use uuid::Uuid;

use crate::codec::Codec;
use crate::error::{Error, ErrorKind, Result, chain};
use crate::event::{Metadata, NewEvent, RecordedEvent, StoredEvent};
use crate::id::{
    AggregateId, AggregateType, CommitId, EventId, EventType, ExpectedVersion, Position, StreamId, Version,
};
use crate::store::inline::{Inlines, wanted};
use crate::store::lease::LONGEST_LEASE;
use crate::store::{
    Append, Appended, EventReader, Filter, Inline, Outcome, PAGE_BYTES, Page, ProgressStore, Visitor, Work,
};

/// Attempts of a call that lost a race. Each loss means that another append went through.
const ATTEMPTS: usize = 20;

/// The longest wait between two attempts: a few of a fast disk's commits.
const LONGEST_DELAY: Duration = Duration::from_millis(50);

/// No further attempt begins after this time: those that fail by waiting for a lock are slow.
const PATIENCE: Duration = Duration::from_secs(30);

/// Events one page of a filtered read looks at, at least: with a narrow filter few of them come back.
const SCANNED: usize = 5_000;

/// Bits of a `CommitId` that say the place of an append's last event in its commit; the rest is the commit's number.
const ORDINAL_BITS: u32 = 24;

/// Why the database refused a round of appends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// An event's id is in the log.
    #[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "MySQL names the key only in a message's text"))]
    Duplicate,
    /// A unique key was taken by somebody faster, unless it is an event's id.
    Taken,
    /// Transactions stood in each other's way: a deadlock, or a lock that did not come free in time.
    Blocked,
    /// Something that no further attempt is likely to mend.
    Other,
}

/// What ended a round, with nothing written.
pub(super) enum Ended {
    /// The server did.
    Server(sqlx::Error),
    /// A projection that runs inline did.
    Inline(Error),
}

impl From<sqlx::Error> for Ended {
    fn from(error: sqlx::Error) -> Self {
        Self::Server(error)
    }
}

/// A driver's commit of appends that share no stream, no key and no claimed value.
#[async_trait]
pub(super) trait Rounds: Send + Sync {
    async fn append_round(&self, round: &[&Append]) -> Result<Vec<Result<Appended>>, Ended>;

    /// One of these ids that is in the log already.
    async fn known_id(&self, ids: &[Uuid]) -> Result<Option<Uuid>, sqlx::Error>;

    fn refusal(&self, error: &sqlx::Error) -> Refusal;

    /// `attempt` completes "cannot ..".
    fn classify(&self, error: sqlx::Error, attempt: &str) -> Error;
}

/// Commits a batch in as few rounds as its streams, keys and claims allow; one outcome each, in order.
pub(super) async fn append_batch(driver: &dyn Rounds, batch: &[Append]) -> Vec<Result<Appended>> {
    let mut results: Vec<Option<Result<Appended>>> = vec![None; batch.len()];
    let mut waiting: Vec<usize> = (0..batch.len()).collect();
    while !waiting.is_empty() {
        let (round, later) = split_round(batch, &waiting);
        let appends: Vec<&Append> = round.iter().map(|&place| &batch[place]).collect();
        for (place, result) in round.into_iter().zip(append_round(driver, &appends).await) {
            results[place] = Some(result);
        }
        waiting = later;
    }
    let unanswered = || Err(Error::new(ErrorKind::Transient("learn the outcome of an append".into())));
    results.into_iter().map(|result| result.unwrap_or_else(unanswered)).collect()
}

/// The appends that share no stream, no key and no claimed value with one before them, and the rest for the next round.
fn split_round(batch: &[Append], waiting: &[usize]) -> (Vec<usize>, Vec<usize>) {
    let (mut streams, mut keys, mut values) = (HashSet::new(), HashSet::new(), HashSet::new());
    waiting.iter().partition(|&&place| {
        let append = &batch[place];
        // Also where it has to wait, what it names is taken: appends to one stream keep their order.
        let streams_free = append.stream_ids().filter(|stream| !streams.insert(*stream)).count() == 0;
        let key_free = append.key().is_none_or(|key| keys.insert(key));
        let claims = append.streams().iter().flat_map(|part| &part.claims).map(|claim| (claim.scope(), claim.value()));
        let claims: HashSet<_> = claims.collect();
        let values_free = claims.into_iter().filter(|value| !values.insert(*value)).count() == 0;
        streams_free && key_free && values_free
    })
}

/// Tries a round. A lost race is run again, and seen as the conflict it is then; what keeps failing is taken apart, so that only the
/// append at fault fails.
async fn append_round(driver: &dyn Rounds, round: &[&Append]) -> Vec<Result<Appended>> {
    let began = Instant::now();
    let mut error = None;
    for (attempt, delay) in delays().enumerate() {
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let failed = match driver.append_round(round).await {
            Ok(results) => return results,
            Err(Ended::Server(failed)) => failed,
            Err(Ended::Inline(failed)) => match inlines_refusal(driver, &failed) {
                Refusal::Blocked => {
                    error = Some(Error::with_source(ErrorKind::Transient("append".into()), failed));
                    continue;
                }
                _ if round.len() == 1 || failed.is_transient() => return vec![Err(failed); round.len()],
                _ => break,
            },
        };
        match driver.refusal(&failed) {
            Refusal::Other => return vec![Err(driver.classify(failed, "append")); round.len()],
            Refusal::Duplicate if round.len() == 1 => return vec![Err(duplicate(driver, round[0], failed).await)],
            Refusal::Duplicate => break,
            Refusal::Blocked => error = Some(driver.classify(failed, "append")),
            Refusal::Taken if round.len() > 1 && attempt >= 2 => break,
            // A conflict would have been seen by now.
            Refusal::Taken if round.len() == 1 && attempt > 0 => match duplicate(driver, round[0], failed).await {
                found if matches!(found.kind(), ErrorKind::DuplicateEvent(_)) => return vec![Err(found)],
                _ => error = Some(lost()),
            },
            Refusal::Taken => error = Some(lost()),
        }
        if began.elapsed() > PATIENCE {
            break;
        }
    }
    if round.len() == 1 {
        return vec![Err(error.unwrap_or_else(lost))];
    }
    let mut results = Vec::with_capacity(round.len());
    for append in round {
        results.extend(Box::pin(append_round(driver, std::slice::from_ref(append))).await);
    }
    results
}

/// Why the server refused what an inline projection did, as far as it was the server.
fn inlines_refusal(driver: &dyn Rounds, error: &Error) -> Refusal {
    let beneath = chain(error).find_map(|cause| cause.downcast_ref::<sqlx::Error>());
    beneath.map_or(Refusal::Other, |beneath| driver.refusal(beneath))
}

/// The events that a round has written. They have no positions yet, and their time is about that of the commit.
pub(super) fn written(round: &[&Append], results: &[Result<Appended>]) -> Vec<RecordedEvent> {
    let recorded_at = Utc::now().trunc_subsecs(6);
    let mut written = Vec::new();
    for (append, appended) in round.iter().zip(results) {
        let Ok(Appended { versions, outcome: Outcome::Written, .. }) = appended else { continue };
        for (part, last) in append.streams().iter().zip(versions) {
            let first = last.get() - part.events.len() as u64 + 1;
            written.extend(part.events.iter().zip(first..).map(|(event, version)| RecordedEvent {
                position: Position::ZERO,
                stream: part.stream.clone(),
                version: Version::new(version),
                recorded_at,
                event: event.clone(),
            }));
        }
    }
    written
}

/// Applies a round's events in its own transaction.
pub(super) async fn apply_inline<Tx: Send + 'static>(
    inlines: &Inlines<Tx>,
    tx: &mut Tx,
    round: &[&Append],
    results: &[Result<Appended>],
) -> Result<()> {
    if inlines.is_empty() {
        return Ok(());
    }
    let written = written(round, results);
    for inline in inlines.iter() {
        let wanted = wanted(inline.filter(), &written);
        if !wanted.is_empty() {
            inline.apply(tx, wanted).await?;
        }
    }
    Ok(())
}

/// Where the checkpoint of an inline projection is: beyond all positions, since whatever is in the log is applied.
const INLINE: Position = Position::new(i64::MAX.unsigned_abs());

/// Sets an inline projection up. From then on no worker runs it.
pub(super) async fn begin_inline<M: ProgressStore>(
    models: &M,
    log: &impl EventReader,
    inline: Arc<dyn Inline<M::Tx>>,
) -> Result<()> {
    let projection = inline.projection().clone();
    let refused = |problem: String| ErrorKind::Invalid(format!("projection {projection} {problem}")).into();
    let checkpoint = models.checkpoint(&projection).await?;
    if checkpoint != INLINE {
        let head = log.head().await?;
        if checkpoint != head {
            return Err(refused(format!(
                "is at position {checkpoint}, and the log ends at {head}: it cannot go on inline"
            )));
        }
        if !models.parking(&projection).await?.parked.is_empty() {
            return Err(refused("has parked aggregates: it cannot go on inline".into()));
        }
    }
    // Order per aggregate: views lock their rows then.
    let work: Work<M::Tx> = Box::new(move |tx| async move { inline.set_up(tx).await }.boxed());
    models.begin(&projection, work).await?;
    models.sweep(&projection, INLINE).await.map(drop)
}

/// The wait before each attempt. None before the second: whoever was faster is in the log already. Then longer and longer ones, each
/// with an accident in it, so that two who met part.
fn delays() -> impl Iterator<Item = Duration> + Send {
    let longer = ExponentialBuilder::new().with_min_delay(Duration::from_millis(1)).with_max_delay(LONGEST_DELAY);
    [Duration::ZERO; 2].into_iter().chain(longer.with_max_times(ATTEMPTS - 2).with_jitter().build())
}

/// Which of the append's events is in the log already, or what the database said.
pub(super) async fn duplicate(driver: &dyn Rounds, append: &Append, failed: sqlx::Error) -> Error {
    let ids = event_ids(append);
    let known = match twice(&ids) {
        Some(twice) => Ok(Some(twice)),
        None => driver.known_id(&ids).await,
    };
    match known {
        Ok(Some(id)) => Error::with_source(ErrorKind::DuplicateEvent(EventId::from(id)), failed),
        Ok(None) => driver.classify(failed, "append"),
        Err(error) => driver.classify(error, "append"),
    }
}

pub(super) fn event_ids(append: &Append) -> Vec<Uuid> {
    append.streams().iter().flat_map(|part| &part.events).map(|event| *event.id.as_uuid()).collect()
}

/// An id that stands there twice.
pub(super) fn twice(ids: &[Uuid]) -> Option<Uuid> {
    let mut seen = HashSet::new();
    ids.iter().copied().find(|id| !seen.insert(*id))
}

pub(super) fn lost() -> Error {
    Error::new(ErrorKind::Transient("append: others were faster each time".into()))
}

/// Another transaction has written the next version since a caller's own took its snapshot, so the version found there is at least one
/// more than the one expected. Of several streams it might be any.
pub(super) fn lost_race(append: &Append, error: sqlx::Error) -> Error {
    let [part] = append.streams() else { return lost() };
    let (stream, expected) = (part.stream.clone(), part.expected);
    let version = match expected {
        ExpectedVersion::NoStream => Version::ZERO,
        ExpectedVersion::Exact(version) => version,
        ExpectedVersion::Any | ExpectedVersion::Exists => return lost(),
    };
    Error::with_source(ErrorKind::Conflict { stream, expected, actual: version.next() }, error)
}

/// A commit's number and the place of an append's last event in it.
pub(super) fn commit_id(number: i64, ordinal: i32) -> CommitId {
    CommitId::new(number.unsigned_abs() << ORDINAL_BITS | u64::from(ordinal.unsigned_abs()))
}

/// The commit's number, and the place of the append's last event in it.
pub(super) fn split_commit_id(commit: CommitId) -> (i64, i64) {
    let (number, ordinal) = (commit.get() >> ORDINAL_BITS, commit.get() & ((1 << ORDINAL_BITS) - 1));
    (to_sql(number), to_sql(ordinal))
}

/// The waits between looks while another session gives out positions: about half a minute in all. It takes a commit or two, but those of a disk
/// that stands still for a while.
pub(super) fn looks() -> impl Iterator<Item = Duration> + Send {
    let longer =
        ExponentialBuilder::new().with_min_delay(Duration::from_millis(1)).with_max_delay(Duration::from_millis(16));
    longer.with_max_times(1_500).with_jitter().build()
}

/// A commit's place in the log.
pub(super) struct Placed {
    first: u64,
    commit: i64,
    events: u64,
}

impl Placed {
    pub(super) fn from_sql((first, commit, events): (i64, i64, i32)) -> Result<Self> {
        Ok(Self { first: from_sql(first, "position")?, commit, events: from_sql(events.into(), "count")? })
    }

    /// The position of its last event.
    fn end(&self) -> Position {
        Position::new(self.first + self.events - 1)
    }
}

/// Receives the commit (or its first position), the place in it and the columns of one event after the other.
pub(super) type Rows<'v> = &'v mut (dyn for<'r> FnMut(i64, i32, Result<Columns<'r>, sqlx::Error>) -> Result<()> + Send);

/// A driver's two range scans, of places and of events.
#[async_trait]
pub(super) trait Scans: Sync {
    /// The commits from the one that holds the next position to the one that holds `end`, or the log's last.
    async fn placed(&self, after: Position, end: Position) -> Result<Vec<Placed>>;

    /// The events of a range of commits that pass the filter, in any order.
    async fn events_between(&self, first: i64, last: i64, filter: &Filter, rows: Rows<'_>) -> Result<()>;

    /// The events between two positions, with the first position of their commit, in any order: one question instead of two, for a few.
    async fn tail(&self, after: Position, end: Position, rows: Rows<'_>) -> Result<()>;

    /// Gives positions to all commits that are visible now. Returns the last one; `None` where only others give them out.
    async fn sequence(&self) -> Result<Option<Position>>;
}

/// So many events are a few.
const TAIL: u64 = 64;

/// A page of the log, from the two scans.
pub(super) async fn page(driver: &dyn Scans, after: Position, limit: usize, filter: &Filter) -> Result<Page> {
    if limit == 0 {
        return Ok(Page { events: Vec::new(), through: after });
    }
    let reach = after.plus(if filter.is_all() { limit } else { limit.max(SCANNED) } as u64);
    let mut placed = driver.placed(after, reach).await?;
    if placed.last().map_or(after, Placed::end) < reach {
        // This is the log's end: there may be commits without positions.
        match driver.sequence().await? {
            Some(end) if end == after => return Ok(Page { events: Vec::new(), through: after }),
            Some(end) if end > after && end.since(after) <= TAIL.min(limit as u64) => {
                return tail(driver, after, end, limit, filter).await;
            }
            _ => placed = driver.placed(after, reach).await?,
        }
    }
    let (Some(first), Some(last)) = (placed.first(), placed.last()) else {
        return Ok(Page { events: Vec::new(), through: after });
    };
    let end = last.end();
    if first.first > after.get() + 1 {
        return Err(ErrorKind::Corrupt(format!("no commit at position {}", after.next())).into());
    }
    let mut events = first_of(driver, &placed, after, limit, filter).await?;
    events.truncate(limit);
    whole(Page::of(events, limit, end), after, filter)
}

/// The events that came since the last look, where they are few: a joined read is dearer for each, and sooner done.
async fn tail(driver: &dyn Scans, after: Position, end: Position, limit: usize, filter: &Filter) -> Result<Page> {
    let (mut earliest, mut builder) = (Earliest::default(), EventBuilder::default());
    let mut take = |first: i64, ordinal: i32, columns: Result<Columns<'_>, sqlx::Error>| {
        let event = builder.build(from_sql(first, "position")?, ordinal, columns)?;
        if event.position > after && filter.passes(&event) {
            earliest.push(event);
        }
        Ok(())
    };
    driver.tail(after, end, &mut take).await?;
    whole(Page::of(earliest.into_sorted(), limit, end), after, filter)
}

/// Refuses a page with holes.
fn whole(page: Page, after: Position, filter: &Filter) -> Result<Page> {
    if filter.is_all() && page.events.len() as u64 != page.through.since(after) {
        let through = page.through;
        return Err(ErrorKind::Corrupt(format!("events are missing between positions {after} and {through}")).into());
    }
    Ok(page)
}

/// At least the first `limit` events, or a page's bytes of them. Reads as much of the log as would hold them if all passed the filter, and
/// goes on as far as the share of those that did suggests.
async fn first_of(
    driver: &dyn Scans,
    placed: &[Placed],
    after: Position,
    limit: usize,
    filter: &Filter,
) -> Result<Vec<RecordedEvent>> {
    let mut earliest = Earliest::default();
    let (mut rest, mut looked, mut reach) = (placed, after, limit as u64);
    while !rest.is_empty() && !earliest.is_full(limit) {
        let to = looked.get().saturating_add(reach);
        let (next, later) = rest.split_at(rest.partition_point(|placed| placed.first <= to).max(1));
        events_of(driver, next, after, filter, &mut earliest).await?;
        looked = next.last().map_or(looked, Placed::end);
        let (wanted, found) = ((limit as u64).saturating_sub(earliest.len()), earliest.len());
        // A quarter more, since one more look costs more than a few events too many.
        reach =
            looked.since(after).saturating_mul(wanted).checked_div(found).map_or(u64::MAX, |reach| reach / 4 * 5 + 1);
        rest = later;
    }
    Ok(earliest.into_sorted())
}

/// The events of commits that stand together in the log stand almost together by commit number, too: one range holds them all, and the
/// few others in it are passed over.
async fn events_of(
    driver: &dyn Scans,
    placed: &[Placed],
    after: Position,
    filter: &Filter,
    earliest: &mut Earliest,
) -> Result<()> {
    let mut commits = Commits::of(placed);
    let Some((first, last)) = commits.range() else { return Ok(()) };
    let mut builder = EventBuilder::default();
    let mut take = |commit: i64, ordinal: i32, columns: Result<Columns<'_>, sqlx::Error>| {
        if let Some(first) = commits.first_position(commit)
            && position(first, ordinal) > after
        {
            earliest.push(builder.build(first, ordinal, columns)?);
        }
        Ok(())
    };
    driver.events_between(first, last, filter, &mut take).await
}

/// The numbers of commits, in order, and where each begins in the log.
struct Commits {
    sorted: Vec<(i64, u64)>,
    /// The one that was asked for last. Events come in about this order, so the next one is near.
    at: usize,
}

impl Commits {
    fn of(placed: &[Placed]) -> Self {
        let mut sorted: Vec<_> = placed.iter().map(|placed| (placed.commit, placed.first)).collect();
        sorted.sort_unstable();
        Self { sorted, at: 0 }
    }

    fn range(&self) -> Option<(i64, i64)> {
        Some((self.sorted.first()?.0, self.sorted.last()?.0))
    }

    fn first_position(&mut self, commit: i64) -> Option<u64> {
        let near = (self.at..).take(2).find(|&place| self.sorted.get(place).is_some_and(|(known, _)| *known == commit));
        self.at = near.or_else(|| self.sorted.binary_search_by_key(&commit, |(known, _)| *known).ok())?;
        Some(self.sorted[self.at].1)
    }
}

/// Of the events it is given, in any order, the first in the log: as many as fill a page. Never holds more than two pages and an event.
#[derive(Default)]
struct Earliest {
    events: Vec<RecordedEvent>,
    bytes: usize,
}

impl Earliest {
    fn push(&mut self, event: RecordedEvent) {
        self.bytes += event.payload_bytes();
        self.events.push(event);
        if self.bytes >= 2 * PAGE_BYTES {
            self.cut();
        }
    }

    fn len(&self) -> u64 {
        self.events.len() as u64
    }

    /// Whether what comes later in the log would be in vain.
    fn is_full(&self, limit: usize) -> bool {
        self.events.len() >= limit || self.bytes >= PAGE_BYTES
    }

    fn cut(&mut self) {
        self.events.sort_unstable_by_key(|event| event.position);
        self.bytes = 0;
        let last = self.events.iter().position(|event| {
            self.bytes += event.payload_bytes();
            self.bytes >= PAGE_BYTES
        });
        self.events.truncate(last.map_or(usize::MAX, |last| last + 1));
    }

    fn into_sorted(mut self) -> Vec<RecordedEvent> {
        self.cut();
        self.events
    }
}

/// Where the event at a place of the commit that begins at position `first` stands.
fn position(first: u64, ordinal: i32) -> Position {
    Position::new((first + u64::from(ordinal.unsigned_abs())).saturating_sub(1))
}

/// The columns of an event as they are stored.
pub(super) struct Columns<'r> {
    pub(super) event_id: Uuid,
    pub(super) aggregate_type: &'r str,
    pub(super) aggregate_id: &'r str,
    pub(super) version: i64,
    pub(super) event_type: &'r str,
    pub(super) schema_version: i64,
    pub(super) codec: i16,
    pub(super) recorded_at: DateTime<Utc>,
    pub(super) correlation_id: Option<Uuid>,
    pub(super) causation_id: Option<Uuid>,
    pub(super) metadata: Option<&'r str>,
    pub(super) payload: &'r [u8],
}

/// Builds whole events; their types share one allocation each.
#[derive(Default)]
pub(super) struct EventBuilder {
    aggregate_types: Vec<AggregateType>,
    event_types: Vec<EventType>,
}

impl EventBuilder {
    /// The event at a place of the commit that begins at position `first`. What is wrong with it is reported with its position.
    pub(super) fn build(
        &mut self,
        first: u64,
        ordinal: i32,
        columns: Result<Columns<'_>, sqlx::Error>,
    ) -> Result<RecordedEvent> {
        let position = position(first, ordinal);
        let damaged = |error| Error::with_source(ErrorKind::Corrupt(format!("position {position}")), error);
        self.parse(position, &columns.map_err(damaged)?)
            .map_err(|problem| ErrorKind::Corrupt(format!("position {position}: {problem}")).into())
    }

    fn parse(&mut self, position: Position, columns: &Columns<'_>) -> Result<RecordedEvent, String> {
        let aggregate_type = known(&mut self.aggregate_types, columns.aggregate_type, AggregateType::as_str)?;
        let aggregate_id = AggregateId::new(columns.aggregate_id).map_err(|error| error.to_string())?;
        let (correlation, causation) = (columns.correlation_id.map(Into::into), columns.causation_id.map(Into::into));
        let metadata = Metadata::from_parts(correlation, causation, columns.metadata)
            .map_err(|error| format!("metadata: {error}"))?;
        let version = u64::try_from(columns.version).map_err(|_| format!("negative version {}", columns.version))?;
        Ok(RecordedEvent {
            position,
            stream: StreamId::new(aggregate_type, aggregate_id),
            version: Version::new(version),
            recorded_at: columns.recorded_at,
            event: NewEvent {
                id: columns.event_id.into(),
                event_type: known(&mut self.event_types, columns.event_type, EventType::as_str)?,
                schema_version: schema_version(columns.schema_version)?,
                codec: codec(columns.codec)?,
                payload: Bytes::copy_from_slice(columns.payload),
                metadata,
            },
        })
    }
}

/// A log has few kinds of things: the same text is the same allocation.
fn known<'t, T>(known: &mut Vec<T>, text: &'t str, as_str: fn(&T) -> &str) -> Result<T, String>
where
    T: Clone + TryFrom<&'t str, Error: std::fmt::Display>,
{
    if let Some(name) = known.iter().find(|name| as_str(name) == text) {
        return Ok(name.clone());
    }
    let name = T::try_from(text).map_err(|error| error.to_string())?;
    known.push(name.clone());
    Ok(name)
}

/// What a replay needs of an event.
pub(super) struct Replayed<'r> {
    pub(super) version: i64,
    pub(super) event_type: &'r str,
    pub(super) schema_version: i64,
    pub(super) codec: i16,
    pub(super) payload: &'r [u8],
}

/// Hands one stream's rows to a visitor, and sees to it that none is missing.
pub(super) struct Visit<'v> {
    pub(super) stream: &'v StreamId,
    visitor: &'v mut dyn Visitor,
    due: Option<Version>,
}

impl<'v> Visit<'v> {
    pub(super) fn new(stream: &'v StreamId, visitor: &'v mut dyn Visitor) -> Self {
        Self { stream, visitor, due: None }
    }

    pub(super) fn snapshot(&mut self, version: i64, state: &[u8]) -> Result<()> {
        let version = Version::new(from_sql(version, "version")?);
        self.due = Some(version.next());
        self.visitor.snapshot(version, state)
    }

    pub(super) fn event(&mut self, row: &Replayed<'_>) -> Result<()> {
        let stream = self.stream;
        let version = Version::new(from_sql(row.version, "version")?);
        if self.due.is_some_and(|due| due != version) {
            return Err(ErrorKind::Corrupt(format!("{stream}: version {version} is out of line")).into());
        }
        self.due = Some(version.next());
        let damaged = |problem| Error::new(ErrorKind::Corrupt(format!("{stream} version {version}: {problem}")));
        let codec = codec(row.codec).map_err(damaged)?;
        let schema_version = schema_version(row.schema_version).map_err(damaged)?;
        let (event_type, payload) = (row.event_type, row.payload);
        self.visitor.event(version, StoredEvent { event_type, schema_version, codec, payload })
    }

    /// A row whose columns are not ours.
    pub(super) fn damaged(&self, error: sqlx::Error) -> Error {
        Error::with_source(ErrorKind::Corrupt(format!("a row of {}", self.stream)), error)
    }
}

fn codec(number: i16) -> Result<Codec, String> {
    let known = u8::try_from(number).ok().and_then(Codec::from_number);
    known.ok_or_else(|| format!("unknown codec {number}"))
}

fn schema_version(number: i64) -> Result<u32, String> {
    u32::try_from(number).map_err(|_| format!("schema version {number}"))
}

/// What a projection's work returned. Where the first error of the database's in its chain says that the database is the trouble, the
/// projection is not to blame.
pub(super) fn classify_work(error: Error, kind: fn(&sqlx::Error, &str) -> ErrorKind) -> Error {
    let beneath = chain(&error).find_map(|cause| cause.downcast_ref::<sqlx::Error>());
    match beneath.map(|beneath| kind(beneath, "apply events")) {
        Some(kind @ (ErrorKind::Transient(_) | ErrorKind::Full | ErrorKind::ReadOnly)) => {
            Error::with_source(kind, error)
        }
        _ => error,
    }
}

/// How many things one append brings: `Append` fits into memory, so its counts fit.
pub(super) fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// A count as the server's signed integer. No log gets longer than that, so a larger number only ever asks for "all".
pub(super) fn to_sql(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A limit likewise.
pub(super) fn limit_to_sql(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// The length of a lease, in microseconds.
pub(super) fn micros_to_sql(length: Duration) -> i64 {
    i64::try_from(length.min(LONGEST_LEASE).as_micros()).unwrap_or(i64::MAX)
}

/// A stored count.
pub(super) fn from_sql(number: i64, what: &str) -> Result<u64> {
    u64::try_from(number).map_err(|_| ErrorKind::Corrupt(format!("negative {what} {number}")).into())
}
