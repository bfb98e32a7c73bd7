//! Reads a page of the log with two range scans: one of the commits and their positions, one of the events.

use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use crate::backoff::delays;
use crate::error::{ErrorKind, Result};
use crate::event::RecordedEvent;
use crate::id::mark::Mark;
use crate::id::{EventId, Position};
use crate::store::log::mark::check_mark;
use crate::store::log::query::{Filter, PAGE_BYTES, Page};
use crate::store::server::convert::{from_sql, position};
use crate::store::server::row::{Columns, EventBuilder};

/// A filtered read scans at least this many events per page, because a narrow filter lets few of them pass.
const MIN_SCANNED_EVENTS: usize = 5_000;

/// One query reads the new events at the end of the log if there are at most this many.
const MAX_TAIL_EVENTS: u64 = 64;

/// Returns the delays between checks while another session assigns positions, about half a minute in total. Assigning takes only one or
/// two commits, but a commit is slow while the disk stalls.
pub(crate) fn looks() -> impl Iterator<Item = Duration> + Send {
    delays(Duration::from_millis(1), Duration::from_millis(16)).take(1_500)
}

/// A commit and its positions in the log.
pub(crate) struct Placed {
    first: u64,
    commit: i64,
    events: u64,
}

/// A row of a scan of the commits: first position, commit, number of events, and in the first row the id of the event before the page.
pub(crate) type PlacedRow = (i64, i64, i32, Option<Uuid>);

/// The commits of a page, and the event before it.
pub(crate) struct Scan {
    placed: Vec<Placed>,
    before: Option<EventId>,
}

impl Scan {
    /// Creates the scan for a page after `after` from the commits, starting with the one that holds `after`.
    pub(crate) fn of(rows: Vec<PlacedRow>, after: Position) -> Result<Self> {
        let before = rows.first().and_then(|row| row.3).map(EventId::from);
        let placed =
            rows.into_iter().map(Placed::from_sql).filter(|row| !row.as_ref().is_ok_and(|row| row.end() <= after));
        Ok(Self { placed: placed.collect::<Result<_>>()?, before })
    }
}

impl Placed {
    fn from_sql((first, commit, events, _): PlacedRow) -> Result<Self> {
        Ok(Self { first: from_sql(first, "position")?, commit, events: from_sql(events.into(), "count")? })
    }

    /// Returns the position of the last event.
    fn end(&self) -> Position {
        Position::new(self.first + self.events - 1)
    }
}

/// Receives the events one by one: the commit (or its first position), the ordinal in the commit, and the columns.
pub(crate) type Rows<'v> = &'v mut (dyn for<'r> FnMut(i64, i32, Result<Columns<'r>, sqlx::Error>) -> Result<()> + Send);

/// The queries of a driver that [`page`] reads with.
#[async_trait]
pub(crate) trait Scans: Sync {
    /// Returns the commits from the one that holds the position after `after` to the one that holds `end`, or to the last one of the log, and
    /// in the same snapshot the event at `after`.
    async fn placed(&self, after: Position, end: Position) -> Result<Scan>;

    /// Returns the id of the event with the number `ordinal` in `commit`.
    async fn event_id(&self, commit: i64, ordinal: u64) -> Result<Option<EventId>>;

    /// Returns whether this session may not write, as on a replica, which may lag behind.
    async fn is_read_only(&self) -> Result<bool>;

