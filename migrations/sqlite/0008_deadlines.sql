-- The deadlines that process managers have to watch. An index of what stands in the streams of the processes: a row too many does no harm.
CREATE TABLE retell_deadlines (
    process TEXT NOT NULL,
    deadline_id BLOB NOT NULL,
    process_key TEXT NOT NULL,
    name TEXT NOT NULL,
    due_at INTEGER NOT NULL, -- microseconds since 1970
    correlation_id BLOB,
    attempts INTEGER NOT NULL DEFAULT 0,
    error TEXT, -- of the last attempt
    PRIMARY KEY (process, deadline_id)
) STRICT, WITHOUT ROWID;

CREATE INDEX retell_deadlines_due ON retell_deadlines (process, due_at);
