//! Reads the rows of a view.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use crate::error::{Error, Result};
use crate::id::{ProjectionName, ViewKey};
use crate::store::model::views::{ViewId, ViewPage, ViewRow, ViewStore};
use crate::view::View;
use crate::view::fold::state_of;

/// Reads the live rows of a view, as of the last committed batch.
///
/// # Examples
/// ```
/// use retell::prelude::*;
///
/// #[derive(Event)]
/// #[event("invoice.sent")]
/// struct Sent {
///     customer: String,
///     city: String,
/// }
///
/// /// The city of each customer.
/// struct Customers;
///
/// impl View for Customers {
///     const NAME: &'static str = "customers";
///     type Event = Sent;
///     type State = String;
///
///     fn key(&self, sent: &Envelope<Sent>) -> Option<String> {
///         Some(sent.event.customer.clone())
///     }
///
///     fn apply(&self, city: &mut String, sent: Envelope<Sent>) {
///         *city = sent.event.city;
///     }
///
///     fn fields(&self, city: &String) -> Fields {
///         Fields::new().with("city", city)
///     }
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let (log, models) = (MemoryStore::new(), MemoryReadModel::new());
/// let sent = Sent { customer: "ada".into(), city: "Bonn".into() };
/// log.append_events(("invoice", "1"), ExpectedVersion::NoStream, [sent]).await?;
/// App::new(log, models.clone()).view(Customers).catch_up().await?;
///
/// let views = Views::new(&Customers, models);
/// assert_eq!(views.get("ada").await?.as_deref(), Some("Bonn"));
/// assert_eq!(views.find("city", "Bonn", Paging::first(10)).await?.rows.len(), 1);
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
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

/// Selects a page of the result. The rows of a result are ordered by key.
///
/// # Examples
/// ```
/// use retell::{prelude::*, store::ViewStore};
///
/// /// Counts the rows of a view, 1,000 rows at a time.
/// async fn count<V: View>(views: &Views<V, impl ViewStore>) -> retell::Result<usize> {
///     let (mut paging, mut rows) = (Paging::first(1_000), 0);
///     loop {
///         let found = views.all(paging).await?;
///         rows += found.rows.len();
///         let Some(last) = found.next else { return Ok(rows) };
///         paging = Paging::first(1_000).after(last);
///     }
/// }
/// ```
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

    /// Selects the rows after `key`. Pass [`RowPage::next`] to get the next page.
    pub fn after(mut self, key: ViewKey) -> Self {
        self.after = Some(key);
        self
    }
}

/// One page of rows.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RowPage<S> {
    /// The keys and states of the rows, ordered by key.
    pub rows: Vec<(ViewKey, S)>,
    /// The key to pass to [`Paging::after`] for the next page; `None` if this is the last page.
    pub next: Option<ViewKey>,
}

impl<V: View, M: ViewStore> Views<V, M> {
    /// Creates a reader of the rows of `view`. `models` is the read model that the view's worker writes to.
    pub fn new(view: &V, models: M) -> Self {
        Self { name: view.name().to_owned(), models, view: PhantomData }
    }

    /// Returns the state under `key`; `None` if there is none.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid) for a key that no row can have, [`ErrorKind::Corrupt`](crate::ErrorKind::Corrupt)
    /// for a row that does not decode as [`View::State`], otherwise a [read error](Error#read-errors).
    pub async fn get<K>(&self, key: K) -> Result<Option<V::State>>
    where
        K: TryInto<ViewKey, Error: Into<Error>>,
    {
        let key = key.try_into().map_err(Into::into)?;
        let rows = self.models.rows(&self.view()?, None, &[key]).await?;
        rows.first().map_or(Ok(None), |row| state_of::<V>(&self.name, row))
    }

    /// Returns the states under `keys`, all from the same snapshot. The result omits keys without a state.
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

    /// Returns the rows whose `field` has the value `value`, as [`View::fields`] returned it when the row was written.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn find(&self, field: &str, value: impl fmt::Display, paging: Paging) -> Result<RowPage<V::State>> {
        self.page(Some((field.to_owned(), value.to_string())), paging).await
    }

    /// Returns all rows, page by page.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub async fn all(&self, paging: Paging) -> Result<RowPage<V::State>> {
        self.page(None, paging).await
    }

    async fn page(&self, of: Option<(String, String)>, Paging { after, limit }: Paging) -> Result<RowPage<V::State>> {
        // Ask for one more row, to learn whether there is a next page.
        let page = ViewPage { of, after, limit: limit.saturating_add(1) };
        let mut rows = self.models.page(&self.view()?, None, &page).await?;
        let has_more = rows.len() > limit;
        rows.truncate(limit);
        let next = rows.last().filter(|_| has_more).map(|row| row.key.clone());
        Ok(RowPage { rows: self.states(rows)?, next })
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
