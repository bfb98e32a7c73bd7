//! Converts values from and to the types of the columns.

use chrono::{DateTime, NaiveDate, NaiveDateTime, Utc};

/// Returns the text in a column of bytes.
pub(crate) fn text(bytes: &[u8]) -> Result<&str, sqlx::Error> {
    std::str::from_utf8(bytes).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// Converts a time to UTC and clamps it to the range of a `DATETIME`: no event was recorded outside that range.
pub(crate) fn time_to_sql(time: DateTime<Utc>) -> NaiveDateTime {
    let first = NaiveDate::from_ymd_opt(1000, 1, 1).and_then(|date| date.and_hms_opt(0, 0, 0));
    let last = NaiveDate::from_ymd_opt(9999, 12, 31).and_then(|date| date.and_hms_micro_opt(23, 59, 59, 999_999));
    let time = time.naive_utc();
    time.clamp(first.unwrap_or(time), last.unwrap_or(time))
}
