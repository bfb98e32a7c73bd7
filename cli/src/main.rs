//! The command line of retell.

use std::process::ExitCode;

fn main() -> ExitCode {
    retell_cli::main()
}
