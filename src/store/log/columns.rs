//! The columns of an event, which every database names alike.

/// Lists the columns of an event in the order in which each driver reads them, with a prefix such as `e.`. A statement selects the place of the
/// event first: `position`, or `commit_id` and `ordinal`.
macro_rules! event_columns {
    ($of:literal) => {
        concat!(
            $of,
            "event_id, ",
            $of,
            "aggregate_type, ",
            $of,
            "aggregate_id, ",
            $of,
            "version, ",
            $of,
            "event_type, ",
            $of,
            "schema_version, ",
            $of,
            "codec, ",
            $of,
            "recorded_at, ",
            $of,
            "correlation_id, ",
            $of,
            "causation_id, ",
            $of,
            "metadata, ",
            $of,
            "payload",
        )
    };
}

pub(crate) use event_columns;
