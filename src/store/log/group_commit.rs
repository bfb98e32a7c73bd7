//! Group commit: appends that wait while a commit runs go into the next one together.
//!
//! There is no timer and no added delay: an append that finds nothing running is committed at once, alone. The queue is
//! bounded, so that writers faster than the disk wait instead of filling memory. A server can have several queues, each with a commit of
//! its own under way: one is written while the disk syncs another. Appends to one stream that are under way together share a queue, so
//! they keep their order; any other goes where the fewest are.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard, OnceLock, PoisonError};

use async_trait::async_trait;
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::error::{Error, ErrorKind, Result};
use crate::store::log::append::{Append, Appended};

/// Appends that may wait for a commit; one more waits outside the queue. Also the most that share one commit.
const QUEUE: usize = 1024;

/// A commit takes no further append once its payloads have this many bytes: what is in memory at once stays bounded.
const COMMIT_BYTES: usize = 32 * 1024 * 1024;

/// A driver's commit of several appends at once.
#[async_trait]
pub trait BatchAppend: Send + Sync + 'static {
    /// Commits the appends together; one outcome each, in order. A conflict of one never fails another.
    async fn append_batch(&self, batch: Vec<Append>) -> Vec<Result<Appended>>;
}

/// Gathers concurrent appends into shared commits, over any driver.
pub struct GroupCommit {
    driver: Arc<dyn BatchAppend>,
    closing: CancellationToken,
    queues: Vec<Queue>,
    /// Where the streams are that are under way: a hash of the stream, its queue, how many appends.
    streams: std::sync::Mutex<HashMap<u64, (usize, usize)>>,
}

/// Started by its first append, so that a store can be made outside a runtime.
#[derive(Default)]
struct Queue {
    waiting: OnceLock<mpsc::Sender<Waiting>>,
    task: Mutex<Option<JoinHandle<()>>>,
    appends: AtomicUsize,
}

/// An append and where its outcome goes.
type Waiting = (Append, oneshot::Sender<Result<Appended>>);

impl GroupCommit {
    /// Group commit over a driver, one commit at a time.
    pub fn new(driver: Arc<dyn BatchAppend>) -> Self {
        Self::with_queues(driver, 1)
    }

    /// So many commits at a time; at least one.
    pub fn with_queues(driver: Arc<dyn BatchAppend>, queues: usize) -> Self {
        let queues = std::iter::repeat_with(Queue::default).take(queues.max(1)).collect();
        Self { driver, closing: CancellationToken::new(), queues, streams: std::sync::Mutex::default() }
    }

    /// Appends in the next commit.
    ///
    /// # Errors
    /// The append's own outcome, or [`ErrorKind::Closed`].
    ///
    /// # Cancel safety
    /// Dropped while it waits for a place in the queue, nothing was written; later, it is committed all the same.
    pub async fn append(&self, append: Append) -> Result<Appended> {
        let under_way = self.enter(&append);
        let queue = &self.queues[under_way.queue];
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
        place.send((append, outcome));
        answer.await.map_err(|_| Error::new(ErrorKind::Transient("learn the outcome of an append".into())))?
    }

    /// The first stream decides. What an append shares with one in another queue, the database settles, as between processes.
    fn enter(&self, append: &Append) -> UnderWay<'_> {
        if self.queues.len() == 1 {
            return UnderWay { commits: self, queue: 0, stream: None };
        }
        let mut hasher = DefaultHasher::new();
        append.stream_ids().next().hash(&mut hasher);
        let stream = hasher.finish();
        let mut streams = self.streams();
        let (queue, appends) = streams.entry(stream).or_insert_with(|| (self.shortest(), 0));
        *appends += 1;
        self.queues[*queue].appends.fetch_add(1, Ordering::Relaxed);
        UnderWay { commits: self, queue: *queue, stream: Some(stream) }
    }

    fn shortest(&self) -> usize {
        let lengths = self.queues.iter().map(|queue| queue.appends.load(Ordering::Relaxed));
        lengths.enumerate().min_by_key(|(_, appends)| *appends).map_or(0, |(queue, _)| queue)
    }

    fn streams(&self) -> MutexGuard<'_, HashMap<u64, (usize, usize)>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refuses further appends and waits until those under way are committed.
    pub async fn close(&self) {
        self.closing.cancel();
        for queue in &self.queues {
            if let Some(task) = queue.task.lock().await.take() {
                // The task owns no result; a panic in it has dropped the senders, and each caller was told.
                drop(task.await);
            }
        }
    }

    async fn start<'q>(&self, queue: &'q Queue) -> &'q mpsc::Sender<Waiting> {
        let mut task = queue.task.lock().await;
        queue.waiting.get_or_init(|| {
            let (sender, waiting) = mpsc::channel(QUEUE);
            *task = Some(tokio::spawn(run(self.driver.clone(), waiting, self.closing.clone())));
            sender
        })
    }
}

