//! The error of a projection's work: whose fault it is.

use std::error::Error as StdError;

use crate::error::{Error, ErrorKind, chain};

/// Returns the error that a read model reports when a projection's work fails with `error`. `classify` names the kind of an error of the
/// database, and is asked for `error` and each of its causes. If the first one that it knows is [`ErrorKind::Transient`],
/// [`ErrorKind::Full`] or [`ErrorKind::ReadOnly`], the database is at fault: the result has that kind, and a worker retries instead of
/// parking the aggregate. Otherwise the projection is at fault, and its error is returned as it is.
pub fn of_work(error: Error, classify: impl Fn(&(dyn StdError + 'static)) -> Option<ErrorKind>) -> Error {
    let beneath = chain(&error).find_map(classify);
    match beneath {
        Some(kind @ (ErrorKind::Transient(_) | ErrorKind::Full | ErrorKind::ReadOnly)) => {
            Error::with_source(kind, error)
        }
        _ => error,
    }
}
