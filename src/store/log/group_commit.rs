//! Group commit: appends that arrive while a commit runs share the next commit.
//!
//! There is no timer and no added delay: an append that arrives while no commit runs is committed alone, immediately. Each queue is
//! bounded, so writers that are faster than the disk wait instead of filling memory. A driver for a database server can have several
//! queues with one commit in flight each: one commit is written while the disk syncs another. Appends to one stream that are in flight at
//! the same time share a queue, so they keep their order; any other append goes to the shortest_queue queue.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use async_trait::async_trait;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, ErrorKind, Result};
use crate::metrics::append::{AppendMeter, AppendOutcome};
use crate::panics::catch_in;
use crate::store::log::append::{Append, Appended, Outcome};
use crate::trace;
use crate::trace::span::{self, within};

/// The capacity of a queue; a caller waits while its queue is full. Also the maximum number of appends that share one commit.
const MAX_QUEUED_APPENDS: usize = 1024;

/// A commit takes no further append once its payloads reach this many bytes, which bounds the memory that it needs.
const MAX_COMMIT_BYTES: usize = 32 * 1024 * 1024;

/// The attempt that fails if a commit ends without an answer.
const LEARN_OUTCOME: &str = "learn the outcome of an append";

/// Commits several appends at once: the part of [`GroupCommit`] that a driver implements. See [`GroupCommit`] for an example.
#[async_trait]
pub trait BatchAppend: Send + Sync + 'static {
    /// Commits the appends of `batch` together. Returns one outcome per append, in order. A conflict of one append never fails another.
    async fn append_batch(&self, batch: Vec<Append>) -> Vec<Result<Appended>>;
}

/// Groups concurrent appends into shared commits, for any driver.
///
/// # Examples
/// ```
/// use std::sync::Arc;
///
/// use retell::store::{Appended, BatchAppend, GroupCommit, Outcome};
/// use retell::{CommitId, EventId, prelude::*};
///
/// struct Driver;
///
/// #[async_trait]
/// impl BatchAppend for Driver {
///     async fn append_batch(&self, batch: Vec<Append>) -> Vec<retell::Result<Appended>> {
///         // A driver writes the whole batch in one transaction here.
///         let written = || Appended::new(CommitId::new(1), EventId::generate(), vec![Version::new(1)], Outcome::Written);
///         batch.iter().map(|_| Ok(written())).collect()
///     }
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let commits = GroupCommit::new(Arc::new(Driver));
/// let append = Append::new(StreamId::parse("order", "1")?, ExpectedVersion::NoStream, Vec::new());
/// assert_eq!(commits.append(append).await?.outcome, Outcome::Written);
/// commits.close().await;
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
pub struct GroupCommit {
    driver: Arc<dyn BatchAppend>,
    meter: Arc<AppendMeter>,
    closing: CancellationToken,
    queues: Vec<Queue>,
    /// The streams with appends in flight: from the hash of a stream to its queue and the number of its appends.
    streams: std::sync::Mutex<HashMap<u64, (usize, usize)>>,
}

/// A queue of appends and the task that commits them. The first append starts the task, so a store can be created outside a runtime.
#[derive(Default)]
struct Queue {
    waiting: OnceLock<mpsc::Sender<Waiting>>,
    task: Mutex<Option<JoinHandle<()>>>,
    appends: AtomicUsize,
}

/// An append, and its caller.
type Waiting = (Append, Caller);

/// The channel for the outcome of an append, and when the append was called.
struct Caller {
    outcome: oneshot::Sender<Result<Appended>>,
    began: Instant,
}

impl GroupCommit {
    /// Creates a group commit over `driver` with one commit in flight.
    pub fn new(driver: Arc<dyn BatchAppend>) -> Self {
        Self::with_queues(driver, 1)
    }

    /// Creates a group commit over `driver` with up to `queues` commits in flight (minimum 1).
    pub fn with_queues(driver: Arc<dyn BatchAppend>, queues: usize) -> Self {
        let queues = std::iter::repeat_with(Queue::default).take(queues.max(1)).collect();
        let meter = Arc::new(AppendMeter::new("other"));
        Self { driver, meter, closing: CancellationToken::new(), queues, streams: std::sync::Mutex::default() }
    }

    /// Sets the label `store` of the [metrics](crate::metrics) of these appends, `other` by default.
    pub fn with_name(mut self, store: &str) -> Self {
        self.meter = Arc::new(AppendMeter::new(store));
        self
    }

