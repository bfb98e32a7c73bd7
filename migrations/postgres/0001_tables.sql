-- Tables, in the order in which events pass through them. A released file never changes: later releases add files with higher numbers.
-- The functions are in `functions/`, one file each. Those files are always the current text.

-- The log. An event is keyed by its commit and its place there. The sequencer assigns its position later, in commit order.
CREATE TABLE {schema}.events (
    commit_id bigint NOT NULL,
    ordinal integer NOT NULL,
    event_id uuid NOT NULL,
    aggregate_type text COLLATE "C" NOT NULL,
    aggregate_id text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    event_type text COLLATE "C" NOT NULL,
    schema_version bigint NOT NULL,
    codec smallint NOT NULL,
    recorded_at timestamptz NOT NULL,
    correlation_id uuid,
    causation_id uuid,
    metadata text,
    payload bytea NOT NULL,
    CONSTRAINT events_pkey PRIMARY KEY (commit_id, ordinal),
    -- The second guard, after the version check. Also the index that loads a stream.
    CONSTRAINT events_stream UNIQUE (aggregate_type, aggregate_id, version),
    CONSTRAINT events_id UNIQUE (event_id)
);
CREATE INDEX events_type ON {schema}.events (event_type, commit_id);
-- The events that continue a request. The first event of a request, whose id is the correlation id, has no entry: it costs nothing.
CREATE INDEX events_chain ON {schema}.events (correlation_id, commit_id, ordinal) WHERE correlation_id <> event_id;

CREATE FUNCTION {schema}.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% are immutable', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END
$$;
CREATE TRIGGER events_no_change BEFORE UPDATE OR DELETE ON {schema}.events
    FOR EACH ROW EXECUTE FUNCTION {schema}.refuse_change();
CREATE TRIGGER events_no_truncate BEFORE TRUNCATE ON {schema}.events
    FOR EACH STATEMENT EXECUTE FUNCTION {schema}.refuse_change();

-- Numbers the commits. Not cached: a session must not keep numbers back for later commits.
CREATE SEQUENCE {schema}.commit_number AS bigint CACHE 1;

-- The commits of each lane, in number order. `lanes.sequenced` is the last one that has positions.
CREATE TABLE {schema}.commits (
    lane smallint NOT NULL,
    commit_id bigint NOT NULL,
    events integer NOT NULL,
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (lane, commit_id)
);
CREATE TABLE {schema}.lanes (
    lane smallint PRIMARY KEY,
    sequenced bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 10);
INSERT INTO {schema}.lanes (lane) SELECT generate_series(0, 63);

-- The order of the log: the first position of each commit. All events of a commit share its time. The index by time is on this table
-- because an index on `events` would slow every append.
CREATE TABLE {schema}.log (
    first_position bigint PRIMARY KEY,
    commit_id bigint NOT NULL UNIQUE,
    events integer NOT NULL,
    recorded_at timestamptz NOT NULL
);
CREATE INDEX log_recorded_at ON {schema}.log (recorded_at);

-- The log in order with readable payloads, for people at a prompt.
CREATE VIEW {schema}.readable_log AS
SELECT
    l.first_position + e.ordinal - 1 AS position, e.aggregate_type, e.aggregate_id, e.version, e.event_type, e.schema_version,
    CASE e.codec WHEN 0 THEN convert_from(e.payload, 'UTF8') ELSE 'compact: ' || encode(e.payload, 'hex') END AS payload,
    e.recorded_at, e.event_id, e.correlation_id, e.causation_id, e.metadata
FROM {schema}.log l JOIN {schema}.events e ON e.commit_id = l.commit_id;

-- The outcome of an append under an idempotency key: the places of its events in a commit.
CREATE TABLE {schema}.keys (
    idempotency_key text COLLATE "C" PRIMARY KEY,
    commit_id bigint NOT NULL,
    first_ordinal integer NOT NULL,
    last_ordinal integer NOT NULL,
    fingerprint bytea NOT NULL -- tells the request from others under the key
);

-- The stream that holds each unique value. Written in the transaction of the events that claim it. A row without a holder exists only
-- within its transaction.
CREATE TABLE {schema}.reservations (
    scope text COLLATE "C" NOT NULL,
    value text COLLATE "C" NOT NULL,
    aggregate_type text COLLATE "C" NOT NULL,
    aggregate_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (scope, value)
);

CREATE INDEX reservations_stream ON {schema}.reservations (aggregate_type, aggregate_id, scope, value) WHERE aggregate_type <> '';

