//! Read models in memory.

pub(crate) mod committed;
mod deadlines;
mod inbox;
mod layered;
mod read_model;
mod rows;
mod snapshot;
mod transaction;
mod views;

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

#[cfg(doc)]
use crate::error::ErrorKind;
use crate::store::memory::model::committed::{Committed, Tables};
use crate::store::memory::model::transaction::Turns;

/// A read model in memory: the rows of views, the inboxes of reactions and the deadlines of process managers, and a value that plain
/// projections write through. Cloning gives another handle.
///
/// [`new`](Self::new) creates a model without a value, [`with_value`](Self::with_value) one with a value. Readers see the state of the last
/// commit, never half a batch. Each commit clones the value: for a large model use a type whose clone is cheap, a view, or a database.
///
/// Transactions take turns: one that waits for another transaction of the same model would wait for itself. Calls that need a turn of their
/// own, such as [`promote`](crate::store::ViewStore::promote), fail with [`ErrorKind::Invalid`] inside a transaction of the same model.
///
/// A model is gone when its last handle is dropped, unless a [`snapshot`](Self::snapshot) was stored elsewhere.
#[derive(Debug, Default)]
pub struct MemoryReadModel<T = ()> {
    committed: Arc<RwLock<Committed<T>>>,
    pub(crate) turns: Turns,
}

impl<T> Clone for MemoryReadModel<T> {
    fn clone(&self) -> Self {
        Self { committed: self.committed.clone(), turns: self.turns.clone() }
    }
}

impl MemoryReadModel {
    /// Creates an empty model without a value: for views, reactions and process managers.
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
        Self { committed: Arc::new(RwLock::new(committed)), turns: Turns::default() }
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
