//! Runs relays and workers as real processes between a real RabbitMQ and real databases, and injects faults. After
//! every fault the read model must equal the fold of the log, with every event applied once and in the order of its
//! aggregate.
//!
//! The test binary starts itself again as those processes, so it has its own `main`. In the short form each fault runs
//! with one database, one kind of worker (a projection or a view, in log order or with order per aggregate) and a few
//! thousand events; `RETELL_CHAOS=wide` runs every combination, and `RETELL_CHAOS=long` does so with 50,000 events.
//! In a fault that a database with an older state takes over, an operator resets what refuses to continue; then the same must hold.
//! `RETELL_CHAOS_SEED`, set to the value that a run printed, repeats that run's choices. Needs `AMQP_URL`,
//! `POSTGRES_URL` and `MYSQL_URL`, and libfaketime, which gives processes wrong clocks.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod child;
mod clock;
#[path = "../support/databases.rs"]
mod databases;
mod failover;
mod faults;
#[path = "../support/programs.rs"]
mod programs;
mod proxy;
#[path = "../support/rabbitmq.rs"]
mod rabbitmq;
mod random;
mod run;
#[path = "../history/server.rs"]
mod server;
mod tally;
mod view;

use std::env;

use libtest_mimic::{Arguments, Trial};
use tokio::runtime::Runtime;

use child::{Job, Role};
use faults::FAULTS;
use run::{Kind, Run, SEED};

fn main() {
    if let Some(job) = Job::of_this_process() {
        return Runtime::new().unwrap().block_on(job.run());
    }
    let kinds = [Kind::Sqlite, Kind::Postgres, Kind::MySql];
    let workers = [
        (Role::Worker, ""),
        (Role::ParallelWorker, "_in_parallel"),
        (Role::View, "_in_a_view"),
        (Role::ParallelView, "_in_a_view_in_parallel"),
    ];
    let form = env::var("RETELL_CHAOS").unwrap_or_default();
    let (is_wide, events) = (form == "wide" || form == "long", if form == "long" { 50_000 } else { 2_000 });
    let mut trials = Vec::new();
    for (turn, (name, fault)) in FAULTS.into_iter().enumerate() {
        for (number, kind) in kinds.into_iter().enumerate() {
            for (place, (worker, form)) in workers.into_iter().enumerate() {
                if is_wide || (turn % kinds.len(), turn % workers.len()) == (number, place) {
                    let name = format!("{name}{form}_on_{}", kind.name());
                    trials.push(Trial::test(name.clone(), move || {
                        let mut run = Run::new(kind, events);
                        eprintln!("{name}: {SEED}={}", run.seed);
                        run.worker = worker;
                        fault(run);
                        Ok(())
                    }));
                }
            }
        }
    }
    trials.push(Trial::test("without_the_gate_the_suite_fails", || {
        faults::without_the_gate_the_suite_fails();
        Ok(())
    }));
    let mut arguments = Arguments::from_args();
    // A run has five processes of its own, which mostly wait.
    arguments.test_threads = arguments.test_threads.or(Some(2));
    libtest_mimic::run(&arguments, trials).exit()
}
