//! A shop: replays eighteen months of a real CD shop's orders as events and computes its figures from them.
//!
//! The path of an event through the files:
//!
//! 1. `orders_file` reads a line, `checkout` turns it into commands, and `writers` serves many customers concurrently.
//! 2. `domain/{user,order,inventory,payment}` decide what happens.
//! 3. `app` delivers the events to `fulfilment`, which takes each order from the `warehouse` to its confirmation, and to the read models in
//!    `consumers/{analytics,search,audit,customers,notification}`.
//! 4. `report` reads the read models and compares them with `truth`, the sums computed directly from the file.
//!
//! Supporting files: `commands` executes commands, `addresses` parses server URLs, `stores` opens the log and the `read_models`, `database`
//! is a consumer's interface to them, `carrier` is the broker, `topology` the exchanges and queues on RabbitMQ, and `share` divides the
//! customers among processes.
//!
//! ```text
//! cargo run --release --example shop -- --db /tmp/shop.db
//! cargo run --release --features postgres --example shop -- --store postgres://localhost/shop
//! cargo run --release --features mysql --example shop -- --store mysql://root@localhost/shop
//! cargo run --release --features postgres,rabbitmq --example shop -- --store postgres://localhost/shop --broker amqp://localhost
//! ```
//!
//! The program can be killed at any moment. Started again with the same arguments, it continues and ends with the same sums. Several
//! processes can share the work: each gets the same store and its own share, and prints the whole report once all are done.
//!
//! With RabbitMQ, the roles can run as separate processes on one store and one broker, with any number of processes
//! per role. One relay leads, and each consumer is active in one process; the others are on standby.
//!
//! ```text
//! shop --store postgres://localhost/shop --broker amqp://localhost --role relay     # publishes the log
//! shop --store postgres://localhost/shop --broker amqp://localhost --role worker    # runs the consumers and the fulfilment
//! shop --store postgres://localhost/shop --broker amqp://localhost --role api       # sells, waits for the consumers, reports
//! ```
//!
//! A relay and a worker run until SIGTERM or Ctrl-C, and then exit successfully. While RabbitMQ is unreachable, the consumers read the
//! store.

#![expect(unreachable_pub, reason = "in a program, `pub` marks the interface of a module")]

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

/// Sells the orders in a file and reports the sales.
#[derive(Debug, Parser)]
#[command(name = "shop")]
struct Arguments {
    /// The orders: a header, then lines of customer, date (yyyymmdd), number of CDs and dollars.
    #[arg(long, value_name = "FILE", default_value = ORDERS)]
    orders: PathBuf,
    /// Keep the log in this SQLite file and the read models in a file next to it. Without this and --store, both are deleted at the end.
    #[arg(long, value_name = "PATH", group = "kept")]
    db: Option<PathBuf>,
    /// Keep the log and the read models in this database: postgres://.. or mysql://.. Needs the cargo feature `postgres` or `mysql`.
    #[arg(long, value_name = "URL", group = "kept")]
    store: Option<Server>,
    /// Serve part K of N of the customers. Start all N parts with the same orders and the same --store or --db. Each prints the whole
    /// report once all parts are done.
    #[arg(long, value_name = "K/N", default_value = "1/1", requires = "kept")]
    share: Share,
    /// Send the events through this RabbitMQ: amqp://user:password@host:5672/vhost. Needs the cargo feature `rabbitmq`. Without this
    /// argument, events stay inside this process.
    #[arg(long, value_name = "URL")]
    broker: Option<Broker>,
    /// Read the exchanges and queues from a JSON file instead of using the shop's defaults.
    #[arg(long, value_name = "FILE", requires = "broker")]
    topology: Option<PathBuf>,
    /// The part of the work that this process does. Other processes on the same store and broker do the rest.
    #[arg(
        long,
        value_enum,
        default_value = "all",
        requires_ifs = ["api", "relay", "worker"].into_iter().flat_map(|role| [(role, "broker"), (role, "kept")])
    )]
    role: Role,
    /// Treat every Nth line of the file as never paid and cancel its order. The file has no unpaid orders, so by default all are paid.
    #[arg(long, value_name = "N")]
    unpaid: Option<NonZeroU64>,
    /// Number of seconds an order waits for its payment.
    #[arg(long, value_name = "SECONDS", default_value = "1800")]
    patience: u64,
    /// Number of customers served concurrently.
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

/// Writes the report. A reader that closes the pipe early causes an error code, not a panic.
fn print(report: &report::Report, json: bool) -> ExitCode {
    use std::io::Write;
    let text = if json { report.to_json() } else { report.to_string() };
    match writeln!(std::io::stdout(), "{text}") {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Formats an error and all its causes on one line.
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
