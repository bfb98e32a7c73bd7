//! The rows of views: a state under a key, and what it can be found by.

use std::collections::BTreeSet;
use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::id::{Generation, MAX_NAME_BYTES, Position, ProjectionName, ViewKey};
use crate::store::model::checkpoint::ProjectionState;
use crate::store::model::read_model::ReadModel;

/// One generation of a view: the rows that are read and written together, under one checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ViewId {
    view: ProjectionName,
    generation: Generation,
    projection: ProjectionName,
}

impl ViewId {
    /// The generation that readers see where nobody has said another.
    pub const FIRST: Generation = Generation::new(1);

    /// The generation of a view.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a view's name that breaks the rules of all names, or has an `@` in it, which begins the generation.
    pub fn new(view: &str, generation: Generation) -> Result<Self> {
        if view.contains('@') {
            return Err(ErrorKind::Invalid(format!("view {view:?}: a name must not contain `@`")).into());
        }
        let view = ProjectionName::new(view)?;
        let projection = match generation {
            Self::FIRST => view.clone(),
            _ => ProjectionName::new(format!("{view}@{generation}"))?,
        };
        Ok(Self { view, generation, projection })
    }

    /// The view's name.
    pub fn view(&self) -> &ProjectionName {
        &self.view
    }

    /// Which of its generations.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// The projection that writes it: the view's name, from the second generation on with `@` and the generation behind it.
    pub fn projection(&self) -> &ProjectionName {
        &self.projection
    }
}

impl fmt::Display for ViewId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.projection, f)
    }
}

/// What a row can be found by: values under the names of fields. A field may have several.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fields(BTreeSet<(String, String)>);

impl Fields {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// That, too. A field's name has 1 to 255 bytes, its value up to 255, both without NUL.
    pub fn with(mut self, field: impl Into<String>, value: impl fmt::Display) -> Self {
        self.0.insert((field.into(), value.to_string()));
        self
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The fields and their values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(field, value)| (field.as_str(), value.as_str()))
    }

    /// Whether a row with these is found by that.
    pub fn contains(&self, field: &str, value: &str) -> bool {
        self.iter().any(|own| own == (field, value))
    }

    /// Refuses what no store could keep.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for a name or a value that is too long, has a NUL in it, or a name that is empty.
    pub fn check(&self) -> Result<()> {
        self.iter().try_for_each(|(field, value)| check_field(field, value))
    }

    /// As it is kept beside a row; `None` for nothing.
    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    pub(crate) fn to_json(&self) -> Option<String> {
        // Text is always JSON.
        (!self.is_empty()).then(|| serde_json::to_string(self).unwrap_or_default())
    }

    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    pub(crate) fn parse(json: Option<&str>) -> Result<Self> {
        let damaged = |error| Error::with_source(ErrorKind::Corrupt("the fields of a view's row".into()), error);
        json.map_or(Ok(Self::new()), |json| serde_json::from_str(json).map_err(damaged))
    }
}

pub(crate) fn check_field(field: &str, value: &str) -> Result<()> {
    let problem = |what: String| Err(ErrorKind::Invalid(format!("field {field:?} of a view: {what}")).into());
    for (what, text) in [("its name", field), ("its value", value)] {
        if text.len() > MAX_NAME_BYTES {
            return problem(format!("{what} has {} bytes, at most {MAX_NAME_BYTES} are allowed", text.len()));
        }
        if text.contains('\0') {
            return problem(format!("{what} contains a NUL character"));
        }
    }
    if field.is_empty() { problem("its name is empty".into()) } else { Ok(()) }
}

/// A row of a view.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ViewRow {
    /// Its key.
    pub key: ViewKey,
    /// The state, as JSON; `None` if there is nothing under the key.
    pub state: Option<String>,
    /// What it can be found by.
    pub fields: Fields,
    /// The position of the last event in it.
    pub position: Position,
}

impl ViewRow {
    /// Creates a row whose last event is at `position`.
    pub fn new(key: ViewKey, state: Option<String>, fields: Fields, position: Position) -> Self {
        Self { key, state, fields, position }
    }

    /// Sets the state.
    pub fn with_state(mut self, state: impl Into<String>) -> Self {
        self.state = Some(state.into());
        self
    }

    /// Creates the row of a key that has no state.
    pub fn empty(key: ViewKey) -> Self {
        Self { key, state: None, fields: Fields::new(), position: Position::ZERO }
    }

