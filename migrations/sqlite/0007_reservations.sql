-- Which stream holds a value that only one may hold. Written with the events that say so.
CREATE TABLE retell_reservations (
    scope TEXT NOT NULL,
    value TEXT NOT NULL,
    aggregate_type TEXT NOT NULL,
    aggregate_id TEXT NOT NULL,
    PRIMARY KEY (scope, value)
) STRICT, WITHOUT ROWID;
