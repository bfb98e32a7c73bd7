//! The events of one request, as a tree of causes.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::Result;
use crate::event::RecordedEvent;
use crate::id::{CorrelationId, EventId, Position};
use crate::operate::stream::MAX_ROWS;
use crate::operate::why::{EventRef, Located};
use crate::store::log::reader::{EventReader, EventReaderExt};

/// The number of events that are read at a time. Their payloads are dropped before the next ones are read.
const CHUNK: usize = 50;

/// A request that an operator asks about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainRef {
    /// The correlation id of the request, or the id of one of its events. If it is both, the event decides.
    Id(Uuid),
    /// The position of one of its events.
    Position(Position),
}

impl From<CorrelationId> for ChainRef {
    fn from(id: CorrelationId) -> Self {
        Self::Id(*id.as_uuid())
    }
}

impl From<EventId> for ChainRef {
    fn from(id: EventId) -> Self {
        Self::Id(*id.as_uuid())
    }
}

impl From<Position> for ChainRef {
    fn from(position: Position) -> Self {
        Self::Position(position)
    }
}

impl From<EventRef> for ChainRef {
    fn from(event: EventRef) -> Self {
        match event {
            EventRef::Id(id) => id.into(),
            EventRef::Position(position) => position.into(),
        }
    }
}

impl ChainRef {
    /// Returns the correlation id; `None` for a position without an event.
    async fn find(self, log: &(impl EventReader + ?Sized)) -> Result<Option<CorrelationId>> {
        let (found, otherwise) = match self {
            Self::Id(id) => (log.event(id.into()).await?, Some(id.into())),
            Self::Position(position) => (log.event_at(position).await?, None),
        };
        Ok(found.map(|event| event.event.metadata.chain(event.event.id)).or(otherwise))
    }
}

/// The events of one request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Chain {
    /// The id that the events share. It is the id of the first event, unless the program has given another one to the request.
    pub correlation_id: CorrelationId,
    /// The first events, in log order.
    pub events: Vec<Link>,
    /// Whether there are more events.
    pub truncated: bool,
}

/// An event of a request, and its place in the tree of causes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Link {
    /// The event.
    #[serde(flatten)]
    pub event: Located,
    /// The id of its cause, as the writer has recorded it.
    pub causation_id: Option<EventId>,
    /// The position of its cause. `None` for a root of the tree: its cause is unknown, is no event of this request, or is not before it in the
    /// log. So the tree has no cycles, whatever the ids are.
    pub cause: Option<Position>,
    /// The number of causes above it; 0 for a root.
    pub depth: u64,
}

/// Returns the events of a request, at most `limit` and up to [`MAX_ROWS`], without their payloads. Returns `None` if the log has none, or if
/// their commits have no positions yet.
///
/// A request is all that followed from one command from outside: its events, the steps of processes that they triggered, and the events of the
/// commands that these sent. They share a [correlation id](crate::Metadata::correlation_id). The answer does not tell which processors have
/// applied them: ask [`why_each`](super::why_each) about one of the events.
///
/// # Examples
/// ```
/// use retell::operate;
/// use retell::prelude::*;
///
/// #[derive(Debug, Event)]
/// enum ShelfEvent {
///     #[event("shelf.filled")]
///     Filled { books: u32 },
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let log = MemoryStore::new();
/// let filled = ShelfEvent::Filled { books: 12 };
/// log.append_events(("shelf", "1"), ExpectedVersion::NoStream, [filled]).await?;
///
/// let chain = operate::chain(&log, Position::new(1), 100).await?.expect("the log has the event");
/// assert_eq!(chain.events.len(), 1);
/// assert_eq!(chain.events[0].cause, None);
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
///
/// # Errors
/// A [read error](crate::Error#read-errors).
pub async fn chain<L>(log: &L, of: impl Into<ChainRef>, limit: usize) -> Result<Option<Chain>>
where
    L: EventReader + ?Sized,
{
    let of: ChainRef = of.into();
    let Some(correlation_id) = of.find(log).await? else { return Ok(None) };
    let limit = limit.min(MAX_ROWS);
    // One event more tells whether the list is complete.
    let wanted = limit + 1;
    let (mut chain, mut after) = (Builder::default(), Position::ZERO);
    while chain.events.len() < wanted {
        let asked = CHUNK.min(wanted - chain.events.len());
        let events = log.read_chain(correlation_id, after, asked).await?;
        after = events.last().map_or(after, |event| event.position);
        let is_last = events.len() < asked;
        for event in &events {
            chain.push(event);
        }
        if is_last {
            break;
        }
    }
    let mut events = chain.events;
    if events.is_empty() {
        return Ok(None);
    }
    let truncated = events.len() > limit;
    events.truncate(limit);
    Ok(Some(Chain { correlation_id, events, truncated }))
}

/// Links events in log order.
#[derive(Default)]
struct Builder {
    events: Vec<Link>,
    /// The position and the depth of each event so far.
    places: HashMap<EventId, (Position, u64)>,
}

impl Builder {
    fn push(&mut self, event: &RecordedEvent) {
        let causation_id = event.event.metadata.causation_id;
        // Only an earlier event is a cause. So a tree has no cycles.
        let cause = causation_id.and_then(|id| self.places.get(&id)).copied();
        let depth = cause.map_or(0, |(_, depth)| depth + 1);
        self.places.insert(event.event.id, (event.position, depth));
        let cause = cause.map(|(position, _)| position);
        self.events.push(Link { event: Located::of(event), causation_id, cause, depth });
    }
}

impl Chain {
    /// Returns the events in the order of the tree: each after its cause, and before the later effects of that cause. Effects are in log order.
    ///
    /// # Examples
    /// ```
    /// use retell::operate;
    /// use retell::prelude::*;
    ///
    /// #[derive(Debug, Event)]
    /// enum ShelfEvent {
    ///     #[event("shelf.filled")]
    ///     Filled { books: u32 },
    /// }
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let log = MemoryStore::new();
    /// let filled = ShelfEvent::Filled { books: 12 };
    /// log.append_events(("shelf", "1"), ExpectedVersion::NoStream, [filled]).await?;
    /// let chain = operate::chain(&log, Position::new(1), 100).await?.expect("the log has the event");
    /// for link in chain.tree() {
    ///     let indent = " ".repeat(usize::try_from(link.depth)?);
    ///     println!("{indent}{} {}", link.event.event_type, link.event.stream);
    /// }
    /// # assert_eq!(chain.tree().count(), 1);
    /// # Ok::<(), BoxError>(())
    /// # }).unwrap();
    /// ```
    pub fn tree(&self) -> impl Iterator<Item = &Link> {
        let mut effects: HashMap<Option<Position>, Vec<&Link>> = HashMap::new();
        for link in self.events.iter().rev() {
            effects.entry(link.cause).or_default().push(link);
        }
        // A stack and no recursion: a tree may be as deep as it is long.
        let mut open = effects.remove(&None).unwrap_or_default();
        std::iter::from_fn(move || {
            let next = open.pop()?;
            open.extend(effects.remove(&Some(next.event.position)).unwrap_or_default());
            Some(next)
        })
    }
}
