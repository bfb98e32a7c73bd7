//! Executes commands: loads an aggregate, lets it decide, appends its events, and retries after a conflict.

mod cache;
mod fold;
pub(crate) mod options;
mod registration;
mod request;
mod snapshot_check;

use std::any::type_name;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use crate::aggregate::{Aggregate, Handle};
use crate::command::{CommandError, Context, Executed, Keyed, Request};
use crate::error::{BoxError, Error, ErrorKind, Result};
use crate::event::{Event, EventTypes, NewEvent};
use crate::id::{AggregateId, AggregateType, ExpectedVersion, InvalidName, StreamId, Version};
use crate::metrics::load::{LoadMeter, LoadSource, SnapshotOutcome};
use crate::metrics::upcasts::UpcastMeter;
use crate::notice::{self, NoticeKind};
use crate::panics::catch;
use crate::registry::Registry;
use crate::registry::stored::if_behind_deploy;
use crate::repository::cache::{Slot, Slots};
use crate::repository::fold::{Fold, unapplied};
use crate::repository::registration::Registration;
use crate::repository::request::{Events, FirstRequest, Likeness, TICK};
use crate::store::log::append::{Append, KeyedOutcome, Outcome};
use crate::store::log::event_store::{EventStore, Snapshot};
use crate::store::log::reader::{Replay, UpTo};
use crate::trace::span::{self, within};

pub use fold::Loaded;
pub use options::{RepositoryOptions, RetryPolicy};
pub use snapshot_check::SnapshotCheck;

/// The maximum number of snapshots that are written at once. A commit that exceeds it skips its snapshot; a later commit writes one.
const SNAPSHOTS_AT_ONCE: usize = 8;

/// Executes commands on aggregates of one type. Cloning creates another handle with the same cache.
///
/// Within a repository, commands on one aggregate take turns, so that they do not conflict. Between processes, the expected version decides.
/// Recently used aggregates stay in memory with their version: a command on a cached aggregate reads nothing from the store.
///
/// # Examples
/// ```
/// use std::convert::Infallible;
///
/// use retell::prelude::*;
///
/// #[derive(Event)]
/// enum CounterEvent {
///     #[event("counter.added")]
///     Added { amount: u64 },
/// }
///
/// #[derive(Aggregate, Clone, Default)]
/// #[aggregate("counter", event = CounterEvent)]
/// struct Counter {
///     total: u64,
/// }
///
/// impl Apply<CounterEvent> for Counter {
///     fn apply(&mut self, event: CounterEvent) {
///         let CounterEvent::Added { amount } = event;
///         self.total += amount;
///     }
/// }
///
/// struct Add(u64);
///
/// impl Handle<Add> for Counter {
///     type Error = Infallible;
///
///     fn handle(&self, command: &Add) -> Result<Vec<CounterEvent>, Infallible> {
///         Ok(vec![CounterEvent::Added { amount: command.0 }])
///     }
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let counters = Repository::<Counter>::new(MemoryStore::new());
/// counters.execute("visits", Add(2)).await?;
/// counters.execute("visits", Add(3)).await?;
/// assert_eq!(counters.load("visits").await?.state.total, 5);
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
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
    cache: Slots<A>,
    retry: RetryPolicy,
    command_timeout: Duration,
    older_snapshots: u32,
    snapshots: Snapshots,
    /// Whether the wire shapes of the events are registered with the log.
    registration: Registration,
    upcasts: UpcastMeter,
}

impl<A: Aggregate> std::fmt::Debug for Inner<A> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Repository").field("aggregate_type", &A::TYPE).finish_non_exhaustive()
    }
}

/// The tasks that write snapshots in the background.
struct Snapshots {
    tasks: TaskTracker,
    permits: Arc<Semaphore>,
    failures: AtomicU64,
    /// Whether the last one could not be written.
    fail: AtomicBool,
    meter: LoadMeter,
}

impl<A: Aggregate> Repository<A> {
    /// Creates a repository on `store` with default settings.
    pub fn new(store: impl EventStore) -> Self {
        Self::over(Arc::new(store))
    }

