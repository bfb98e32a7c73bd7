//! The rows of a build, folded in memory and written when there are many.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use crate::error::Result;
use crate::event::{Envelope, RecordedEvent};
use crate::id::{Position, ViewKey};
use crate::store::model::views::{Fields, ViewRow};
use crate::view::View;
use crate::view::fold::{advance, encode, state_of};

/// Rows that have changed since they were written last, and others that were met.
///
/// Invariant: they follow from the rows of the checkpoint that the build holds. Whoever finds that it has moved makes another cache.
pub(super) struct Cache<V: View> {
    view: Arc<V>,
    rows: HashMap<ViewKey, Cached<V::State>>,
    /// Whether there is no row in the database that is not here.
    is_whole: bool,
    changed: usize,
    payload_bytes: usize,
}

struct Cached<S> {
    /// As it is in the database.
    kept: ViewRow,
    state: Option<S>,
    /// Of the last event in it.
    position: Position,
    has_changed: bool,
}

/// An event on its way into a row.
pub(super) struct Change<V: View> {
    key: ViewKey,
    payload_bytes: usize,
    event: Envelope<V::Event>,
}

/// What must be written.
pub(super) struct Rows {
    /// Under keys that have none.
    pub(super) new: Vec<ViewRow>,
    /// The others, as they are in the database.
    pub(super) before: Vec<ViewRow>,
    /// And as they shall be.
    pub(super) after: Vec<ViewRow>,
}

impl<V: View> Change<V> {
    /// Of an event that changes a row; `None` for any other.
    ///
    /// # Errors
    /// For an event that cannot be decoded, and one whose key no row can have.
    pub(super) fn of(view: &V, event: RecordedEvent) -> Result<Option<Self>> {
        let payload_bytes = event.payload_bytes();
        let event = event.into_envelope()?;
        let Some(key) = view.key(&event) else { return Ok(None) };
        Ok(Some(Self { key: ViewKey::new(key)?, payload_bytes, event }))
    }
}

impl<V: View> Cache<V> {
    pub(super) fn new(view: Arc<V>, checkpoint: Position) -> Self {
        let is_whole = checkpoint == Position::ZERO;
        Self { view, rows: HashMap::new(), is_whole, changed: 0, payload_bytes: 0 }
    }

    /// How many rows must be written.
    pub(super) fn changed(&self) -> usize {
        self.changed
    }

    /// The bytes of the events since rows were written last: states do not grow by much more.
    pub(super) fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    /// The keys that must be read before these changes can be folded, in order.
    pub(super) fn missing(&self, changes: &[Change<V>]) -> Vec<ViewKey> {
        if self.is_whole {
            return Vec::new();
        }
        let mut missing: Vec<_> = changes.iter().map(|change| &change.key).collect();
        missing.retain(|key| !self.rows.contains_key(*key));
        missing.sort_unstable();
        missing.dedup();
        missing.into_iter().cloned().collect()
    }

    /// Keeps rows that were read. Keys that have none are met as such.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt) for a row that is not of this state.
    pub(super) fn keep(&mut self, found: Vec<ViewRow>) -> Result<()> {
        for row in found {
            let (state, position) = (state_of::<V>(self.view.name(), &row)?, row.position);
            let cached = Cached { kept: row, state, position, has_changed: false };
            self.rows.insert(cached.kept.key.clone(), cached);
        }
        Ok(())
    }

    /// Folds events, in their order.
    pub(super) fn fold(&mut self, changes: Vec<Change<V>>) {
        for Change { key, payload_bytes, event } in changes {
            self.payload_bytes += payload_bytes;
            let row = match self.rows.entry(key) {
                Entry::Occupied(row) => row.into_mut(),
                Entry::Vacant(place) => {
                    let kept = ViewRow::empty(place.key().clone());
                    place.insert(Cached { kept, state: None, position: Position::ZERO, has_changed: false })
                }
            };
            self.changed += usize::from(!row.has_changed);
            row.has_changed = true;
            row.position = row.position.max(event.position);
            advance(&*self.view, &mut row.state, event);
        }
    }

    /// The rows that have changed, in the order of their keys.
    ///
    /// # Errors
    /// For a state that cannot be encoded, and for fields that no store could keep.
    pub(super) fn changes(&self) -> Result<Rows> {
        let mut changed: Vec<_> = self.rows.values().filter(|row| row.has_changed).collect();
        changed.sort_unstable_by(|one, other| one.kept.key.cmp(&other.kept.key));
        let (new, others): (Vec<_>, Vec<_>) = changed.into_iter().partition(|row| row.kept.state.is_none());
        let encoded =
            |rows: &[&Cached<V::State>]| rows.iter().map(|row| row.encoded(&*self.view)).collect::<Result<_>>();
        let (new, after) = (encoded(&new)?, encoded(&others)?);
        Ok(Rows { new, before: others.into_iter().map(|row| row.kept.clone()).collect(), after })
    }

    /// They are written. Where they are as many as the cache should hold, it begins anew.
    pub(super) fn written(&mut self, rows: Rows, most_rows: usize) {
        (self.changed, self.payload_bytes) = (0, 0);
        if self.rows.len() >= most_rows {
            (self.rows, self.is_whole) = (HashMap::new(), false);
            return;
        }
        for row in rows.new.into_iter().chain(rows.after) {
            if let Some(cached) = self.rows.get_mut(&row.key) {
                (cached.kept, cached.has_changed) = (row, false);
            }
        }
    }
}

impl<S: serde::Serialize> Cached<S> {
    fn encoded<V: View<State = S>>(&self, view: &V) -> Result<ViewRow> {
        let key = self.kept.key.clone();
        let (state, fields) = match &self.state {
            None => (None, Fields::new()),
            Some(state) => (Some(encode(view.name(), &key, state)?), view.fields(state)),
        };
        fields.check()?;
        Ok(ViewRow { key, state, fields, position: self.position })
    }
}
