//! A log that counts the work of its readers and writers, and makes programs wait for each other.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use retell::error::Result;
use retell::event::StoredEvent;
use retell::prelude::async_trait;
use retell::store::RegisteredShape;
use retell::store::{
    Append, Appended, EventReader, EventStore, KeyedOutcome, Page, Query, Replay, Snapshot, Token, Visitor,
};
use retell::{ClaimScope, ClaimValue, EventId, EventType, IdempotencyKey, Position, StreamId, Version};
use tokio::sync::{Barrier, watch};

/// Counts what passes to and from the log `inner`.
#[derive(Clone)]
pub(crate) struct Counting {
    inner: Arc<dyn EventStore>,
    counts: Arc<Counts>,
    steps: Arc<Steps>,
}

/// The barriers of a log at which its program waits, once each.
#[derive(Default)]
pub(crate) struct Steps {
    pub(crate) shapes_listed: Step,
    pub(crate) registers: Step,
    pub(crate) appends: Step,
    pub(crate) appended: Step,
}

#[derive(Default)]
pub(crate) struct Step(Mutex<Option<Arc<Barrier>>>);

impl Step {
    pub(crate) fn at(barrier: &Arc<Barrier>) -> Self {
        Self(Mutex::new(Some(barrier.clone())))
    }

    async fn wait(&self) {
        let barrier = self.0.lock().unwrap().take();
        if let Some(barrier) = barrier {
            barrier.wait().await;
        }
    }
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
        Self { inner, counts: Arc::default(), steps: Arc::default() }
    }

    pub(crate) fn with_steps(self, steps: Steps) -> Self {
        Self { steps: Arc::new(steps), ..self }
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
        let shapes = self.inner.registered_shapes().await;
        self.steps.shapes_listed.wait().await;
        shapes
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
        self.steps.appends.wait().await;
        let appended = self.inner.append(append).await;
        self.steps.appended.wait().await;
        appended
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
        self.steps.registers.wait().await;
        self.inner.register_shapes(shapes).await
    }

    async fn close(&self) -> Result<()> {
        self.inner.close().await
    }
}
