//! Waits for the signal that asks a process to stop.

use std::io;

/// The signal that asked the process to stop.
///
/// # Examples
/// ```no_run
/// use std::process::ExitCode;
///
/// use retell::prelude::*;
///
/// #[tokio::main]
/// async fn main() -> retell::Result<ExitCode> {
///     let (log, models) = (SqliteStore::open("log.db").await?, SqliteReadModel::open("models.db").await?);
///     let signal = App::new(log, models).run().await?;
///     Ok(ExitCode::from(signal.exit_code()))
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Signal {
    /// SIGTERM, as a supervisor sends it.
    Terminate,
    /// SIGINT, as Ctrl-C at a terminal sends it.
    Interrupt,
}

impl Signal {
    /// Returns the exit code of a process that this signal stopped. By the convention of shells, it is 128 plus the signal's number.
    pub const fn exit_code(self) -> u8 {
        match self {
            Self::Terminate => 143,
            Self::Interrupt => 130,
        }
    }
}

/// Waits until SIGTERM or Ctrl-C asks the process to stop, and returns the signal.
///
/// # Errors
/// Returns the system's error if it refuses to install a signal handler.
///
/// # Cancel safety
/// May be dropped at any time and called again.
///
/// # Examples
/// ```no_run
/// use retell::{CancellationToken, shutdown};
///
/// #[tokio::main]
/// async fn main() -> std::io::Result<()> {
///     let stop = CancellationToken::new();
///     // Pass clones of `stop` to the tasks of the program here.
///     let signal = shutdown::requested().await?;
///     println!("stopping after {signal:?}");
///     stop.cancel();
///     Ok(())
/// }
/// ```
pub async fn requested() -> io::Result<Signal> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::select! {
            _ = terminate.recv() => Ok(Signal::Terminate),
            _ = interrupt.recv() => Ok(Signal::Interrupt),
        }
    }
    #[cfg(not(unix))]
    {
        tokio::signal::ctrl_c().await?;
        Ok(Signal::Interrupt)
    }
}
