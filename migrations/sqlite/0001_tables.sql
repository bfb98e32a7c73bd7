-- Tables, in the order in which events pass through them. A released file never changes: later releases add files with higher numbers.
-- Every file has all tables. In a file that holds only read models, the tables of the log are empty.

-- The log: every event once, in commit order. The writer assigns the positions, without gaps.
CREATE TABLE retell_events (
    position INTEGER PRIMARY KEY,
    event_id BLOB NOT NULL,
    aggregate_type TEXT NOT NULL,
    aggregate_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    event_type TEXT NOT NULL,
    schema_version INTEGER NOT NULL,
    codec INTEGER NOT NULL,
    recorded_at INTEGER NOT NULL, -- microseconds since 1970; smaller than in the row before only at the positions in `retell_clock_steps`
    correlation_id BLOB,
    causation_id BLOB,
    metadata TEXT,                -- source and extra entries as a JSON object; NULL if there are none
    payload BLOB NOT NULL,
    ordinal INTEGER NOT NULL DEFAULT 1 -- the number of the event in its commit
) STRICT;

-- The second guard, after the version check. Also the index that loads a stream.
CREATE UNIQUE INDEX retell_events_stream ON retell_events (aggregate_type, aggregate_id, version);
CREATE UNIQUE INDEX retell_events_id ON retell_events (event_id);
CREATE INDEX retell_events_type ON retell_events (event_type);
-- The events that continue a request. The first event of a request, whose id is the correlation id, has no entry: it costs nothing.
CREATE INDEX retell_events_chain ON retell_events (correlation_id) WHERE correlation_id <> event_id;

CREATE TRIGGER retell_events_no_update BEFORE UPDATE ON retell_events
BEGIN
    SELECT RAISE(ABORT, 'events are immutable');
END;

CREATE TRIGGER retell_events_no_delete BEFORE DELETE ON retell_events
BEGIN
    SELECT RAISE(ABORT, 'events are immutable');
END;

-- The positions where recorded times go back, because the clock was wrong before or is wrong since. Between them, times never decrease.
CREATE TABLE retell_clock_steps (
    position INTEGER PRIMARY KEY
) STRICT;

-- The log with readable ids, times and payloads, for people at a prompt.
CREATE VIEW retell_log AS
SELECT
    position,
    aggregate_type,
    aggregate_id,
    version,
    event_type,
    schema_version,
    CASE codec WHEN 0 THEN CAST(payload AS TEXT) ELSE 'compact: ' || hex(payload) END AS payload,
    strftime('%Y-%m-%dT%H:%M:%S', recorded_at / 1000000, 'unixepoch') || printf('.%06dZ', recorded_at % 1000000) AS recorded_at,
    lower(hex(event_id)) AS event_id,
    lower(hex(correlation_id)) AS correlation_id,
    lower(hex(causation_id)) AS causation_id,
    metadata
FROM retell_events;

