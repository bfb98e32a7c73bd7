//! The domain's side: state that is retold from events, and commands that decide new ones.
//!
//! Everything here is synchronous and pure: no clock, no I/O. A command carries what it needs to know.

use crate::claim::Claim;
use crate::error::BoxError;
use crate::event::Event;
use crate::id::InvalidName;

/// State that is rebuilt from the events of one stream; `#[derive(Aggregate)]` writes it.
///
/// `Default` is the state before the first event.
pub trait Aggregate: Default + Clone + Send + Sync + 'static {
    /// The stored name of this kind of aggregate, such as `order`. Never changes.
    const TYPE: &'static str;

    /// When the state is kept as a snapshot.
    const SNAPSHOTS: SnapshotPolicy;

    /// Names the shape of the state: a snapshot with another fingerprint is never read.
    const FINGERPRINT: u64;

    /// What happens to it.
    type Event: Event;

    /// Moves the state past one event. Cannot fail: the event has happened.
    fn apply(&mut self, event: Self::Event);

    /// The values that only one aggregate may hold, as an event reserves and releases them; none by default. They become durable with
    /// the event. Of several claims of a command's events on one value the last counts.
    ///
    /// # Errors
    /// The event has a value that no store takes: the command fails and writes nothing.
    fn claims(event: &Self::Event) -> Result<Vec<Claim>, InvalidName> {
        let _ = event;
        Ok(Vec::new())
    }

    /// The state as bytes for a snapshot.
    ///
    /// # Errors
    /// What a field's own `Serialize` reports.
    fn to_snapshot(&self) -> Result<Vec<u8>, BoxError>;

    /// The state back from a snapshot's bytes.
    ///
    /// # Errors
    /// The bytes do not hold such a state; the caller replays the stream instead.
    fn from_snapshot(bytes: &[u8]) -> Result<Self, BoxError>;
}

/// How a state changes with an event. [`Aggregate::apply`], as derived, calls this.
pub trait Apply<E> {
    /// Moves the state past one event. Cannot fail: the event has happened.
    fn apply(&mut self, event: E);
}

/// Decides what a command leads to. The command is borrowed: after a conflict it is decided again on newer state.
pub trait Handle<C>: Aggregate {
    /// Why the command may be refused.
    type Error;

    /// The events the command leads to, in order; none if there is nothing to do.
    ///
    /// # Errors
    /// The domain's own reason to refuse. Nothing is written then.
    fn handle(&self, command: &C) -> Result<Vec<Self::Event>, Self::Error>;
}

/// When the repository keeps an aggregate's state, so that a later load need not replay everything.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum SnapshotPolicy {
    /// Whenever this many events came since the last one.
    Every(u32),
    /// Never: for streams that stay short.
    Never,
    /// When the function says so, given the version of the newest snapshot this process knows of (0 if none) and the present version.
    When(fn(snapshot: u64, version: u64) -> bool),
}

impl SnapshotPolicy {
    /// Whether a state at `version` should be kept when the newest snapshot is at `snapshot`.
    pub fn is_due(self, snapshot: u64, version: u64) -> bool {
        match self {
            Self::Every(events) => version.saturating_sub(snapshot) >= u64::from(events.max(1)),
            Self::Never => false,
            Self::When(decide) => version > snapshot && decide(snapshot, version),
        }
    }
}

impl Default for SnapshotPolicy {
    /// Every 100 events: a load then replays at most 100 events, and a snapshot is written with 1 % of the commits.
    fn default() -> Self {
        Self::Every(100)
    }
}
