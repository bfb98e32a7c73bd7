//! Runs commands: loads, decides, appends, and retries after a conflict.

mod fold;
mod options;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use moka::sync::Cache;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use crate::aggregate::{Aggregate, Handle};
use crate::command::{CommandError, Context, Executed};
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::{BoxError, Error, Result};
use crate::event::NewEvent;
use crate::id::{AggregateId, AggregateType, EventId, ExpectedVersion, InvalidName, StreamId, Version};
use crate::repository::fold::Fold;
use crate::store::log::append::{Append, Appended, Outcome};
use crate::store::log::event_store::{EventStore, Snapshot};
use crate::store::log::reader::{Replay, UpTo};

pub use fold::Loaded;
pub use options::{RepositoryOptions, RetryPolicy};

/// The most snapshots that are written at once. A commit beyond it leaves its snapshot to a later one.
const SNAPSHOTS_AT_ONCE: usize = 8;

/// Runs commands on aggregates of one type. Cloning gives another handle with the same cache.
///
/// Commands on one aggregate take turns within a repository, so that they do not conflict; between processes the expected version decides.
/// Recently used aggregates stay in memory at their version: a command on one of them reads nothing.
#[derive(Debug)]
pub struct Repository<A: Aggregate> {
    inner: Arc<Inner<A>>,
}

impl<A: Aggregate> Clone for Repository<A> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

struct Inner<A: Aggregate> {
    store: Arc<dyn EventStore>,
    aggregate_type: Result<AggregateType, InvalidName>,
    cache: Cache<AggregateId, Arc<Slot<A>>>,
    retry: RetryPolicy,
    snapshots: Snapshots,
}

impl<A: Aggregate> std::fmt::Debug for Inner<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Repository").field("aggregate_type", &A::TYPE).finish_non_exhaustive()
    }
}

/// Background writing of snapshots.
struct Snapshots {
    tasks: TaskTracker,
    permits: Arc<Semaphore>,
    failures: Arc<AtomicU64>,
}

/// An aggregate's place in the cache. Its lock makes the commands on the aggregate take turns.
type Slot<A> = Mutex<Option<Loaded<A>>>;

impl<A: Aggregate> Repository<A> {
    /// Creates a repository with default settings.
    pub fn new(store: impl EventStore) -> Self {
        Self::over(Arc::new(store))
    }

    /// Creates a repository over a store that is chosen at run time, with default settings.
    pub fn over(store: Arc<dyn EventStore>) -> Self {
        Self::build(store, RepositoryOptions::new())
    }

    /// Replaces the settings. The repository starts over with an empty cache; other handles keep theirs.
    pub fn with_options(self, options: RepositoryOptions) -> Self {
        Self::build(self.inner.store.clone(), options)
    }

    fn build(store: Arc<dyn EventStore>, options: RepositoryOptions) -> Self {
        let inner = Inner {
            store,
            aggregate_type: AggregateType::new(A::TYPE),
            cache: Cache::new(options.cached_aggregates),
            retry: options.retry,
            snapshots: Snapshots {
                tasks: TaskTracker::new(),
                permits: Arc::new(Semaphore::new(SNAPSHOTS_AT_ONCE)),
                failures: Arc::default(),
            },
        };
        Self { inner: Arc::new(inner) }
    }

    /// Runs a command without a context: a request from outside.
    ///
    /// # Errors
    /// As [`execute_with`](Self::execute_with).
    ///
    /// # Cancel safety
    /// As [`execute_with`](Self::execute_with).
    pub async fn execute<C>(
        &self,
        id: impl TryInto<AggregateId, Error: Into<Error>>,
        command: C,
    ) -> Result<Executed, CommandError<A::Error>>
    where
        A: Handle<C>,
    {
        self.execute_with(id, command, Context::new()).await
    }

