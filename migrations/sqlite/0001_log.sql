-- The log: every event once, in commit order. The positions are given by the writer and contiguous.
CREATE TABLE retell_events (
    position INTEGER PRIMARY KEY,
    event_id BLOB NOT NULL,
    aggregate_type TEXT NOT NULL,
    aggregate_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    event_type TEXT NOT NULL,
    schema_version INTEGER NOT NULL,
    codec INTEGER NOT NULL,
    recorded_at INTEGER NOT NULL, -- microseconds since 1970, never smaller than in the row before
    correlation_id BLOB,
    causation_id BLOB,
    metadata TEXT,                -- source and extra entries as a JSON object, if there are any
    payload BLOB NOT NULL
) STRICT;

-- The second guard behind the version check, and the way to load a stream.
CREATE UNIQUE INDEX retell_events_stream ON retell_events (aggregate_type, aggregate_id, version);
CREATE UNIQUE INDEX retell_events_id ON retell_events (event_id);
CREATE INDEX retell_events_type ON retell_events (event_type);

CREATE TRIGGER retell_events_no_update BEFORE UPDATE ON retell_events
BEGIN
    SELECT RAISE(ABORT, 'events are immutable');
END;

CREATE TRIGGER retell_events_no_delete BEFORE DELETE ON retell_events
BEGIN
    SELECT RAISE(ABORT, 'events are immutable');
END;

-- What the append under each idempotency key did: [[aggregate type, aggregate id, version], ..].
CREATE TABLE retell_keys (
    idempotency_key TEXT PRIMARY KEY,
    commit_id INTEGER NOT NULL,
    streams TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE retell_snapshots (
    aggregate_type TEXT NOT NULL,
    aggregate_id TEXT NOT NULL,
    version INTEGER NOT NULL,
    fingerprint INTEGER NOT NULL, -- the 64 bits as a signed number
    state BLOB NOT NULL,
    PRIMARY KEY (aggregate_type, aggregate_id)
) STRICT;

CREATE TABLE retell_relays (
    relay TEXT PRIMARY KEY,
    position INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- For people: readable ids, times and payloads.
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
