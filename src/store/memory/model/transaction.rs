//! The transactions of a read model in memory: one at a time, with staged changes.

use std::collections::{BTreeMap, HashSet};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync;

use crate::error::{Error, ErrorKind, Result};
use crate::id::{EventId, ProjectionName};
use crate::store::memory::model::rows::Rows;
use crate::store::model::deadlines::DeadlineChange;
use crate::store::model::views::ViewId;

/// The changes of one transaction outside the value. They become visible with the commit.
#[derive(Debug, Default)]
pub(crate) struct Staged {
    /// All rows of each generation of a view that the transaction has changed.
    pub(crate) rows: BTreeMap<ViewId, Rows>,
    pub(crate) handled: HashSet<(ProjectionName, EventId)>,
    pub(crate) deadlines: Vec<(ProjectionName, Vec<DeadlineChange>)>,
}

/// Serializes the transactions of one model. Cloning creates another handle for the same model.
#[derive(Debug, Clone, Default)]
pub(crate) struct Transactions(Arc<sync::Mutex<()>>);

/// The right to change the model. Only one guard exists at a time.
#[derive(Debug)]
pub(crate) struct TransactionGuard<'m> {
    transactions: &'m Transactions,
    _held: sync::MutexGuard<'m, ()>,
}

/// An open transaction.
#[derive(Debug)]
struct Transaction {
    /// The transactions of the model that this one belongs to.
    transactions: Transactions,
    staged: Mutex<Staged>,
    /// The transaction, of another model, in which this one was opened.
    outer: Option<Arc<Transaction>>,
}

tokio::task_local! {
    /// The transaction that the current code runs in.
    ///
    /// It is stored with the task instead of the model, because a transaction is the future of its work. Calls that the work makes are inside
    /// the transaction, calls of other tasks are not, and the staged changes of a failed or dropped transaction are dropped with its future.
    static CURRENT: Arc<Transaction>;
}

impl Transactions {
    /// Waits until no other transaction is open, and begins one. `call` is the name of the caller's method, for the error.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] within a transaction of the same model, where `call` would wait for itself.
    pub(crate) async fn begin(&self, call: &str) -> Result<TransactionGuard<'_>> {
        self.refuse_inside(call)?;
        Ok(TransactionGuard { transactions: self, _held: self.0.lock().await })
    }

    /// Refuses a call that would wait for the transaction that the caller runs in.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] within a transaction of this model.
    pub(crate) fn refuse_inside(&self, call: &str) -> Result<()> {
        if self.open().is_none() {
            return Ok(());
        }
        let problem = "would wait for itself inside a transaction of the same read model: call it after the commit";
        Err(ErrorKind::Invalid(format!("{call} {problem}")).into())
    }

    /// Calls `access` with the staged changes of the transaction that the caller runs in.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] outside a transaction of this model.
    pub(crate) fn staged<R>(&self, call: &str, access: impl FnOnce(&mut Staged) -> R) -> Result<R> {
        let outside = || {
            let problem = "belongs inside a transaction of this read model: call it from the work of a commit";
            Error::new(ErrorKind::Invalid(format!("{call} {problem}")))
        };
        self.open().map(|transaction| access(&mut transaction.staged())).ok_or_else(outside)
    }

    /// Returns the transaction of this model that the caller runs in.
    fn open(&self) -> Option<Arc<Transaction>> {
        let mut current = CURRENT.try_with(Arc::clone).ok();
        while let Some(transaction) = current.take_if(|transaction| !Arc::ptr_eq(&transaction.transactions.0, &self.0))
        {
            current.clone_from(&transaction.outer);
        }
        current
    }
}

impl TransactionGuard<'_> {
    /// Runs the work of a transaction and returns its staged changes.
    pub(crate) async fn run(&self, work: impl Future<Output = Result<()>>) -> Result<Staged> {
        let transaction = Arc::new(Transaction {
            transactions: self.transactions.clone(),
            staged: Mutex::default(),
            outer: CURRENT.try_with(Arc::clone).ok(),
        });
        CURRENT.scope(transaction.clone(), work).await?;
        let staged = mem::take(&mut *transaction.staged());
        Ok(staged)
    }
}

impl Transaction {
    /// Locks the staged changes. A poisoned lock is safe to use, because a panic ends the transaction.
    fn staged(&self) -> MutexGuard<'_, Staged> {
        self.staged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