CREATE TABLE {schema}.snapshots (
    aggregate_type text COLLATE "C" NOT NULL,
    aggregate_id text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    event_id uuid NOT NULL, -- of the event at the version; the snapshot counts only while the log has it there
    fingerprint bigint NOT NULL, -- 64 bits, stored as a signed number
    state bytea NOT NULL,
    PRIMARY KEY (aggregate_type, aggregate_id, version)
);

-- The wire shapes that programs have registered for their events. Only inserted into.
CREATE TABLE {schema}.shapes (
    event_type text COLLATE "C" NOT NULL,
    schema_version bigint NOT NULL,
    codec smallint NOT NULL,
    digest bytea NOT NULL, -- the SHA-256 hash of the shape
    shape text NOT NULL,
    first_seen timestamptz NOT NULL,
    program text NOT NULL,
    PRIMARY KEY (event_type, schema_version, codec, digest)
);

-- The seals: chained digests of ranges of the log. Only inserted into.
CREATE TABLE {schema}.seals (
    first_position bigint PRIMARY KEY,
    last_position bigint NOT NULL,
    previous bytea NOT NULL, -- the digest of the seal before; zeros in the first one
    digest bytea NOT NULL, -- SHA-256, over the previous digest and every event of the range
    sealed_at timestamptz NOT NULL
);
CREATE TRIGGER seals_no_change BEFORE UPDATE OR DELETE ON {schema}.seals
    FOR EACH ROW EXECUTE FUNCTION {schema}.refuse_change();
CREATE TRIGGER seals_no_truncate BEFORE TRUNCATE ON {schema}.seals
    FOR EACH STATEMENT EXECUTE FUNCTION {schema}.refuse_change();

-- The last position that each relay has published. A relay with a smaller fence than the row's cannot move it.
CREATE TABLE {schema}.relays (
    relay text PRIMARY KEY,
    position bigint NOT NULL,
    event_id uuid, -- of the event at the position; a log that has another event there has another history
    fence bigint NOT NULL DEFAULT 0
);

-- The holder of each lease, and when the lease was given and ends. A lease that was given in the future, by a clock that was wrong, has ended.
CREATE TABLE {schema}.leases (
    name text COLLATE "C" PRIMARY KEY,
    holder uuid, -- NULL after the holder released it
    fence bigint NOT NULL, -- grows by one with each change of holder
    ends_at timestamptz NOT NULL,
    given_at timestamptz NOT NULL
);

-- The progress of each projection. Changed in the transactions that change its read model.
CREATE TABLE {schema}.checkpoints (
    projection text COLLATE "C" PRIMARY KEY,
    position bigint NOT NULL,
    event_id uuid, -- of the event at the position; a log that has another event there has another history
    -- Counts the changes of the projection's rows in `parked`, `processors` and `skipped`, and of its pause. A step compares it together with the position, because
    -- releasing an aggregate does not move the position.
    changes bigint NOT NULL DEFAULT 0,
    per_aggregate boolean NOT NULL DEFAULT false, -- whether the projection has order per aggregate; `position` is its swept position then
    -- running: workers move the position. inline: appends apply the projection, which has applied the whole log. deleting: the rows of this
    -- generation of a view are being deleted, and nothing continues from them.
    state text COLLATE "C" NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'inline', 'deleting')),
    -- Set while an operator has paused the projection: no worker applies anything.
    paused_at timestamptz,
    paused_by text,
    pause_reason text,
    retired boolean NOT NULL DEFAULT false -- whether the pause is meant to be final
);

-- The releases of each projection, by the events that they read. A worker waits at an event that only the newest release reads.
CREATE TABLE {schema}.processors (
    projection text COLLATE "C" NOT NULL,
    digest bytea NOT NULL, -- the SHA-256 hash of `declared`
    number bigint NOT NULL, -- the count of changes in `checkpoints` with this registration: the newest release has the greatest
    declared text NOT NULL, -- JSON: its kind, the aggregate types, event types, and the shape of its states if it is known
    first_seen timestamptz NOT NULL,
    program text NOT NULL,
    PRIMARY KEY (projection, digest)
);

-- The aggregates that a projection has parked, each from the event that failed.
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
CREATE INDEX parked_from ON {schema}.parked (projection, from_position);

-- The events that operators have skipped in a projection. Only inserted into: the last row of an event counts.
CREATE TABLE {schema}.skipped (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    shared_name text COLLATE "C" NOT NULL, -- the projection, or the view whose generations share the row
    projection text COLLATE "C" NOT NULL,
    aggregate_type text COLLATE "C" NOT NULL,
    aggregate_id text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    position bigint NOT NULL,
    event_id uuid,
    error text NOT NULL,
    at timestamptz NOT NULL,
    who text NOT NULL,
    reason text NOT NULL,
    state text NOT NULL CHECK (state IN ('skipped', 'withdrawn'))
);
CREATE INDEX skipped_of ON {schema}.skipped (shared_name, number);
CREATE INDEX skipped_stream ON {schema}.skipped (shared_name, aggregate_type, aggregate_id, number);

