//! One run of the shop: check the file, sell, wait for the consumers, report. A process with a role runs only its part.

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use retell::shutdown::{self, Signal};
use retell::{BoxError, Position, app};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

#[cfg(any(feature = "postgres", feature = "mysql"))]
use crate::addresses::Server;
use crate::carrier::Carrier;
use crate::checkout::Checkout;
use crate::commands::NotSold;
use crate::consumers;
use crate::fulfilment::Fulfilment;
use crate::orders_file::{BadFile, OrdersFile};
use crate::read_models::ReadModels;
use crate::report::Report;
use crate::stores::Stores;
use crate::truth::Truth;
use crate::warehouse::Warehouse;
use crate::writers::{paid_lines, sell_all};
use crate::{Arguments, chain};

/// Interval for polling the checkpoints of consumers in other processes.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The part of the work that a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Do everything.
    All,
    /// Sell, wait for the consumers, and report.
    Api,
    /// Publish the log to the broker until the process is stopped.
    Relay,
    /// Run the consumers until the process is stopped.
    Worker,
}

impl From<Role> for app::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::All => Self::All,
            Role::Api => Self::Api,
            Role::Relay => Self::Relay,
            Role::Worker => Self::Worker,
        }
    }
}

/// The reason why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    BadFile(#[from] BadFile),
    #[error("stopped on request; run again with the same arguments to continue")]
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

    /// Returns the exit code: that of the signal after a request to stop, otherwise 1.
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

/// Runs the process in its role. The roles that sell return a report.
pub async fn run(arguments: &Arguments) -> Result<Option<Report>, Failure> {
    let stop = CancellationToken::new();
    let signals = Signals::listen(stop.clone());
    let done = match arguments.store.clone() {
        #[cfg(feature = "postgres")]
        Some(Server::Postgres(url)) => work(arguments, Stores::postgres(&url), stop).await,
        #[cfg(feature = "mysql")]
        Some(Server::MySql(url)) => work(arguments, Stores::mysql(&url), stop).await,
        None => work(arguments, Stores::sqlite(arguments.db.as_deref()), stop).await,
    };
    let signal = signals.end().await?;
    match done {
        Err(Failure::Stopped(_)) => Err(Failure::Stopped(signal)),
        done => done,
    }
}

async fn work<M: ReadModels>(
    arguments: &Arguments,
    stores: impl Future<Output = Result<Stores<M>, Failure>>,
    stop: CancellationToken,
) -> Result<Option<Report>, Failure> {
    match arguments.role {
        Role::All | Role::Api => {
            // Read the file first: an unusable file must not leave anything behind.
            let (truth, start) = (Truth::read(&arguments.orders, arguments.unpaid)?, Instant::now());
            let (report, written) = Shop::open(arguments, stores, stop).await?.sell_all(&truth).await?;
            let report = report.timed(written, start.elapsed());
            match report.differences(&truth) {
                none if none.is_empty() => Ok(Some(report)),
                differences => Err(Failure::Differs(differences)),
            }
        }
        Role::Relay | Role::Worker => Shop::open(arguments, stores, stop).await?.serve().await.map(|()| None),
    }
}

/// The state of a run.
struct Shop<'a, M> {
    arguments: &'a Arguments,
    stores: Stores<M>,
    carrier: Carrier,
    stop: CancellationToken,
}

impl<'a, M: ReadModels> Shop<'a, M> {
    async fn open(
        arguments: &'a Arguments,
        stores: impl Future<Output = Result<Stores<M>, Failure>>,
        stop: CancellationToken,
    ) -> Result<Self, Failure> {
        let carrier = Carrier::open(arguments.broker.clone(), arguments.topology.as_deref()).await?;
        Ok(Self { arguments, stores: stores.await?, carrier, stop })
    }

    /// Sells everything in the file. Returns the report of the read models and the number of events written.
    async fn sell_all(self, truth: &Truth) -> Result<(Report, u64), Failure> {
        let before = self.head().await?;
        let mut following = self.follow();
        let sold = self.sell(truth, &mut following).await;
        let end = following.end().await;
        // If a consumer failed, it stopped the writers, so report its failure first.
        let report = match end.and(sold) {
            Ok(head) => self.report().await.map(|report| (report, head.since(before))),
            Err(failure) => Err(failure),
        };
        let closed = self.close().await;
        let report = report?;
        closed.map(|()| report)
    }

    /// Runs the relay or the consumers until the process is stopped, and then returns successfully.
    async fn serve(self) -> Result<(), Failure> {
        let following = self.follow();
        eprintln!("shop: running until SIGTERM or Ctrl-C");
        // A task that fails also requests the stop, and its failure is returned below.
        self.stop.cancelled().await;
        let ended = following.end().await;
        ended.and(self.close().await)
    }

