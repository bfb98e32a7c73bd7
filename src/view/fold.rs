//! Runs a view as a projection: loads the rows of a batch, folds the events in memory, and saves the rows.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use async_trait::async_trait;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::codec::{decode_state, encode_state};
use crate::error::{BoxError, Error, ErrorKind, Examined, Result};
use crate::event::Envelope;
use crate::id::{Position, ViewKey};
use crate::panics::catch;
use crate::projection::Projection;
use crate::shape::types::Type;
use crate::store::log::query::Filter;
use crate::store::model::processors::ProcessorKind;
use crate::store::model::views::{Fields, ViewId, ViewPage, ViewRow, ViewStore};
use crate::view::View;

/// Adapts a [`View`] to a [`Projection`], so that a worker can run it.
pub struct ViewProjection<V, M> {
    view: V,
    models: M,
    name: String,
}

impl<V: View, M> fmt::Debug for ViewProjection<V, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ViewProjection").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<V: View, M: ViewStore> ViewProjection<V, M> {
    /// Creates a projection that writes the rows of the view's generation. `models` is a handle of the read model that the worker writes to.
    pub fn new(view: V, models: M) -> Self {
        // `filter` reports a name that no view can have.
        let name = id(&view).map_or_else(|_| view.name().to_owned(), |id| id.projection().to_string());
        Self { view, models, name }
    }

    async fn fold(&self, tx: &mut M::Tx, events: Vec<Envelope<V::Event>>) -> Result<()> {
        let id = id(&self.view)?;
        let changes = by_key(&self.view, events)?;
        let keys: Vec<ViewKey> = changes.keys().cloned().collect();
        if keys.is_empty() {
            return Ok(());
        }
        let before = self.models.load_rows(tx, &id, &keys).await?;
        let after = before.iter().zip(changes).map(|(row, (_, events))| folded(&self.view, row, events));
        let after = after.collect::<Result<Vec<_>>>()?;
        self.models.save_rows(tx, &id, &before, &after).await
    }
}

#[async_trait]
impl<V: View, M: ViewStore> Projection for ViewProjection<V, M> {
    const NAME: &'static str = V::NAME;
    type Event = V::Event;
    type Tx = M::Tx;

    fn name(&self) -> &str {
        &self.name
    }

    fn filter(&self) -> Result<Filter> {
        id(&self.view)?;
        self.view.filter()
    }

    fn kind(&self) -> ProcessorKind {
        ProcessorKind::View
    }

    fn state(&self) -> Option<Type> {
        Some(Type::of::<V::State>())
    }

    async fn check(&self) -> Result<()> {
        check_rows::<V>(&id(&self.view)?, &self.models).await
    }

    async fn apply(&self, tx: &mut M::Tx, event: Envelope<V::Event>) -> Result<(), BoxError> {
        Ok(self.fold(tx, vec![event]).await?)
    }

    async fn apply_batch(&self, tx: &mut M::Tx, events: Vec<Envelope<V::Event>>) -> Result<(), BoxError> {
        Ok(self.fold(tx, events).await?)
    }
}

/// Rows that are examined before a worker or a build continues from them.
const EXAMINED_ROWS: usize = 100;

/// Checks that the rows of a generation decode as the state of `V`: rows may be older than the registered shapes of states, and an opaque
/// part of a shape tells nothing.
///
/// # Errors
/// [`ErrorKind::StateChanged`] if most of the first rows do not decode, otherwise a [read error](Error#read-errors).
pub(crate) async fn check_rows<V: View>(view: &ViewId, models: &impl ViewStore) -> Result<()> {
    let rows = models.page(view.view(), Some(view.generation()), &ViewPage::new(EXAMINED_ROWS)).await?;
    let mut examined = Examined::default();
    for row in &rows {
        examined.add(state_of::<V>(view.view().as_str(), row).map(drop));
    }
    let remedy = "give new fields a default, or raise the view's generation and build it with `Rebuild`";
    examined.check(|| format!("view {view}"), remedy)
}

fn id(view: &impl View) -> Result<ViewId> {
    ViewId::new(view.name(), view.generation())
}

/// Returns the rows that `events` lead to, starting without rows.
#[cfg(feature = "testing")]
pub(crate) fn rows_of<V: View>(view: &V, events: Vec<Envelope<V::Event>>) -> Result<Vec<ViewRow>> {
    let changes = by_key(view, events)?.into_iter();
    changes.map(|(key, events)| folded(view, &ViewRow::empty(key), events)).collect()
}

/// Groups `events` by the key of their row. The events of each row stay in order.
fn by_key<V: View>(view: &V, events: Vec<Envelope<V::Event>>) -> Result<BTreeMap<ViewKey, Vec<Envelope<V::Event>>>> {
    let mut changes: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for event in events {
        let Some(key) = view.key(&event) else { continue };
        match changes.entry(ViewKey::new(key)?) {
            Entry::Occupied(mut events) => events.get_mut().push(event),
            Entry::Vacant(place) => drop(place.insert(vec![event])),
        }
    }
    Ok(changes)
}

/// Applies `event` to a row. A missing row starts with the default state. The row is `None` afterward if the view does not keep it.
pub(crate) fn advance<V: View>(view: &V, row: &mut Option<V::State>, event: Envelope<V::Event>) {
    let mut state = row.take().unwrap_or_default();
    view.apply(&mut state, event);
    *row = view.keep(&state).then_some(state);
}

/// Returns `row` after `events`.
fn folded<V: View>(view: &V, row: &ViewRow, events: Vec<Envelope<V::Event>>) -> Result<ViewRow> {
    let mut state = state_of::<V>(view.name(), row)?;
    let mut position = row.position;
    for event in events {
        position = Position::max(position, event.position);
        advance(view, &mut state, event);
    }
    let (state, fields) = match &state {
        None => (None, Fields::new()),
        Some(state) => (Some(encode(view.name(), &row.key, state)?), view.fields(state)),
    };
    fields.check()?;
    Ok(ViewRow { key: row.key.clone(), state, fields, position })
}

/// Decodes the state of `row`, if it has one.
pub(crate) fn state_of<V: View>(view: &str, row: &ViewRow) -> Result<Option<V::State>> {
    let damaged = |error| {
        let problem = format!("view {view}: the state under {} cannot be decoded", row.key);
        Error::with_source(ErrorKind::Corrupt(problem), error)
    };
    let decode = |state: &str| catch(|| decode_state(state.as_bytes())).unwrap_or_else(|panicked| Err(panicked.into()));
    row.state.as_deref().map(decode).transpose().map_err(damaged)
}

/// Encodes the state of the row under `key`, and decodes it again: a row that cannot be read would fail every later event of its key.
pub(crate) fn encode<S: Serialize + DeserializeOwned>(view: &str, key: &ViewKey, state: &S) -> Result<String> {
    let encoded = || -> Result<String, BoxError> {
        let json = encode_state(state)?;
        decode_state::<S>(&json).map_err(|error| format!("it could not be decoded again: {error}"))?;
        Ok(String::from_utf8(json)?)
    };
    let refused =
        |error| Error::with_source(ErrorKind::Unencodable(format!("view {view}: the state under {key}")), error);
    encoded().map_err(refused)
}
