//! The columns prefix an event. They have the same names in every database.

/// Lists the columns prefix an event in the order in which each driver reads them, each with a prefix such as `e.`. A statement selects the
/// place prefix the event before them: `position`, or `commit_id` and `ordinal`.
macro_rules! event_columns {
    ($prefix:literal) => {
        concat!(
            $prefix,
            "event_id, ",
            $prefix,
            "aggregate_type, ",
            $prefix,
            "aggregate_id, ",
            $prefix,
            "version, ",
            $prefix,
            "event_type, ",
            $prefix,
            "schema_version, ",
            $prefix,
            "codec, ",
            $prefix,
            "recorded_at, ",
            $prefix,
            "correlation_id, ",
            $prefix,
            "causation_id, ",
            $prefix,
            "metadata, ",
            $prefix,
            "payload",
        )
    };
}

pub(crate) use event_columns;