    /// Starts the tasks of this process's role. If a task fails, the program ends with its error, so that an operator notices.
    fn follow(&self) -> Following {
        let fulfilment = Fulfilment::new(&self.stores.log, Duration::from_secs(self.arguments.patience));
        let app = crate::app::app(&self.stores, &self.carrier, fulfilment);
        let failed = Arc::<OnceLock<_>>::default();
        let (first, failing) = (failed.clone(), self.stop.clone());
        let app = app.with_role(self.arguments.role.into()).with_on_failure(move |task, error| {
            drop(first.set((format!("run {task}"), chain(error))));
            failing.cancel();
        });
        Following { running: app.start(), failed }
    }

    async fn close(&self) -> Result<(), Failure> {
        self.carrier.close().await;
        self.stores.close().await
    }

    async fn head(&self) -> Result<Position, Failure> {
        self.stores.log.head().await.map_err(|error| Failure::of("read the log", error))
    }

    /// Writes until everything is sold and applied, or until the process is stopped. Returns the last position of the log.
    async fn sell(&self, truth: &Truth, following: &mut Following) -> Result<Position, Failure> {
        let bar = progress_bar(truth.orders_of(self.arguments.share));
        let written = self.write(&bar).await;
        bar.set_message(if self.arguments.share.is_all() { "" } else { ", waiting for the other shares" });
        let end = match written {
            Ok(()) => self.await_end(truth, following).await,
            Err(failure) => Err(failure),
        };
        bar.finish_and_clear();
        if self.stop.is_cancelled() { Err(Failure::Stopped(None)) } else { end }
    }

    async fn write(&self, bar: &ProgressBar) -> Result<(), Failure> {
        let Arguments { orders, unpaid, share, writers, .. } = self.arguments;
        let log = &self.stores.log;
        let paid = paid_lines(log).await.map_err(|error| Failure::of("read the log", error))?;
        let orders = OrdersFile::open(orders, *unpaid)?;
        let checkout = Checkout::new(log, self.stop.clone());
        let filled = Warehouse::new(log).receive_initial_stock().await;
        filled.map_err(|error| Failure::of("receive the initial stock", error))?;
        sell_all(orders, &paid, *share, checkout, *writers, &self.stop, bar).await
    }

    /// Waits until nothing is pending: the log no longer grows, all consumers have applied it, and no order waits for its payment. Once
    /// every process has sold its share, the log has at least as many events as the file leads to, and positions have no gaps.
    async fn await_end(&self, truth: &Truth, following: &mut Following) -> Result<Position, Failure> {
        let is_all = self.arguments.share.is_all();
        let least = if is_all { 0 } else { truth.events(truth.fewest_deliveries()) };
        loop {
            let head = self.head().await?.max(Position::new(least));
            self.await_followers(head, following).await?;
            let is_over = self.head().await? == head && !self.await_payment().await?;
            if is_over || self.stop.is_cancelled() {
                return Ok(head);
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Waits until all consumers, here or in other processes, have applied the log up to `end`, or until the process is stopped.
    async fn await_followers(&self, end: Position, following: &mut Following) -> Result<(), Failure> {
        if self.arguments.role == Role::All {
            self.stop.run_until_cancelled(following.running.has_applied(end)).await;
        }
        while !self.stop.is_cancelled() {
            match consumers::have_applied(&self.stores.models, end).await {
                Ok(true) => break,
                Err(error) if !error.is_transient() => return Err(Failure::of("read the read models", error)),
                _ => tokio::time::sleep(POLL_INTERVAL).await,
            }
        }
        Ok(())
    }

    async fn await_payment(&self) -> Result<bool, Failure> {
        match consumers::await_payment(&self.stores.models).await {
            Err(error) if !error.is_transient() => Err(Failure::of("read the deadlines", error)),
            pending => Ok(pending.unwrap_or(true)),
        }
    }

    async fn report(&self) -> Result<Report, Failure> {
        let report = Report::read(self.stores.name, self.carrier.name(), &self.stores.models).await;
        report.map_err(|error| Failure::of("read the read models", error))
    }
}

/// The tasks of this process, and the name and error of the first one that failed.
struct Following {
    running: app::Running,
    failed: Arc<OnceLock<(String, String)>>,
}

impl Following {
    /// Stops the tasks; each finishes its current work.
    async fn end(self) -> Result<(), Failure> {
        let stopped = self.running.stop().await.map_err(|error| Failure::of("stop", error));
        let failed = self.failed.get().map_or(Ok(()), |(what, why)| Err(Failure::of(what, why.clone())));
        failed.and(stopped)
    }
}

/// Creates a progress bar on stderr, which is hidden if stderr is not a terminal.
fn progress_bar(orders: u64) -> ProgressBar {
    let bar = ProgressBar::new(orders);
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} orders, {per_sec}, {eta} left{msg}");
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Listens for a request to stop, in a task that the run owns.
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
