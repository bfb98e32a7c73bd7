//! Rows of a build, folded in memory and written in large transactions.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, ErrorKind, Result};
use crate::event::{Envelope, RecordedEvent};
use crate::id::{Position, ViewKey};
use crate::panics::{Panicked, catch};
use crate::store::model::views::{Fields, ViewRow};
use crate::view::View;
use crate::view::fold::{advance, encode, state_of};

/// Rows that changed since the last write, and rows that were read or written before.
///
/// Invariant: the cache follows from the rows at the build's checkpoint. A build that finds the checkpoint moved discards its cache.
pub(super) struct Cache<V: View> {
    view: Arc<V>,
    rows: HashMap<ViewKey, Cached<V::State>>,
    /// Whether every row of the database is in the cache.
    is_whole: bool,
    changed: usize,
    payload_bytes: usize,
}

struct Cached<S> {
    /// The row as it is in the database.
    kept: ViewRow,
    state: Option<S>,
    /// Position of the last event folded into the row.
    position: Position,
    has_changed: bool,
}

/// An event and the key of the row it changes.
pub(super) struct Change<V: View> {
    key: ViewKey,
    payload_bytes: usize,
    event: Envelope<V::Event>,
}

/// Rows to write.
pub(super) struct Rows {
    /// Rows whose key has no row in the database.
    pub(super) new: Vec<ViewRow>,
    /// Changed rows as they are in the database.
    pub(super) before: Vec<ViewRow>,
    /// The same rows, in the same order, as they will be.
    pub(super) after: Vec<ViewRow>,
}

impl<V: View> Change<V> {
    /// Decodes an event and adds what it changes to `changes`. An event that fails adds nothing.
    ///
    /// # Errors
    /// Returns an error if the event cannot be decoded, its key is invalid, or the view panics.
    pub(super) fn add(changes: &mut Vec<Self>, view: &V, recorded: RecordedEvent) -> Result<()> {
        let (before, payload_bytes) = (changes.len(), recorded.payload_bytes());
        let added = recorded.into_each(|event| {
            let key = catch(|| view.key(&event)).map_err(|panicked| failed(view, panicked))?;
            if let Some(key) = key {
                changes.push(Self { key: ViewKey::new(key)?, payload_bytes, event });
            }
            Ok(())
        });
        if added.is_err() {
            changes.truncate(before);
        }
        added
    }
}

impl<V: View> Cache<V> {
    pub(super) fn new(view: Arc<V>, checkpoint: Position) -> Self {
        let is_whole = checkpoint == Position::ZERO;
        Self { view, rows: HashMap::new(), is_whole, changed: 0, payload_bytes: 0 }
    }

    /// Returns the number of rows to write.
    pub(super) fn changed(&self) -> usize {
        self.changed
    }

    /// Returns the payload bytes folded since the last write: states grow by about as much at most.
    pub(super) fn payload_bytes(&self) -> usize {
        self.payload_bytes
    }

    /// Returns the sorted keys of rows to read before `changes` can be folded.
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

    /// Adds rows that were read. Keys without a row get an empty one when an event is folded.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] for a row whose state cannot be decoded.
    pub(super) fn keep(&mut self, found: Vec<ViewRow>) -> Result<()> {
        for row in found {
            let state = catch(|| state_of::<V>(self.view.name(), &row));
            let (state, position) = (state.map_err(|panicked| failed(&*self.view, panicked))??, row.position);
            let cached = Cached { kept: row, state, position, has_changed: false };
            self.rows.insert(cached.kept.key.clone(), cached);
        }
        Ok(())
    }

    /// Folds events in order.
    ///
    /// # Errors
    /// [`ErrorKind::Panicked`] if the view panics. The rows are then no longer the fold of their events.
    pub(super) fn fold(&mut self, changes: Vec<Change<V>>) -> Result<()> {
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
            catch(|| advance(&*self.view, &mut row.state, event)).map_err(|panicked| failed(&*self.view, panicked))?;
        }
        Ok(())
    }

    /// Returns the changed rows in key order.
    ///
    /// # Errors
    /// Returns an error if a state cannot be encoded, its fields are invalid, or the view panics.
    pub(super) fn changes(&self) -> Result<Rows> {
        let mut changed: Vec<_> = self.rows.values().filter(|row| row.has_changed).collect();
        changed.sort_unstable_by(|one, other| one.kept.key.cmp(&other.kept.key));
        let (new, others): (Vec<_>, Vec<_>) = changed.into_iter().partition(|row| row.kept.state.is_none());
        let encoded =
            |rows: &[&Cached<V::State>]| rows.iter().map(|row| row.encoded_caught(&*self.view)).collect::<Result<_>>();
        let (new, after) = (encoded(&new)?, encoded(&others)?);
        Ok(Rows { new, before: others.into_iter().map(|row| row.kept.clone()).collect(), after })
    }

    /// Marks `rows` as written. Empties the cache if it holds `most_rows` rows.
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

/// Returns the error of a view that panicked.
fn failed<V: View>(view: &V, panicked: Panicked) -> Error {
    Error::with_source(ErrorKind::Panicked(format!("fold view {}", view.name())), panicked)
}

impl<S: Serialize + DeserializeOwned> Cached<S> {
    fn encoded_caught<V: View<State = S>>(&self, view: &V) -> Result<ViewRow> {
        catch(|| self.encoded(view)).map_err(|panicked| failed(view, panicked))?
    }

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
