//! One run from beginning to end: look at the file, sell, wait for the consumers, report.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use indicatif::{ProgressBar, ProgressStyle};
use retell::shutdown::{self, Signal};
use retell::{BoxError, EventReader, EventStore, MemoryReadModel, Position, SqliteReadModel, SqliteStore};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::Arguments;
use crate::checkout::{Checkout, NotSold};
use crate::consumers::notification::Sent;
use crate::orders_file::{BadFile, OrdersFile};
use crate::pipeline::Pipeline;
use crate::report::Report;
use crate::truth::Truth;
use crate::writers::{paid_lines, sell_all};

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    BadFile(#[from] BadFile),
    #[error("stopped on request: start again with the same --db to go on")]
    Stopped(Option<Signal>),
    #[error("cannot {what}")]
    Failed { what: String, source: BoxError },
    #[error("the read models differ from the file: {}", .0.join("; "))]
    Differs(Vec<String>),
}

impl Failure {
    pub fn of(what: impl Into<String>, source: impl Into<BoxError>) -> Self {
        Self::Failed { what: what.into(), source: source.into() }
    }

    /// The signal's own code after a request to stop; otherwise 1.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Stopped(Some(signal)) => signal.exit_code().into(),
            _ => ExitCode::FAILURE,
        }
    }
}

impl From<NotSold> for Failure {
    fn from(error: NotSold) -> Self {
        match error {
            NotSold::Stopped => Self::Stopped(None),
            failed @ NotSold::Failed { .. } => Self::of("sell", failed),
        }
    }
}

/// Sells everything in the file, and tells what the consumers made of it.
pub async fn run(arguments: &Arguments) -> Result<Report, Failure> {
    let truth = Truth::read(&arguments.orders)?;
    let start = Instant::now();
    let shop = Shop::open(arguments.db.as_deref()).await?;
    let before = shop.head().await?;
    let stopping = CancellationToken::new();
    let signals = Signals::listen(stopping.clone());
    let sold = shop.sell(arguments, &truth, stopping).await;
    let signal = signals.end().await?;
    let report = match sold {
        Ok(()) => shop.report().await,
        Err(Failure::Stopped(_)) => Err(Failure::Stopped(signal)),
        Err(failure) => Err(failure),
    };
    let written = shop.head().await?.since(before);
    shop.close().await?;
    let report = report?.timed(written, start.elapsed());
    match report.differences(&truth) {
        none if none.is_empty() => Ok(report),
        differences => Err(Failure::Differs(differences)),
    }
}

/// Everything that is open during a run.
#[derive(Debug)]
struct Shop {
    store: SqliteStore,
    models: SqliteReadModel,
    sent: MemoryReadModel<Sent>,
    /// Removed at the end of a run without `--db`.
    _temporary: Option<TempDir>,
}

impl Shop {
    /// The log, and the read models in a second file beside it. Other stores and brokers would be chosen here.
    async fn open(db: Option<&Path>) -> Result<Self, Failure> {
        let (path, temporary) = match db {
            Some(path) => (path.to_owned(), None),
            None => temporary_file()?,
        };
        let models = beside(&path);
        Ok(Self {
            store: SqliteStore::open(&path).await.map_err(|e| Failure::of(format!("open {}", path.display()), e))?,
            models: SqliteReadModel::open(&models)
                .await
                .map_err(|e| Failure::of(format!("open {}", models.display()), e))?,
            sent: MemoryReadModel::default(),
            _temporary: temporary,
        })
    }

    async fn head(&self) -> Result<Position, Failure> {
        self.store.head().await.map_err(|error| Failure::of("read the log", error))
    }

    /// Writes, relays and consumes until all is sold and applied, or until it is told to stop.
    async fn sell(&self, arguments: &Arguments, truth: &Truth, stop: CancellationToken) -> Result<(), Failure> {
        let mut pipeline = Pipeline::start(&self.store, &self.models, &self.sent, stop.clone());
        let bar = progress_bar(truth.orders);
        let sold = self.write(arguments, &stop, &bar).await;
        bar.finish_and_clear();
        if sold.is_ok() {
            pipeline.catch_up(self.head().await?).await;
        }
        // A consumer that failed made the writers stop, so its failure goes first.
        pipeline.end().await?;
        sold?;
        if stop.is_cancelled() { Err(Failure::Stopped(None)) } else { Ok(()) }
    }

    async fn write(&self, arguments: &Arguments, stop: &CancellationToken, bar: &ProgressBar) -> Result<(), Failure> {
        let paid = paid_lines(&self.store).await.map_err(|error| Failure::of("read the log", error))?;
        let orders = OrdersFile::open(&arguments.orders)?;
        let checkout = Checkout::new(&self.store, stop.clone());
        checkout.fill_the_shelves().await?;
        sell_all(orders, &paid, checkout, arguments.writers, stop, bar).await
    }

    async fn report(&self) -> Result<Report, Failure> {
        let sent = *self.sent.value();
        Report::read(&self.models, sent).await.map_err(|error| Failure::of("read the read models", error))
    }

    async fn close(&self) -> Result<(), Failure> {
        let store = self.store.close().await;
        let models = self.models.close().await;
        store.and(models).map_err(|error| Failure::of("close the database", error))
    }
}

fn temporary_file() -> Result<(PathBuf, Option<TempDir>), Failure> {
    let folder = tempfile::tempdir().map_err(|error| Failure::of("make a temporary folder", error))?;
    Ok((folder.path().join("shop.db"), Some(folder)))
}

/// `shop.db` becomes `shop.db.models`.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".models");
    PathBuf::from(name)
}

/// On stderr, and hidden where that is no terminal.
fn progress_bar(orders: u64) -> ProgressBar {
    let bar = ProgressBar::new(orders);
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} orders, {per_sec}, {eta} to go");
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Listens for a request to stop, as a task that is owned.
#[derive(Debug)]
struct Signals {
    task: JoinHandle<std::io::Result<Option<Signal>>>,
    end: CancellationToken,
}

impl Signals {
    fn listen(stop: CancellationToken) -> Self {
        let end = CancellationToken::new();
        let ended = end.clone();
        let task = tokio::spawn(async move {
            tokio::select! {
                () = ended.cancelled() => Ok(None),
                requested = shutdown::requested() => {
                    stop.cancel();
                    requested.map(Some)
                }
            }
        });
        Self { task, end }
    }

    async fn end(self) -> Result<Option<Signal>, Failure> {
        self.end.cancel();
        match self.task.await {
            Ok(Ok(signal)) => Ok(signal),
            Ok(Err(error)) => Err(Failure::of("listen for signals", error)),
            Err(panic) => Err(Failure::of("listen for signals", panic)),
        }
    }
}
