//! The question before a change.

use std::io::{self, IsTerminal, Write};

use crate::failure::Failure;
use crate::text::escaped;

/// Asks the operator, unless `--yes` answers already.
pub(super) fn confirm(change: &str, is_confirmed: bool) -> Result<(), Failure> {
    confirm_on("the read model", change, is_confirmed)
}

/// As [`confirm`], for a change of something else.
pub(super) fn confirm_on(changed: &str, change: &str, is_confirmed: bool) -> Result<(), Failure> {
    if is_confirmed {
        return Ok(());
    }
    if !io::stdin().is_terminal() {
        return Err(Failure::Refused(format!("{change}: this changes {changed}, so confirm it with --yes")));
    }
    let mut terminal = io::stderr();
    write!(terminal, "{}? [y/N] ", escaped(change))?;
    terminal.flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "yes" => Ok(()),
        _ => Err(Failure::Refused(format!("{change}: not confirmed"))),
    }
}
