//! Ends sessions whose call was dropped while the server may still execute its statement.
//!
//! A call is dropped together with its connection. Some servers look at a connection only between two statements: they execute the last
//! statement to its end, and the locks of its transaction stay until then. Such a session is ended from another one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::Pool;
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use crate::store::server::fault::{Orphan, Server};

/// The pause between two looks at a session.
const PAUSE: Duration = Duration::from_secs(1);

/// The server's id of a session, if it is known. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct SessionId(Arc<AtomicU64>);

impl SessionId {
    /// Notes the id, which is not zero.
    #[cfg(feature = "mysql")]
    pub(crate) fn set(&self, id: u64) {
        self.0.store(id, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> Option<u64> {
        Some(self.0.load(Ordering::Relaxed)).filter(|id| *id > 0)
    }
}

/// The tasks that end sessions of a pool.
#[derive(Debug, Clone, Default)]
pub(crate) struct Orphans(TaskTracker);

impl Orphans {
    /// Ends the session in the background, within `limit`, if it still executes a statement.
    pub(crate) fn end<DB: Server>(&self, pool: &Pool<DB>, session: &SessionId, limit: Duration) {
        let (Some(id), Ok(runtime)) = (session.get(), Handle::try_current()) else { return };
        let pool = pool.clone();
        let ended = async move {
            // A session that is idle may not have received its last statement yet. After an error another connection may work.
            while !matches!(DB::end_session(&pool, id).await, Ok(Orphan::Gone)) {
                sleep(PAUSE).await;
            }
        };
        self.0.spawn_on(async move { drop(timeout(limit, ended).await) }, &runtime);
    }

    /// Waits for the tasks, at most for `limit`.
    pub(crate) async fn join(&self, limit: Duration) {
        self.0.close();
        drop(timeout(limit, self.0.wait()).await);
    }
}
