//! A log that counts the work of its readers and writers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use retell::error::Result;
use retell::event::StoredEvent;
use retell::prelude::async_trait;
use retell::store::RegisteredShape;
use retell::store::{
    Append, Appended, EventReader, EventStore, KeyedOutcome, Page, Query, Replay, Snapshot, Token, Visitor,
};
use retell::{ClaimScope, ClaimValue, EventId, EventType, IdempotencyKey, Position, StreamId, Version};
use tokio::sync::watch;

/// Counts what passes to and from the log `inner`.
#[derive(Clone)]
pub(crate) struct Counting {
    inner: Arc<dyn EventStore>,
    counts: Arc<Counts>,
}

#[derive(Default)]
struct Counts {
    replayed: AtomicU64,
    snapshots: AtomicU64,
    appends: AtomicU64,
    payload_bytes: AtomicU64,
}

impl Counting {
    pub(crate) fn new(inner: Arc<dyn EventStore>) -> Self {
        Self { inner, counts: Arc::default() }
    }

    /// Events passed to visitors.
    pub(crate) fn replayed(&self) -> u64 {
        self.counts.replayed.load(Ordering::SeqCst)
    }

    /// Snapshots passed to visitors.
    pub(crate) fn snapshots(&self) -> u64 {
        self.counts.snapshots.load(Ordering::SeqCst)
    }

    pub(crate) fn appends(&self) -> u64 {
        self.counts.appends.load(Ordering::SeqCst)
    }

    /// Bytes of the payloads of all appends.
    pub(crate) fn payload_bytes(&self) -> u64 {
        self.counts.payload_bytes.load(Ordering::SeqCst)
    }
}

struct CountingVisitor<'v> {
    inner: &'v mut dyn Visitor,
    counts: &'v Counts,
}

impl Visitor for CountingVisitor<'_> {
    fn snapshot(&mut self, version: Version, id: EventId, state: &[u8]) -> Result<()> {
        self.counts.snapshots.fetch_add(1, Ordering::SeqCst);
        self.inner.snapshot(version, id, state)
    }

    fn event(&mut self, version: Version, id: EventId, event: StoredEvent<'_>) -> Result<()> {
        self.counts.replayed.fetch_add(1, Ordering::SeqCst);
        self.inner.event(version, id, event)
    }
}

#[async_trait]
impl EventReader for Counting {
    async fn replay(&self, stream: &StreamId, replay: Replay, visitor: &mut dyn Visitor) -> Result<()> {
        let mut visitor = CountingVisitor { inner: visitor, counts: &self.counts };
        self.inner.replay(stream, replay, &mut visitor).await
    }

    async fn read(&self, query: Query<'_>) -> Result<Page> {
        self.inner.read(query).await
    }

    async fn head(&self) -> Result<Position> {
        self.inner.head().await
    }

    async fn position_of(&self, token: Token) -> Result<Option<Position>> {
        self.inner.position_of(token).await
    }

    async fn registered_shapes(&self) -> Result<Vec<RegisteredShape>> {
        self.inner.registered_shapes().await
    }

    async fn next_event_type(&self, after: Option<&EventType>) -> Result<Option<EventType>> {
        self.inner.next_event_type(after).await
    }

    fn watch_head(&self) -> watch::Receiver<Position> {
        self.inner.watch_head()
    }
}

#[async_trait]
impl EventStore for Counting {
    async fn append(&self, append: Append) -> Result<Appended> {
        let events = append.streams().iter().flat_map(|stream| &stream.events);
        let bytes: usize = events.map(|event| event.payload.len()).sum();
        self.counts.payload_bytes.fetch_add(bytes as u64, Ordering::SeqCst);
        self.counts.appends.fetch_add(1, Ordering::SeqCst);
        self.inner.append(append).await
    }

    async fn find_by_key(&self, key: &IdempotencyKey) -> Result<Option<KeyedOutcome>> {
        self.inner.find_by_key(key).await
    }

    async fn holder(&self, scope: &ClaimScope, value: &ClaimValue) -> Result<Option<StreamId>> {
        self.inner.holder(scope, value).await
    }

    async fn save_snapshot(&self, stream: &StreamId, snapshot: Snapshot) -> Result<()> {
        self.inner.save_snapshot(stream, snapshot).await
    }

    async fn register_shapes(&self, shapes: &[RegisteredShape]) -> Result<()> {
        self.inner.register_shapes(shapes).await
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}
