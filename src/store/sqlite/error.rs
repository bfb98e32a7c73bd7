//! Classifies SQLite's error codes.

use std::fmt::Display;

use rusqlite::ErrorCode;

use crate::error::{Error, ErrorKind};
use crate::store::model::work::of_work;

/// The error of a call on a connection: an unclassified error of SQLite, or an error of this library.
#[derive(Debug)]
pub(crate) enum Failure {
    Sqlite(rusqlite::Error),
    Own(Error),
}

impl From<rusqlite::Error> for Failure {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Own(error)
    }
}

impl Failure {
    /// Converts to the public error, for an attempt such as `read the log`.
    pub(crate) fn to(self, attempt: &str) -> Error {
        match self {
            Self::Own(error) => error,
            Self::Sqlite(error) => classify(error, attempt),
        }
    }

    /// Returns whether a commit that failed may succeed without one of its appends. Nothing was written.
    pub(crate) fn may_be_of_one_append(&self) -> bool {
        match self {
            Self::Own(error) => !error.is_outage(),
            Self::Sqlite(error) => !matches!(
                error.sqlite_error_code(),
                Some(
                    ErrorCode::DatabaseBusy
                        | ErrorCode::DatabaseLocked
                        | ErrorCode::FileLockingProtocolFailed
                        | ErrorCode::OperationInterrupted
                        | ErrorCode::DiskFull
                        | ErrorCode::ReadOnly
                        | ErrorCode::SystemIoFailure
                        | ErrorCode::CannotOpen
                        | ErrorCode::OutOfMemory
                )
            ),
        }
    }

    /// Converts to the [`Corrupt`](ErrorKind::Corrupt) error of the row at `place`, which cannot be read.
    pub(crate) fn in_row(self, place: impl Display) -> Self {
        match self {
            Self::Own(error) => match error.kind() {
                ErrorKind::Corrupt(what) => corrupt(format!("{place}: {what}")),
                _ => corrupt(format!("{place}: {error}")),
            },
            Self::Sqlite(error) => Self::Own(Error::with_source(ErrorKind::Corrupt(place.to_string()), error)),
        }
    }
}

/// Classifies an error by SQLite's code. `attempt` completes "cannot ..".
pub(crate) fn classify(error: rusqlite::Error, attempt: &str) -> Error {
    Error::with_source(kind(&error, attempt), error)
}

/// Classifies the error of a projection. If the first error of SQLite in its chain says that the database is the cause, the projection is not at
/// fault.
pub(crate) fn classify_work(error: Error) -> Error {
    of_work(error, |cause| Some(kind(cause.downcast_ref()?, "apply events")))
}

fn kind(error: &rusqlite::Error, attempt: &str) -> ErrorKind {
    match error.sqlite_error_code() {
        // `FileLockingProtocolFailed`: other processes have taken the locks of the write-ahead log for some ten seconds.
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::FileLockingProtocolFailed
            | ErrorCode::OperationInterrupted,
        ) => ErrorKind::Transient(attempt.to_owned()),
        Some(ErrorCode::DiskFull) => ErrorKind::Full,
        Some(ErrorCode::ReadOnly) => ErrorKind::ReadOnly,
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => ErrorKind::Corrupt(attempt.to_owned()),
        _ => ErrorKind::Backend(attempt.to_owned()),
    }
}

/// Returns a [`Corrupt`](ErrorKind::Corrupt) error that says what is damaged.
pub(crate) fn corrupt(what: String) -> Failure {
    Failure::Own(Error::new(ErrorKind::Corrupt(what)))
}

#[cfg(test)]
mod tests {
    use rusqlite::ffi::{
        self, SQLITE_BUSY, SQLITE_BUSY_RECOVERY, SQLITE_BUSY_SNAPSHOT, SQLITE_CONSTRAINT, SQLITE_FULL,
        SQLITE_INTERRUPT, SQLITE_IOERR_FSYNC, SQLITE_LOCKED, SQLITE_PROTOCOL, SQLITE_READONLY,
    };

    use super::*;

    #[test]
    fn locks_of_others_pass_and_faults_of_the_disk_do_not() {
        let error = |code| classify(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None), "read");
        let locked =
            [SQLITE_BUSY, SQLITE_BUSY_RECOVERY, SQLITE_BUSY_SNAPSHOT, SQLITE_LOCKED, SQLITE_PROTOCOL, SQLITE_INTERRUPT];
        for code in locked {
            assert!(error(code).is_transient(), "{code}");
        }
        for code in [SQLITE_IOERR_FSYNC, SQLITE_CONSTRAINT] {
            assert!(!error(code).is_outage(), "{code}");
        }
        assert!(error(SQLITE_FULL).is_outage() && error(SQLITE_READONLY).is_outage());
    }
}