    /// Queues `append` for the next commit and returns its outcome.
    ///
    /// # Errors
    /// The error of the driver for this append, [`ErrorKind::Closed`] after [`close`](Self::close), and [`ErrorKind::Transient`] if the
    /// driver panicked and the outcome is unknown. A panic fails the appends of its commit and no later ones.
    ///
    /// # Cancel safety
    /// A call that is dropped while it waits for a place in the queue writes nothing. A call that is dropped later is still committed.
    pub async fn append(&self, append: Append) -> Result<Appended> {
        let (began, in_flight) = (Instant::now(), self.enter(&append));
        let queue = &self.queues[in_flight.queue];
        let waiting = match queue.waiting.get() {
            Some(waiting) => waiting,
            None => self.start(queue).await,
        };
        let (outcome, answer) = oneshot::channel();
        let place = tokio::select! {
            biased;
            () = self.closing.cancelled() => return Err(closed()),
            place = waiting.reserve() => place.map_err(|_| closed())?,
        };
        place.send((append, Caller { outcome, began }));
        answer.await.map_err(|_| Error::new(ErrorKind::Transient(LEARN_OUTCOME.into())))?
    }

    /// Chooses the queue of an append by its first stream. Two queues may hold appends to a common stream; the database resolves that
    /// conflict as it does between processes.
    fn enter(&self, append: &Append) -> InFlight<'_> {
        if self.queues.len() == 1 {
            return InFlight { commits: self, queue: 0, stream: None };
        }
        let mut hasher = DefaultHasher::new();
        append.stream_ids().next().hash(&mut hasher);
        let stream = hasher.finish();
        let mut streams = self.streams();
        let (queue, appends) = streams.entry(stream).or_insert_with(|| (self.shortest_queue(), 0));
        *appends += 1;
        self.queues[*queue].appends.fetch_add(1, Ordering::Relaxed);
        InFlight { commits: self, queue: *queue, stream: Some(stream) }
    }

    fn shortest_queue(&self) -> usize {
        let lengths = self.queues.iter().map(|queue| queue.appends.load(Ordering::Relaxed));
        lengths.enumerate().min_by_key(|(_, appends)| *appends).map_or(0, |(queue, _)| queue)
    }

    fn streams(&self) -> MutexGuard<'_, HashMap<u64, (usize, usize)>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses further appends and waits until the queued ones are committed.
    pub async fn close(&self) {
        self.closing.cancel();
        for queue in &self.queues {
            if let Some(task) = queue.task.lock().await.take() {
                // The task has no result.
                drop(task.await);
            }
        }
    }

    async fn start<'q>(&self, queue: &'q Queue) -> &'q mpsc::Sender<Waiting> {
        let mut task = queue.task.lock().await;
        queue.waiting.get_or_init(|| {
            let (sender, waiting) = mpsc::channel(MAX_QUEUED_APPENDS);
            *task = Some(tokio::spawn(run(self.driver.clone(), self.meter.clone(), waiting, self.closing.clone())));
            sender
        })
    }
}

impl fmt::Debug for GroupCommit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupCommit").finish_non_exhaustive()
    }
}

/// Counts an append from its call to its outcome.
struct InFlight<'c> {
    commits: &'c GroupCommit,
    queue: usize,
    /// The hash of the first stream; `None` if there is only one queue.
    stream: Option<u64>,
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let Some(stream) = self.stream else { return };
        self.commits.queues[self.queue].appends.fetch_sub(1, Ordering::Relaxed);
        if let Entry::Occupied(mut entry) = self.commits.streams().entry(stream) {
            entry.get_mut().1 -= 1;
            if entry.get().1 == 0 {
                entry.remove();
            }
        }
    }
}

fn closed() -> Error {
    Error::new(ErrorKind::Closed("the store"))
}

/// Commits the appends of one queue. Returns when the store is closed or dropped and the queue is empty.
async fn run(
    driver: Arc<dyn BatchAppend>,
    meter: Arc<AppendMeter>,
    mut waiting: mpsc::Receiver<Waiting>,
    closing: CancellationToken,
) {
    loop {
        let first = tokio::select! {
            biased;
            first = waiting.recv() => first,
            () = closing.cancelled() => {
                waiting.close();
                waiting.recv().await
            }
        };
        let Some(first) = first else { return };
        // A caller that just got an outcome may append again immediately: yielding lets that append join this commit.
        tokio::task::yield_now().await;
        let (batch, callers) = gather(first, &mut waiting);
        let span = span::commit(batch.len());
        trace::link(&span, batch.iter().flat_map(Append::events).map(|event| &event.metadata.extra));
        let (size, events) = (batch.len(), batch.iter().map(event_count).sum());
        // A panic costs this batch its outcomes and must not end the queue, which every later append of the process needs.
        let results = within!(span, catch_in(async { driver.append_batch(batch).await }));
        let results = results.unwrap_or_else(|panicked| {
            let unknown = Error::with_source(ErrorKind::Transient(LEARN_OUTCOME.into()), panicked);
            vec![Err(unknown); size]
        });
        meter.committed(size, events);
        for (result, caller) in results.into_iter().zip(callers) {
            meter.ended(outcome_of(&result), caller.began);
            // The receiver is gone if the caller was dropped.
            drop(caller.outcome.send(result));
        }
    }
}

