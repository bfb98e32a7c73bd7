//! Runs commands: load, decide, append, and again after a conflict.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use moka::sync::Cache;
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use crate::aggregate::{Aggregate, Handle};
use crate::backoff::delays;
use crate::command::{CommandError, Context, Executed};
use crate::error::{BoxError, Error, ErrorKind, Result};
use crate::event::{DecodeError, Event, NewEvent, StoredEvent};
use crate::id::{AggregateId, AggregateType, EventId, EventType, ExpectedVersion, InvalidName, StreamId, Version};
use crate::store::log::append::{Append, Appended, Outcome};
use crate::store::log::event_store::{EventStore, Snapshot};
use crate::store::log::reader::{Replay, UpTo, Visitor};

/// Aggregates kept in memory by default.
const CACHED_AGGREGATES: u64 = 10_000;

/// Snapshots that may be under way at once. Beyond it a commit leaves its snapshot to a later one.
const SNAPSHOTS_AT_ONCE: usize = 8;

/// Runs commands on aggregates of one type. Cloning gives another handle with the same cache.
///
/// Commands on one aggregate take turns within a repository, so that they do not fight each other; between processes the expected
/// version decides. Aggregates that were used lately stay in memory at their version: a command on one of them reads nothing.
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

/// An aggregate's place in the cache; the lock makes the commands on it take turns.
type Slot<A> = Mutex<Option<Loaded<A>>>;

/// Settings of a [`Repository`].
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct RepositoryOptions {
    cached_aggregates: u64,
    retry: RetryPolicy,
}

impl RepositoryOptions {
    /// 10,000 aggregates in memory, and the default [`RetryPolicy`].
    pub fn new() -> Self {
        Self { cached_aggregates: CACHED_AGGREGATES, retry: RetryPolicy::default() }
    }

    /// How many aggregates stay in memory; 0 loads each command's aggregate from the store.
    pub fn with_cached_aggregates(mut self, aggregates: u64) -> Self {
        self.cached_aggregates = aggregates;
        self
    }

    /// What to do after a conflict.
    pub fn with_retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }
}

impl Default for RepositoryOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// How often a command is decided again after a conflict, and how long it waits before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts after the first; 0 returns the first conflict.
    pub retries: usize,
    /// The wait before the first retry; it doubles with each, and a random part is added.
    pub first_delay: Duration,
    /// The longest wait.
    pub longest_delay: Duration,
}

impl Default for RetryPolicy {
    /// 8 retries, from 1 ms to 100 ms: some hundred milliseconds of patience in all. Commands of one process do not conflict, so this
    /// is for the rare meeting of two processes.
    fn default() -> Self {
        Self { retries: 8, first_delay: Duration::from_millis(1), longest_delay: Duration::from_millis(100) }
    }
}

impl RetryPolicy {
    /// Returns one wait for each retry.
    pub(crate) fn waits(&self) -> impl Iterator<Item = Duration> + Send + use<> {
        delays(self.first_delay, self.longest_delay).take(self.retries)
    }
}

/// An aggregate's state as of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded<A> {
    /// The state.
    pub state: A,
    /// The version of its last event; zero if it has none.
    pub version: Version,
    /// The version of the newest snapshot that is known of.
    snapshot: Version,
}

impl<A: Aggregate> Repository<A> {
    /// A repository with default settings.
    pub fn new(store: impl EventStore) -> Self {
        Self::with_options(Arc::new(store), RepositoryOptions::new())
    }

