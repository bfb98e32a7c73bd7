//! The commands. Each one makes an answer, and prints nothing.

pub(crate) mod archive;
mod change;
mod claims;
pub(crate) mod completions;
mod confirm;
mod doctor;
mod event;
pub(crate) mod migrate;
mod parked;
pub(crate) mod prune;
mod retry;
mod schema;
pub(crate) mod seal;
mod show;
mod sizes;
pub(crate) mod snapshots;
mod status;
mod tail;
pub(crate) mod trace;
pub(crate) mod typed;
mod verify;
mod why;

use std::time::Duration;

use retell::{DateTime, Utc};

use crate::args::{Command, Parked};
use crate::failure::{Exit, Failure};
use crate::out::Out;
use crate::session::Session;

/// Runs a command and prints its answer.
pub(crate) async fn run(session: &Session, command: &Command, out: &Out) -> Result<Exit, Failure> {
    let done = in_session(session, command, out);
    if is_endless(command) {
        tokio::select! {
            done = done => done,
            // An operator ends such a command in this way.
            signal = tokio::signal::ctrl_c() => signal.map(|()| Exit::Good).map_err(Failure::Output),
        }
    } else {
        done.await
    }
}

fn is_endless(command: &Command) -> bool {
    match command {
        Command::Status(status) => status.watch,
        Command::Tail(tail) => tail.follow,
        _ => false,
    }
}

async fn in_session(session: &Session, command: &Command, out: &Out) -> Result<Exit, Failure> {
    let answer = match command {
        Command::Status(status) if status.watch => loop {
            out.answer(&status::answer(session, status).await?, true)?;
            tokio::time::sleep(Duration::from_secs(status.interval.get())).await;
        },
        Command::Tail(tail) => return tail::print(session, tail, out).await,
        Command::Export(export) if export.is_stdout() => return archive::export_to_stdout(session, export).await,
        Command::Export(export) => archive::export(session, export).await?,
        Command::Import(import) => archive::import(session, import).await?,
        Command::Seal(seal) => return seal::print(session, seal, out).await,
        Command::Status(status) => status::answer(session, status).await?,
        Command::Why { event, processor } => why::answer(session, *event, processor.as_ref()).await?,
        Command::Event { event } => event::answer(session, *event).await?,
        Command::Show(show) if show.claims => claims::answer(session, show).await?,
        Command::Show(show) => show::answer(session, show).await?,
        Command::Trace(trace) => trace::answer(session, trace).await?,
        Command::Parked(Parked::List { processor }) => parked::list(session, processor.as_ref()).await?,
        Command::Parked(Parked::Show { processor, aggregate }) => parked::show(session, processor, aggregate).await?,
        Command::Parked(Parked::Retry(retry)) => retry::answer(session, retry).await?,
        Command::Parked(Parked::Skip { processor, aggregate, version, because }) => {
            change::skip(session, processor, (aggregate, *version), because).await?
        }
        Command::Parked(Parked::WithdrawSkip { processor, aggregate, version, because }) => {
            change::withdraw_skip(session, processor, (aggregate, *version), because).await?
        }
        Command::Migrate(_) => migrate::of_open_stores()?,
        Command::Pause { processor, because } => change::pause(session, processor, because).await?,
        Command::Retire { processor, because } => change::retire(session, processor, because).await?,
        Command::Resume { processor, because } => change::resume(session, processor, because).await?,
        Command::Audit { lines } => change::audit(session, *lines).await?,
        Command::Doctor(doctor) if doctor.after_restore => doctor::after_restore(session, doctor).await?,
        Command::Doctor(doctor) => doctor::answer(session, doctor).await?,
        Command::Prune(prune) => prune::answer(session, prune).await?,
        Command::Verify { after } => verify::answer(session, *after).await?,
        Command::Schema(schema) => schema::answer(session, schema).await?,
        Command::Completions { .. } => return Ok(Exit::Good),
    };
    out.answer(&answer, false)?;
    Ok(answer.exit)
}

/// Returns a time to the second.
fn time(time: DateTime<Utc>) -> String {
    time.format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Returns a number of seconds in the largest unit that fits.
fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// Returns a number and its noun.
fn count(number: u64, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_the_largest_unit_that_fits() {
        let ages = [0, 119, 120, 7_199, 7_200, 172_799, 172_800].map(age);
        assert_eq!(ages, ["0 s", "119 s", "2 min", "119 min", "2 h", "47 h", "2 d"]);
        assert_eq!((count(1, "event"), count(2, "event")), ("1 event".into(), "2 events".into()));
    }
}
