//! Exit codes, and the errors that lead to them.

use std::io;
use std::process::ExitCode;
use std::time::Duration;

use retell::{Error, ErrorKind};
use serde::Serialize;

use crate::text::without_passwords;

/// The result of a command, as an exit code.
///
/// # Examples
/// ```
/// use retell_cli::Exit;
///
/// assert_eq!(Exit::Finding.code(), 1);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
#[repr(u8)]
pub enum Exit {
    /// Everything is good, or was done.
    Good = 0,
    /// Something is stuck, is parked, is missing or differs.
    Finding = 1,
    /// The arguments are wrong, or there is no log at the URL.
    Usage = 2,
    /// A change was made in part.
    Partly = 3,
    /// Nothing was changed: a change was not confirmed or is not safe, a log is not empty, or an export is not whole.
    Refused = 4,
    /// The store cannot be opened or used.
    Unavailable = 69,
    /// The store did not answer in time, and may do so later.
    TryAgain = 75,
}

impl Exit {
    /// Returns the exit code of the process.
    pub const fn code(self) -> u8 {
        self as u8
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// An error that ends a command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Refused(String),
    /// A store that cannot be opened.
    #[error(transparent)]
    Opening(Error),
    #[error(transparent)]
    Store(#[from] Error),
    #[error("cannot {attempt}: no answer within {limit:?} (--timeout)")]
    TimedOut { attempt: &'static str, limit: Duration, is_opening: bool },
    /// The reader of the output has closed it.
    #[error("the output is closed")]
    ClosedPipe,
    #[error("cannot write the output: {0}")]
    Output(io::Error),
    #[error("cannot write JSON: {0}")]
    Json(#[from] serde_json::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe { Self::ClosedPipe } else { Self::Output(error) }
    }
}

impl From<retell::InvalidName> for Failure {
    fn from(error: retell::InvalidName) -> Self {
        Self::Usage(error.to_string())
    }
}

impl Failure {
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::Refused(_) => Exit::Refused,
            Self::ClosedPipe => Exit::Good,
            Self::Output(_) | Self::Json(_) => Exit::Unavailable,
            Self::TimedOut { is_opening, .. } => {
                if *is_opening {
                    Exit::Unavailable
                } else {
                    Exit::TryAgain
                }
            }
            Self::Opening(error) => match of_store(error) {
                Exit::TryAgain => Exit::Unavailable,
                exit => exit,
            },
            Self::Store(error) => of_store(error),
        }
    }

    /// Returns the error and its causes, outermost first, without passwords.
    pub(crate) fn messages(&self) -> Vec<String> {
        match self {
            Self::Opening(error) | Self::Store(error) => {
                let mut messages: Vec<_> = error.chain().map(|cause| without_passwords(&cause.to_string())).collect();
                messages.dedup();
                messages
            }
            other => vec![without_passwords(&other.to_string())],
        }
    }
}

fn of_store(error: &Error) -> Exit {
    match error.kind() {
        ErrorKind::Invalid(_) | ErrorKind::NotMigrated { .. } | ErrorKind::UnknownProjection { .. } => Exit::Usage,
        ErrorKind::Unsafe(_) | ErrorKind::NotEmpty(_) | ErrorKind::BadExport(_) => Exit::Refused,
        ErrorKind::HistoryChanged { .. } | ErrorKind::NotParked { .. } => Exit::Finding,
        _ if error.is_transient() => Exit::TryAgain,
        _ => Exit::Unavailable,
    }
}

/// The weight of a [`Diagnostic`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Level {
    Error,
    Finding,
    Note,
}

/// A remark about an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Diagnostic {
    pub(crate) level: Level,
    /// A stable name.
    pub(crate) code: &'static str,
    pub(crate) message: String,
    /// The causes of an error, outermost first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) causes: Vec<String>,
}

impl Diagnostic {
    pub(crate) fn finding(code: &'static str, message: impl Into<String>) -> Self {
        Self { level: Level::Finding, code, message: message.into(), causes: Vec::new() }
    }

    pub(crate) fn note(code: &'static str, message: impl Into<String>) -> Self {
        Self { level: Level::Note, code, message: message.into(), causes: Vec::new() }
    }

    pub(crate) fn of(failure: &Failure) -> Self {
        let mut messages = failure.messages().into_iter();
        let message = messages.next().unwrap_or_default();
        let code = match failure.exit() {
            Exit::Usage => "usage",
            Exit::Refused => "refused",
            Exit::TryAgain => "try_again",
            Exit::Good | Exit::Finding | Exit::Partly => "failed",
            Exit::Unavailable => "unavailable",
        };
        Self { level: Level::Error, code, message, causes: messages.collect() }
    }
}