    /// A repository over a shared store.
    pub fn with_options(store: Arc<dyn EventStore>, options: RepositoryOptions) -> Self {
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

    /// Runs a command that comes from outside.
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

    /// Runs a command: loads the aggregate, lets it decide, appends what it decided, and starts over if others were faster.
    ///
    /// # Errors
    /// [`CommandError::Rejected`] with the domain's error, [`CommandError::Taken`] for a value that another aggregate holds,
    /// [`CommandError::Conflict`] when the retries are used up, [`CommandError::Corrupt`] if the aggregate cannot be read. Nothing was written then. After [`CommandError::Transient`] the
    /// events may have been written: execute again under the same key to find out.
    ///
    /// # Cancel safety
    /// A dropped call may still write its events. The repository stays right: the next command finds out.
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
        // Whether the state was read within this call: only then may it say no.
        let mut newest = slot.is_none();
        if newest {
            *slot = Some(self.load_newest(&stream).await?);
        }
        let mut waits = self.inner.retry.waits();
        loop {
            let loaded = slot.get_or_insert_default();
            let decided = loaded.state.handle(&command);
            if !decided.as_ref().is_ok_and(|events| !events.is_empty()) {
                // No append will tell whether the state in memory is still the newest, so look before saying no.
                if !newest {
                    drop(decided);
                    self.refresh(&stream, &mut slot).await?;
                    newest = true;
                    continue;
                }
                // After the state, never before: what is executed in between would be refused by its own outcome.
                if let Some(executed) = self.executed_before(&stream, &context).await? {
                    return Ok(executed);
                }
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

    /// What an earlier call under the same key did.
    async fn executed_before(&self, stream: &StreamId, context: &Context) -> Result<Option<Executed>> {
        let Some(key) = &context.key else { return Ok(None) };
        let Some(kept) = self.inner.store.find_by_key(key).await? else { return Ok(None) };
        Ok(Some(Executed::by(&kept.repeat(key, [stream])?, None)))
    }

    /// The aggregate's present state; the default state at version zero if it has no events.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for an id no store accepts, and what [`Error::is_corrupt`] calls corrupt. Never an empty state instead.
    pub async fn load(&self, id: impl TryInto<AggregateId, Error: Into<Error>>) -> Result<Loaded<A>> {
        let stream = self.stream(id)?;
        let slot = self.slot(&stream);
        let mut slot = slot.lock().await;
        self.refresh(&stream, &mut slot).await?;
        Ok(slot.get_or_insert_default().clone())
    }

    /// The aggregate's state as it was at a version or at a time.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub async fn load_at(&self, id: impl TryInto<AggregateId, Error: Into<Error>>, at: UpTo) -> Result<Loaded<A>> {
        let stream = self.stream(id)?;
        let replay = Replay { up_to: at, snapshot: Some(A::FINGERPRINT), ..Replay::ALL };
        self.replay(&stream, Loaded::default(), replay).await
    }

    /// Snapshots that could not be written or read since the start. Each cost time, none cost data.
    pub fn snapshot_failures(&self) -> u64 {
        self.inner.snapshots.failures.load(Ordering::Relaxed)
    }

    /// Waits until the snapshots under way are written.
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

    /// Brings a state to the stream's end. The slot is empty while that runs: a state that was dropped half-way is not kept.
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

    /// A snapshot that cannot be read is passed over: the events are the truth.
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
            // A later snapshot makes up for it; the count tells whoever wants to know.
            failures.fetch_add(u64::from(saved.is_err()), Ordering::Relaxed);
            drop(permit);
        });
    }
}

impl<A: Default> Default for Loaded<A> {
    fn default() -> Self {
        Self { state: A::default(), version: Version::ZERO, snapshot: Version::ZERO }
    }
}

/// The append, and the id of its last event.
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

/// Folds a stream into a state.
struct Fold<'s, A> {
    stream: &'s StreamId,
    loaded: Loaded<A>,
    bad_snapshot: bool,
}

impl<A: Aggregate> Visitor for Fold<'_, A> {
    fn snapshot(&mut self, version: Version, state: &[u8]) -> Result<()> {
        let state = A::from_snapshot(state).map_err(|source| {
            self.bad_snapshot = true;
            Error::with_source(ErrorKind::Corrupt(format!("snapshot of {} at version {version}", self.stream)), source)
        })?;
        self.loaded = Loaded { state, version, snapshot: version };
        Ok(())
    }

    fn event(&mut self, version: Version, event: StoredEvent<'_>) -> Result<()> {
        if version != self.loaded.version.next() {
            let what = format!("{}: version {version} follows version {}", self.stream, self.loaded.version);
            return Err(ErrorKind::Corrupt(what).into());
        }
        let event = A::Event::decode(event).map_err(|error| self.undecodable(error, version, event.event_type))?;
        self.loaded.state.apply(event);
        self.loaded.version = version;
        Ok(())
    }
}

impl<A> Fold<'_, A> {
    #[cold]
    fn undecodable(&self, error: DecodeError, version: Version, event_type: &str) -> Error {
        match EventType::new(event_type) {
            Ok(event_type) => error.at(self.stream, version, &event_type),
            Err(name) => Error::with_source(ErrorKind::Corrupt(format!("{} version {version}", self.stream)), name),
        }
    }
}