-- The outcome of an append under an idempotency key: [[aggregate type, aggregate id, version before, version after], ..].
CREATE TABLE retell_keys (
    idempotency_key TEXT PRIMARY KEY,
    commit_id INTEGER NOT NULL,
    fingerprint BLOB NOT NULL, -- tells the request from others under the key
    streams TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- The stream that holds each unique value. Written in the transaction of the events that claim it.
CREATE TABLE retell_reservations (
    scope TEXT NOT NULL,
    value TEXT NOT NULL,
    aggregate_type TEXT NOT NULL,
    aggregate_id TEXT NOT NULL,
    PRIMARY KEY (scope, value)
) STRICT, WITHOUT ROWID;

CREATE INDEX retell_reservations_stream ON retell_reservations (aggregate_type, aggregate_id);

CREATE TABLE retell_snapshots (
    aggregate_type TEXT NOT NULL,
    aggregate_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    event_id BLOB NOT NULL, -- of the event at the version; the snapshot counts only while the log has it there
    fingerprint INTEGER NOT NULL, -- 64 bits, stored as a signed number
    state BLOB NOT NULL,
    PRIMARY KEY (aggregate_type, aggregate_id, version)
) STRICT;

-- The wire shapes that programs have registered for their events. Only inserted into.
CREATE TABLE retell_shapes (
    event_type TEXT NOT NULL,
    schema_version INTEGER NOT NULL,
    codec INTEGER NOT NULL,
    digest BLOB NOT NULL, -- the SHA-256 hash of the shape
    shape TEXT NOT NULL,
    first_seen INTEGER NOT NULL, -- microseconds since 1970
    program TEXT NOT NULL,
    PRIMARY KEY (event_type, schema_version, codec, digest)
) STRICT, WITHOUT ROWID;

-- The seals: chained digests of ranges of the log. Only inserted into.
CREATE TABLE retell_seals (
    first_position INTEGER PRIMARY KEY,
    last_position INTEGER NOT NULL,
    previous BLOB NOT NULL, -- the digest of the seal before; zeros in the first one
    digest BLOB NOT NULL, -- SHA-256, over the previous digest and every event of the range
    sealed_at INTEGER NOT NULL -- microseconds since 1970
) STRICT;

CREATE TRIGGER retell_seals_no_update BEFORE UPDATE ON retell_seals
BEGIN
    SELECT RAISE(ABORT, 'seals are immutable');
END;

CREATE TRIGGER retell_seals_no_delete BEFORE DELETE ON retell_seals
BEGIN
    SELECT RAISE(ABORT, 'seals are immutable');
END;

-- The last position that each relay has published. A relay with a smaller fence than the row's cannot move it.
CREATE TABLE retell_relays (
    relay TEXT PRIMARY KEY,
    position INTEGER NOT NULL,
    event_id BLOB, -- of the event at the position; a log that has another event there has another history
    fence INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- The holder of each lease, and when the lease was given and ends. A lease that was given in the future, by a clock that was wrong, has ended.
CREATE TABLE retell_leases (
    name TEXT PRIMARY KEY,
    holder BLOB, -- NULL after the holder released it
    fence INTEGER NOT NULL, -- grows by one with each change of holder
    ends_at INTEGER NOT NULL, -- microseconds since 1970
    given_at INTEGER NOT NULL -- microseconds since 1970
) STRICT, WITHOUT ROWID;

-- The progress of each projection. Changed in the transactions that change its read model.
CREATE TABLE retell_checkpoints (
    projection TEXT PRIMARY KEY,
    position INTEGER NOT NULL,
    event_id BLOB, -- of the event at the position; a log that has another event there has another history
    -- Counts the changes of the projection's rows in `retell_parked`, `retell_processors` and `retell_skipped`, and of its pause. A step compares it together with the position, because
    -- releasing an aggregate does not move the position.
    changes INTEGER NOT NULL DEFAULT 0,
    per_aggregate INTEGER NOT NULL DEFAULT 0, -- whether the projection has order per aggregate; `position` is its swept position then
    -- deleting: the rows of this generation of a view are being deleted, and nothing continues from them. An inline projection is running,
    -- because here every append moves its position.
    state TEXT NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'deleting')),
    inline INTEGER NOT NULL DEFAULT 0, -- whether appends moved the position last, and no worker
    -- Set while an operator has paused the projection: no worker applies anything.
    paused_at INTEGER, -- microseconds since 1970
    paused_by TEXT,
    pause_reason TEXT,
    retired INTEGER NOT NULL DEFAULT 0 -- whether the pause is meant to be final
) STRICT, WITHOUT ROWID;

-- The releases of each projection, by the events that they read. A worker waits at an event that only the newest release reads.
CREATE TABLE retell_processors (
    projection TEXT NOT NULL,
    digest BLOB NOT NULL, -- the SHA-256 hash of `declared`
    number INTEGER NOT NULL, -- the count of changes in `retell_checkpoints` with this registration: the newest release has the greatest
    declared TEXT NOT NULL, -- JSON: its kind, the aggregate types, event types, and the shape of its states if it is known
    first_seen INTEGER NOT NULL, -- microseconds since 1970
    program TEXT NOT NULL,
    PRIMARY KEY (projection, digest)
) STRICT, WITHOUT ROWID;

-- The aggregates that a projection has parked, each from the event that failed.
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
CREATE INDEX retell_parked_from ON retell_parked (projection, from_position);

-- The events that operators have skipped in a projection. Only inserted into: the last row of an event counts.
CREATE TABLE retell_skipped (
    number INTEGER PRIMARY KEY,
    shared_name TEXT NOT NULL, -- the projection, or the view whose generations share the row
    projection TEXT NOT NULL,
    aggregate_type TEXT NOT NULL,
    aggregate_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    position INTEGER NOT NULL,
    event_id BLOB,
    error TEXT NOT NULL,
    at INTEGER NOT NULL, -- microseconds since 1970
    who TEXT NOT NULL,
    reason TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('skipped', 'withdrawn'))
) STRICT;
CREATE INDEX retell_skipped_of ON retell_skipped (shared_name, number);
CREATE INDEX retell_skipped_stream ON retell_skipped (shared_name, aggregate_type, aggregate_id, number);

