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

    /// Decides when the state is saved as a snapshot.
    const SNAPSHOTS: SnapshotPolicy;

    /// Names the shape of the state: a snapshot with another fingerprint is never read.
    const FINGERPRINT: u64;

    /// The events that change it.
    type Event: Event;

    /// Moves the state past one event. Cannot fail: the event has happened.
    fn apply(&mut self, event: Self::Event);

    /// Returns the unique values that an event reserves and releases; none by default. The claims become durable with the event. If
    /// several events of a command claim one value, the last claim counts.
    ///
    /// # Errors
    /// [`InvalidName`] for a value that no store accepts. The command fails and writes nothing.
    fn claims(event: &Self::Event) -> Result<Vec<Claim>, InvalidName> {
        let _ = event;
        Ok(Vec::new())
    }

    /// Encodes the state for a snapshot.
    ///
    /// # Errors
    /// Returns the error of a field's own `Serialize`.
    fn to_snapshot(&self) -> Result<Vec<u8>, BoxError>;

    /// Decodes the state from a snapshot.
    ///
    /// # Errors
    /// Returns the decoder's error if the bytes hold no such state. The caller replays the stream instead.
    fn from_snapshot(bytes: &[u8]) -> Result<Self, BoxError>;
}

/// Changes a state by an event. The derived [`Aggregate::apply`] calls this.
pub trait Apply<E> {
    /// Moves the state past one event. Cannot fail: the event has happened.
    fn apply(&mut self, event: E);
}

/// Decides on a command. The command is borrowed: after a conflict it is decided again on newer state.
pub trait Handle<C>: Aggregate {
    /// The reason of a refusal.
    type Error;

    /// Returns the events that the command leads to, in order; none if there is nothing to do.
    ///
    /// # Errors
    /// Returns the reason if the domain refuses the command. Nothing is written then.
    fn handle(&self, command: &C) -> Result<Vec<Self::Event>, Self::Error>;
}

/// Decides when the repository saves an aggregate's state, so that a later load replays fewer events.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum SnapshotPolicy {
    /// Saves after this many events since the last snapshot.
    Every(u32),
    /// Never saves: for streams that stay short.
    Never,
    /// Saves when the function says so, given the version of the newest snapshot this process knows of (0 if none) and the present version.
    When(fn(snapshot: u64, version: u64) -> bool),
}

impl SnapshotPolicy {
    /// Returns whether a state at `version` is due for saving when the newest snapshot is at `snapshot`.
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
