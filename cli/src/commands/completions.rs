//! `retell completions`.

use std::io::Write;

use clap_complete::Shell;

use crate::failure::{Exit, Failure};

pub(crate) fn print(mut command: clap::Command, shell: Shell) -> Result<Exit, Failure> {
    let (mut script, name) = (Vec::new(), command.get_name().to_owned());
    clap_complete::generate(shell, &mut command, name, &mut script);
    let mut out = std::io::stdout();
    out.write_all(&script)?;
    out.flush()?;
    Ok(Exit::Good)
}
