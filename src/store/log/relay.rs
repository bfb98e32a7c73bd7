//! The ports of relays: how far each has published the log, and the lease that lets one of several publish.

use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use crate::error::{ErrorKind, Result};
use crate::id::{Fence, Position};

/// A time that far off has room in every column.
pub(crate) const LONGEST_LEASE: Duration = Duration::from_hours(365 * 24);

/// Lends names out for a time, by the database's clock, to one holder at a time.
///
/// A clock alone cannot keep a holder from acting late: one that was paused wakes up and goes on. So each change of holders has a larger
/// [`Fence`], and what must not be written late is written with it.
#[async_trait]
pub trait LeaseStore: Send + Sync + 'static {
    /// Takes the lease if it is free, has ended, or is this holder's already: then it is prolonged, under the fence it has. `None` while it
    /// is somebody else's.
    ///
    /// It ends `length` after the database heard of it, so not before `length` after this was called. A year is the most.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a name that breaks the rules of all names: 1 to 255 bytes without NUL.
    /// Otherwise what writing met.
    ///
    /// # Cancel safety
    /// A dropped call may still take the lease. Give it back, or let it end.
    async fn take_lease(&self, name: &str, holder: Uuid, length: Duration) -> Result<Option<Fence>>;

    /// Gives the lease back before its end, if it is this holder's.
    ///
    /// # Errors
    /// As [`take_lease`](Self::take_lease). A lease that was not given back ends by itself.
    ///
    /// # Cancel safety
    /// A dropped call may still give it back.
    async fn release_lease(&self, name: &str, holder: Uuid) -> Result<()>;
}

/// Where the relay has got to: the position up to which the broker has confirmed everything.
#[async_trait]
pub trait RelayCheckpoint: Send + Sync + 'static {
    /// The position this relay has confirmed; zero if it never ran.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a name that breaks the rules of all names: 1 to 255 bytes without NUL. Otherwise what reading met.
    async fn relayed(&self, relay: &str) -> Result<Position>;

    /// Moves the position forward; never backward. Keeps the fence, also where the position stays.
    ///
    /// # Errors
    /// [`ErrorKind::Fenced`] if this was called with a larger fence before: another relay has the lease now, and nothing was changed.
    /// Otherwise as [`relayed`](Self::relayed).
    ///
    /// # Cancel safety
    /// A dropped call may still move it.
    async fn set_relayed(&self, relay: &str, position: Position, fence: Fence) -> Result<()>;
}

/// What a relay keeps: its position, and the lease that lets one relay of a name lead. For a program that chooses its store when it starts:
/// an `Arc<dyn RelayStore>`.
pub trait RelayStore: RelayCheckpoint + LeaseStore {}

impl<S: RelayCheckpoint + LeaseStore + ?Sized> RelayStore for S {}

/// Judges what a store found after a write under a fence.
pub(crate) fn check_fence(relay: &str, fence: Fence, newest: Fence) -> Result<()> {
    if newest <= fence { Ok(()) } else { Err(ErrorKind::Fenced { relay: relay.to_owned(), fence, newest }.into()) }
}
