//! Stopping on request.

use std::io;

/// Waits for the process to be asked to stop: SIGTERM or SIGINT, or Ctrl-C where there are no signals.
///
/// # Errors
/// The system refused to install a handler.
///
/// # Cancel safety
/// May be dropped and called again.
pub async fn requested() -> io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        Ok(())
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}
