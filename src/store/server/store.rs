//! The ports of the log, which all stores on database servers implement in the same way.

/// Implements [`EventReader`](crate::store::EventReader) and [`EventStore`](crate::store::EventStore) for a store with the fields `reader`,
/// `writer`, `commits`, `models` and `max_payload`. The reader and the writer have a method for each call that differs between servers.
macro_rules! log_ports {
    ($store:ty) => {
        const _: () = {
            use ::std::pin::pin;

            use ::async_trait::async_trait;
            use ::tokio::sync::watch;

            use crate::error::Result;
            use crate::id::{ClaimScope, ClaimValue, EventType, IdempotencyKey, Position, StreamId};
            use crate::store::log::append::{Append, Appended, KeyedOutcome};
            use crate::store::log::blocker::Blocker;
            use crate::store::log::event_store::{EventStore, Snapshot};
            use crate::store::log::query::{Page, Query};
            use crate::store::log::reader::{EventReader, Replay, Visitor};
            use crate::store::log::shapes::RegisteredShape;
            use crate::store::log::token::Token;
            use crate::store::size::StoreSize;

            #[async_trait]
            impl EventReader for $store {
                async fn replay(&self, stream: &StreamId, replay: Replay, visitor: &mut dyn Visitor) -> Result<()> {
                    self.reader.replay(stream, replay, visitor).await
                }

                async fn read(&self, query: Query<'_>) -> Result<Page> {
                    let reader = &self.reader;
                    reader.connections.repeat("read the log", || reader.read(query)).await
                }

                async fn head(&self) -> Result<Position> {
                    self.reader.connections.repeat("read the head", || self.reader.head()).await
                }

                async fn position_of(&self, token: Token) -> Result<Option<Position>> {
                    let reader = &self.reader;
                    reader.connections.repeat("find a commit's position", || reader.position_of(token)).await
                }

                async fn unsequenced(&self) -> Result<u64> {
                    let reader = &self.reader;
                    reader.connections.repeat("count commits without a position", || reader.unsequenced()).await
                }

                async fn size(&self) -> Result<Option<StoreSize>> {
                    self.reader.size().await.map(Some)
                }

                async fn blockers(&self, limit: usize) -> Result<Vec<Blocker>> {
                    let reader = &self.reader;
                    reader.connections.repeat("find the sessions that block the log", || reader.blockers(limit)).await
                }

                async fn registered_shapes(&self) -> Result<Vec<RegisteredShape>> {
                    let reader = &self.reader;
                    reader.connections.repeat("list the registered shapes", || reader.registered_shapes()).await
                }

                async fn next_event_type(&self, after: Option<&EventType>) -> Result<Option<EventType>> {
                    let reader = &self.reader;
                    reader.connections.repeat("find an event type", || reader.next_event_type(after)).await
                }

                fn watch_head(&self) -> watch::Receiver<Position> {
                    self.writer.watch_head()
                }
            }

            #[async_trait]
            impl EventStore for $store {
                async fn append(&self, append: Append) -> Result<Appended> {
                    append.check(self.max_payload)?;
                    self.kinds.check(&append)?;
                    self.writer.connections.check_free()?;
                    // Pinned here: the future holds the append, and each call that it passes through would copy it.
                    let appended = pin!(self.commits.append(append));
                    // The limit includes the wait for earlier commits.
                    self.writer.connections.call("append", appended).await
                }

                async fn find_by_key(&self, key: &IdempotencyKey) -> Result<Option<KeyedOutcome>> {
                    let writer = &self.writer;
                    writer.connections.repeat("look up an idempotency key", || writer.find_by_key(key)).await
                }

                async fn holder(&self, scope: &ClaimScope, value: &ClaimValue) -> Result<Option<StreamId>> {
                    let writer = &self.writer;
                    writer.connections.repeat("look up a unique value", || writer.holder(scope, value)).await
                }

                async fn save_snapshot(&self, stream: &StreamId, snapshot: Snapshot) -> Result<()> {
                    let writer = &self.writer;
                    writer
                        .connections
                        .repeat("save a snapshot", || writer.save_snapshot(stream, snapshot.clone()))
                        .await
                }

                async fn register_shapes(&self, shapes: &[RegisteredShape]) -> Result<()> {
                    let writer = &self.writer;
                    writer.connections.repeat("register shapes", || writer.register_shapes(shapes)).await
                }

                async fn close(&self) -> Result<()> {
                    self.commits.close().await;
                    self.writer.close().await;
                    self.models.close().await;
                    Ok(())
                }
            }
        };
    };
}

pub(crate) use log_ports;