    /// Creates a repository on a store that is chosen at run time, with default settings.
    pub fn over(store: Arc<dyn EventStore>) -> Self {
        Self::build(store, RepositoryOptions::new())
    }

    /// Replaces the settings. The returned repository starts with an empty cache; other handles keep their settings and their cache.
    pub fn with_options(self, options: RepositoryOptions) -> Self {
        Self::build(self.inner.store.clone(), options)
    }

    fn build(store: Arc<dyn EventStore>, options: RepositoryOptions) -> Self {
        let inner = Inner {
            store,
            aggregate_type: AggregateType::new(A::TYPE),
            cache: Slots::new(options.cached_aggregates),
            retry: options.retry,
            command_timeout: options.command_timeout,
            older_snapshots: options.older_snapshots,
            snapshots: Snapshots {
                tasks: TaskTracker::new(),
                permits: Arc::new(Semaphore::new(SNAPSHOTS_AT_ONCE)),
                failures: AtomicU64::default(),
                fail: AtomicBool::default(),
                meter: LoadMeter::new(A::TYPE),
            },
            registration: Registration::new(),
            upcasts: UpcastMeter::new(A::Event::TYPES.newest_versions()),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Executes `command` on the aggregate `id`, without a context: for a request from outside.
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

    /// Executes `command` on the aggregate `id`: loads the aggregate, lets it decide, and appends its events. After a conflict with another
    /// writer, it starts over.
    ///
    /// # Errors
    /// [`CommandError::Rejected`] with the domain's error, [`CommandError::Taken`] for a value that another aggregate holds,
    /// [`CommandError::Conflict`] if all retries conflicted, [`CommandError::Corrupt`] if the aggregate cannot be read,
    /// [`CommandError::Failed`] with [`ErrorKind::Panicked`] if the aggregate panics while it decides, or while the new events are applied to a
    /// copy of it, or with [`ErrorKind::KeyReused`] if the context's idempotency key was used for another command. Nothing was written in these
    /// cases. After [`CommandError::Transient`], the events may have been written: execute the command again under the same idempotency
    /// key to find out.
    ///
    /// # Cancel safety
    /// A dropped call may still write its events. The repository stays correct, because the next command reads them.
    pub async fn execute_with<C>(
        &self,
        id: impl TryInto<AggregateId, Error: Into<Error>>,
        command: C,
        mut context: Context,
    ) -> Result<Executed, CommandError<A::Error>>
    where
        A: Handle<C>,
    {
        let (stream, limit, span) = (self.stream(id)?, self.inner.command_timeout, span::execute::<C>(A::TYPE));
        context.stamp(&span);
        let executed = within!(span, timeout(limit, self.execute_on(&stream, command, context)));
        let executed = executed.unwrap_or_else(|_| {
            Err(Error::new(ErrorKind::Transient(format!("execute a command on {stream} within {limit:?}"))).into())
        });
        if let Err(error) = &executed {
            span.record("error.type", error.name());
        }
        executed
    }

    async fn execute_on<C>(
        &self,
        stream: &StreamId,
        command: C,
        context: Context,
    ) -> Result<Executed, CommandError<A::Error>>
    where
        A: Handle<C>,
    {
        let keyed = context.keyed::<C>();
        let slot = self.slot(stream);
        let mut slot = slot.lock().await;
        // A command may be refused only on a state that this call has read.
        let mut newest = slot.is_none();
        if newest {
            *slot = Some(self.load_newest(stream).await?);
        } else {
            self.inner.snapshots.meter.cache_hits.increment(1);
        }
        let mut waits = self.inner.retry.waits();
        let kept = loop {
            let loaded = slot.get_or_insert_default();
            let version = loaded.version;
            let decided = decide(stream, loaded, &command, &context, keyed.as_ref());
            let appends = matches!(decided, Ok(Some(_)));
            // Without an append, no version check shows whether the cached state is current. So read the stream before the refusal.
            if !appends && !newest {
                drop(decided);
                self.refresh(stream, &mut slot).await?;
                newest = true;
                continue;
            }
            // Look up the key after reading the state, never before: a call under the same key that commits in between would change the state,
            // and this call would be refused because of its own outcome.
            if !appends && let Some(kept) = self.kept(stream, keyed.as_ref()).await? {
                break kept;
            }
            let Some(Decided { append, after }) = decided? else {
                return Ok(Executed::unchanged(version));
            };
            let registration = &self.inner.registration;
            let written = registration.before_append(async || Box::pin(self.inner.register()).await).await?;
            let span = span::append(A::TYPE, append.events().count());
            match within!(span, self.inner.store.append(append)) {
                // The cached state stays at its version, and the next append conflicts if that version is too old.
                Ok(appended) if appended.outcome == Outcome::Repeated => {
                    match self.kept(stream, keyed.as_ref()).await? {
                        Some(kept) => break kept,
                        None => return Ok(Executed::from_appended(&appended)),
                    }
                }
                Ok(appended) => {
                    self.update_cache(stream, &mut slot, after);
                    let register = async || Box::pin(self.inner.register()).await;
                    registration.after_append(written, appended.commit, register).await;
                    return Ok(Executed::from_appended(&appended));
                }
                // After a conflict the state is behind the stream. If the history has changed, the state is none of the stream's.
                Err(error) if error.is_conflict() || error.is_history_changed() => {
                    let delay = waits.next().ok_or(error)?;
                    tokio::time::sleep(delay).await;
                    self.refresh(stream, &mut slot).await?;
                    newest = true;
                }
                Err(error) => return Err(error.into()),
            }
        };
        // Other commands on the aggregate need not wait for the comparison.
        drop(slot);
        if let Some(first) = self.first_request(stream, context.request, &kept).await? {
            let likeness = first.compare(&command);
            if matches!(likeness, Likeness::Unclear(_)) {
                tokio::time::sleep(TICK).await;
            }
            let is_same = match likeness {
                Likeness::Same => true,
                Likeness::Other => false,
                Likeness::Unclear(decided) => first.is_like_both(&decided, &command),
            };
            if let (false, Some(key)) = (is_same, context.key) {
                return Err(Error::from(ErrorKind::KeyReused(key)).into());
            }
        }
        Ok(Executed::from_appended(&kept.appended))
    }

    /// Returns the outcome of an earlier call under the same key, or refuses a key that was used on another stream or for another type of
    /// command.
    async fn kept(&self, stream: &StreamId, keyed: Option<&Keyed>) -> Result<Option<KeyedOutcome>> {
        let Some(Keyed { key, fingerprint }) = keyed else { return Ok(None) };
        let kept = self.inner.store.find_by_key(key).await?;
        match kept {
            Some(kept) if kept.fingerprint != *fingerprint || kept.streams != std::slice::from_ref(stream) => {
                Err(ErrorKind::KeyReused(key.clone()).into())
            }
            kept => Ok(kept),
        }
    }

    /// Returns the first request under the key, to compare a command with it. `None` if the fingerprint alone tells requests apart.
    async fn first_request(
        &self,
        stream: &StreamId,
        request: Request,
        kept: &KeyedOutcome,
    ) -> Result<Option<FirstRequest<A>>> {
        let (&[before], &[after]) = (&kept.before[..], &kept.appended.versions[..]) else { return Ok(None) };
        if request != Request::Decided {
            return Ok(None);
        }
        let up_to = Replay { up_to: UpTo::Version(before), snapshot: Some(A::fingerprint()), ..Replay::ALL };
        let state = self.replay(stream, Loaded::default(), up_to).await?;
        let mut events = Events::default();
        let replay = Replay { after_event: state.last_event, ..Replay::after(before).with_up_to(UpTo::Version(after)) };
        self.inner.store.replay(stream, replay, &mut events).await?;
        Ok(Some(FirstRequest { before: state, events: events.into_present::<A::Event>() }))
    }

    /// Returns the aggregate's current state; the default state at version zero if it has no events.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for an id that no store accepts, otherwise a [read error](Error#read-errors). An event that cannot be decoded is an
    /// error for which [`is_corrupt`](Error::is_corrupt) returns `true`; it never leads to an empty state.
    pub async fn load(&self, id: impl TryInto<AggregateId, Error: Into<Error>>) -> Result<Loaded<A>> {
        let stream = self.stream(id)?;
        let slot = self.slot(&stream);
        let mut slot = slot.lock().await;
        self.refresh(&stream, &mut slot).await?;
        Ok(slot.get_or_insert_default().clone())
    }

    /// Returns the aggregate's state as it was at the version or the time `at`.
    ///
    /// Starts from the newest snapshot before that place. With the default settings, the store keeps up to
    /// [16](RepositoryOptions::with_older_snapshots) older snapshots along the stream, so this replays at most an eighth of the stream and the
    /// events between two snapshots. Without snapshots, or in a store that keeps only the newest one, it replays from the first event.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub async fn load_at(&self, id: impl TryInto<AggregateId, Error: Into<Error>>, at: UpTo) -> Result<Loaded<A>> {
        let stream = self.stream(id)?;
        let replay = Replay { up_to: at, snapshot: Some(A::fingerprint()), ..Replay::ALL };
        self.replay(&stream, Loaded::default(), replay).await
    }

    /// Returns the number of snapshots that could not be written or read so far. Such a failure costs time, never data.
    pub fn snapshot_failures(&self) -> u64 {
        self.inner.snapshots.failures.load(Ordering::Relaxed)
    }

    /// Saves the aggregate's newest state as a snapshot, and waits for it. A snapshot that cannot be saved is counted as a failure.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub(crate) async fn save_snapshot(&self, id: &AggregateId) -> Result<()> {
        let loaded = self.load(id.clone()).await?;
        if loaded.snapshot < loaded.version {
            self.inner.snapshots.count(A::TYPE, &self.inner.save(&self.stream(id.clone())?, &loaded).await);
        }
        Ok(())
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
        self.inner.cache.slot(stream.aggregate_id())
    }

