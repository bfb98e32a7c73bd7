//! Rows: a value of any type under a text key, all in one table.
//!
//! A key has parts, and the first part names the kind of row. NUL separates the parts, because retell allows no NUL in a name. Keys sort part
//! by part. A value is a tuple that this store defines, because a struct of retell may gain fields and the stored format must not change.

use std::ops::Bound;

use redb::{ReadOnlyTable, ReadableTable, Table, TableDefinition, WriteTransaction};
use retell::BoxError;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::file::corrupt;

pub(crate) const ROWS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("rows");

/// Joins the parts of a key.
macro_rules! key {
    ($($part:expr),+) => { [$(AsRef::<str>::as_ref(&$part)),+].join("\0") };
}
pub(crate) use key;

/// Formats a number as a part of a key that sorts like the number.
pub(crate) fn number(number: u64) -> String {
    format!("{number:016x}")
}

/// The table of rows in a transaction.
pub(crate) struct Rows<T>(pub(crate) T);

/// A table that can be read, in a read or write transaction.
pub(crate) trait Readable: ReadableTable<&'static str, &'static [u8]> {}

impl<T: ReadableTable<&'static str, &'static [u8]>> Readable for T {}

/// The rows in a read transaction, as of the last commit.
pub(crate) type Saved = Rows<ReadOnlyTable<&'static str, &'static [u8]>>;

/// The rows in a write transaction.
pub(crate) type RowsMut<'tx> = Rows<Table<'tx, &'static str, &'static [u8]>>;

/// Opens the rows in a write transaction.
pub(crate) fn rows(tx: &WriteTransaction) -> Result<RowsMut<'_>, BoxError> {
    Ok(Rows(tx.open_table(ROWS)?))
}

impl<T: Readable> Rows<T> {
    /// Reads the row under `key`.
    pub(crate) fn get<V: DeserializeOwned>(&self, key: &str) -> Result<Option<V>, BoxError> {
        self.0.get(key)?.map(|row| decode(key, row.value())).transpose()
    }

    /// Returns the rows whose key is `prefix` plus one part greater than `after`, in key order. Each row comes with that last part.
    pub(crate) fn below<'r, V: DeserializeOwned>(
        &'r self,
        prefix: &str,
        after: &str,
    ) -> Result<impl DoubleEndedIterator<Item = Result<(String, V), BoxError>> + use<'r, T, V>, BoxError> {
        let (first, end) = (key!(prefix, after), format!("{prefix}\x01"));
        let rows = self.0.range::<&str>((Bound::Excluded(&*first), Bound::Excluded(&*end)))?;
        Ok(rows.map(|row| {
            let (key, row) = row?;
            let last = key.value().rsplit('\0').next().unwrap_or_default();
            Ok((last.to_owned(), decode(key.value(), row.value())?))
        }))
    }
}

impl RowsMut<'_> {
    /// Inserts or replaces the row under `key`.
    pub(crate) fn put<V: Serialize>(&mut self, key: &str, row: &V) -> Result<(), BoxError> {
        self.0.insert(key, &postcard::to_stdvec(row)?[..])?;
        Ok(())
    }

    /// Removes the row under `key` and returns it.
    pub(crate) fn remove<V: DeserializeOwned>(&mut self, key: &str) -> Result<Option<V>, BoxError> {
        self.0.remove(key)?.map(|row| decode(key, row.value())).transpose()
    }

    /// Removes at most `limit` of the rows whose keys start with the parts of `prefix`. Returns whether none is left.
    pub(crate) fn clear(&mut self, prefix: &str, limit: usize) -> Result<bool, BoxError> {
        let (first, end) = (format!("{prefix}\0"), format!("{prefix}\x01"));
        let removed = self.0.extract_from_if::<&str, _>(&*first..&*end, |_, _| true)?.take(limit);
        Ok(removed.collect::<Result<Vec<_>, _>>()?.len() < limit)
    }
}

fn decode<V: DeserializeOwned>(key: &str, row: &[u8]) -> Result<V, BoxError> {
    postcard::from_bytes(row).map_err(|problem| corrupt(key.replace('\0', "/"), problem).into())
}