impl fmt::Debug for GroupCommit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupCommit").finish_non_exhaustive()
    }
}

/// An append from its call to its outcome.
struct UnderWay<'c> {
    commits: &'c GroupCommit,
    queue: usize,
    /// Where there are several queues.
    stream: Option<u64>,
}

impl Drop for UnderWay<'_> {
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

/// Ends when the store is closed or dropped, after everything in the queue is committed.
async fn run(driver: Arc<dyn BatchAppend>, mut waiting: mpsc::Receiver<Waiting>, closing: CancellationToken) {
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
        // Whoever has just learned an outcome may have the next append ready: it comes before this one goes out alone.
        tokio::task::yield_now().await;
        let (batch, outcomes) = gather(first, &mut waiting);
        for (result, outcome) in driver.append_batch(batch).await.into_iter().zip(outcomes) {
            // A caller that was dropped does not want to know.
            drop(outcome.send(result));
        }
    }
}

fn gather(
    first: Waiting,
    waiting: &mut mpsc::Receiver<Waiting>,
) -> (Vec<Append>, Vec<oneshot::Sender<Result<Appended>>>) {
    let mut bytes = first.0.payload_bytes();
    let (mut batch, mut outcomes) = (vec![first.0], vec![first.1]);
    while batch.len() < QUEUE
        && bytes < COMMIT_BYTES
        && let Ok((append, outcome)) = waiting.try_recv()
    {
        bytes += append.payload_bytes();
        batch.push(append);
        outcomes.push(outcome);
    }
    (batch, outcomes)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::Semaphore;
    use tokio::time::timeout;

    use super::*;
    use crate::id::{CommitId, ExpectedVersion, StreamId};
    use crate::store::Outcome;

    /// Its commits of the order "held" wait for a permit each.
    struct Holding(Semaphore);

    #[async_trait]
    impl BatchAppend for Holding {
        async fn append_batch(&self, batch: Vec<Append>) -> Vec<Result<Appended>> {
            if batch.iter().flat_map(Append::stream_ids).any(|stream| stream.aggregate_id().as_str() == "held") {
                self.0.acquire().await.unwrap().forget();
            }
            let appended = || Appended { commit: CommitId::default(), versions: Vec::new(), outcome: Outcome::Written };
            batch.iter().map(|_| Ok(appended())).collect()
        }
    }

    fn append(id: &str) -> Append {
        Append::new(StreamId::parse("order", id).unwrap(), ExpectedVersion::Any, Vec::new())
    }

    #[tokio::test(start_paused = true)]
    async fn others_pass_a_commit_that_takes_long_and_its_own_stream_waits_behind_it() {
        let driver = Arc::new(Holding(Semaphore::new(0)));
        let commits = GroupCommit::with_queues(driver.clone(), 2);
        let long = Duration::from_mins(1);
        let mut first = Box::pin(commits.append(append("held")));
        assert!(timeout(long, &mut first).await.is_err(), "it is held");
        for other in 0..20 {
            timeout(long, commits.append(append(&other.to_string()))).await.expect("one queue is free").unwrap();
        }
        let mut second = Box::pin(commits.append(append("held")));
        assert!(timeout(long, &mut second).await.is_err(), "it waits behind the first");
        let other = commits.append(append("other"));
        timeout(long, other).await.expect("the second is in no other queue").unwrap();
        driver.0.add_permits(1);
        first.await.unwrap();
        assert!(timeout(long, &mut second).await.is_err(), "a commit of its own");
        driver.0.add_permits(1);
        second.await.unwrap();
        assert!(commits.streams().is_empty(), "nothing is under way");
        commits.close().await;
    }
}
