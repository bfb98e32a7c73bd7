//! A transaction with the write lock.

use rusqlite::Connection;

use crate::store::sqlite::error::Failure;

/// An open transaction, which rolls back when it is dropped without a commit, even in a panic. An async projection cannot use a
/// `rusqlite::Transaction`, because that must not move between threads.
pub(crate) struct OpenTransaction<'db> {
    pub(crate) db: &'db mut Connection,
}

impl<'db> OpenTransaction<'db> {
    /// Begins an immediate transaction: it takes the write lock, so rows read after this do not change until the commit.
    pub(crate) fn begin(db: &'db mut Connection) -> Result<Self, Failure> {
        db.execute_batch("BEGIN IMMEDIATE")?;
        Ok(Self { db })
    }

    pub(crate) fn commit(self) -> Result<(), Failure> {
        Ok(self.db.execute_batch("COMMIT")?)
    }
}

impl Drop for OpenTransaction<'_> {
    fn drop(&mut self) {
        if !self.db.is_autocommit() {
            // If even this fails, the next BEGIN on this connection fails and says why.
            drop(self.db.execute_batch("ROLLBACK"));
        }
    }
}