    /// Brings the state in `slot` up to date with the stream. Drops a state whose last event is not in the log, and loads the aggregate again.
    /// The slot is empty meanwhile, so a canceled call leaves no partial state.
    async fn refresh(&self, stream: &StreamId, slot: &mut Option<Loaded<A>>) -> Result<()> {
        let newest = match slot.take() {
            Some(known) => {
                let replay = Replay { after_event: known.last_event, ..Replay::after(known.version) };
                match self.replay(stream, known, replay).await {
                    Err(error) if error.is_history_changed() => {
                        self.inner.registration.history_changed();
                        self.load_newest(stream).await?
                    }
                    replayed => replayed?,
                }
            }
            None => self.load_newest(stream).await?,
        };
        *slot = Some(newest);
        Ok(())
    }

    async fn load_newest(&self, stream: &StreamId) -> Result<Loaded<A>> {
        self.replay(stream, Loaded::default(), Replay { snapshot: Some(A::fingerprint()), ..Replay::ALL }).await
    }

    /// Replays the stream into `from`. If the snapshot cannot be decoded, replays all events instead, since the events are the truth.
    async fn replay(&self, stream: &StreamId, from: Loaded<A>, replay: Replay) -> Result<Loaded<A>> {
        let (began, known, upcasts) = (Instant::now(), from.version, &self.inner.upcasts);
        let mut fold = Fold { stream, loaded: from, bad_snapshot: false, upcasts };
        match self.inner.store.replay(stream, replay, &mut fold).await {
            Err(_) if fold.bad_snapshot => {
                span::snapshot_refused(A::TYPE);
                self.inner.snapshots.failed(SnapshotOutcome::Unreadable);
                let mut fold = Fold { stream, loaded: Loaded::default(), bad_snapshot: false, upcasts };
                self.inner.store.replay(stream, Replay { snapshot: None, ..replay }, &mut fold).await?;
                self.inner.snapshots.loaded(&fold.loaded, Version::ZERO, began);
                Ok(fold.loaded)
            }
            Err(error) => Err(Box::pin(if_behind_deploy(&*self.inner.store, error)).await),
            Ok(()) => {
                self.inner.snapshots.loaded(&fold.loaded, known, began);
                Ok(fold.loaded)
            }
        }
    }