-- The changes that operators have made. Written in the transactions of the changes, and only inserted into.
CREATE TABLE {schema}.audit (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL,
    who text NOT NULL,
    action text NOT NULL,
    target text NOT NULL,
    reason text NOT NULL,
    count bigint NOT NULL
);

CREATE FUNCTION {schema}.refuse_change_of_record() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'rows of % are immutable', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END
$$;
CREATE TRIGGER skipped_no_change BEFORE UPDATE OR DELETE ON {schema}.skipped
    FOR EACH ROW EXECUTE FUNCTION {schema}.refuse_change_of_record();
CREATE TRIGGER skipped_no_truncate BEFORE TRUNCATE ON {schema}.skipped
    FOR EACH STATEMENT EXECUTE FUNCTION {schema}.refuse_change_of_record();
CREATE TRIGGER audit_no_change BEFORE UPDATE OR DELETE ON {schema}.audit
    FOR EACH ROW EXECUTE FUNCTION {schema}.refuse_change_of_record();
CREATE TRIGGER audit_no_truncate BEFORE TRUNCATE ON {schema}.audit
    FOR EACH STATEMENT EXECUTE FUNCTION {schema}.refuse_change_of_record();

-- The progress of each projection with order per aggregate, for each aggregate. A worker locks the row while it applies events of the
-- aggregate. The fill factor leaves room for new versions of the row, one per change.
CREATE TABLE {schema}.progress (
    projection text COLLATE "C" NOT NULL,
    aggregate_type text COLLATE "C" NOT NULL,
    aggregate_id text COLLATE "C" NOT NULL,
    applied bigint NOT NULL, -- the last version that was applied or filtered out
    seen bigint NOT NULL, -- the last version that was applied, or skipped because the aggregate is parked
    seen_id uuid, -- of the event at that version; a log that has another event there has another history
    PRIMARY KEY (projection, aggregate_type, aggregate_id)
) WITH (fillfactor = 80);

-- The rows of all views: a key and the state that the key's events fold to. Changed in the transactions that move the view's checkpoint.
-- The fill factor leaves room for new versions of the row, one per change.
CREATE TABLE {schema}.views (
    view text COLLATE "C" NOT NULL,
    generation bigint NOT NULL,
    key text COLLATE "C" NOT NULL,
    state text, -- JSON; NULL if the view has no state under this key
    fields text, -- the row's entries in `view_fields` as JSON, [["field", "value"], ..]; NULL if there are none
    position bigint NOT NULL, -- of the last event in the state
    PRIMARY KEY (view, generation, key)
) WITH (fillfactor = 80);

-- The values that rows are found by: one row per entry of `views.fields`.
CREATE TABLE {schema}.view_fields (
    view text COLLATE "C" NOT NULL,
    generation bigint NOT NULL,
    field text COLLATE "C" NOT NULL,
    value text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    PRIMARY KEY (view, generation, field, value, key)
);

-- The generation of each view that readers see; 1 if there is no row.
CREATE TABLE {schema}.view_generations (
    view text COLLATE "C" PRIMARY KEY,
    live bigint NOT NULL
);

-- The deadlines that process managers watch. An index of the processes' streams: an extra row does no harm.
CREATE TABLE {schema}.deadlines (
    process text COLLATE "C" NOT NULL,
    deadline_id uuid NOT NULL,
    process_key text COLLATE "C" NOT NULL,
    name text NOT NULL,
    due_at timestamptz NOT NULL,
    correlation_id uuid,
    causation_id uuid,
    trace text, -- the traceparent, and after a space the tracestate
    attempts bigint NOT NULL DEFAULT 0,
    error text, -- of the last attempt
    PRIMARY KEY (process, deadline_id)
);
CREATE INDEX deadlines_due ON {schema}.deadlines (process, due_at);

-- The events that each reaction has handled. A row is written in the transaction of the reaction's own rows, and stays when the checkpoint
-- is moved back.
CREATE TABLE {schema}.inbox (
    reaction text COLLATE "C" NOT NULL,
    event_id uuid NOT NULL,
    PRIMARY KEY (reaction, event_id)
);

-- Where each reaction began. It never reacts to earlier events, even if its checkpoint is moved back.
CREATE TABLE {schema}.reactions (
    reaction text COLLATE "C" PRIMARY KEY,
    begins_after bigint NOT NULL,
    event_id uuid -- of the event at that position
);
