//! A shop: eighteen months of a real CD shop's orders, told as events and counted again from them.
//!
//! The way of an event through the files:
//!
//! 1. `orders_file` reads a line, `checkout` makes commands of it, `writers` lets many customers act at once;
//! 2. `domain/{user,order,inventory,payment}` decide what happens;
//! 3. `app` brings what happened to those who follow it: `fulfilment` sees each order through, from the `warehouse` to its confirmation, and
//!    `consumers/{analytics,search,audit,customers,notification}` keep what they make of it;
//! 4. `report` reads what they kept, and compares it with `truth`: the sums taken straight from the file.
//!
//! Beside the way: `commands` executes them, `addresses` says which servers there are, `stores` opens the log and the `read_models`, `database` is what a consumer sees of those,
//! `carrier` is what the events travel over, `topology` what stands on RabbitMQ, `share` divides the customers among processes.
//!
//! ```text
//! cargo run --release --example shop -- --db /tmp/shop.db
//! cargo run --release --features postgres --example shop -- --store postgres://localhost/shop
//! cargo run --release --features mysql --example shop -- --store mysql://root@localhost/shop
//! cargo run --release --features postgres,rabbitmq --example shop -- --store postgres://localhost/shop --broker amqp://localhost
//! ```
//!
//! Killed at any moment and started again in the same place, it goes on and ends with the same sums. Several processes can share the work:
//! each is given the same store and a share of its own, and ends with the whole report when all are done.
//!
//! Over RabbitMQ the parts can be processes of their own, on one store and one broker, as many of each as you like:
//!
//! ```text
//! shop --store postgres://localhost/shop --broker amqp://localhost --role relay     # one leads, the others stand by
//! shop --store postgres://localhost/shop --broker amqp://localhost --role worker    # runs the consumers and the fulfilment; here too
//! shop --store postgres://localhost/shop --broker amqp://localhost --role api       # sells, waits for the consumers, reports
//! ```
//!
//! A relay and a worker run until SIGTERM or Ctrl-C, and that is a good end. While RabbitMQ is away the store carries the events.

#![expect(unreachable_pub, reason = "in a program `pub` says what a module shows the others")]

mod addresses;
mod app;
mod carrier;
mod chart;
mod checkout;
mod commands;
mod consumers;
mod database;
mod domain;
mod fulfilment;
mod orders_file;
mod read_models;
mod report;
mod run;
mod share;
mod stores;
#[cfg(feature = "rabbitmq")]
mod topology;
mod truth;
mod warehouse;
mod writers;

use std::error::Error;
use std::num::{NonZeroU64, NonZeroUsize};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use addresses::{Broker, Server};
use run::Role;
use share::Share;

/// The orders that come with the example: every purchase of 23,570 customers in 1997 and 1998.
const ORDERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/shop/data/CDNOW_master.txt");

/// Sells what a file of orders says, and reports what was sold.
#[derive(Debug, Parser)]
#[command(name = "shop")]
struct Arguments {
    /// The orders: a header, then lines of customer, date (yyyymmdd), number of CDs and dollars.
    #[arg(long, value_name = "FILE", default_value = ORDERS)]
    orders: PathBuf,
    /// Keep the log in this SQLite file and the read models beside it. With neither this nor --store, both are gone at the end.
    #[arg(long, value_name = "PATH", group = "kept")]
    db: Option<PathBuf>,
    /// Keep the log and the read models in this database: postgres://.. or mysql://.. Needs the cargo feature `postgres` or `mysql`.
    #[arg(long, value_name = "URL", group = "kept")]
    store: Option<Server>,
    /// Serve the Kth of N parts of the customers. Start all N on the same orders and the same --store or --db: each ends with the whole
    /// report, when all parts are done.
    #[arg(long, value_name = "K/N", default_value = "1/1", requires = "kept")]
    share: Share,
    /// Carry the events over this RabbitMQ: amqp://user:password@host:5672/vhost. Needs the cargo feature
    /// `rabbitmq`. Without this argument the events stay within this process.
    #[arg(long, value_name = "URL")]
    broker: Option<Broker>,
    /// Other exchanges and queues than the shop's, from a JSON file.
    #[arg(long, value_name = "FILE", requires = "broker")]
    topology: Option<PathBuf>,
    /// What this process does. Other processes on the same store and broker do the rest.
    #[arg(
        long,
        value_enum,
        default_value = "all",
        requires_ifs = ["api", "relay", "worker"].into_iter().flat_map(|role| [(role, "broker"), (role, "kept")])
    )]
    role: Role,
    /// Every Nth line of the file is never paid, and its order cancelled. The file does not say: without this all are paid.
    #[arg(long, value_name = "N")]
    unpaid: Option<NonZeroU64>,
    /// How many seconds an order waits for its payment.
    #[arg(long, value_name = "SECONDS", default_value = "1800")]
    patience: u64,
    /// How many customers act at once.
    #[arg(long, value_name = "N", default_value = "32")]
    writers: NonZeroUsize,
    /// Print one JSON object instead of the report.
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run::run(&arguments).await {
        Ok(Some(report)) => print(&report, arguments.json),
        Ok(None) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("shop: {}", chain(&failure));
            failure.exit_code()
        }
    }
}

/// Writes the report; a reader that went away early is no reason to panic.
fn print(report: &report::Report, json: bool) -> ExitCode {
    use std::io::Write;
    let text = if json { report.to_json() } else { report.to_string() };
    match writeln!(std::io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// An error and everything that led to it, on one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
