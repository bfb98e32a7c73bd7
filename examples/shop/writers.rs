//! Serves many customers concurrently: a bounded queue of customers, and writers that each serve one at a time.

use std::num::NonZeroUsize;
use std::sync::Arc;

use indicatif::ProgressBar;
use retell::{EventReader, EventReaderExt, Filter, Position};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::checkout::{Checkout, line_of};
use crate::commands::NotSold;
use crate::domain::payment::PaymentEvent;
use crate::orders_file::{BadFile, OrdersFile, Sale};
use crate::run::Failure;
use crate::share::Share;

/// Payments per read when a run resumes.
const PAGE: usize = 5_000;

/// Consecutive lines of one customer, sold in order by one writer.
type Visit = Vec<Sale>;

/// The queue that the writers share. One writer at a time waits for the next customer; the others wait for the lock.
type Queue = Arc<Mutex<mpsc::Receiver<Visit>>>;

/// Sells the unpaid lines of this process's share of the file, to `writers` customers concurrently.
pub async fn sell_all(
    orders: OrdersFile,
    paid: &Lines,
    share: Share,
    checkout: Checkout,
    writers: NonZeroUsize,
    stop: &CancellationToken,
    bar: &ProgressBar,
) -> Result<(), Failure> {
    let (queue, visits) = mpsc::channel(writers.get());
    let (checkout, visits) = (Arc::new(checkout), Arc::new(Mutex::new(visits)));
    let mut tasks = JoinSet::new();
    for _ in 0..writers.get() {
        tasks.spawn(write(visits.clone(), checkout.clone(), stop.clone(), bar.clone()));
    }
    // From here on only the writers hold the receiver, so the queue closes when the last writer ends.
    drop(visits);
    let fed = feed(orders, paid, share, queue, bar).await;
    let sold = join(tasks).await;
    fed?;
    sold
}

/// Feeds the file to the writers. Reading consists of short buffered steps, so it runs between the writers' tasks.
async fn feed(
    mut orders: OrdersFile,
    paid: &Lines,
    share: Share,
    queue: mpsc::Sender<Visit>,
    bar: &ProgressBar,
) -> Result<(), BadFile> {
    let mut visit = Visit::new();
    while let Some(sale) = orders.next_sale()? {
        if visit.last().is_some_and(|last| last.customer != sale.customer)
            && queue.send(std::mem::take(&mut visit)).await.is_err()
        {
            return Ok(());
        }
        if !share.has(sale.customer) {
            continue;
        }
        if paid.contains(sale.line) {
            bar.inc(1);
        } else {
            visit.push(sale);
        }
    }
    if !visit.is_empty() {
        // Sending fails only if all writers have ended, and they report the reason.
        drop(queue.send(visit).await);
    }
    Ok(())
}

async fn write(
    queue: Queue,
    checkout: Arc<Checkout>,
    stop: CancellationToken,
    bar: ProgressBar,
) -> Result<(), NotSold> {
    // A writer that fails or panics stops the others, each at the end of its command.
    let failing = stop.clone().drop_guard();
    serve(&queue, &checkout, &stop, &bar).await?;
    failing.disarm();
    Ok(())
}

async fn serve(queue: &Queue, checkout: &Checkout, stop: &CancellationToken, bar: &ProgressBar) -> Result<(), NotSold> {
    while let Some(visit) = next(queue, stop).await? {
        if let Some(first) = visit.first() {
            checkout.register(first).await?;
        }
        for sale in &visit {
            checkout.sell(sale).await?;
            bar.inc(sale.is_paid.into());
        }
    }
    Ok(())
}

/// Returns the next customer's visit. The lock is held while waiting, on purpose: its queue orders the waiting writers.
async fn next(queue: &Queue, stop: &CancellationToken) -> Result<Option<Visit>, NotSold> {
    tokio::select! {
        biased;
        () = stop.cancelled() => Err(NotSold::Stopped),
        visit = async { queue.lock().await.recv().await } => Ok(visit),
    }
}

/// Waits for all writers and returns the first failure; the other writers stopped because of it.
async fn join(mut tasks: JoinSet<Result<(), NotSold>>) -> Result<(), Failure> {
    let mut ended = Ok(());
    while let Some(task) = tasks.join_next().await {
        let failure = match task {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => Failure::from(error),
            Err(panic) => Failure::of("run a writer", panic),
        };
        if matches!(ended, Ok(()) | Err(Failure::Stopped(_))) {
            ended = Err(failure);
        }
    }
    ended
}

/// Returns the lines that an earlier run has completed: their payments are in the log.
pub async fn paid_lines(log: &impl EventReader) -> retell::Result<Lines> {
    let payments = Filter::of::<PaymentEvent>()?;
    let (mut lines, mut after) = (Lines::default(), Position::ZERO);
    loop {
        let page = log.read_all(after, PAGE, &payments).await?;
        page.events
            .iter()
            .filter_map(|event| line_of(event.stream.aggregate_id().as_str()))
            .for_each(|line| lines.add(line));
        if page.through == after {
            return Ok(lines);
        }
        after = page.through;
    }
}

/// A set of line numbers with one bit per line, so that it stays small even for long files.
#[derive(Debug, Default)]
pub struct Lines(Vec<u64>);

impl Lines {
    fn add(&mut self, line: u64) {
        let (word, bit) = Self::place(line);
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= bit;
    }

    fn contains(&self, line: u64) -> bool {
        let (word, bit) = Self::place(line);
        self.0.get(word).is_some_and(|bits| bits & bit != 0)
    }

    fn place(line: u64) -> (usize, u64) {
        (usize::try_from(line / 64).unwrap_or(usize::MAX), 1 << (line % 64))
    }
}

#[cfg(test)]
mod tests {
    use super::Lines;

    #[test]
    fn set_contains_exactly_the_added_lines() {
        let mut lines = Lines::default();
        for line in [2, 63, 64, 70_000] {
            lines.add(line);
        }
        let held: Vec<_> = (0..80_000).filter(|line| lines.contains(*line)).collect();
        assert_eq!(held, [2, 63, 64, 70_000]);
    }
}
