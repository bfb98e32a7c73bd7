//! The domain side: aggregates, which rebuild their state from events, and commands, which decide new events.
//!
//! Everything here is synchronous and pure: no clock, no I/O. A command carries all data that its decision needs, such as the current time.

use crate::claim::Claim;
use crate::error::BoxError;
use crate::event::Event;
use crate::id::InvalidName;

/// State that is rebuilt from the events of one stream. `#[derive(Aggregate)]` implements it.
///
/// `Default` is the state before the first event.
///
/// # Examples
/// ```
/// use retell::{Aggregate, Apply, Event, Handle};
///
/// #[derive(Event, Debug, PartialEq)]
/// enum CartEvent {
///     #[event("cart.item_added")]
///     ItemAdded { item: String },
/// }
///
/// #[derive(Aggregate, Clone, Default)]
/// #[aggregate("cart", event = CartEvent)]
/// struct Cart {
///     items: Vec<String>,
/// }
///
/// impl Apply<CartEvent> for Cart {
///     fn apply(&mut self, event: CartEvent) {
///         let CartEvent::ItemAdded { item } = event;
///         self.items.push(item);
///     }
/// }
///
/// struct AddItem {
///     item: String,
/// }
///
/// impl Handle<AddItem> for Cart {
///     type Error = &'static str;
///
///     fn handle(&self, command: &AddItem) -> Result<Vec<CartEvent>, &'static str> {
///         if self.items.contains(&command.item) {
///             return Err("the item is in the cart already");
///         }
///         Ok(vec![CartEvent::ItemAdded { item: command.item.clone() }])
///     }
/// }
///
/// let events = Cart::default().handle(&AddItem { item: "tea".into() });
/// assert_eq!(events, Ok(vec![CartEvent::ItemAdded { item: "tea".into() }]));
/// ```
pub trait Aggregate: Default + Clone + Send + Sync + 'static {
    /// The stored name of this kind of aggregate, such as `order`. It never changes.
    const TYPE: &'static str;

    /// Decides when the state is saved as a snapshot.
    const SNAPSHOTS: SnapshotPolicy;

    /// The events that change the state.
    type Event: Event;

    /// Applies `event` to the state. Cannot fail, because the event has already happened.
    fn apply(&mut self, event: Self::Event);

    /// Returns the unique values that `event` reserves and releases; none by default. The store commits the claims together with the event.
    /// If several events of a command claim the same value, the last claim counts.
    ///
    /// # Errors
    /// Returns [`InvalidName`] for a value that no store accepts. The command then fails and writes nothing.
    fn claims(event: &Self::Event) -> Result<Vec<Claim>, InvalidName> {
        let _ = event;
        Ok(Vec::new())
    }

    /// Identifies the shape of the state. A snapshot with another fingerprint is never read.
    ///
    /// The derive computes it from the fields: their names, their types and their serde attributes. A change inside a field's type counts
    /// too, if that type has a [`Shape`](crate::Shape).
    fn fingerprint() -> u64;

    /// Encodes the state for a snapshot.
    ///
    /// # Errors
    /// Returns the error of a field's own `Serialize`.
    fn to_snapshot(&self) -> Result<Vec<u8>, BoxError>;

    /// Decodes the state from a snapshot.
    ///
    /// # Errors
    /// Returns the decoder's error if `bytes` do not hold such a state. The repository then replays the stream instead.
    fn from_snapshot(bytes: &[u8]) -> Result<Self, BoxError>;
}

/// Applies one type of event to a state. The derived [`Aggregate::apply`] calls this trait; see [`Aggregate`] for an example.
pub trait Apply<E> {
    /// Applies `event` to the state. Cannot fail, because the event has already happened.
    fn apply(&mut self, event: E);
}

/// Decides which events a command leads to. See [`Aggregate`] for an example.
///
/// The command is borrowed because the repository decides again, on newer state, after a conflict.
pub trait Handle<C>: Aggregate {
    /// The reason for a refusal.
    type Error;

    /// Returns the events that `command` leads to, in order. The list is empty if there is nothing to do.
    ///
    /// # Errors
    /// Returns the reason if the domain refuses the command. Nothing is written in that case.
    fn handle(&self, command: &C) -> Result<Vec<Self::Event>, Self::Error>;
}

/// Decides when the repository saves an aggregate's state, so that a later load replays fewer events. The attribute `snapshots` of
/// `#[derive(Aggregate)]` selects the policy.
///
/// # Examples
/// ```
/// use retell::SnapshotPolicy;
///
/// assert!(SnapshotPolicy::Every(100).is_due(200, 300));
/// assert!(!SnapshotPolicy::Never.is_due(0, 1_000_000));
///
/// // Saves at versions 100, 200, 400, 800: a long stream needs few snapshots.
/// let doubling = SnapshotPolicy::When(|snapshot, version| version >= (2 * snapshot).max(100));
/// assert!(doubling.is_due(0, 100) && !doubling.is_due(100, 199));
/// ```
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum SnapshotPolicy {
    /// Saves after this many events since the last snapshot.
    Every(u32),
    /// Never saves: for streams that stay short.
    Never,
    /// Saves when the function returns `true`. Its arguments are the version of the newest snapshot that this process knows of (0 if none)
    /// and the current version.
    When(fn(snapshot: u64, version: u64) -> bool),
}

impl SnapshotPolicy {
    /// Returns whether a state at `version` should be saved when the newest snapshot is at `snapshot`.
    pub fn is_due(self, snapshot: u64, version: u64) -> bool {
        match self {
            Self::Every(events) => version.saturating_sub(snapshot) >= u64::from(events.max(1)),
            Self::Never => false,
            Self::When(decide) => version > snapshot && decide(snapshot, version),
        }
    }
}

impl Default for SnapshotPolicy {
    /// Saves every 100 events, so that a load replays at most 100 events while only 1 % of the commits write a snapshot.
    fn default() -> Self {
        Self::Every(100)
    }
}
