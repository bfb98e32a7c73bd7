//! Read models in memory.

pub(crate) mod committed;
mod deadlines;
mod inbox;
mod interventions;
mod layered;
mod listing;
mod pruning;
mod read_model;
mod rows;
mod snapshot;
mod transaction;
mod views;

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

#[cfg(doc)]
use crate::error::ErrorKind;
use crate::store::memory::model::committed::{Committed, Tables};
use crate::store::memory::model::transaction::Transactions;

/// A read model in memory: the rows of views, the inboxes of reactions, the deadlines of process managers, and a value that plain projections
/// write through. Cloning creates another handle to the same model.
///
/// [`new`](Self::new) creates a model without a value, [`with_value`](Self::with_value) one with a value. Readers see the state of the last
/// commit, never half a batch. Each commit clones the value, so for a large model use a type that is cheap to clone, a view, or a database.
///
/// A model has one open transaction at a time. Inside a transaction, a call that needs its own transaction of the same model would wait for
/// itself. Such calls, for example [`promote`](crate::store::ViewStore::promote), fail there with [`ErrorKind::Invalid`].
///
/// The content of a model is lost when its last handle is dropped, unless the program has stored a [`snapshot`](Self::snapshot).
///
/// # Examples
/// ```
/// use retell::MemoryReadModel;
///
/// let models = MemoryReadModel::with_value(7_u32);
/// let stored = models.snapshot()?;
/// assert_eq!(*MemoryReadModel::<u32>::restore(&stored)?.value(), 7);
/// # Ok::<(), retell::Error>(())
/// ```
#[derive(Debug, Default)]
pub struct MemoryReadModel<T = ()> {
    committed: Arc<RwLock<Committed<T>>>,
    pub(crate) transactions: Transactions,
}

impl<T> Clone for MemoryReadModel<T> {
    fn clone(&self) -> Self {
        Self { committed: self.committed.clone(), transactions: self.transactions.clone() }
    }
}

impl MemoryReadModel {
    /// Creates an empty model without a value, for views, reactions and process managers.
    pub fn new() -> Self {
        Self::default()
    }
}

impl<T> MemoryReadModel<T> {
    /// Creates a model whose projections write through `value`.
    pub fn with_value(value: T) -> Self {
        Self::of(Committed { value: Arc::new(value), tables: Tables::default() })
    }

    fn of(committed: Committed<T>) -> Self {
        Self { committed: Arc::new(RwLock::new(committed)), transactions: Transactions::default() }
    }

    /// Returns the value as of the last commit.
    pub fn value(&self) -> Arc<T> {
        self.read().value.clone()
    }

    pub(crate) fn read(&self) -> RwLockReadGuard<'_, Committed<T>> {
        self.committed.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn write(&self) -> RwLockWriteGuard<'_, Committed<T>> {
        self.committed.write().unwrap_or_else(PoisonError::into_inner)
    }
}
