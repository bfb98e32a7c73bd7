//! Reads the report on a refused server.

use retell::{Error, ErrorKind};

/// Returns the problems and remedies of a server that was refused, one per line.
pub(crate) fn report(error: &Error) -> String {
    let ErrorKind::UnfitServer(problems) = error.kind() else { panic!("{error:?}") };
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n") + "\n"
}

/// Returns the SQL after "run " in each remedy.
pub(crate) fn sql(error: &Error) -> String {
    let report = report(error);
    report.lines().filter_map(|line| Some(line.split_once("run ")?.1)).collect::<Vec<_>>().join(" ")
}
