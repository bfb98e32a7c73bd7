//! Reads a view's rows.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use crate::error::{Error, Result};
use crate::id::{ProjectionName, ViewKey};
use crate::store::model::views::{ViewId, ViewPage, ViewRow, ViewStore};
use crate::view::View;
use crate::view::fold::state_of;

/// Reads the rows of a view that are live, as of the last committed batch.
pub struct Views<V, M> {
    name: String,
    models: M,
    view: PhantomData<fn() -> V>,
}

impl<V: View, M> fmt::Debug for Views<V, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Views").field("view", &self.name).finish_non_exhaustive()
    }
}

/// Selects a part of an answer, whose rows are in the order of their keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Paging {
    after: Option<ViewKey>,
    limit: usize,
}

impl Paging {
    /// Selects the first `limit` rows (minimum 1).
    pub fn first(limit: usize) -> Self {
        Self { after: None, limit: limit.max(1) }
    }

    /// Selects the rows after `key`: that of [`Found::next`].
    pub fn after(mut self, key: ViewKey) -> Self {
        self.after = Some(key);
        self
    }
}

/// One part of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Found<S> {
    /// Keys and states, in the order of the keys.
    pub rows: Vec<(ViewKey, S)>,
    /// The key to pass to [`Paging::after`] for the next part; `None` if this is the last.
    pub next: Option<ViewKey>,
}

impl<V: View, M: ViewStore> Views<V, M> {
    /// Creates a reader of a view's rows, on the read model that its worker writes to.
    pub fn new(view: &V, models: M) -> Self {
        Self { name: view.name().to_owned(), models, view: PhantomData }
    }

    /// Returns the state under `key`; `None` if there is none.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a key that no row can have, [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt)
    /// for a row that is not of this state, otherwise a [read error](Error#read-errors).
    pub async fn get<K>(&self, key: K) -> Result<Option<V::State>>
    where
        K: TryInto<ViewKey, Error: Into<Error>>,
    {
        let key = key.try_into().map_err(Into::into)?;
        let rows = self.models.rows(&self.view()?, None, &[key]).await?;
        rows.first().map_or(Ok(None), |row| state_of::<V>(&self.name, row))
    }

    /// Returns the states under `keys`, all as of one moment. A key without a state is left out.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn get_many<K>(&self, keys: impl IntoIterator<Item = K>) -> Result<BTreeMap<ViewKey, V::State>>
    where
        K: TryInto<ViewKey, Error: Into<Error>>,
    {
        let keys = keys.into_iter().map(|key| key.try_into().map_err(Into::into)).collect::<Result<Vec<_>>>()?;
        if keys.is_empty() {
            return Ok(BTreeMap::new());
        }
        let rows = self.models.rows(&self.view()?, None, &keys).await?;
        Ok(self.states(rows)?.into_iter().collect())
    }

    /// Returns the rows whose `field` has this value, as [`View::fields`] returned it when the row was written.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn find(&self, field: &str, value: impl fmt::Display, paging: Paging) -> Result<Found<V::State>> {
        self.page(Some((field.to_owned(), value.to_string())), paging).await
    }

    /// Returns all rows.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn all(&self, paging: Paging) -> Result<Found<V::State>> {
        self.page(None, paging).await
    }

    async fn page(&self, of: Option<(String, String)>, Paging { after, limit }: Paging) -> Result<Found<V::State>> {
        // One row more says whether there is one.
        let page = ViewPage { of, after, limit: limit.saturating_add(1) };
        let mut rows = self.models.page(&self.view()?, None, &page).await?;
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| has_more).map(|row| row.key.clone());
        Ok(Found { rows: self.states(rows)?, next })
    }

    fn states(&self, rows: Vec<ViewRow>) -> Result<Vec<(ViewKey, V::State)>> {
        let states = rows.into_iter().filter_map(|row| match state_of::<V>(&self.name, &row) {
            Ok(state) => Some(Ok((row.key, state?))),
            Err(error) => Some(Err(error)),
        });
        states.collect()
    }

    fn view(&self) -> Result<ProjectionName> {
        Ok(ViewId::new(&self.name, ViewId::FIRST)?.view().clone())
    }
}