    /// Replaces the cached state by the state `after` the events that were just appended.
    fn update_cache(&self, stream: &StreamId, slot: &mut Option<Loaded<A>>, mut after: Loaded<A>) {
        if self.is_snapshot_due(&after) {
            if let Ok(permit) = self.inner.snapshots.permits.clone().try_acquire_owned() {
                after.snapshot = after.version;
                self.spawn_snapshot(stream.clone(), after.clone(), permit);
            } else {
                self.inner.snapshots.meter.snapshot(SnapshotOutcome::Skipped);
            }
        }
        *slot = Some(after);
    }

    fn is_snapshot_due(&self, loaded: &Loaded<A>) -> bool {
        let due = catch(|| A::SNAPSHOTS.is_due(loaded.snapshot.get(), loaded.version.get()));
        due.unwrap_or_else(|_| {
            self.inner.snapshots.failed(SnapshotOutcome::Failed);
            false
        })
    }

    fn spawn_snapshot(&self, stream: StreamId, loaded: Loaded<A>, permit: OwnedSemaphorePermit) {
        let inner = self.inner.clone();
        self.inner.snapshots.tasks.spawn(async move {
            // A failure needs no handling, since a later commit writes another snapshot.
            inner.snapshots.count(A::TYPE, &inner.save(&stream, &loaded).await);
            drop(permit);
        });
    }
}