    /// Runs a command: loads the aggregate, lets it decide, appends its events, and starts over if another writer was faster.
    ///
    /// # Errors
    /// [`CommandError::Rejected`] with the domain's error, [`CommandError::Taken`] for a value that another aggregate holds,
    /// [`CommandError::Conflict`] when the retries are used up, [`CommandError::Corrupt`] if the aggregate cannot be read. Nothing was
    /// written in these cases. After [`CommandError::Transient`] the events may have been written: execute again under the same key to
    /// find out.
    ///
    /// # Cancel safety
    /// A dropped call may still write its events. The repository stays correct: the next command reads them.
    pub async fn execute_with<C>(
        &self,
        id: impl TryInto<AggregateId, Error: Into<Error>>,
        command: C,
        context: Context,
    ) -> Result<Executed, CommandError<A::Error>>
    where
        A: Handle<C>,
    {
        let stream = self.stream(id)?;
        let slot = self.slot(&stream);
        let mut slot = slot.lock().await;
        // Only a state that was read within this call may refuse.
        let mut newest = slot.is_none();
        if newest {
            *slot = Some(self.load_newest(&stream).await?);
        }
        let mut waits = self.inner.retry.waits();
        loop {
            let loaded = slot.get_or_insert_default();
            let decided = loaded.state.handle(&command);
            let appends = decided.as_ref().is_ok_and(|events| !events.is_empty());
            // No append will show whether the cached state is still the newest, so read it before refusing.
            if !appends && !newest {
                drop(decided);
                self.refresh(&stream, &mut slot).await?;
                newest = true;
                continue;
            }
            // After the state, never before: a command executed in between would be refused because of its own outcome.
            if !appends && let Some(executed) = self.executed_before(&stream, &context).await? {
                return Ok(executed);
            }
            let events = decided.map_err(CommandError::Rejected)?;
            if events.is_empty() {
                return Ok(Executed::nothing(loaded.version));
            }
            let (append, last_event) = encode::<A>(&stream, loaded.version, &events, &context)?;
            match self.inner.store.append(append).await {
                Ok(appended) => {
                    self.remember(&stream, &mut slot, events, &appended);
                    return Ok(Executed::by(&appended, last_event));
                }
                Err(error) if error.is_conflict() => {
                    let delay = waits.next().ok_or(error)?;
                    tokio::time::sleep(delay).await;
                    self.refresh(&stream, &mut slot).await?;
                    newest = true;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Returns the outcome of an earlier call under the same key.
    async fn executed_before(&self, stream: &StreamId, context: &Context) -> Result<Option<Executed>> {
        let Some(key) = &context.key else { return Ok(None) };
        let Some(kept) = self.inner.store.find_by_key(key).await? else { return Ok(None) };
        Ok(Some(Executed::by(&kept.repeat(key, [stream])?, None)))
    }

    /// Returns the aggregate's present state; the default state at version zero if it has no events.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for an id no store accepts, otherwise a [read error](Error#read-errors). An event that cannot be read is an
    /// error that [`is_corrupt`](Error::is_corrupt), never an empty state.
    pub async fn load(&self, id: impl TryInto<AggregateId, Error: Into<Error>>) -> Result<Loaded<A>> {
        let stream = self.stream(id)?;
        let slot = self.slot(&stream);
        let mut slot = slot.lock().await;
        self.refresh(&stream, &mut slot).await?;
        Ok(slot.get_or_insert_default().clone())
    }

    /// Returns the aggregate's state as it was at a version or at a time.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub async fn load_at(&self, id: impl TryInto<AggregateId, Error: Into<Error>>, at: UpTo) -> Result<Loaded<A>> {
        let stream = self.stream(id)?;
        let replay = Replay { up_to: at, snapshot: Some(A::FINGERPRINT), ..Replay::ALL };
        self.replay(&stream, Loaded::default(), replay).await
    }

    /// Returns the count of snapshots that could not be written or read so far. Each cost time, none cost data.
    pub fn snapshot_failures(&self) -> u64 {
        self.inner.snapshots.failures.load(Ordering::Relaxed)
    }

    /// Waits until all pending snapshots are written.
    pub async fn flush(&self) {
        self.inner.snapshots.tasks.close();
        self.inner.snapshots.tasks.wait().await;
        self.inner.snapshots.tasks.reopen();
    }

    fn stream(&self, id: impl TryInto<AggregateId, Error: Into<Error>>) -> Result<StreamId> {
        Ok(StreamId::new(self.inner.aggregate_type.clone()?, id.try_into().map_err(Into::into)?))
    }

    fn slot(&self, stream: &StreamId) -> Arc<Slot<A>> {
        self.inner.cache.get_with_by_ref(stream.aggregate_id(), Arc::default)
    }

    /// Brings a state to the stream's end. The slot is empty meanwhile, so a state that was dropped half-way is not kept.
    async fn refresh(&self, stream: &StreamId, slot: &mut Option<Loaded<A>>) -> Result<()> {
        let newest = match slot.take() {
            Some(known) => {
                let replay = Replay::after(known.version);
                self.replay(stream, known, replay).await?
            }
            None => self.load_newest(stream).await?,
        };
        *slot = Some(newest);
        Ok(())
    }

    async fn load_newest(&self, stream: &StreamId) -> Result<Loaded<A>> {
        self.replay(stream, Loaded::default(), Replay { snapshot: Some(A::FINGERPRINT), ..Replay::ALL }).await
    }

    /// Replays the stream, without the snapshot if that cannot be read: the events are the truth.
    async fn replay(&self, stream: &StreamId, from: Loaded<A>, replay: Replay) -> Result<Loaded<A>> {
        let mut fold = Fold { stream, loaded: from, bad_snapshot: false };
        match self.inner.store.replay(stream, replay, &mut fold).await {
            Err(_) if fold.bad_snapshot => {
                self.inner.snapshots.failures.fetch_add(1, Ordering::Relaxed);
                let mut fold = Fold { stream, loaded: Loaded::default(), bad_snapshot: false };
                self.inner.store.replay(stream, Replay { snapshot: None, ..replay }, &mut fold).await?;
                Ok(fold.loaded)
            }
            Err(error) => Err(error),
            Ok(()) => Ok(fold.loaded),
        }
    }

    /// Moves the cached state past the events just appended. Where an earlier append under the same key had written, the state stays at
    /// its version, and the next append finds out if that is too old.
    fn remember(&self, stream: &StreamId, slot: &mut Option<Loaded<A>>, events: Vec<A::Event>, appended: &Appended) {
        if appended.outcome == Outcome::Repeated {
            return;
        }
        let Some(mut loaded) = slot.take() else { return };
        for event in events {
            loaded.state.apply(event);
            loaded.version = loaded.version.next();
        }
        if A::SNAPSHOTS.is_due(loaded.snapshot.get(), loaded.version.get())
            && let Ok(permit) = self.inner.snapshots.permits.clone().try_acquire_owned()
        {
            loaded.snapshot = loaded.version;
            self.keep_snapshot(stream.clone(), loaded.clone(), permit);
        }
        *slot = Some(loaded);
    }

    fn keep_snapshot(&self, stream: StreamId, loaded: Loaded<A>, permit: OwnedSemaphorePermit) {
        let (store, failures) = (self.inner.store.clone(), self.inner.snapshots.failures.clone());
        self.inner.snapshots.tasks.spawn(async move {
            let saved: Result<(), BoxError> = async {
                let state = loaded.state.to_snapshot()?;
                let snapshot = Snapshot { version: loaded.version, fingerprint: A::FINGERPRINT, state };
                Ok(store.save_snapshot(&stream, snapshot).await?)
            }
            .await;
            // A later snapshot makes up for it. The count is there for operators.
            failures.fetch_add(u64::from(saved.is_err()), Ordering::Relaxed);
            drop(permit);
        });
    }
}

/// Returns the append, and the id of its last event.
fn encode<A: Aggregate>(
    stream: &StreamId,
    version: Version,
    events: &[A::Event],
    context: &Context,
) -> Result<(Append, Option<EventId>)> {
    let mut metadata = context.metadata.clone();
    let (mut encoded, mut claims) = (Vec::with_capacity(events.len()), Vec::new());
    for event in events {
        let mut new = NewEvent::new(event)?.with_metadata(metadata.clone());
        // The first event of a request names the whole chain.
        let correlation = *metadata.correlation_id.get_or_insert(new.id.into());
        new.metadata.correlation_id = Some(correlation);
        encoded.push(new);
        claims.extend(A::claims(event)?);
    }
    let last = encoded.last().map(|event| event.id);
    let append = Append::new(stream.clone(), ExpectedVersion::Exact(version), encoded).with_claims(claims);
    let append = match &context.key {
        Some(key) => append.with_key(key.clone()),
        None => append,
    };
    Ok((append, last))
}
