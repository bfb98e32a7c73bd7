//! Rows: a value of any type under a text key, all in one table.
//!
//! A key has parts, the first of which names the kind of row. retell allows no NUL in a name, so NUL separates the parts, and keys sort by
//! their parts in turn. A value is a tuple that this store chose: a struct of retell's may grow, what is stored must not.

use std::ops::Bound;

use redb::{ReadOnlyTable, ReadableTable, Table, TableDefinition, WriteTransaction};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::file::Failure;

pub(crate) const ROWS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("rows");

/// Joins the parts of a key.
macro_rules! key {
    ($($part:expr),+) => { [$(AsRef::<str>::as_ref(&$part)),+].join("\0") };
}
pub(crate) use key;

/// A number as a part of a key that sorts like the number.
pub(crate) fn number(number: u64) -> String {
    format!("{number:016x}")
}

pub(crate) struct Rows<T>(pub(crate) T);

pub(crate) type Snapshot = Rows<ReadOnlyTable<&'static str, &'static [u8]>>;

pub(crate) fn rows(tx: &WriteTransaction) -> Result<Rows<Table<'_, &'static str, &'static [u8]>>, Failure> {
    Ok(Rows(tx.open_table(ROWS)?))
}

impl<T: ReadableTable<&'static str, &'static [u8]>> Rows<T> {
    pub(crate) fn get<V: DeserializeOwned>(&self, key: &str) -> Result<Option<V>, Failure> {
        self.0.get(key)?.map(|row| decode(key, row.value())).transpose()
    }

    /// The last parts of the keys that continue `prefix` by one part greater than `after`, in order, with their rows.
    pub(crate) fn below<'r, V: DeserializeOwned>(
        &'r self,
        prefix: &str,
        after: &str,
    ) -> Result<impl DoubleEndedIterator<Item = Result<(String, V), Failure>> + use<'r, T, V>, Failure> {
        let (first, end) = (key!(prefix, after), format!("{prefix}\x01"));
        let rows = self.0.range::<&str>((Bound::Excluded(&*first), Bound::Excluded(&*end)))?;
        Ok(rows.map(|row| {
            let (key, row) = row?;
            let last = key.value().rsplit('\0').next().unwrap_or_default();
            Ok((last.to_owned(), decode(key.value(), row.value())?))
        }))
    }
}

impl Rows<Table<'_, &'static str, &'static [u8]>> {
    pub(crate) fn put<V: Serialize>(&mut self, key: &str, row: &V) -> Result<(), Failure> {
        let row = postcard::to_stdvec(row).map_err(|problem| Failure::corrupt(key, problem))?;
        self.0.insert(key, &row[..])?;
        Ok(())
    }

    /// Returns the row that was there.
    pub(crate) fn remove<V: DeserializeOwned>(&mut self, key: &str) -> Result<Option<V>, Failure> {
        self.0.remove(key)?.map(|row| decode(key, row.value())).transpose()
    }
}

fn decode<V: DeserializeOwned>(key: &str, row: &[u8]) -> Result<V, Failure> {
    postcard::from_bytes(row).map_err(|problem| Failure::corrupt(key.replace('\0', "/"), problem))
}
