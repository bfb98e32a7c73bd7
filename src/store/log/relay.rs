//! The port of relays: how far each has published the log, and the lease that lets one of several publish.

use std::time::Duration;

use async_trait::async_trait;
use uuid::Uuid;

use crate::error::{ErrorKind, Result};
use crate::id::{Fence, InvalidName, Position, parse_name};

/// The maximum length of a lease. A store shortens a longer one, so that its end fits the timestamp type of every database.
pub const LONGEST_LEASE: Duration = Duration::from_hours(365 * 24);

/// Stores the state of relays: each relay's position, and the lease that makes one relay of a name the leader.
///
/// A lease lends a name to one holder at a time, on the database's clock. A clock alone cannot stop a holder that was paused
/// and wakes up late. So each new holder gets a larger [`Fence`], and [`advance`](Self::advance) refuses a smaller one.
#[async_trait]
pub trait RelayStore: Send + Sync + 'static {
    /// Returns the position up to which the broker has confirmed everything; zero for a relay that never ran.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if `relay` is not 1 to 255 bytes without NUL, otherwise a [read error](crate::Error#read-errors).
    async fn position(&self, relay: &str) -> Result<Position>;

    /// Moves the position forward, never backward, and stores `fence`, even if the position stays the same.
    ///
    /// # Errors
    /// [`ErrorKind::Fenced`] if an earlier call had a larger fence: another relay holds the lease now, and nothing was changed.
    /// [`ErrorKind::Invalid`] as for [`position`](Self::position), otherwise a [write error](crate::Error#write-errors).
    ///
    /// # Cancel safety
    /// A dropped call may still move the position.
    async fn advance(&self, relay: &str, position: Position, fence: Fence) -> Result<()>;

    /// Acquires the lease `name` if it is free or has ended, or extends it under the same fence if `holder` has it already.
    /// Returns `None` while another holder has it.
    ///
    /// The lease ends `length` after the database received the request, so never earlier than `length` after the call. The
    /// maximum is a year.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if `name` is not 1 to 255 bytes without NUL, otherwise a [write error](crate::Error#write-errors).
    ///
    /// # Cancel safety
    /// A dropped call may still acquire the lease. Release it, or let it end.
    async fn acquire_lease(&self, name: &str, holder: Uuid, length: Duration) -> Result<Option<Fence>>;

    /// Releases the lease before its end, if `holder` has it.
    ///
    /// # Errors
    /// As [`acquire_lease`](Self::acquire_lease). A lease that is not released ends after its length.
    ///
    /// # Cancel safety
    /// A dropped call may still release it.
    async fn release_lease(&self, name: &str, holder: Uuid) -> Result<()>;
}

/// Checks a relay's name: 1 to 255 bytes without NUL. A relay store calls it before anything else.
///
/// # Errors
/// [`InvalidName`], which becomes an [`ErrorKind::Invalid`].
pub fn check_relay_name(name: &str) -> Result<(), InvalidName> {
    parse_name("relay name", name).map(drop)
}

/// Checks a lease's name: 1 to 255 bytes without NUL. A relay store calls it before anything else.
///
/// # Errors
/// As [`check_relay_name`].
pub fn check_lease_name(name: &str) -> Result<(), InvalidName> {
    parse_name("lease name", name).map(drop)
}

/// Refuses `fence` if the store has seen a larger one, `newest`. A store calls it in the transaction that moves the relay's position.
///
/// # Errors
/// [`ErrorKind::Fenced`] if `newest` is larger than `fence`.
pub fn check_fence(relay: &str, fence: Fence, newest: Fence) -> Result<()> {
    if newest <= fence { Ok(()) } else { Err(ErrorKind::Fenced { relay: relay.to_owned(), fence, newest }.into()) }
}
