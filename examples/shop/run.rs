//! One run from beginning to end: look at the file, sell, wait for the consumers, report. Or only a part of it, by the process's role.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use retell::shutdown::{self, Signal};
use retell::{BoxError, Position};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::Arguments;
use crate::carrier::Carrier;
use crate::checkout::{Checkout, NotSold};
use crate::consumers;
use crate::orders_file::{BadFile, OrdersFile};
use crate::pipeline::Pipeline;
use crate::report::Report;
use crate::share::Share;
use crate::stores::Stores;
use crate::truth::Truth;
use crate::writers::{paid_lines, sell_all};

/// How often to ask where the consumers of other processes are.
const LOOK: Duration = Duration::from_millis(50);

/// What a process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Everything.
    All,
    /// Sells, waits for the consumers, and reports.
    Api,
    /// Carries the log to the broker, until it is told to stop.
    Relay,
    /// Runs the consumers, until it is told to stop.
    Worker,
}

impl Role {
    pub fn relays(self) -> bool {
        matches!(self, Self::All | Self::Relay)
    }

    pub fn consumes(self) -> bool {
        matches!(self, Self::All | Self::Worker)
    }
}

/// Why there is no report.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    BadFile(#[from] BadFile),
    #[error("stopped on request: start again in the same place to go on")]
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

/// Does what the process is there for. The roles that sell have a report.
pub async fn run(arguments: &Arguments) -> Result<Option<Report>, Failure> {
    let stopping = CancellationToken::new();
    let signals = Signals::listen(stopping.clone());
    let done = match arguments.role {
        Role::All | Role::Api => sell(arguments, stopping).await.map(Some),
        Role::Relay | Role::Worker => serve(arguments, stopping).await.map(|()| None),
    };
    let signal = signals.end().await?;
    match done {
        Err(Failure::Stopped(_)) => Err(Failure::Stopped(signal)),
        done => done,
    }
}

/// Sells everything in the file, and tells what the consumers made of it.
async fn sell(arguments: &Arguments, stopping: CancellationToken) -> Result<Report, Failure> {
    let truth = Truth::read(&arguments.orders)?;
    let start = Instant::now();
    let shop = Shop::open(arguments).await?;
    let before = shop.head().await?;
    let sold = shop.sell(arguments, &truth, stopping).await;
    let report = match sold {
        Ok(()) => shop.report().await,
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

/// Relays or consumes until it is told to stop, which is a good end.
async fn serve(arguments: &Arguments, stopping: CancellationToken) -> Result<(), Failure> {
    let shop = Shop::open(arguments).await?;
    let pipeline = Pipeline::start(&shop.stores, &shop.carrier, arguments.role, stopping.clone());
    eprintln!("shop: running until SIGTERM or Ctrl-C");
    // A task that failed asks for the end as well, and then says why.
    stopping.cancelled().await;
    let ended = pipeline.end().await;
    ended.and(shop.close().await)
}

/// What a run works with.
struct Shop {
    stores: Stores,
    carrier: Carrier,
}

impl Shop {
    async fn open(arguments: &Arguments) -> Result<Self, Failure> {
        let carrier = Carrier::open(arguments.broker.as_deref(), arguments.topology.as_deref()).await?;
        let stores = Stores::open(arguments.store.as_ref(), arguments.db.as_deref()).await?;
        Ok(Self { stores, carrier })
    }

    async fn close(&self) -> Result<(), Failure> {
        self.carrier.close().await;
        self.stores.close().await
    }

    async fn head(&self) -> Result<Position, Failure> {
        self.stores.log.head().await.map_err(|error| Failure::of("read the log", error))
    }

    /// Writes, relays and consumes until all is sold and applied, or until it is told to stop.
    async fn sell(&self, arguments: &Arguments, truth: &Truth, stop: CancellationToken) -> Result<(), Failure> {
        let mut pipeline = Pipeline::start(&self.stores, &self.carrier, arguments.role, stop.clone());
        let bar = progress_bar(truth.orders_of(arguments.share));
        let mut sold = self.write(arguments, &stop, &bar).await;
        if sold.is_ok() {
            bar.set_message(if arguments.share.is_all() { "" } else { ", waiting for the other shares" });
            let last = self.last_position(arguments.share, truth).await?;
            pipeline.catch_up(last).await;
            if !arguments.role.consumes() {
                sold = self.await_consumers(last, &stop).await;
            }
        }
        bar.finish_and_clear();
        // A consumer that failed made the writers stop, so its failure goes first.
        pipeline.end().await?;
        sold?;
        if stop.is_cancelled() { Err(Failure::Stopped(None)) } else { Ok(()) }
    }

    async fn write(&self, arguments: &Arguments, stop: &CancellationToken, bar: &ProgressBar) -> Result<(), Failure> {
        let log = &self.stores.log;
        let paid = paid_lines(log).await.map_err(|error| Failure::of("read the log", error))?;
        let orders = OrdersFile::open(&arguments.orders)?;
        let checkout = Checkout::new(log, stop.clone());
        checkout.fill_the_shelves().await?;
        sell_all(orders, &paid, arguments.share, checkout, arguments.writers, stop, bar).await
    }

    /// Where the log ends once every process has sold its share: positions have no holes, so it is the number of events.
    async fn last_position(&self, share: Share, truth: &Truth) -> Result<Position, Failure> {
        let head = self.head().await?;
        Ok(if share.is_all() { head } else { head.max(Position::new(truth.events())) })
    }

    /// Waits until the consumers of other processes have applied everything up to `end`, or it is told to stop.
    async fn await_consumers(&self, end: Position, stop: &CancellationToken) -> Result<(), Failure> {
        while !stop.is_cancelled() {
            match consumers::have_applied(&self.stores.models, end).await {
                Ok(true) => break,
                Err(error) if !error.is_transient() => return Err(Failure::of("read the read models", error)),
                _ => tokio::time::sleep(LOOK).await,
            }
        }
        Ok(())
    }

    async fn report(&self) -> Result<Report, Failure> {
        let report = Report::read(self.stores.name, self.carrier.name(), &self.stores.models).await;
        report.map_err(|error| Failure::of("read the read models", error))
    }
}

/// On stderr, and hidden where that is no terminal.
fn progress_bar(orders: u64) -> ProgressBar {
    let bar = ProgressBar::new(orders);
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} orders, {per_sec}, {eta} to go{msg}");
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
