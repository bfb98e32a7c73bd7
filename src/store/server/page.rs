//! Reads a page of the log from two range scans, of places and of events.

use std::time::Duration;

use async_trait::async_trait;

use crate::backoff::delays;
use crate::error::{ErrorKind, Result};
use crate::event::RecordedEvent;
use crate::id::Position;
use crate::store::log::query::{Filter, PAGE_BYTES, Page};
use crate::store::server::convert::{from_sql, position};
use crate::store::server::row::{Columns, EventBuilder};

/// A page of a filtered read scans at least this many events, because a narrow filter lets few of them pass.
const MIN_SCANNED_EVENTS: usize = 5_000;

/// The end of the log is read by one query if it has at most this many events.
const MAX_TAIL_EVENTS: u64 = 64;

/// The waits between looks while another session gives out positions: about half a minute in all. It takes a commit or two, but those of a disk
/// that stands still for a while.
pub(crate) fn looks() -> impl Iterator<Item = Duration> + Send {
    delays(Duration::from_millis(1), Duration::from_millis(16)).take(1_500)
}

/// A commit's place in the log.
pub(crate) struct Placed {
    first: u64,
    commit: i64,
    events: u64,
}

impl Placed {
    pub(crate) fn from_sql((first, commit, events): (i64, i64, i32)) -> Result<Self> {
        Ok(Self { first: from_sql(first, "position")?, commit, events: from_sql(events.into(), "count")? })
    }

    /// The position of its last event.
    fn end(&self) -> Position {
        Position::new(self.first + self.events - 1)
    }
}

/// Receives the commit (or its first position), the place in it and the columns of one event after the other.
pub(crate) type Rows<'v> = &'v mut (dyn for<'r> FnMut(i64, i32, Result<Columns<'r>, sqlx::Error>) -> Result<()> + Send);

/// A driver's two range scans, of places and of events.
#[async_trait]
pub(crate) trait Scans: Sync {
    /// The commits from the one that holds the next position to the one that holds `end`, or the log's last.
    async fn placed(&self, after: Position, end: Position) -> Result<Vec<Placed>>;

    /// The events of a range of commits that pass the filter, in any order.
    async fn events_between(&self, first: i64, last: i64, filter: &Filter, rows: Rows<'_>) -> Result<()>;

    /// The events between two positions, with the first position of their commit, in any order: one question instead of two, for a few.
    async fn tail(&self, after: Position, end: Position, rows: Rows<'_>) -> Result<()>;

    /// Gives positions to all commits that are visible now. Returns the last one; `None` where only others give them out.
    async fn sequence(&self) -> Result<Option<Position>>;
}

/// A page of the log, from the two scans.
pub(crate) async fn page(driver: &dyn Scans, after: Position, limit: usize, filter: &Filter) -> Result<Page> {
    if limit == 0 {
        return Ok(Page { events: Vec::new(), through: after });
    }
    let reach = after.plus(if filter.is_all() { limit } else { limit.max(MIN_SCANNED_EVENTS) } as u64);
    let mut placed = driver.placed(after, reach).await?;
    if placed.last().map_or(after, Placed::end) < reach {
        // This is the log's end: there may be commits without positions.
        match driver.sequence().await? {
            Some(end) if end == after => return Ok(Page { events: Vec::new(), through: after }),
            Some(end) if end > after && end.since(after) <= MAX_TAIL_EVENTS.min(limit as u64) => {
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
