//! Marks the tasks that run a handler within a transaction.
//!
//! A handler that needs the connection, or the lock, which its own transaction holds would wait for itself. The mark lets the store refuse
//! such a call at once. It does not reach tasks that the handler spawns: their calls end by their time limits.

#[cfg(feature = "sqlite")]
use std::path::PathBuf;

tokio::task_local! {
    static HELD: Held;
}

/// The resource that a transaction holds while its handler runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Held(Key);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Key {
    /// A connection of the pool at this address.
    Pool(usize),
    /// The write lock of a file.
    #[cfg(feature = "sqlite")]
    File(PathBuf),
}

impl Held {
    pub(crate) fn pool(address: usize) -> Self {
        Self(Key::Pool(address))
    }

    #[cfg(feature = "sqlite")]
    pub(crate) fn file(path: PathBuf) -> Self {
        Self(Key::File(path))
    }
}

/// Runs a handler, and marks its task while it runs.
#[cfg(any(feature = "postgres", feature = "mysql"))]
pub(crate) async fn holding<T>(held: Held, handler: impl Future<Output = T>) -> T {
    HELD.scope(held, handler).await
}

/// Runs work that may block on handlers, and marks them.
#[cfg(feature = "sqlite")]
pub(crate) fn holding_here<T>(held: Held, work: impl FnOnce() -> T) -> T {
    HELD.sync_scope(held, work)
}

/// Returns whether the calling handler runs in a transaction that holds this.
pub(crate) fn is_held(held: &Held) -> bool {
    HELD.try_with(|holds| holds == held).unwrap_or(false)
}