-- The changes that operators have made. Written in the transactions of the changes, and only inserted into.
CREATE TABLE retell_audit (
    id INTEGER PRIMARY KEY,
    at INTEGER NOT NULL, -- microseconds since 1970
    who TEXT NOT NULL,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    reason TEXT NOT NULL,
    count INTEGER NOT NULL
) STRICT;

CREATE TRIGGER retell_skipped_no_update BEFORE UPDATE ON retell_skipped
BEGIN
    SELECT RAISE(ABORT, 'rows of skipped are immutable');
END;
CREATE TRIGGER retell_skipped_no_delete BEFORE DELETE ON retell_skipped
BEGIN
    SELECT RAISE(ABORT, 'rows of skipped are immutable');
END;
CREATE TRIGGER retell_audit_no_update BEFORE UPDATE ON retell_audit
BEGIN
    SELECT RAISE(ABORT, 'rows of audit are immutable');
END;
CREATE TRIGGER retell_audit_no_delete BEFORE DELETE ON retell_audit
BEGIN
    SELECT RAISE(ABORT, 'rows of audit are immutable');
END;

-- The progress of each projection with order per aggregate, for each aggregate.
CREATE TABLE retell_progress (
    projection TEXT NOT NULL,
    aggregate_type TEXT NOT NULL,
    aggregate_id TEXT NOT NULL,
    applied INTEGER NOT NULL, -- the last version that was applied or filtered out
    seen INTEGER NOT NULL, -- the last version that was applied, or skipped because the aggregate is parked
    seen_id BLOB, -- of the event at that version; a log that has another event there has another history
    PRIMARY KEY (projection, aggregate_type, aggregate_id)
) STRICT, WITHOUT ROWID;

-- The rows of all views: a key and the state that the key's events fold to. Changed in the transactions that move the view's checkpoint.
CREATE TABLE retell_views (
    view TEXT NOT NULL,
    generation INTEGER NOT NULL,
    key TEXT NOT NULL,
    state TEXT, -- JSON; NULL if the view has no state under this key
    fields TEXT, -- the row's entries in `retell_view_fields` as JSON, [["field", "value"], ..]; NULL if there are none
    position INTEGER NOT NULL, -- of the last event in the state
    PRIMARY KEY (view, generation, key)
) STRICT, WITHOUT ROWID;

-- The values that rows are found by: one row per entry of `retell_views.fields`.
CREATE TABLE retell_view_fields (
    view TEXT NOT NULL,
    generation INTEGER NOT NULL,
    field TEXT NOT NULL,
    value TEXT NOT NULL,
    key TEXT NOT NULL,
    PRIMARY KEY (view, generation, field, value, key)
) STRICT, WITHOUT ROWID;

-- The generation of each view that readers see; 1 if there is no row.
CREATE TABLE retell_view_generations (
    view TEXT PRIMARY KEY,
    live INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- The deadlines that process managers watch. An index of the processes' streams: an extra row does no harm.
CREATE TABLE retell_deadlines (
    process TEXT NOT NULL,
    deadline_id BLOB NOT NULL,
    process_key TEXT NOT NULL,
    name TEXT NOT NULL,
    due_at INTEGER NOT NULL, -- microseconds since 1970
    correlation_id BLOB,
    causation_id BLOB,
    trace TEXT, -- the traceparent, and after a space the tracestate
    attempts INTEGER NOT NULL DEFAULT 0,
    error TEXT, -- of the last attempt
    PRIMARY KEY (process, deadline_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX retell_deadlines_due ON retell_deadlines (process, due_at);

-- The events that each reaction has handled. A row is written in the transaction of the reaction's own rows, and stays when the checkpoint
-- is moved back.
CREATE TABLE retell_inbox (
    reaction TEXT NOT NULL,
    event_id BLOB NOT NULL,
    PRIMARY KEY (reaction, event_id)
) STRICT, WITHOUT ROWID;

-- Where each reaction began. It never reacts to earlier events, even if its checkpoint is moved back.
CREATE TABLE retell_reactions (
    reaction TEXT PRIMARY KEY,
    begins_after INTEGER NOT NULL,
    event_id BLOB -- of the event at that position
) STRICT, WITHOUT ROWID;
