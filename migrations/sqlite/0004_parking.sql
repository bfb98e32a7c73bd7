-- The aggregates that a projection has set aside, each from the event that failed. Beside the checkpoint, and changed in its transactions.
CREATE TABLE retell_parked (
    projection TEXT NOT NULL,
    aggregate_type TEXT NOT NULL,
    aggregate_id TEXT NOT NULL,
    from_version INTEGER NOT NULL,
    from_position INTEGER NOT NULL,
    error TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    next_at INTEGER NOT NULL, -- microseconds since 1970
    state TEXT NOT NULL CHECK (state IN ('waiting', 'dead')),
    PRIMARY KEY (projection, aggregate_type, aggregate_id)
) STRICT, WITHOUT ROWID;

-- Counts the changes of those rows: compared with the checkpoint, since an aggregate can be released without moving it.
ALTER TABLE retell_checkpoints ADD COLUMN parking_changes INTEGER NOT NULL DEFAULT 0;