    /// Passes to `rows` the events of the commits `first` to `last` that pass the filter, in any order.
    async fn events_between(&self, first: i64, last: i64, filter: &Filter, rows: Rows<'_>) -> Result<()>;

    /// Passes to `rows` the events after `after` up to `end`, with the first position of their commit, in any order. For a few events, this
    /// one query replaces the two scans.
    async fn tail(&self, after: Position, end: Position, rows: Rows<'_>) -> Result<()>;

    /// Assigns positions to all commits that are visible now. Returns the last position, or `None` if this session cannot assign positions.
    async fn sequence(&self) -> Result<Option<Position>>;
}

/// Reads a page of the log.
pub(crate) async fn page(driver: &dyn Scans, mark: Mark, limit: usize, filter: &Filter) -> Result<Page> {
    let nothing = || Ok(Page::new(Vec::new(), mark));
    let after = mark.position;
    if limit == 0 {
        return nothing();
    }
    let reach = after.plus(if filter.is_all() { limit } else { limit.max(MIN_SCANNED_EVENTS) } as u64);
    let mut scan = driver.placed(after, reach).await?;
    if scan.placed.last().map_or(after, Placed::end) < reach {
        // The page reaches the end of the log, where commits may have no positions yet.
        let end = driver.sequence().await?;
        let is_known = check_mark(mark, scan.before).is_ok();
        match end {
            Some(end) if is_known && end == after => return nothing(),
            Some(end) if is_known && end > after && end.since(after) <= MAX_TAIL_EVENTS.min(limit as u64) => {
                return tail(driver, after, end, limit, filter).await;
            }
            _ => scan = driver.placed(after, reach).await?,
        }
        if mark.event_id.is_some() && scan.before.is_none() && driver.is_read_only().await? {
            return Err(ErrorKind::Transient(format!("read after {mark}: the replica has not reached it")).into());
        }
    }
    check_mark(mark, scan.before)?;
    let placed = scan.placed;
    let (Some(first), Some(last)) = (placed.first(), placed.last()) else { return nothing() };
    let end = last.end();
    if first.first > after.get() + 1 {
        return Err(ErrorKind::Corrupt(format!("no commit at position {}", after.next())).into());
    }
    let mut events = read_first(driver, &placed, after, limit, filter).await?;
    events.truncate(limit);
    let mut page = check_complete(Page::of(events, limit, end), after, filter)?;
    if page.through_id.is_none() {
        page.through_id = driver.event_id(last.commit, last.events).await?;
    }
    Ok(page)
}

/// Reads a few new events at the end of the log. The join costs more per event than the two scans, but it saves a round trip.
async fn tail(driver: &dyn Scans, after: Position, end: Position, limit: usize, filter: &Filter) -> Result<Page> {
    let (mut earliest, mut builder, mut last) = (Earliest::default(), EventBuilder::default(), Mark::from(end));
    let mut take = |first: i64, ordinal: i32, columns: Result<Columns<'_>, sqlx::Error>| {
        let event = builder.build(from_sql(first, "position")?, ordinal, columns)?;
        if event.position == end {
            last = event.mark();
        }
        if event.position > after && filter.passes(&event) {
            earliest.push(event);
        }
        Ok(())
    };
    driver.tail(after, end, &mut take).await?;
    check_complete(Page::of(earliest.into_sorted(), limit, last), after, filter)
}

/// Returns `page`, or an error if events are missing in it.
fn check_complete(page: Page, after: Position, filter: &Filter) -> Result<Page> {
    if filter.is_all() && page.events.len() as u64 != page.through.since(after) {
        let through = page.through;
        return Err(ErrorKind::Corrupt(format!("events are missing between positions {after} and {through}")).into());
    }
    Ok(page)
}

/// Reads at least the first `limit` events that pass the filter, or [`PAGE_BYTES`] of them, if there are that many. The first scan is long
/// enough if every event passes. The length of each further scan follows from the share of events that passed before.
async fn read_first(
    driver: &dyn Scans,
    placed: &[Placed],
    after: Position,
    limit: usize,
    filter: &Filter,
) -> Result<Vec<RecordedEvent>> {
    let mut earliest = Earliest::default();
    let (mut rest, mut examined, mut reach) = (placed, after, limit as u64);
    while !rest.is_empty() && !earliest.is_full(limit) {
        let to = examined.get().saturating_add(reach);
        let (next, later) = rest.split_at(rest.partition_point(|placed| placed.first <= to).max(1));
        read_events(driver, next, after, filter, &mut earliest).await?;
        examined = next.last().map_or(examined, Placed::end);
        let (wanted, found) = ((limit as u64).saturating_sub(earliest.len()), earliest.len());
        // Scan a quarter more than estimated, because another scan costs more than a few extra events.
        reach =
            examined.since(after).saturating_mul(wanted).checked_div(found).map_or(u64::MAX, |reach| reach / 4 * 5 + 1);
        rest = later;
    }
    Ok(earliest.into_sorted())
}

/// Reads the events of the commits `placed`. Commits that are adjacent in the log have almost adjacent numbers, so one range of numbers covers
/// them all. The few other commits in the range are skipped.
async fn read_events(
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

/// The numbers of commits in ascending order, each with its first position.
struct Commits {
    sorted: Vec<(i64, u64)>,
    /// The index of the last commit that was looked up. Events arrive in roughly this order, so the next commit is near.
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

/// Collects events in any order and keeps the earliest of them, enough to fill a page. It never holds more than two pages and one event.
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

    /// Returns whether the page is full, so that later events are not needed.
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
