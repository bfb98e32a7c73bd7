//! The command line of retell: the program `retell`, which needs only the URL of a store.

mod args;
mod commands;
mod failure;
mod open;
mod out;
mod ports;
mod session;
mod text;

use std::ffi::OsString;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::Parser;

use args::Arguments;
use failure::{Exit, Failure};
use out::Out;

/// Runs the command that the arguments of this process name, and returns its exit code.
pub fn main() -> ExitCode {
    let exit = run(&std::env::args_os().collect::<Vec<_>>());
    ExitCode::from(exit as u8)
}

fn run(arguments: &[OsString]) -> Exit {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => return refuse(arguments, &error),
    };
    let out = Out { is_json: arguments.json, command: Some(arguments.command.name()) };
    let done = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = match done {
        Ok(runtime) => runtime,
        Err(error) => return out.failure(&Failure::Output(error)),
    };
    let done = runtime.block_on(commands::run(&arguments, &out));
    // A call that never returns must not keep the process.
    runtime.shutdown_background();
    done.unwrap_or_else(|failure| out.failure(&failure))
}

/// Prints clap's help, or its error without active characters and passwords.
fn refuse(arguments: &[OsString], error: &clap::Error) -> Exit {
    if !error.use_stderr() {
        // A reader that closes the pipe has seen enough.
        drop(io::stdout().write_all(lines(&error.to_string()).as_bytes()));
        return Exit::Good;
    }
    // The error quotes arguments. Escaped ones lead to the same error.
    let safe = arguments.iter().map(|each| text::without_passwords(&text::escaped(&each.to_string_lossy())));
    let again = Arguments::try_parse_from(safe).err();
    let said = text::without_passwords(&again.as_ref().unwrap_or(error).to_string());
    let is_json = arguments.iter().any(|each| each == "--json");
    if is_json {
        // The rest is about the usage.
        let problem = said.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ").to_owned();
        return Out { is_json, command: None }.failure(&Failure::Usage(problem));
    }
    drop(io::stderr().write_all(lines(&said).as_bytes()));
    Exit::Usage
}

/// Escapes a text of several lines.
fn lines(text: &str) -> String {
    text.lines().flat_map(|line| [text::escaped(line), "\n".to_owned()]).collect()
}
