//! The rows of views: each has a key, a state, and fields for lookups.

use std::collections::BTreeSet;
use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::id::{Generation, MAX_NAME_BYTES, Position, ProjectionName, ViewKey};
use crate::store::model::checkpoint::ProjectionState;
use crate::store::model::interventions::By;
use crate::store::model::read_model::ReadModel;

/// Identifies one generation of a view: the rows that are read and written together, under one checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ViewId {
    view: ProjectionName,
    generation: Generation,
    projection: ProjectionName,
}

impl ViewId {
    /// The first generation. Readers see it until another one is [promoted](ViewStore::promote).
    pub const FIRST: Generation = Generation::new(1);

    /// Creates the id of a generation of `view`.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the name is empty, too long, or contains NUL or `@`. The `@` separates the name from the generation.
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

    /// Returns the name of the view.
    pub fn view(&self) -> &ProjectionName {
        &self.view
    }

    /// Returns the generation.
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// Returns the name of the projection that writes the generation: the name of the view for [`FIRST`](Self::FIRST), otherwise the name
    /// followed by `@` and the generation.
    pub fn projection(&self) -> &ProjectionName {
        &self.projection
    }
}

impl fmt::Display for ViewId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.projection, f)
    }
}

/// The fields that a row of a view can be looked up by. Each field has a name and one or more values.
///
/// # Examples
/// ```
/// use retell::prelude::*;
///
/// let fields = Fields::new().with("customer", "c-7").with("tag", "gift").with("tag", "fragile");
/// assert!(fields.contains("tag", "gift"));
/// assert_eq!(fields.iter().next(), Some(("customer", "c-7")));
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fields(BTreeSet<(String, String)>);

impl Fields {
    /// Creates an empty set of fields.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds `value` to the values of `field`. The name has 1 to 255 bytes and the value at most 255 bytes, both without NUL.
    pub fn with(mut self, field: impl Into<String>, value: impl fmt::Display) -> Self {
        self.0.insert((field.into(), value.to_string()));
        self
    }

    /// Returns whether there are no fields.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the names and values, in order of name and value.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(field, value)| (field.as_str(), value.as_str()))
    }

    /// Returns whether `value` is among the values of `field`.
    pub fn contains(&self, field: &str, value: &str) -> bool {
        self.iter().any(|own| own == (field, value))
    }

    /// Checks that every store can keep these fields.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if a name is empty, or if a name or a value is too long or contains NUL.
    pub fn check(&self) -> Result<()> {
        self.iter().try_for_each(|(field, value)| check_field(field, value))
    }

    /// Returns the JSON that a database stores next to the row; `None` if there are no fields.
    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    pub(crate) fn to_json(&self) -> Option<String> {
        // Serializing strings to JSON never fails.
        (!self.is_empty()).then(|| serde_json::to_string(self).unwrap_or_default())
    }

    #[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
    pub(crate) fn parse(json: Option<&str>) -> Result<Self> {
        let damaged = |error| Error::with_source(ErrorKind::Corrupt("fields of a row of a view".into()), error);
        json.map_or(Ok(Self::new()), |json| serde_json::from_str(json).map_err(damaged))
    }
}

pub(crate) fn check_field(field: &str, value: &str) -> Result<()> {
    let problem = |text: String| Err(ErrorKind::Invalid(format!("field {field:?} of a view: {text}")).into());
    for (part, text) in [("its name", field), ("its value", value)] {
        if text.len() > MAX_NAME_BYTES {
            return problem(format!("{part} has {} bytes, at most {MAX_NAME_BYTES} are allowed", text.len()));
        }
        if text.contains('\0') {
            return problem(format!("{part} contains a NUL character"));
        }
    }
    if field.is_empty() { problem("its name is empty".into()) } else { Ok(()) }
}

/// A row of a view.
#[derive(Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ViewRow {
    /// The key of the row.
    pub key: ViewKey,
    /// The state as JSON; `None` if the key has no state.
    pub state: Option<String>,
    /// The fields that the row can be looked up by.
    pub fields: Fields,
    /// The position of the last event in the state.
    pub position: Position,
}

/// Shows the size of the state and the names of the fields only, so that no state gets into a log.
impl fmt::Debug for ViewRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state.as_ref().map_or(0, String::len);
        let fields: BTreeSet<_> = self.fields.iter().map(|(name, _)| name).collect();
        f.debug_struct("ViewRow")
            .field("key", &self.key)
            .field("state", &format_args!("{state} bytes"))
            .field("fields", &fields)
            .field("position", &self.position)
            .finish()
    }
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

    /// Creates the row of a key without a state.
    pub fn empty(key: ViewKey) -> Self {
        Self { key, state: None, fields: Fields::new(), position: Position::ZERO }
    }

    /// Creates a row from its stored columns.
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

