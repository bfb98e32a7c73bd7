//! The error of a projection's work: caused by the database or by the projection.

use std::error::Error as StdError;

use crate::error::{Error, ErrorKind, chain};

/// Returns the error that a read model reports when a projection's work fails with `error`.
///
/// `classify` returns the kind of a database error, and `None` for any other error. This function calls it on `error` and then on each of
/// its causes, until it returns a kind. If that kind is [`ErrorKind::Transient`], [`ErrorKind::Full`] or [`ErrorKind::ReadOnly`], the
/// database is at fault: the result has that kind, and a worker retries instead of parking the aggregate. Otherwise the projection is at
/// fault, and the result is `error` unchanged.
pub fn of_work(error: Error, classify: impl Fn(&(dyn StdError + 'static)) -> Option<ErrorKind>) -> Error {
    let database_error = chain(&error).find_map(classify);
    match database_error {
        Some(kind @ (ErrorKind::Transient(_) | ErrorKind::Full | ErrorKind::ReadOnly)) => {
            Error::with_source(kind, error)
        }
        _ => error,
    }
}
