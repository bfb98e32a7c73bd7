//! Seals the log.

use std::num::NonZeroU64;

use chrono::{SubsecRound, Utc};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use crate::error::{ErrorKind, Result};
use crate::id::Position;
use crate::operate::rows::Rows;
use crate::store::log::inspect::{Inspect, LogRow};
use crate::store::log::seal::{Seal, SealDigest, Sealer};

/// The events of a seal by default. A changed event is found within such a range.
const EVENTS: NonZeroU64 = NonZeroU64::new(1_000).unwrap();

/// Options of [`seal`].
///
/// # Examples
/// ```
/// use retell::operate::SealOptions;
///
/// assert_eq!(SealOptions::new().events.get(), 1_000);
/// ```
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SealOptions {
    /// The events of a seal. The last seal of a call may have fewer. The default is 1,000.
    pub events: NonZeroU64,
    /// Stops when this token is canceled, after the page under way. Finished seals stay.
    pub stop: CancellationToken,
}

impl SealOptions {
    /// Creates options with the defaults.
    pub fn new() -> Self {
        Self { events: EVENTS, stop: CancellationToken::new() }
    }

    /// Sets the number of events of a seal.
    pub fn with_events(mut self, events: NonZeroU64) -> Self {
        self.events = events;
        self
    }

    /// Sets the token that stops the call.
    pub fn with_stop(mut self, stop: CancellationToken) -> Self {
        self.stop = stop;
        self
    }
}

impl Default for SealOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// The result of [`seal`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Sealed {
    /// The number of new seals.
    pub seals: u64,
    /// The last seal of the log; `None` if it has none. Keep its digest in another place as a witness.
    pub last: Option<Seal>,
}

/// Seals the events after the last seal, up to the head of the log. From then on, [`verify`](crate::operate::verify()) notices if one of them changes.
///
/// Call it now and then, for example every hour. It reads each event once and delays no append. Each call ends with a seal at the head, so
/// frequent calls make many short seals. [`Seal`] says what is digested.
///
/// # Errors
/// - [`ErrorKind::Corrupt`] if an event is missing: verify the log first
/// - [`ErrorKind::Transient`] if another process seals the log at the same time; both may continue
/// - [`ErrorKind::Invalid`] if the store keeps no seals
/// - otherwise a [write error](crate::Error#write-errors)
///
/// # Cancel safety
/// A dropped call leaves whole seals only.
pub async fn seal<L: Inspect + ?Sized>(log: &L, options: SealOptions) -> Result<Sealed> {
    let head = log.head().await?;
    let last = log.last_seal().await?;
    let after = last.as_ref().map_or(Position::ZERO, |seal| seal.last);
    let mut sealing = Sealing { head, events: options.events.get(), due: after.next(), last, open: None };
    let (mut rows, mut seals) = (Rows::after(log, after), 0);
    while sealing.due <= head && !options.stop.is_cancelled() {
        let page = rows.next().await?;
        if page.is_empty() {
            return Err(missing(sealing.due));
        }
        for row in page.iter().filter(|row| row.position() <= head.get()) {
            if let Some(seal) = sealing.add(row)? {
                log.add_seal(&seal).await?;
                if log.last_seal().await?.map(|last| last.digest) != Some(seal.digest) {
                    return Err(ErrorKind::Transient("seal the log: another process seals it".into()).into());
                }
                sealing.last = Some(seal);
                seals += 1;
            }
        }
    }
    Ok(Sealed { seals, last: sealing.last })
}

/// The seals of a call.
struct Sealing {
    head: Position,
    events: u64,
    /// The next position.
    due: Position,
    last: Option<Seal>,
    /// The seal that is not complete, and its range.
    open: Option<(Sealer, Position, Position)>,
}

impl Sealing {
    /// Adds the next event. Returns the seal that it completes.
    fn add(&mut self, row: &LogRow) -> Result<Option<Seal>> {
        let (position, Some(event)) = (Position::new(row.position()), &row.event) else {
            return Err(missing(self.due));
        };
        if position != self.due {
            return Err(missing(self.due.min(position)));
        }
        let previous = self.last.as_ref().map_or(SealDigest::NONE, |seal| seal.digest);
        let (head, events) = (self.head, self.events);
        let begin = || {
            let last = position.plus(events - 1).min(head);
            (Sealer::begin(previous, position, last), position, last)
        };
        let (mut sealer, first, last) = self.open.take().unwrap_or_else(begin);
        sealer.add(position, event);
        self.due = position.next();
        if position < last {
            self.open = Some((sealer, first, last));
            return Ok(None);
        }
        Ok(Some(Seal::new(first, last, previous, sealer.end(), Utc::now().trunc_subsecs(6))))
    }
}

fn missing(position: Position) -> crate::error::Error {
    let problem = format!("position {position}: the log is damaged there, so it is not sealed; run `verify`");
    ErrorKind::Corrupt(problem).into()
}
