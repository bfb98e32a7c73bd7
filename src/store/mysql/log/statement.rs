//! How large a statement gets, and how few different ones there are.

use sqlx::QueryBuilder;

/// Rows one statement inserts at most: 14 binds each stay far below the limit of 65,535.
pub(crate) const ROWS: usize = 512;

/// Streams or keys one statement looks up.
pub(crate) const LOOKED_UP: usize = 64;

/// A bracketed list of binds, filled up with NULL, which equals nothing.
pub(crate) fn push_list<'a, T>(
    query: &mut QueryBuilder<sqlx::MySql>,
    values: impl ExactSizeIterator<Item = T>,
    most: usize,
) where
    Option<T>: sqlx::Encode<'a, sqlx::MySql> + sqlx::Type<sqlx::MySql>,
{
    let places = padded(values.len(), most);
    query.push("(");
    let mut list = query.separated(", ");
    for value in values.map(Some).chain(std::iter::repeat_with(|| None)).take(places) {
        list.push_bind(value);
    }
    query.push(")");
}

/// The next power of two: few different statements serve any number.
pub(crate) fn padded(number: usize, most: usize) -> usize {
    number.next_power_of_two().min(most)
}
