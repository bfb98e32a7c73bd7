//! Compares a stored snapshot with the events that it stands for.

use crate::aggregate::Aggregate;
use crate::codec::tree::Tree;
use crate::error::{Error, ErrorKind, Result};
use crate::event::StoredEvent;
use crate::id::{AggregateId, EventId, Version};
use crate::panics::catch;
use crate::repository::Repository;
use crate::repository::fold::Loaded;
use crate::store::log::reader::{Replay, UpTo, Visitor};

/// The result of [`Repository::verify_snapshot`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum SnapshotCheck {
    /// There is no snapshot that the repository would read.
    None,
    /// The snapshot at this version is the state that its events lead to.
    Equal(Version),
    /// The snapshot at this version is another state, or cannot be decoded. Loads that begin with it are wrong: delete the snapshot.
    Differs(Version),
}

/// Keeps the snapshot of a replay, and passes over the events.
#[derive(Default)]
struct Newest(Option<(Version, Vec<u8>)>);

impl Visitor for Newest {
    fn snapshot(&mut self, version: Version, _: EventId, state: &[u8]) -> Result<()> {
        self.0 = Some((version, state.to_vec()));
        Ok(())
    }

    fn event(&mut self, _: Version, _: EventId, _: StoredEvent<'_>) -> Result<()> {
        Ok(())
    }
}

impl<A: Aggregate> Repository<A> {
    /// Replays all events up to the newest snapshot of the aggregate, and compares the state with the snapshot.
    ///
    /// The states are compared as they are encoded, and JSON regardless of the order of its fields. A state with a list whose order is
    /// random, such as that of a `HashSet`, may differ from itself.
    ///
    /// # Examples
    /// ```
    /// use retell::prelude::*;
    /// use retell::repository::SnapshotCheck;
    ///
    /// #[derive(Debug, Event)]
    /// enum ShelfEvent {
    ///     #[event("shelf.filled")]
    ///     Filled { books: u32 },
    /// }
    ///
    /// #[derive(Debug, Default, Clone, Aggregate, serde::Serialize, serde::Deserialize)]
    /// #[aggregate("shelf", event = ShelfEvent)]
    /// struct Shelf {
    ///     books: u32,
    /// }
    ///
    /// impl Apply<ShelfEvent> for Shelf {
    ///     fn apply(&mut self, event: ShelfEvent) {
    ///         let ShelfEvent::Filled { books } = event;
    ///         self.books += books;
    ///     }
    /// }
    ///
    /// # tokio::runtime::Runtime::new().unwrap().block_on(async {
    /// let shelves = Repository::<Shelf>::new(MemoryStore::new());
    /// assert_eq!(shelves.verify_snapshot("1").await?, SnapshotCheck::None);
    /// # Ok::<(), BoxError>(())
    /// # }).unwrap();
    /// ```
    ///
    /// # Errors
    /// The errors of [`load`](Self::load).
    pub async fn verify_snapshot(
        &self,
        id: impl TryInto<AggregateId, Error: Into<Error>> + Send,
    ) -> Result<SnapshotCheck> {
        let stream = self.stream(id)?;
        let mut newest = Newest::default();
        self.inner.store.replay(&stream, Replay::ALL.with_snapshot(A::fingerprint()), &mut newest).await?;
        let Some((version, stored)) = newest.0 else { return Ok(SnapshotCheck::None) };
        let replay = Replay::ALL.with_up_to(UpTo::Version(version));
        let folded = self.replay(&stream, Loaded::default(), replay).await?;
        let encode = catch(|| folded.state.to_snapshot()).unwrap_or_else(|panicked| Err(panicked.into()));
        let unencodable = |source| Error::with_source(ErrorKind::Unencodable(format!("the state of {stream}")), source);
        let replayed = encode.map_err(unencodable)?;
        let is_equal = folded.version == version && equal(&replayed, &stored);
        Ok(if is_equal { SnapshotCheck::Equal(version) } else { SnapshotCheck::Differs(version) })
    }
}

/// Compares two encoded states.
fn equal(one: &[u8], other: &[u8]) -> bool {
    one == other || Tree::parse(one).is_some_and(|one| Tree::parse(other) == Some(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_fields_does_not_count() {
        assert!(equal(br#"{"a":1,"b":2}"#, br#"{"b":2,"a":1}"#));
        assert!(!equal(br#"{"a":1,"b":2}"#, br#"{"b":2,"a":2}"#));
        // As floats, the two are one number.
        assert!(!equal(br#"{"a":18446744073709551617}"#, br#"{"a":18446744073709551618}"#));
        assert!(equal(b"\xff\x01", b"\xff\x01") && !equal(b"\xff\x01", b"\xff\x02"));
    }
}