impl Snapshots {
    /// Counts a failure. Operators can watch the count.
    fn count(&self, aggregate_type: &str, saved: &Result<(), BoxError>) {
        let failed = saved.is_err();
        if failed {
            self.failed(SnapshotOutcome::Failed);
        } else {
            self.meter.snapshot(SnapshotOutcome::Saved);
        }
        match (self.fail.swap(failed, Ordering::Relaxed), failed) {
            (false, true) => notice::send(aggregate_type, NoticeKind::SnapshotsFail, None),
            (true, false) => notice::send(aggregate_type, NoticeKind::SnapshotsSaved, None),
            (false, false) => span::snapshot_taken(aggregate_type),
            (true, true) => {}
        }
    }

    fn failed(&self, outcome: SnapshotOutcome) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        self.meter.snapshot(outcome);
    }

    /// Records a load that continued from the version `known`, if that is not zero.
    fn loaded<A>(&self, loaded: &Loaded<A>, known: Version, began: Instant) {
        let (source, from) = match known {
            Version::ZERO if loaded.snapshot == Version::ZERO => (LoadSource::Replay, known),
            Version::ZERO => (LoadSource::Snapshot, loaded.snapshot),
            _ => (LoadSource::Cache, known),
        };
        self.meter.loaded(source, loaded.version.get().saturating_sub(from.get()), began);
    }
}

impl<A: Aggregate> Inner<A> {
    async fn register(&self) -> Result<()> {
        match A::Event::TYPES {
            EventTypes::Only(_) => Registry::new().with::<A::Event>()?.register(&*self.store).await.map(drop),
            EventTypes::All => Ok(()),
        }
    }

    /// Saves a state that is in the log.
    async fn save(&self, stream: &StreamId, loaded: &Loaded<A>) -> Result<(), BoxError> {
        let Some(event_id) = loaded.last_event else { return Ok(()) };
        let state = catch(|| {
            let state = loaded.state.to_snapshot()?;
            // A snapshot that cannot be read would cost every later load a second replay.
            A::from_snapshot(&state)?;
            Ok::<_, BoxError>(state)
        })??;
        let snapshot = Snapshot::new(loaded.version, event_id, A::fingerprint(), state)
            .with_spacing(spacing(loaded.version, self.older_snapshots));
        Ok(self.store.save_snapshot(stream, snapshot).await?)
    }
}

