//! The transactions of a model in memory: they take turns, and stage what they change next to the value.

use std::collections::{BTreeMap, HashSet};
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync;

use crate::error::{Error, ErrorKind, Result};
use crate::id::{EventId, ProjectionName};
use crate::store::memory::model::rows::Rows;
use crate::store::model::deadlines::DeadlineChange;
use crate::store::model::views::ViewId;

/// The changes of one transaction that are not part of the value. They become visible with the commit.
#[derive(Debug, Default)]
pub(crate) struct Staged {
    /// The generations of views that the transaction has changed, whole.
    pub(crate) rows: BTreeMap<ViewId, Rows>,
    pub(crate) handled: HashSet<(ProjectionName, EventId)>,
    pub(crate) deadlines: Vec<(ProjectionName, Vec<DeadlineChange>)>,
}

/// The turns that the transactions of one model take. Cloning gives another handle of the same turns.
#[derive(Debug, Clone, Default)]
pub(crate) struct Turns(Arc<sync::Mutex<()>>);

/// A turn at changing the model: there is one at a time, until it is dropped.
#[derive(Debug)]
pub(crate) struct InTurn<'m> {
    turns: &'m Turns,
    _held: sync::MutexGuard<'m, ()>,
}

/// An open transaction.
#[derive(Debug)]
struct Transaction {
    /// Whose turn it holds.
    turns: Turns,
    staged: Mutex<Staged>,
    /// The transaction of another model that this one was opened in.
    outer: Option<Arc<Transaction>>,
}

tokio::task_local! {
    /// The transaction that the running code belongs to.
    ///
    /// It lives outside the model because a transaction is the future of its work: calls that the work makes are found to be inside,
    /// calls of other tasks are not, and whatever a failed or dropped transaction has staged ends with it.
    static CURRENT: Arc<Transaction>;
}

impl Turns {
    /// Waits until no other transaction is open.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] within a transaction of the same model, where `call` would wait for itself.
    pub(crate) async fn take(&self, call: &str) -> Result<InTurn<'_>> {
        self.refuse_inside(call)?;
        Ok(InTurn { turns: self, _held: self.0.lock().await })
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

    /// Passes `access` what the transaction has staged that the caller runs in.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] outside of a transaction of this model.
    pub(crate) fn staged<R>(&self, call: &str, access: impl FnOnce(&mut Staged) -> R) -> Result<R> {
        let outside = || {
            let problem = "belongs inside a transaction of this read model: call it from the work of a commit";
            Error::new(ErrorKind::Invalid(format!("{call} {problem}")))
        };
        self.open().map(|transaction| access(&mut transaction.staged())).ok_or_else(outside)
    }

    /// The transaction of this model that the caller runs in.
    fn open(&self) -> Option<Arc<Transaction>> {
        let mut current = CURRENT.try_with(Arc::clone).ok();
        while let Some(transaction) = current.take_if(|transaction| !Arc::ptr_eq(&transaction.turns.0, &self.0)) {
            current.clone_from(&transaction.outer);
        }
        current
    }
}

impl InTurn<'_> {
    /// Runs the work of a transaction, and returns what it has staged.
    pub(crate) async fn run(&self, work: impl Future<Output = Result<()>>) -> Result<Staged> {
        let transaction = Arc::new(Transaction {
            turns: self.turns.clone(),
            staged: Mutex::default(),
            outer: CURRENT.try_with(Arc::clone).ok(),
        });
        CURRENT.scope(transaction.clone(), work).await?;
        let staged = mem::take(&mut *transaction.staged());
        Ok(staged)
    }
}

impl Transaction {
    /// A panic cannot leave it half-changed: it ends the transaction.
    fn staged(&self) -> MutexGuard<'_, Staged> {
        self.staged.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
