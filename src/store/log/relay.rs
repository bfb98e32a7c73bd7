//! The port for relays: the position up to which each relay has published the log, and the lease that makes one relay the leader.

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{ErrorKind, Result};
use crate::id::mark::Mark;
use crate::id::{Fence, InvalidName, Position, parse_name};
use crate::store::model::interventions::{AuditEntry, By};
use crate::store::model::names;

/// The maximum length of a lease. A store shortens a longer one, so that its end fits the timestamp type of every database.
pub const LONGEST_LEASE: Duration = Duration::from_hours(365 * 24);

/// Stores the state of relays: the position of each relay, and the lease that makes one of several relays with the same name the leader.
///
/// A lease belongs to one holder at a time, measured by the clock of the database. A clock alone cannot stop a holder that was paused and
/// resumes after its lease has ended. Therefore each new holder gets a larger [`Fence`], and [`advance`](Self::advance) refuses a smaller
/// one.
///
/// # Examples
/// ```
/// use std::time::Duration;
///
/// use retell::prelude::*;
/// use retell::store::RelayStore;
/// use uuid::Uuid;
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let store = MemoryStore::new();
/// let (first, second) = (Uuid::from_u128(1), Uuid::from_u128(2));
/// let fence = store.acquire_lease("main", first, Duration::from_secs(10)).await?.expect("the lease is free");
/// assert_eq!(store.acquire_lease("main", second, Duration::from_secs(10)).await?, None);
/// store.advance("main", Position::new(7).into(), fence).await?;
/// assert_eq!(store.position("main").await?, Position::new(7));
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
#[async_trait]
pub trait RelayStore: Send + Sync + 'static {
    /// Returns the place up to which the broker has confirmed every event; [`Mark::START`] for a relay that never ran.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if `relay` is not 1 to 255 bytes without NUL, otherwise a [read error](crate::Error#read-errors).
    async fn mark(&self, relay: &str) -> Result<Mark>;

    /// Returns the position of the [mark](Self::mark).
    ///
    /// # Errors
    /// [`ErrorKind::UnknownRelay`] as [`check_relay`](Self::check_relay), otherwise the errors of [`mark`](Self::mark).
    async fn position(&self, relay: &str) -> Result<Position> {
        let mark = self.mark(relay).await?;
        if mark == Mark::START {
            self.check_relay(relay).await?;
        }
        Ok(mark.position)
    }

    /// Returns the names of all relays that have a position or had the lease on this log, sorted. `None` if the store cannot list them, as in
    /// the default implementation.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn relays(&self) -> Result<Option<Vec<String>>> {
        Ok(None)
    }

    /// Returns the first `limit` of these [`relays`](Self::relays) by name, each with its position and the holder of its lease. `None` if the
    /// store cannot list them, as in the default implementation.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn relay_statuses(&self, limit: usize) -> Result<Option<Vec<RelayStatus>>> {
        let _ = limit;
        Ok(None)
    }

    /// Refuses a name that is misspelt: one that has never run on this log, and for which this process has created no relay. A store calls this
    /// in [`reset`](Self::reset).
    ///
    /// # Errors
    /// [`ErrorKind::UnknownRelay`] with the names that have run, otherwise a [read error](crate::Error#read-errors).
    async fn check_relay(&self, relay: &str) -> Result<()> {
        if names::is_relay_run_here(relay) {
            return Ok(());
        }
        match self.relays().await? {
            Some(known) if !known.iter().any(|name| name == relay) => {
                Err(ErrorKind::UnknownRelay { relay: relay.to_owned(), known }.into())
            }
            _ => Ok(()),
        }
    }

    /// Moves the position of `relay` forward to `to`, never backward, and stores `fence` even if the position stays the same.
    ///
    /// The log may have lost the event of `to` since the relay read it. The store compares it in the statement or transaction that moves the
    /// position: a lost place would keep every later relay from continuing. A mark without an event is not compared.
    ///
    /// # Errors
    /// [`ErrorKind::Fenced`] if an earlier call had a larger fence: another relay holds the lease now, and nothing was changed.
    /// [`ErrorKind::HistoryChanged`] if the log does not have the event of `to` at its position, and nothing was changed.
    /// [`ErrorKind::Invalid`] as for [`mark`](Self::mark), otherwise a [write error](crate::Error#write-errors).
    ///
    /// # Cancel safety
    /// A dropped call may still move the position.
    async fn advance(&self, relay: &str, to: Mark, fence: Fence) -> Result<()>;

    /// Moves the position of `relay` to `to`, forward or backward, and ends the lease of the same name, so that the leading relay starts over
    /// from there. For an operator, after a relay has stopped with [`ErrorKind::HistoryChanged`]: the events after `to` are published, even if
    /// they were before.
    ///
    /// # Errors
    /// [`ErrorKind::UnknownRelay`] as [`check_relay`](Self::check_relay), [`ErrorKind::Invalid`] as for [`mark`](Self::mark), otherwise a [write error](crate::Error#write-errors).
    ///
    /// # Cancel safety
    /// A dropped call may still move the position, or only end the lease.
    async fn reset(&self, relay: &str, to: Mark) -> Result<()>;

    /// Moves the position of `relay` as [`reset`](Self::reset), and records who does it and why in the same transaction. A store that keeps an
    /// audit records a `reset` as one by this program. The default implementation records nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if a text of `by` is not valid, otherwise the errors of [`reset`](Self::reset).
    ///
    /// # Cancel safety
    /// As [`reset`](Self::reset).
    async fn reset_by(&self, relay: &str, to: Mark, by: &By) -> Result<()> {
        by.check()?;
        self.reset(relay, to).await
    }

    /// Returns the last `limit` records of changes in the database of the log, the newest first: those with a smaller number than `before`, if it is
    /// given. If the read models share the database, their records are among them. The default implementation returns none.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn relay_audit(&self, limit: usize, before: Option<u64>) -> Result<Vec<AuditEntry>> {
        let _ = (limit, before);
        Ok(Vec::new())
    }

    /// Acquires the lease `name` if it is free or has ended, or extends it under the same fence if `holder` already has it.
    /// Returns `None` while another holder has it.
    ///
    /// A lease that was given later than a minute from now has ended: the clock was ahead then, and the lease would not end in time. A store that
    /// measures leases by a clock that never jumps need not look for that.
    ///
    /// The lease ends `length` after the database received the request, which is never earlier than `length` after the call. The maximum
    /// is [`LONGEST_LEASE`](crate::store::driver::LONGEST_LEASE).
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if `name` is not 1 to 255 bytes without NUL, otherwise a [write error](crate::Error#write-errors).
    ///
    /// # Cancel safety
    /// A dropped call may still acquire the lease. Release the lease, or wait until it ends.
    async fn acquire_lease(&self, name: &str, holder: Uuid, length: Duration) -> Result<Option<Fence>>;

    /// Releases the lease `name` before its end, if `holder` has it. A lease that is not released ends after its length.
    ///
    /// # Errors
    /// The errors of [`acquire_lease`](Self::acquire_lease).
    ///
    /// # Cancel safety
    /// A dropped call may still release the lease.
    async fn release_lease(&self, name: &str, holder: Uuid) -> Result<()>;
}

