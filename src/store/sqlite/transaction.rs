//! The transaction of a batch.

use rusqlite::Connection;

use crate::store::sqlite::error::Failure;

/// Rolls back unless it was committed; also when the work panics. (A `rusqlite::Transaction` cannot be handed to an async projection,
/// since it must not move between threads.)
pub(crate) struct OpenTransaction<'db> {
    pub(crate) db: &'db mut Connection,
}

impl<'db> OpenTransaction<'db> {
    /// Immediate: what is compared after this stays as it is until the commit.
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