    /// A row as it is stored.
    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    pub(crate) fn stored(
        key: ViewKey,
        state: Option<String>,
        fields: Option<&str>,
        position: Position,
    ) -> Result<Self> {
        Ok(Self { key, state, fields: Fields::parse(fields)?, position })
    }
}

/// Which rows of a view, in the order of their keys.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ViewPage {
    /// Only rows with this value of a field.
    pub of: Option<(String, String)>,
    /// Only keys after this one.
    pub after: Option<ViewKey>,
    /// The maximum number of rows.
    pub limit: usize,
}

impl ViewPage {
    /// Asks for the first `limit` rows.
    pub fn new(limit: usize) -> Self {
        Self { of: None, after: None, limit }
    }

    /// Asks only for rows whose `field` has this value.
    pub fn with_field(mut self, field: impl Into<String>, value: impl Into<String>) -> Self {
        self.of = Some((field.into(), value.into()));
        self
    }

    /// Asks only for keys after `key`.
    pub fn with_after(mut self, key: ViewKey) -> Self {
        self.after = Some(key);
        self
    }

    /// The key to begin after, as text: before every key where there is none.
    pub(crate) fn after_key(&self) -> &str {
        self.after.as_ref().map_or("", ViewKey::as_str)
    }
}

/// The condition for switching readers to another generation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Switch {
    /// Switches if the new generation is at least as far as the live one.
    IfCaughtUp,
    /// Switches even if the new generation is behind: readers see older rows then.
    Force,
}

impl Switch {
    /// Judges whether readers may be given the generation `to`, which is at `built`, instead of the live one, which is at `live`. A store calls
    /// it in a transaction in which neither moves.
    ///
    /// # Errors
    /// As [`ViewStore`]'s method that switches.
    pub fn check(self, to: &ViewId, built: Standing, live: Standing) -> Result<()> {
        let (checkpoint, live_at) = (built.position, live.position);
        // Without a single event a generation was never built, or it is gone.
        let forced = self == Self::Force && checkpoint > Position::ZERO;
        match (built.state, live.state) {
            // Its rows are complete with every commit, whatever else commits meanwhile.
            (ProjectionState::Inline, _) => Ok(()),
            (ProjectionState::Running, ProjectionState::Running | ProjectionState::Deleting)
                if checkpoint >= live_at || forced =>
            {
                Ok(())
            }
            (ProjectionState::Running, ProjectionState::Inline) if forced => Ok(()),
            (ProjectionState::Running, ProjectionState::Inline) => {
                let problem = "is applied inline, so a worker's generation is always behind it";
                Err(ErrorKind::Invalid(format!("the live generation of view {} {problem}", to.view())).into())
            }
            _ => Err(ErrorKind::BehindLive { projection: to.projection().clone(), checkpoint, live: live_at }.into()),
        }
    }
}

/// Where a generation is: its checkpoint, and how its events get into it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Standing {
    /// The checkpoint of its projection.
    pub position: Position,
    /// The state of its projection.
    pub state: ProjectionState,
}

impl Standing {
    /// Creates the standing of a generation whose projection has this checkpoint and state.
    pub fn new(position: Position, state: ProjectionState) -> Self {
        Self { position, state }
    }
}

/// Returns the error of a call that would delete the generation that readers see.
pub fn still_live(view: &ViewId) -> Error {
    let problem = "is what readers see: switch to another first";
    ErrorKind::Invalid(format!("generation {} of view {} {problem}", view.generation(), view.view())).into()
}

/// Stores the rows of views, each generation with a checkpoint of its own. Keys, fields and values compare by their bytes.
#[async_trait]
pub trait ViewStore: ReadModel {
    /// Returns one row for each of `keys`, which are in byte order and distinct, in the same order.
    ///
    /// The rows, including those that do not exist yet, are locked until the transaction of the generation's projection ends:
    /// transactions that load a common key take turns, without deadlocks.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors), with the database's error as its source.
    async fn load_rows(&self, tx: &mut Self::Tx, view: &ViewId, keys: &[ViewKey]) -> Result<Vec<ViewRow>>;

    /// Writes rows that were loaded in this transaction. `before` is the loaded state, `after` the new state, in the same order.
    ///
    /// # Errors
    /// A [write error](crate::Error#write-errors), with the database's error as its source.
    async fn save_rows(&self, tx: &mut Self::Tx, view: &ViewId, before: &[ViewRow], after: &[ViewRow]) -> Result<()>;