/// The position of a relay, and the holder of the lease with its name.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RelayStatus {
    /// The name of the relay.
    pub relay: String,
    /// The place up to which the broker has confirmed every event.
    pub mark: Mark,
    /// The relay that leads now; `None` if the lease is free or has ended.
    pub leader: Option<Leader>,
}

impl RelayStatus {
    /// Creates the status of a relay without a leader.
    pub fn new(relay: impl Into<String>, mark: Mark) -> Self {
        Self { relay: relay.into(), mark, leader: None }
    }

    /// Sets the holder of the lease, and when the lease ends.
    #[must_use]
    pub fn with_leader(mut self, leader: Option<(Uuid, DateTime<Utc>)>) -> Self {
        self.leader = leader.map(|(holder, ends_at)| Leader { holder, started_at: started_at(holder), ends_at });
        self
    }
}

/// The holder of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Leader {
    /// The holder, as it was given to [`acquire_lease`](RelayStore::acquire_lease).
    pub holder: Uuid,
    /// When the run of the holder began, by the clock of its process. A [`Relay`](crate::Relay) has an id with that time; `None` for other ids.
    pub started_at: Option<DateTime<Utc>>,
    /// When the lease ends unless the holder renews it, by the clock of the database.
    pub ends_at: DateTime<Utc>,
}

/// Returns the time in an id of version 7.
fn started_at(holder: Uuid) -> Option<DateTime<Utc>> {
    let (seconds, nanos) = holder.get_timestamp().filter(|_| holder.get_version_num() == 7)?.to_unix();
    DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanos)
}

/// Checks the name of a relay: 1 to 255 bytes without NUL. A [`RelayStore`] calls this before anything else.
///
/// # Errors
/// [`InvalidName`] if the name breaks a rule. `?` turns it into [`ErrorKind::Invalid`].
pub fn check_relay_name(name: &str) -> Result<(), InvalidName> {
    parse_name("relay name", name).map(drop)
}

/// Checks the name of a lease: 1 to 255 bytes without NUL. A [`RelayStore`] calls this before anything else.
///
/// # Errors
/// [`InvalidName`] if the name breaks a rule. `?` turns it into [`ErrorKind::Invalid`].
pub fn check_lease_name(name: &str) -> Result<(), InvalidName> {
    parse_name("lease name", name).map(drop)
}

/// Refuses `fence` if it is smaller than `newest`, the largest fence that the store has seen. A store calls this in the transaction that
/// moves the position of the relay.
///
/// # Errors
/// [`ErrorKind::Fenced`] if `newest` is larger than `fence`.
pub fn check_fence(relay: &str, fence: Fence, newest: Fence) -> Result<()> {
    if newest <= fence { Ok(()) } else { Err(ErrorKind::Fenced { relay: relay.to_owned(), fence, newest }.into()) }
}
