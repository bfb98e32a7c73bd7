//! Waits for the signal that asks a process to stop.

use std::io;
#[cfg(unix)]
use std::sync::atomic::{AtomicBool, Ordering};
#[cfg(unix)]
use std::sync::{Arc, OnceLock};

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

/// Waits until SIGTERM or Ctrl-C asks the process to stop, and returns the signal. From then on, Ctrl-C ends the process at once, with
/// [`Signal::exit_code`].
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
        let is_stopping = end_at_interrupt()?;
        let signal = tokio::select! {
            _ = terminate.recv() => Signal::Terminate,
            _ = interrupt.recv() => Signal::Interrupt,
        };
        is_stopping.store(true, Ordering::SeqCst);
        Ok(signal)
    }
    #[cfg(not(unix))]
    {
        tokio::signal::ctrl_c().await?;
        tokio::spawn(async {
            if tokio::signal::ctrl_c().await.is_ok() {
                std::process::exit(Signal::Interrupt.exit_code().into());
            }
        });
        Ok(Signal::Interrupt)
    }
}

/// Ends the process at an interrupt from the moment on at which the returned flag is set. The signal's handler does it, so that it works even if
/// a handler blocks the threads of the runtime.
#[cfg(unix)]
fn end_at_interrupt() -> io::Result<Arc<AtomicBool>> {
    use signal_hook::consts::SIGINT;
    use signal_hook::flag::register_conditional_shutdown;

    static IS_STOPPING: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    if let Some(is_stopping) = IS_STOPPING.get() {
        return Ok(is_stopping.clone());
    }
    let is_stopping = IS_STOPPING.get_or_init(Arc::default);
    register_conditional_shutdown(SIGINT, Signal::Interrupt.exit_code().into(), is_stopping.clone())?;
    Ok(is_stopping.clone())
}
