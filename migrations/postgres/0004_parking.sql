-- The aggregates that a projection has set aside, each from the event that failed. Beside the checkpoint, and changed in its transactions.
CREATE TABLE {schema}.parked (
    projection text COLLATE "C" NOT NULL,
    aggregate_type text COLLATE "C" NOT NULL,
    aggregate_id text COLLATE "C" NOT NULL,
    from_version bigint NOT NULL,
    from_position bigint NOT NULL,
    error text NOT NULL,
    attempts bigint NOT NULL,
    next_at timestamptz NOT NULL,
    state text NOT NULL CHECK (state IN ('waiting', 'dead')),
    PRIMARY KEY (projection, aggregate_type, aggregate_id)
);

-- Counts the changes of those rows: compared with the checkpoint, since an aggregate can be released without moving it.
ALTER TABLE {schema}.checkpoints ADD COLUMN parking_changes bigint NOT NULL DEFAULT 0;
