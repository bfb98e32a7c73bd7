//! A process of one of the releases: it executes commands, relays the log to RabbitMQ, and keeps two views.

use std::convert::Infallible;
use std::env;
use std::io::{BufRead, stdin};
use std::time::Duration;

use futures::future::join_all;
use retell::broker::rabbitmq::topology::Topology;
use retell::broker::rabbitmq::{RabbitMqBroker, RabbitMqOptions};
use retell::relay::RelayOptions;
use retell::status::{Status, Wait};
use retell::store::ReadModel;
use retell::worker::{ParkingOptions, WorkerOptions};
use retell::{CommandError, Context, Handle, IdempotencyKey, Projection, Relay, Repository, View, Worker};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::databases::Place;
use crate::models::with_models;
use crate::releases::{Credit, first, second};

/// The accounts that all processes credit. Each process has accounts of its own besides.
const SHARED: u64 = 8;

/// The pause between two commands.
const PAUSE: Duration = Duration::from_millis(5);

/// The name of the relay.
pub(crate) const RELAY: &str = "main";

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) release: u32,
    pub(crate) name: String,
    pub(crate) place: Place,
    pub(crate) topology: Topology,
}

/// A line that a process prints, as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Line {
    /// The command is in the log.
    Done { command: String, account: String, version: u64 },
    /// The account has events of a newer release.
    Behind,
    /// The worker of a view waits for processes of a newer release.
    Waits { view: String },
}

impl Line {
    fn print(&self) {
        println!("{}", serde_json::to_string(self).unwrap());
    }
}

impl Job {
    /// Works until the parent closes standard input or kills the process.
    pub(crate) async fn run(self) {
        match self.release {
            1 => play::<first::Account>(&self, first::Balances, first::ByAccount).await,
            _ => play::<second::Account>(&self, second::Balances, second::ByAccount).await,
        }
    }

    /// Executes commands at the pace of this process.
    async fn execute<A: Handle<Credit, Error = Infallible>>(&self, accounts: Repository<A>, stop: &CancellationToken) {
        for number in 0_u64.. {
            if stop.is_cancelled() {
                return;
            }
            let account = match number % 3 {
                0 => format!("{}-{}", self.name, number / 60),
                _ => format!("shared-{}", number % SHARED),
            };
            let line = self.credit(&accounts, account, number).await;
            line.print();
            sleep(PAUSE).await;
        }
    }

    /// Repeats one command under its key until the outcome is known.
    async fn credit<A>(&self, accounts: &Repository<A>, account: String, number: u64) -> Line
    where
        A: Handle<Credit, Error = Infallible>,
    {
        let command = format!("{}.{number}", self.name);
        loop {
            let credit = Credit { command: command.clone(), cents: 1 + number };
            let context = Context::new().with_key(IdempotencyKey::new(&command).unwrap());
            match accounts.execute_with(&*account, credit, context).await {
                Ok(executed) => return Line::Done { command, account, version: executed.version.get() },
                Err(CommandError::BehindDeploy(_)) if self.release == 1 => return Line::Behind,
                Err(CommandError::Transient(_) | CommandError::Conflict(_)) => sleep(PAUSE).await,
                Err(error) => panic!("{command} on {account}: {error:?}"),
            }
        }
    }
}

/// Runs all parts of the process until the parent closes standard input.
async fn play<A: Handle<Credit, Error = Infallible>>(job: &Job, balances: impl View, by_account: impl View) {
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let reading = tokio::task::spawn_blocking(move || {
        stdin().lock().read_line(&mut String::new()).unwrap();
        stopped.cancel();
    });
    let (store, broker) = (job.place.open().await.unwrap(), broker(&job.topology));
    // A killed process leaves its lease behind.
    let options = RelayOptions::new().with_lease(Duration::from_millis(200));
    let relay = Relay::new(store.events.clone(), broker.clone()).with_checkpoint(store.relays, RELAY);
    let relay = relay.with_options(options);
    let commands = job.execute(Repository::<A>::over(store.events.clone()), &stop);
    with_models!(&job.place, |models| {
        let in_order = worker(Worker::view(balances, store.events.clone(), models.clone()), &broker);
        let parallel = worker(Worker::view(by_account, store.events.clone(), models), &broker);
        let parallel = parallel.with_order_per_aggregate();
        let waits = [(in_order.status(), first::Balances::NAME), (parallel.status(), first::ByAccount::NAME)];
        let waits = waits.map(|(status, view)| stop.run_until_cancelled(print_waits(status, view)));
        let (relayed, kept, kept_parallel, (), _) = tokio::join!(
            Box::pin(relay.run(stop.clone())),
            Box::pin(in_order.run(stop.clone())),
            Box::pin(parallel.run(stop.clone())),
            Box::pin(commands),
            join_all(waits),
        );
        relayed.and(kept).and(kept_parallel).unwrap();
    });
    reading.await.unwrap();
}

/// Prints when a worker begins to wait for a newer release.
async fn print_waits(mut status: watch::Receiver<Status>, view: &str) {
    let is_behind = |status: &Status| status.waits.iter().any(|waiting| waiting.on == Wait::Deploy);
    while status.wait_for(is_behind).await.is_ok() {
        Line::Waits { view: view.to_owned() }.print();
        if status.wait_for(|status| !is_behind(status)).await.is_err() {
            return;
        }
    }
}

pub(crate) fn broker(topology: &Topology) -> RabbitMqBroker {
    let url = env::var("AMQP_URL").expect("AMQP_URL is not set: tests/run.sh starts a RabbitMQ");
    RabbitMqBroker::new(RabbitMqOptions::new(&url).unwrap().with_topology(topology.clone())).unwrap()
}

/// Parks an aggregate for longer than the test runs, so that the end shows each one that was parked.
fn worker<P, M>(worker: Worker<P, M>, broker: &RabbitMqBroker) -> Worker<P, M>
where
    P: Projection,
    M: ReadModel<Tx = P::Tx>,
{
    let hour = Duration::from_hours(1);
    let parking = ParkingOptions::new().with_delays(hour, hour);
    let options = WorkerOptions::new().with_parking(parking).with_sweep(Duration::from_millis(200));
    let worker = worker.with_options(options.with_longest_delay(Duration::from_millis(200)));
    worker.with_broker(broker.clone()).with_dead_letters(broker.clone())
}
