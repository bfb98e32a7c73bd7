//! Whether a log is whole.

mod found;
mod models;
mod seals;
mod walk;

use std::fmt;
use std::sync::Arc;

use serde::Serialize;
use tokio_util::sync::CancellationToken;

#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::id::Position;
use crate::operate::places::{Follower, after_restore};
use crate::operate::rows::Rows;
use crate::operate::verify::found::Found;
use crate::operate::verify::models::{add_keys, add_models};
use crate::operate::verify::seals::Seals;
use crate::operate::verify::walk::Walk;
use crate::store::log::fault::{Fault, FaultId};
use crate::store::log::inspect::Inspect;
use crate::store::log::relay::RelayStore;
use crate::store::model::read_model::ReadModel;

/// Receives the last checked position and the head of the log.
type OnProgress = Arc<dyn Fn(Position, Position) + Send + Sync>;

/// Options of [`verify`].
#[derive(Clone)]
#[non_exhaustive]
pub struct VerifyOptions {
    /// Begins after this position. The default is the beginning of the log.
    pub after: Position,
    /// Stops after this number of faults. The default is 100: a log with more needs a restore, not a list.
    pub max_faults: usize,
    /// Stops when this token is canceled, after the page under way.
    pub stop: CancellationToken,
    on_progress: Option<OnProgress>,
}

impl VerifyOptions {
    /// Creates options that verify the whole log.
    ///
    /// # Examples
    /// ```
    /// use retell::Position;
    /// use retell::operate::VerifyOptions;
    ///
    /// let options = VerifyOptions::new()
    ///     .with_after(Position::new(1_000))
    ///     .with_progress(|through, head| println!("{through} of {head}"));
    /// assert_eq!(options.max_faults, 100);
    /// ```
    pub fn new() -> Self {
        Self { after: Position::ZERO, max_faults: 100, stop: CancellationToken::new(), on_progress: None }
    }

    /// Begins after a position, such as [`Verified::through`] of a run that was stopped.
    pub fn with_after(mut self, after: Position) -> Self {
        self.after = after;
        self
    }

    /// Sets the number of faults after which the verification stops.
    pub fn with_max_faults(mut self, faults: usize) -> Self {
        self.max_faults = faults;
        self
    }

    /// Sets the token that stops the verification.
    pub fn with_stop(mut self, stop: CancellationToken) -> Self {
        self.stop = stop;
        self
    }

    /// Calls `progress` after each page, with the last checked position and the head of the log.
    pub fn with_progress(mut self, progress: impl Fn(Position, Position) + Send + Sync + 'static) -> Self {
        self.on_progress = Some(Arc::new(progress));
        self
    }
}

impl Default for VerifyOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for VerifyOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { after, max_faults, .. } = self;
        f.debug_struct("VerifyOptions").field("after", after).field("max_faults", max_faults).finish_non_exhaustive()
    }
}

/// The result of [`verify`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Verified {
    /// The head of the log when the verification began. Later events are not verified.
    pub head: Position,
    /// The last position that is verified. A stopped verification continues after it.
    pub through: Position,
    /// The number of events that were read.
    pub events: u64,
    /// Whether the verification reached the head of the log, and made every check after it.
    pub is_complete: bool,
    /// The faults, those along the log first.
    pub faults: Vec<Fault>,
    /// Whether there are more faults than [`VerifyOptions::max_faults`].
    pub is_truncated: bool,
    /// The compared seals. A change of an event outside of them is found only if it breaks the order.
    pub seals: CheckedSeals,
    /// The checks that the store does not support.
    pub unchecked: Vec<String>,
}

impl Verified {
    /// Returns whether the whole log was verified without a fault.
    pub fn is_whole(&self) -> bool {
        self.is_complete && self.faults.is_empty()
    }
}

/// The seals that a verification has compared with the events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CheckedSeals {
    /// The number of seals.
    pub count: u64,
    /// The first sealed position among them; `None` if there is none.
    pub first: Option<Position>,
    /// The last sealed position among them. Changed events after it are not noticed.
    pub last: Option<Position>,
}