/// Returns the distance at which at most `older` snapshots cover a stream up to `version`; 0 for none. It is a power of two: when the stream
/// grows and the distance doubles, every other snapshot is still at the right place.
fn spacing(version: Version, older: u32) -> u64 {
    if older == 0 { 0 } else { version.get().div_ceil(older.into()).next_power_of_two() }
}

/// A command that was decided, and is not yet written.
struct Decided<A> {
    append: Append,
    /// The state after the events.
    after: Loaded<A>,
}

/// Lets the aggregate decide, encodes its events and applies them to a copy of the state. Returns `None` if there are no events.
///
/// The copy comes before the append: an event that the aggregate cannot apply would make it unreadable.
fn decide<A: Handle<C>, C>(
    stream: &StreamId,
    loaded: &Loaded<A>,
    command: &C,
    context: &Context,
    keyed: Option<&Keyed>,
) -> Result<Option<Decided<A>>, CommandError<A::Error>> {
    let decided = catch(|| loaded.state.handle(command)).map_err(|panicked| {
        let what = format!("decide {} on {stream} at version {}", type_name::<C>(), loaded.version);
        Error::with_source(ErrorKind::Panicked(what), panicked)
    })?;
    let events = decided.map_err(CommandError::Rejected)?;
    if events.is_empty() {
        return Ok(None);
    }
    let Encoded { append, stored } = encode::<A>(stream, loaded, events, context)?;
    let append = match keyed {
        Some(keyed) => append.with_key(keyed.key.clone()).with_fingerprint(keyed.fingerprint),
        None => append,
    };
    let copy = catch(|| loaded.clone()).map_err(|panicked| {
        Error::with_source(ErrorKind::Panicked(format!("copy {stream} at version {}", loaded.version)), panicked)
    })?;
    let mut after = apply_all(stream, copy, stored)?;
    after.last_event = append.last_new_event();
    Ok(Some(Decided { append, after }))
}

/// Returns the state `loaded` after `events`.
fn apply_all<A: Aggregate>(stream: &StreamId, mut loaded: Loaded<A>, events: Vec<A::Event>) -> Result<Loaded<A>> {
    for event in events {
        let (name, version) = (event.schema().name, loaded.version.next());
        catch(|| loaded.state.apply(event)).map_err(|panicked| unapplied(panicked, stream, version, name))?;
        loaded.version = version;
    }
    Ok(loaded)
}

/// The events of a command, ready to append.
struct Encoded<E> {
    append: Append,
    /// The events as every reader will decode them. Only these may change a state, so that a state in memory equals the fold of the log.
    stored: Vec<E>,
}

/// Encodes `events` as an append to `stream` that continues `loaded`.
fn encode<A: Aggregate>(
    stream: &StreamId,
    loaded: &Loaded<A>,
    events: Vec<A::Event>,
    context: &Context,
) -> Result<Encoded<A::Event>> {
    let mut metadata = context.metadata.clone();
    let (mut encoded, mut stored, mut claims) =
        (Vec::with_capacity(events.len()), Vec::with_capacity(events.len()), Vec::new());
    for event in events {
        let (new, event) = NewEvent::with_stored_form(event)?;
        let mut new = new.with_metadata(metadata.clone());
        // The id of a request's first event is the correlation id of the whole chain.
        let correlation = *metadata.correlation_id.get_or_insert(new.id.into());
        new.metadata.correlation_id = Some(correlation);
        encoded.push(new);
        let claimed = catch(|| A::claims(&event)).map_err(|panicked| {
            let what = format!("list the claims of {} for {stream}", event.schema().name);
            Error::with_source(ErrorKind::Panicked(what), panicked)
        })?;
        claims.extend(claimed?);
        stored.push(event);
    }
    let mut append = Append::new(stream.clone(), ExpectedVersion::Exact(loaded.version), encoded).with_claims(claims);
    if let Some(last_event) = loaded.last_event {
        append = append.with_last_event(last_event);
    }
    Ok(Encoded { append, stored })
}