/// A request for rows of a view, in key order.
///
/// # Examples
/// ```
/// use retell::ViewKey;
/// use retell::store::ViewPage;
///
/// let page = ViewPage::new(50).with_field("status", "open").with_after(ViewKey::new("order-7")?);
/// assert_eq!(page.limit, 50);
/// # Ok::<(), retell::InvalidName>(())
/// ```
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
    /// Creates a request for the first `limit` rows.
    pub fn new(limit: usize) -> Self {
        Self { of: None, after: None, limit }
    }

    /// Restricts the request to rows whose `field` has the value `value`.
    pub fn with_field(mut self, field: impl Into<String>, value: impl Into<String>) -> Self {
        self.of = Some((field.into(), value.into()));
        self
    }

    /// Restricts the request to keys after `key`.
    pub fn with_after(mut self, key: ViewKey) -> Self {
        self.after = Some(key);
        self
    }

    /// Returns the key to start after as text. The empty text comes before every key.
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
    /// Switches even if the new generation is behind. Readers then see older rows.
    Force,
}

impl Switch {
    /// Decides whether readers may switch to the generation `to`, whose status is `built`, from the live generation, whose status is
    /// `live`. A store calls this in a transaction in which neither checkpoint moves.
    ///
    /// # Errors
    /// [`ErrorKind::BehindLive`] or [`ErrorKind::Invalid`], as for [`ViewStore::promote`].
    pub fn check(self, to: &ViewId, built: GenerationStatus, live: GenerationStatus) -> Result<()> {
        let (checkpoint, live_at) = (built.position, live.position);
        // A generation whose checkpoint is zero was never built, or it was deleted.
        let forced = self == Self::Force && checkpoint > Position::ZERO;
        match (built.state, live.state) {
            // Every append applies its own events to this generation, so its rows are always complete.
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

/// The checkpoint and the state of a generation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct GenerationStatus {
    /// The checkpoint of its projection.
    pub position: Position,
    /// The state of its projection.
    pub state: ProjectionState,
}

impl GenerationStatus {
    /// Creates the status of a generation whose projection has the checkpoint `position` and the state `state`.
    pub fn new(position: Position, state: ProjectionState) -> Self {
        Self { position, state }
    }
}

/// Returns the error of a call that would delete the live generation.
pub fn still_live(view: &ViewId) -> Error {
    let problem = "is live: switch readers to another generation first";
    ErrorKind::Invalid(format!("generation {} of view {} {problem}", view.generation(), view.view())).into()
}

/// Stores the rows of views. Each generation has its own checkpoint. Keys, fields and values compare by their bytes.
///
/// # Examples
/// ```
/// use retell::store::{ViewId, ViewPage, ViewStore};
/// use retell::{ProjectionName, prelude::*};
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let models = MemoryReadModel::new();
/// let orders = ProjectionName::new("orders")?;
/// assert_eq!(models.live_generation(&orders).await?, ViewId::FIRST);
/// assert!(models.page(&orders, None, &ViewPage::new(10)).await?.is_empty());
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
#[async_trait]
pub trait ViewStore: ReadModel {
    /// Returns one row for each of `keys`, in the same order. The keys are distinct and in byte order.
    ///
    /// The rows, including those that do not exist yet, stay locked until the transaction `tx` ends. Transactions that load a common key
    /// therefore take turns, without deadlocks.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors), with the database's error as its source.
    async fn load_rows(&self, tx: &mut Self::Tx, view: &ViewId, keys: &[ViewKey]) -> Result<Vec<ViewRow>>;

    /// Writes rows that were loaded in this transaction. `before` holds the loaded rows, `after` the new rows, in the same order.
    ///
    /// # Errors
    /// A [write error](crate::Error#write-errors), with the database's error as its source.
    async fn save_rows(&self, tx: &mut Self::Tx, view: &ViewId, before: &[ViewRow], after: &[ViewRow]) -> Result<()>;

    /// Writes rows under keys that have no row yet, in log order. The default calls [`save_rows`](Self::save_rows); a store may implement
    /// a faster way.
    ///
    /// # Errors
    /// The errors of [`save_rows`](Self::save_rows).
    async fn insert_rows(&self, tx: &mut Self::Tx, view: &ViewId, rows: &[ViewRow]) -> Result<()> {
        let before: Vec<_> = rows.iter().map(|row| ViewRow::empty(row.key.clone())).collect();
        self.save_rows(tx, view, &before, rows).await
    }

    /// Deletes all rows of a generation. Call this in a step that moves the checkpoint of its projection back to zero.
    ///
    /// # Errors
    /// The errors of [`save_rows`](Self::save_rows).
    async fn clear_rows(&self, tx: &mut Self::Tx, view: &ViewId) -> Result<()>;

    /// Switches all readers to the generation `view` at once, and returns the generation that was live before. Neither checkpoint moves
    /// while the store compares them.
    ///
    /// # Errors
    /// [`ErrorKind::BehindLive`] if `when` does not allow the switch. [`ErrorKind::Invalid`] for [`Switch::IfCaughtUp`] if the live
    /// generation is applied inline and this one by workers, which are always behind it. Otherwise a
    /// [write error](crate::Error#write-errors).
    ///
    /// # Cancel safety
    /// A dropped call may still switch.
    async fn promote(&self, view: &ViewId, when: Switch) -> Result<Generation>;

    /// Switches all readers as [`promote`](Self::promote), and records who does it and why in the same transaction. A store that keeps an audit
    /// records a `promote` as one by this program. The default implementation records nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if a text of `by` is not valid, otherwise the errors of [`promote`](Self::promote).
    ///
    /// # Cancel safety
    /// A dropped call may still switch.
    async fn promote_by(&self, view: &ViewId, when: Switch, by: &By) -> Result<Generation> {
        by.check()?;
        self.promote(view, when).await
    }

    /// Deletes a generation that is not live, with its checkpoint and its parked aggregates. One call deletes at most `rows` rows and
    /// `rows` field entries. Returns whether the generation is gone: call this until it returns `true`. From the first call until then,
    /// the [state](ReadModel::state) of the generation is [`ProjectionState::Deleting`], and no worker continues from its checkpoint.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if the generation is live, otherwise a [write error](crate::Error#write-errors).
    ///
    /// # Cancel safety
    /// A dropped call may still delete rows.
    async fn delete_generation(&self, view: &ViewId, rows: usize) -> Result<bool>;

    /// Deletes a generation as [`delete_generation`](Self::delete_generation). The transaction of the first call records who does it and why. A
    /// store that keeps an audit records a `delete_generation` as one by this program. The default implementation records nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] if a text of `by` is not valid, otherwise the errors of [`delete_generation`](Self::delete_generation).
    ///
    /// # Cancel safety
    /// A dropped call may still delete rows.
    async fn delete_generation_by(&self, view: &ViewId, rows: usize, by: &By) -> Result<bool> {
        by.check()?;
        self.delete_generation(view, rows).await
    }

    /// Returns the generation that readers see.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn live_generation(&self, view: &ProjectionName) -> Result<Generation>;

    /// Returns the rows under `keys` that have a state, in any order. If `generation` is `None`, reads the live generation.
    ///
    /// # Errors
    /// A [read error](crate::Error#read-errors).
    async fn rows(
        &self,
        view: &ProjectionName,
        generation: Option<Generation>,
        keys: &[ViewKey],
    ) -> Result<Vec<ViewRow>>;

    /// Returns a page of the rows that have a state, in key order. If `generation` is `None`, reads the live generation.
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

/// Parses a stored key.
#[cfg(any(feature = "sqlite", feature = "postgres", feature = "mysql"))]
pub(crate) fn stored_key(text: &str) -> Result<ViewKey> {
    ViewKey::new(text).map_err(|error| ErrorKind::Corrupt(format!("row of a view: {error}")).into())
}

/// An entry in the index of fields: the name of the field, its value, and the key of the row.
pub type Entry<'r> = (&'r str, &'r str, &'r ViewKey);

/// Returns the entries of `these` that `others` do not have.
fn entries_only_in<'r>(these: &'r [ViewRow], others: &'r [ViewRow]) -> Vec<Entry<'r>> {
    let pairs = these.iter().zip(others).filter(|(this, other)| this.fields != other.fields);
    let entries = pairs.flat_map(|(this, other)| {
        let new = this.fields.iter().filter(|(field, value)| !other.fields.contains(field, value));
        new.map(|(field, value)| (field, value, &this.key))
    });
    entries.collect()
}

/// The writes that turn the loaded rows into the saved rows. A store makes them in the order of the fields of this type.
#[derive(Debug)]
#[non_exhaustive]
pub struct Changes<'r> {
    /// Rows to write.
    pub kept: Vec<&'r ViewRow>,
    /// Rows to delete: they had a state and have none now.
    pub removed: Vec<&'r ViewRow>,
    /// Index entries to delete.
    pub lost: Vec<Entry<'r>>,
    /// Index entries to write.
    pub won: Vec<Entry<'r>>,
}

impl<'r> Changes<'r> {
    /// Compares the loaded rows `before` with the rows `after` to save, which have the same keys in the same order.
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