fn event_count(append: &Append) -> usize {
    append.streams().iter().map(|part| part.events.len()).sum()
}

fn outcome_of(result: &Result<Appended>) -> AppendOutcome {
    match result {
        Ok(appended) if appended.outcome == Outcome::Repeated => AppendOutcome::Duplicate,
        Ok(_) => AppendOutcome::Ok,
        Err(error) => AppendOutcome::of(error),
    }
}

fn gather(first: Waiting, waiting: &mut mpsc::Receiver<Waiting>) -> (Vec<Append>, Vec<Caller>) {
    let mut bytes = first.0.payload_bytes();
    let (mut batch, mut callers) = (vec![first.0], vec![first.1]);
    while batch.len() < MAX_QUEUED_APPENDS
        && bytes < MAX_COMMIT_BYTES
        && let Ok((append, caller)) = waiting.try_recv()
    {
        bytes += append.payload_bytes();
        batch.push(append);
        callers.push(caller);
    }
    (batch, callers)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::Semaphore;
    use tokio::time::timeout;

    use super::*;
    use crate::id::{CommitId, EventId, ExpectedVersion, StreamId};

    /// A driver in which each commit for the order "held" waits for a permit.
    struct HoldingDriver(Semaphore);

    #[async_trait]
    impl BatchAppend for HoldingDriver {
        async fn append_batch(&self, batch: Vec<Append>) -> Vec<Result<Appended>> {
            if batch.iter().flat_map(Append::stream_ids).any(|stream| stream.aggregate_id().as_str() == "held") {
                self.0.acquire().await.unwrap().forget();
            }
            let appended = || Appended::new(CommitId::default(), EventId::generate(), Vec::new(), Outcome::Written);
            batch.iter().map(|_| Ok(appended())).collect()
        }
    }

    /// A driver that panics on each commit for the order "bad".
    struct PanickingDriver;

    #[async_trait]
    impl BatchAppend for PanickingDriver {
        async fn append_batch(&self, batch: Vec<Append>) -> Vec<Result<Appended>> {
            let is_bad = |stream: &StreamId| stream.aggregate_id().as_str() == "bad";
            assert!(!batch.iter().flat_map(Append::stream_ids).any(is_bad), "a bad order");
            let appended = || Appended::new(CommitId::default(), EventId::generate(), Vec::new(), Outcome::Written);
            batch.iter().map(|_| Ok(appended())).collect()
        }
    }

    #[tokio::test]
    async fn a_panic_of_the_driver_fails_one_commit() {
        let commits = GroupCommit::new(Arc::new(PanickingDriver));
        commits.append(append("good")).await.unwrap();
        for _ in 0..2 {
            let error = commits.append(append("bad")).await.unwrap_err();
            assert!(error.is_transient() && format!("{error:#}").contains("panicked: a bad order"), "{error:#}");
            commits.append(append("good")).await.unwrap();
        }
        commits.close().await;
    }

    fn append(id: &str) -> Append {
        Append::new(StreamId::parse("order", id).unwrap(), ExpectedVersion::Any, Vec::new())
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_commit_delays_only_its_own_stream() {
        let driver = Arc::new(HoldingDriver(Semaphore::new(0)));
        let commits = GroupCommit::with_queues(driver.clone(), 2);
        let long = Duration::from_mins(1);
        let mut first = Box::pin(commits.append(append("held")));
        assert!(timeout(long, &mut first).await.is_err(), "the driver holds the commit");
        for other in 0..20 {
            timeout(long, commits.append(append(&other.to_string()))).await.expect("one queue is free").unwrap();
        }
        let mut second = Box::pin(commits.append(append("held")));
        assert!(timeout(long, &mut second).await.is_err(), "the second append to the stream waits for the first");
        let other = commits.append(append("other"));
        timeout(long, other).await.expect("the second append does not occupy the other queue").unwrap();
        driver.0.add_permits(1);
        first.await.unwrap();
        assert!(timeout(long, &mut second).await.is_err(), "the second append has its own commit");
        driver.0.add_permits(1);
        second.await.unwrap();
        assert!(commits.streams().is_empty(), "no append is in flight");
        commits.close().await;
    }
}