    /// Writes rows under keys that have no row yet, in log order. The default calls [`save_rows`](Self::save_rows); a store may do it
    /// faster.
    ///
    /// # Errors
    /// As [`save_rows`](Self::save_rows).
    async fn insert_rows(&self, tx: &mut Self::Tx, view: &ViewId, rows: &[ViewRow]) -> Result<()> {
        let before: Vec<_> = rows.iter().map(|row| ViewRow::empty(row.key.clone())).collect();
        self.save_rows(tx, view, &before, rows).await
    }

    /// Deletes all rows of a generation. Call it in a step that moves the checkpoint of its projection back to zero.
    ///
    /// # Errors
    /// As [`save_rows`](Self::save_rows).
    async fn clear_rows(&self, tx: &mut Self::Tx, view: &ViewId) -> Result<()>;

    /// Switches readers to another generation, all at once, and returns the one they saw before. The two checkpoints do not move
    /// while they are compared.
    ///
    /// # Errors
    /// [`ErrorKind::BehindLive`] if `when` does not allow it. [`ErrorKind::Invalid`] for [`Switch::IfCaughtUp`] if the live generation
    /// is applied inline and this one by workers, which are always behind it. Otherwise a [write error](crate::Error#write-errors).
    ///
    /// # Cancel safety
    /// A dropped call may still switch.
    async fn promote(&self, view: &ViewId, when: Switch) -> Result<Generation>;

    /// Deletes a generation that is not live, at most `rows` rows and as many field entries per call. Returns whether the generation
    /// is gone, with its checkpoint and its parked aggregates: call it until it is. From the first call on, its
    /// [state](ReadModel::state) is [`ProjectionState::Deleting`], and no worker continues from its checkpoint.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the generation is live, otherwise a [write error](crate::Error#write-errors).
    ///
    /// # Cancel safety
    /// A dropped call may still delete rows.
    async fn delete_generation(&self, view: &ViewId, rows: usize) -> Result<bool>;

    /// Returns the generation that readers see.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn live_generation(&self, view: &ProjectionName) -> Result<Generation>;

    /// Returns the rows under `keys` that have a state, in any order. Without a generation, reads the live one.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn rows(
        &self,
        view: &ProjectionName,
        generation: Option<Generation>,
        keys: &[ViewKey],
    ) -> Result<Vec<ViewRow>>;

    /// Returns a page of the rows that have a state, in key order. Without a generation, reads the live one.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn page(
        &self,
        view: &ProjectionName,
        generation: Option<Generation>,
        page: &ViewPage,
    ) -> Result<Vec<ViewRow>>;
}

/// A stored key.
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub(crate) fn stored_key(text: &str) -> Result<ViewKey> {
    ViewKey::new(text).map_err(|error| ErrorKind::Corrupt(format!("a view's row: {error}")).into())
}

/// An entry of a field: the field, its value, and the key of the row that it leads to.
pub type Entry<'r> = (&'r str, &'r str, &'r ViewKey);

/// The entries that are in the fields of `these` and not in those of `others`.
fn entries_only_in<'r>(these: &'r [ViewRow], others: &'r [ViewRow]) -> Vec<Entry<'r>> {
    let pairs = these.iter().zip(others).filter(|(this, other)| this.fields != other.fields);
    let entries = pairs.flat_map(|(this, other)| {
        let new = this.fields.iter().filter(|(field, value)| !other.fields.contains(field, value));
        new.map(|(field, value)| (field, value, &this.key))
    });
    entries.collect()
}

/// What a store writes to turn rows as they were loaded into rows as they are saved. It writes the lists in their order.
#[derive(Debug)]
#[non_exhaustive]
pub struct Changes<'r> {
    /// Rows to write.
    pub kept: Vec<&'r ViewRow>,
    /// Rows to remove: they had a state and have none now.
    pub removed: Vec<&'r ViewRow>,
    /// Entries of fields to remove.
    pub lost: Vec<Entry<'r>>,
    /// Entries of fields to write.
    pub won: Vec<Entry<'r>>,
}

impl<'r> Changes<'r> {
    /// Compares rows as they were loaded with the same rows, in the same order, as they are saved.
    pub fn between(before: &'r [ViewRow], after: &'r [ViewRow]) -> Self {
        let removed =
            before.iter().zip(after).filter(|(before, after)| before.state.is_some() && after.state.is_none());
        Self {
            kept: after.iter().filter(|row| row.state.is_some()).collect(),
            removed: removed.map(|(_, after)| after).collect(),
            lost: entries_only_in(before, after),
            won: entries_only_in(after, before),
        }
    }
}