/// Verifies that a log is whole: that each position, each version and each commit is there once and in its place, that claims, snapshots, idempotency keys,
/// checkpoints, progress, inboxes and relays match the log, and that the events of each [seal](crate::operate::seal()) are unchanged.
///
/// Reads the log in pages and holds one of them in memory. Looks up one event for each row of progress and of an inbox. The log may grow meanwhile. The checks after the last page read indexes of the whole
/// log, each in one statement.
///
/// A verification detects damage; it cannot prove that there is none: a person who may write to the tables can also write new seals. Keep the digest of
/// the last seal in another place, and compare it.
///
/// # Examples
/// ```
/// use retell::prelude::*;
/// use retell::operate::{self, SealOptions, VerifyOptions};
///
/// #[derive(Debug, Event)]
/// enum ShelfEvent {
///     #[event("shelf.filled")]
///     Filled { books: u32 },
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let log = MemoryStore::new();
/// log.append_events(("shelf", "1"), ExpectedVersion::NoStream, [ShelfEvent::Filled { books: 12 }]).await?;
/// operate::seal(&log, SealOptions::new()).await?;
/// let verified = operate::verify(&log, &log.read_model(), VerifyOptions::new()).await?;
/// assert!(verified.is_whole());
/// assert_eq!(verified.seals.last, Some(Position::new(1)));
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
///
/// # Errors
/// A [read error](crate::Error#read-errors). Damage is a fault and no error, unless the store does not give out its rows: then it is
/// [`ErrorKind::Corrupt`].
pub async fn verify<L, M>(log: &L, models: &M, options: VerifyOptions) -> Result<Verified>
where
    L: Inspect + RelayStore + ?Sized,
    M: ReadModel + ?Sized,
{
    let head = log.head().await?;
    let mut found = Found::up_to(options.max_faults);
    let mut walk = Walk::after(options.after, head);
    let mut seals = Seals::after(options.after);
    let mut rows = Rows::after(log, options.after);
    let mut is_complete = false;
    while !found.is_truncated && !options.stop.is_cancelled() {
        let page = rows.next().await?;
        let Some(last) = page.last() else {
            is_complete = true;
            break;
        };
        seals.read_to(log, Position::new(last.position()), &mut found).await?;
        for row in &page {
            if let Some((position, event)) = walk.check(row, &mut found) {
                seals.add(position, event, &mut found);
            }
        }
        if let Some(on_progress) = &options.on_progress {
            on_progress(walk.through().min(head), head);
        }
        if walk.through() >= head {
            is_complete = true;
            break;
        }
    }
    let mut unchecked = Vec::new();
    let mut through = seals.resumes_after(walk.through());
    if is_complete {
        walk.end(&mut found);
        seals.read_to(log, Position::new(u64::MAX), &mut found).await?;
        seals.end(head, &mut found);
        through = head;
        if !rows.is_raw() {
            unchecked.push("commits".to_owned());
        }
        match log.strays(options.max_faults.saturating_add(1)).await? {
            Some(strays) => strays.into_iter().for_each(|fault| found.add(fault)),
            None => unchecked.push("claims, snapshots and indexes".to_owned()),
        }
        add_keys(log, &mut found, &mut unchecked).await?;
        add_places(log, models, &mut found, &mut unchecked).await?;
        add_models(log, models, &mut found, &mut unchecked).await?;
    }
    if !seals.are_kept {
        unchecked.push("seals".to_owned());
    }
    Ok(Verified {
        head,
        through,
        events: walk.events,
        is_complete: is_complete && !found.is_truncated,
        is_truncated: found.is_truncated,
        faults: found.faults,
        seals: CheckedSeals {
            count: seals.count,
            first: seals.compared.map(|(first, _)| first),
            last: seals.compared.map(|(_, last)| last),
        },
        unchecked,
    })
}

/// Adds the checkpoints and relays that are ahead of the log.
async fn add_places<L, M>(log: &L, models: &M, found: &mut Found, unchecked: &mut Vec<String>) -> Result<()>
where
    L: Inspect + RelayStore + ?Sized,
    M: ReadModel + ?Sized,
{
    let places = after_restore(log, models).await?;
    if places.relays.is_none() {
        unchecked.push("relays".to_owned());
    }
    for place in places.ahead() {
        let (id, name) = match &place.follower {
            Follower::Processor(name) => (FaultId::CheckpointAhead, name.as_str()),
            Follower::Relay(name) => (FaultId::RelayAhead, name.as_str()),
        };
        let detail = format!("{name} has a place that is not in the log");
        found.add(Fault::new(id, detail).with_positions(place.position, place.position));
    }
    Ok(())
}
