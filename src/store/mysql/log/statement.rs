//! Limits the size of statements and the number of different ones.

use sqlx::QueryBuilder;

/// The most rows that one statement inserts: with 14 binds each it stays far below the limit of 65,535.
pub(crate) const ROWS: usize = 512;

/// The most streams or keys that one statement looks up.
pub(crate) const LOOKED_UP: usize = 64;

/// Pushes a list of binds in parentheses, padded with NULL, which equals nothing.
pub(crate) fn push_list<'a, T>(
    query: &mut QueryBuilder<sqlx::MySql>,
    values: impl ExactSizeIterator<Item = T>,
    max: usize,
) where
    Option<T>: sqlx::Encode<'a, sqlx::MySql> + sqlx::Type<sqlx::MySql>,
{
    let places = padded(values.len(), max);
    query.push("(");
    let mut list = query.separated(", ");
    for value in values.map(Some).chain(std::iter::repeat_with(|| None)).take(places) {
        list.push_bind(value);
    }
    query.push(")");
}

/// Returns the next power of two, at most `max`, so that a few different statements serve any number.
pub(crate) fn padded(number: usize, max: usize) -> usize {
    number.next_power_of_two().min(max)
}
