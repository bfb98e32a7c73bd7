-- Tables, in the order in which events pass through them. A released file never changes: later releases add files with higher numbers.
-- Names are VARBINARY: MySQL and MariaDB both compare them byte by byte, trailing spaces included.
-- MySQL commits each statement of a schema change on its own. So every statement can run again: if a process is killed half-way, the next
-- one completes the change.

-- The log. An event is keyed by its commit and its place there. The sequencer assigns its position later, in commit order.
CREATE TABLE IF NOT EXISTS retell_events (
    commit_id BIGINT NOT NULL,
    ordinal INT NOT NULL,
    event_id BINARY(16) NOT NULL,
    aggregate_type VARBINARY(255) NOT NULL,
    aggregate_id VARBINARY(255) NOT NULL,
    version BIGINT NOT NULL,
    event_type VARBINARY(255) NOT NULL,
    schema_version BIGINT NOT NULL,
    codec SMALLINT NOT NULL,
    recorded_at DATETIME(6) NOT NULL, -- UTC
    correlation_id BINARY(16),
    causation_id BINARY(16),
    metadata LONGBLOB, -- text in UTF-8
    payload LONGBLOB NOT NULL,
    PRIMARY KEY (commit_id, ordinal),
    -- The second guard, after the version check. Also the index that loads a stream.
    UNIQUE KEY events_stream (aggregate_type, aggregate_id, version),
    UNIQUE KEY events_id (event_id),
    KEY events_type (event_type, commit_id),
    -- The events of a request.
    KEY events_chain (correlation_id),
    KEY events_recorded_at (recorded_at)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

DROP TRIGGER IF EXISTS retell_events_no_update;
CREATE TRIGGER retell_events_no_update BEFORE UPDATE ON retell_events
    FOR EACH ROW SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'events are immutable';
DROP TRIGGER IF EXISTS retell_events_no_delete;
CREATE TRIGGER retell_events_no_delete BEFORE DELETE ON retell_events
    FOR EACH ROW SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'events are immutable';

-- Numbers the commits, and holds those that have no positions yet. The transaction that assigns positions to a commit deletes its row.
CREATE TABLE IF NOT EXISTS retell_commits (
    commit_id BIGINT NOT NULL AUTO_INCREMENT,
    events INT NOT NULL,
    PRIMARY KEY (commit_id)
) ENGINE = InnoDB;

-- The order of the log: the first position of each commit.
CREATE TABLE IF NOT EXISTS retell_log (
    first_position BIGINT NOT NULL,
    commit_id BIGINT NOT NULL,
    events INT NOT NULL,
    PRIMARY KEY (first_position),
    UNIQUE KEY log_commit (commit_id)
) ENGINE = InnoDB;

-- One row each. The sequencer locks the row of the first table. The second table holds the last position that is known to be on disk, where
-- readers stop.
CREATE TABLE IF NOT EXISTS retell_sequencer (
    id TINYINT NOT NULL,
    runs BIGINT NOT NULL,
    PRIMARY KEY (id)
) ENGINE = InnoDB;
INSERT IGNORE INTO retell_sequencer (id, runs) VALUES (1, 0);
CREATE TABLE IF NOT EXISTS retell_head (
    id TINYINT NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (id)
) ENGINE = InnoDB;
INSERT IGNORE INTO retell_head (id, position) VALUES (1, 0);

-- The log in order with readable payloads, for people at a prompt.
CREATE OR REPLACE VIEW retell_readable_log AS
SELECT
    l.first_position + e.ordinal - 1 AS position, CONVERT(e.aggregate_type USING utf8mb4) AS aggregate_type,
    CONVERT(e.aggregate_id USING utf8mb4) AS aggregate_id, e.version, CONVERT(e.event_type USING utf8mb4) AS event_type, e.schema_version,
    CASE e.codec WHEN 0 THEN CONVERT(e.payload USING utf8mb4) ELSE CONCAT('compact: ', LOWER(HEX(e.payload))) END AS payload,
    e.recorded_at, LOWER(HEX(e.event_id)) AS event_id, LOWER(HEX(e.correlation_id)) AS correlation_id,
    LOWER(HEX(e.causation_id)) AS causation_id, CONVERT(e.metadata USING utf8mb4) AS metadata
FROM retell_log l JOIN retell_events e ON e.commit_id = l.commit_id;

-- The outcome of an append under an idempotency key: [[aggregate type, aggregate id, version before, version after], ..].
CREATE TABLE IF NOT EXISTS retell_keys (
    idempotency_key VARBINARY(255) NOT NULL,
    commit_id BIGINT NOT NULL,
    last_ordinal INT NOT NULL, -- the place of the append's last event in its commit
    fingerprint VARBINARY(32) NOT NULL, -- tells the request from others under the key
    streams LONGBLOB NOT NULL,
    PRIMARY KEY (idempotency_key)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

-- The stream that holds each unique value. Written in the transaction of the events that claim it. A row without a holder exists only
-- within its transaction.
CREATE TABLE IF NOT EXISTS retell_reservations (
    scope VARBINARY(255) NOT NULL,
    value VARBINARY(255) NOT NULL,
    aggregate_type VARBINARY(255) NOT NULL,
    aggregate_id VARBINARY(255) NOT NULL,
    PRIMARY KEY (scope, value),
    KEY reservations_stream (aggregate_type, aggregate_id)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

CREATE TABLE IF NOT EXISTS retell_snapshots (
    aggregate_type VARBINARY(255) NOT NULL,
    aggregate_id VARBINARY(255) NOT NULL,
    version BIGINT NOT NULL,
    event_id BINARY(16) NOT NULL, -- of the event at the version; the snapshot counts only while the log has it there
    fingerprint BIGINT NOT NULL, -- 64 bits, stored as a signed number
    state LONGBLOB NOT NULL,
    PRIMARY KEY (aggregate_type, aggregate_id, version)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

-- The wire shapes that programs have registered for their events. Only inserted into.
CREATE TABLE IF NOT EXISTS retell_shapes (
    event_type VARBINARY(255) NOT NULL,
    schema_version BIGINT NOT NULL,
    codec SMALLINT NOT NULL,
    digest BINARY(32) NOT NULL, -- the SHA-256 hash of the shape
    shape LONGBLOB NOT NULL, -- text in UTF-8
    first_seen DATETIME(6) NOT NULL, -- UTC
    program LONGBLOB NOT NULL, -- text in UTF-8
    PRIMARY KEY (event_type, schema_version, codec, digest)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

-- The seals: chained digests of ranges of the log. Only inserted into.
CREATE TABLE IF NOT EXISTS retell_seals (
    first_position BIGINT NOT NULL,
    last_position BIGINT NOT NULL,
    previous BINARY(32) NOT NULL, -- the digest of the seal before; zeros in the first one
    digest BINARY(32) NOT NULL, -- SHA-256, over the previous digest and every event of the range
    sealed_at DATETIME(6) NOT NULL, -- UTC
    PRIMARY KEY (first_position)
) ENGINE = InnoDB;
DROP TRIGGER IF EXISTS retell_seals_no_update;
CREATE TRIGGER retell_seals_no_update BEFORE UPDATE ON retell_seals
    FOR EACH ROW SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'seals are immutable';
DROP TRIGGER IF EXISTS retell_seals_no_delete;
CREATE TRIGGER retell_seals_no_delete BEFORE DELETE ON retell_seals
    FOR EACH ROW SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'seals are immutable';

-- The last position that each relay has published. A relay with a smaller fence than the row's cannot move it.
CREATE TABLE IF NOT EXISTS retell_relays (
    relay VARBINARY(255) NOT NULL,
    position BIGINT NOT NULL,
    event_id BINARY(16), -- of the event at the position; a log that has another event there has another history
    fence BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY (relay)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

-- The holder of each lease, and when the lease was given and ends. A lease that was given in the future, by a clock that was wrong, has ended.
CREATE TABLE IF NOT EXISTS retell_leases (
    name VARBINARY(255) NOT NULL,
    holder BINARY(16), -- NULL after the holder released it
    fence BIGINT NOT NULL, -- grows by one with each change of holder
    ends_at DATETIME(6) NOT NULL, -- UTC
    given_at DATETIME(6) NOT NULL, -- UTC
    PRIMARY KEY (name)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

-- The progress of each projection. Changed in the transactions that change its read model.
CREATE TABLE IF NOT EXISTS retell_checkpoints (
    projection VARBINARY(255) NOT NULL,
    position BIGINT NOT NULL,
    event_id BINARY(16), -- of the event at the position; a log that has another event there has another history
    -- Counts the changes of the projection's rows in `retell_parked`, `retell_processors` and `retell_skipped`, and of its pause. A step compares it together with the position, because
    -- releasing an aggregate does not move the position.
    changes BIGINT NOT NULL DEFAULT 0,
    per_aggregate BOOLEAN NOT NULL DEFAULT FALSE, -- whether the projection has order per aggregate; `position` is its swept position then
    -- running: workers move the position. inline: appends apply the projection, which has applied the whole log. deleting: the rows of this
    -- generation of a view are being deleted, and nothing continues from them.
    state VARBINARY(16) NOT NULL DEFAULT 'running',
    -- Set while an operator has paused the projection: no worker applies anything.
    paused_at DATETIME(6), -- UTC
    paused_by LONGBLOB, -- text in UTF-8
    pause_reason LONGBLOB, -- text in UTF-8
    retired BOOLEAN NOT NULL DEFAULT FALSE, -- whether the pause is meant to be final
    PRIMARY KEY (projection)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

-- A row for each projection with order per aggregate. A transaction that applies events holds a shared lock on it, and a pause an exclusive one:
-- so a pause waits for these transactions. They do not lock the checkpoint, which sweeps move meanwhile.
CREATE TABLE IF NOT EXISTS retell_gates (
    projection VARBINARY(255) NOT NULL,
    closed BOOLEAN NOT NULL DEFAULT FALSE, -- whether the projection is paused
    PRIMARY KEY (projection)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

-- The releases of each projection, by the events that they read. A worker waits at an event that only the newest release reads.
CREATE TABLE IF NOT EXISTS retell_processors (
    projection VARBINARY(255) NOT NULL,
    digest BINARY(32) NOT NULL, -- the SHA-256 hash of `declared`
    number BIGINT NOT NULL, -- the count of changes in `retell_checkpoints` with this registration: the newest release has the greatest
    declared LONGBLOB NOT NULL, -- JSON: its kind, the aggregate types, event types, and the shape of its states if it is known
    first_seen DATETIME(6) NOT NULL, -- UTC
    program LONGBLOB NOT NULL, -- text in UTF-8
    PRIMARY KEY (projection, digest)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

-- The aggregates that a projection has parked, each from the event that failed.
CREATE TABLE IF NOT EXISTS retell_parked (
    projection VARBINARY(255) NOT NULL,
    aggregate_type VARBINARY(255) NOT NULL,
    aggregate_id VARBINARY(255) NOT NULL,
    from_version BIGINT NOT NULL,
    from_position BIGINT NOT NULL,
    error LONGBLOB NOT NULL, -- text in UTF-8
    attempts BIGINT NOT NULL,
    next_at DATETIME(6) NOT NULL, -- UTC
    state VARBINARY(16) NOT NULL, -- waiting or dead
    PRIMARY KEY (projection, aggregate_type, aggregate_id),
    KEY parked_from (projection, from_position)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

-- The events that operators have skipped in a projection. Only inserted into: the last row of an event counts.
CREATE TABLE IF NOT EXISTS retell_skipped (
    number BIGINT NOT NULL AUTO_INCREMENT,
    shared_name VARBINARY(255) NOT NULL, -- the projection, or the view whose generations share the row
    projection VARBINARY(255) NOT NULL,
    aggregate_type VARBINARY(255) NOT NULL,
    aggregate_id VARBINARY(255) NOT NULL,
    version BIGINT NOT NULL,
    position BIGINT NOT NULL,
    event_id BINARY(16),
    error LONGBLOB NOT NULL, -- text in UTF-8
    at DATETIME(6) NOT NULL, -- UTC
    who LONGBLOB NOT NULL, -- text in UTF-8
    reason LONGBLOB NOT NULL, -- text in UTF-8
    state VARBINARY(16) NOT NULL, -- skipped or withdrawn
    PRIMARY KEY (number),
    KEY skipped_of (shared_name, number),
    KEY skipped_stream (shared_name, aggregate_type, aggregate_id, number)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

-- The changes that operators have made. Written in the transactions of the changes, and only inserted into.
CREATE TABLE IF NOT EXISTS retell_audit (
    id BIGINT NOT NULL AUTO_INCREMENT,
    at DATETIME(6) NOT NULL, -- UTC
    who LONGBLOB NOT NULL, -- text in UTF-8
    action VARBINARY(32) NOT NULL,
    target LONGBLOB NOT NULL, -- text in UTF-8
    reason LONGBLOB NOT NULL, -- text in UTF-8
    count BIGINT NOT NULL,
    PRIMARY KEY (id)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

DROP TRIGGER IF EXISTS retell_skipped_no_update;
CREATE TRIGGER retell_skipped_no_update BEFORE UPDATE ON retell_skipped
    FOR EACH ROW SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'rows of skipped are immutable';
DROP TRIGGER IF EXISTS retell_skipped_no_delete;
CREATE TRIGGER retell_skipped_no_delete BEFORE DELETE ON retell_skipped
    FOR EACH ROW SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'rows of skipped are immutable';
DROP TRIGGER IF EXISTS retell_audit_no_update;
CREATE TRIGGER retell_audit_no_update BEFORE UPDATE ON retell_audit
    FOR EACH ROW SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'rows of audit are immutable';
DROP TRIGGER IF EXISTS retell_audit_no_delete;
CREATE TRIGGER retell_audit_no_delete BEFORE DELETE ON retell_audit
    FOR EACH ROW SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'rows of audit are immutable';

-- The progress of each projection with order per aggregate, for each aggregate. A worker locks the row while it applies events of the
-- aggregate.
CREATE TABLE IF NOT EXISTS retell_progress (
    projection VARBINARY(255) NOT NULL,
    aggregate_type VARBINARY(255) NOT NULL,
    aggregate_id VARBINARY(255) NOT NULL,
    applied BIGINT NOT NULL, -- the last version that was applied or filtered out
    seen BIGINT NOT NULL, -- the last version that was applied, or skipped because the aggregate is parked
    seen_id BINARY(16), -- of the event at that version; a log that has another event there has another history
    PRIMARY KEY (projection, aggregate_type, aggregate_id)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

-- The rows of all views: a key and the state that the key's events fold to. Changed in the transactions that move the view's checkpoint.
CREATE TABLE IF NOT EXISTS retell_views (
    view VARBINARY(255) NOT NULL,
    generation BIGINT NOT NULL,
    `key` VARBINARY(255) NOT NULL,
    state LONGBLOB, -- JSON in UTF-8; NULL if the view has no state under this key
    fields LONGBLOB, -- the row's entries in `retell_view_fields` as JSON, [["field", "value"], ..]; NULL if there are none
    position BIGINT NOT NULL, -- of the last event in the state
    PRIMARY KEY (view, generation, `key`)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

-- The values that rows are found by: one row per entry of `retell_views.fields`.
CREATE TABLE IF NOT EXISTS retell_view_fields (
    view VARBINARY(255) NOT NULL,
    generation BIGINT NOT NULL,
    field VARBINARY(255) NOT NULL,
    value VARBINARY(255) NOT NULL,
    `key` VARBINARY(255) NOT NULL,
    PRIMARY KEY (view, generation, field, value, `key`)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

-- The generation of each view that readers see; 1 if there is no row.
CREATE TABLE IF NOT EXISTS retell_view_generations (
    view VARBINARY(255) NOT NULL,
    live BIGINT NOT NULL,
    PRIMARY KEY (view)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

-- The deadlines that process managers watch. An index of the processes' streams: an extra row does no harm.
CREATE TABLE IF NOT EXISTS retell_deadlines (
    process VARBINARY(255) NOT NULL,
    deadline_id BINARY(16) NOT NULL,
    process_key VARBINARY(255) NOT NULL,
    name LONGBLOB NOT NULL, -- text in UTF-8
    due_at DATETIME(6) NOT NULL, -- UTC
    correlation_id BINARY(16),
    causation_id BINARY(16),
    trace VARBINARY(600), -- the traceparent, and after a space the tracestate
    attempts BIGINT NOT NULL DEFAULT 0,
    error LONGBLOB, -- of the last attempt; text in UTF-8
    PRIMARY KEY (process, deadline_id),
    KEY deadlines_due (process, due_at)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

-- The events that each reaction has handled. A row is written in the transaction of the reaction's own rows, and stays when the checkpoint
-- is moved back.
CREATE TABLE IF NOT EXISTS retell_inbox (
    reaction VARBINARY(255) NOT NULL,
    event_id BINARY(16) NOT NULL,
    PRIMARY KEY (reaction, event_id)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

-- Where each reaction began. It never reacts to earlier events, even if its checkpoint is moved back.
CREATE TABLE IF NOT EXISTS retell_reactions (
    reaction VARBINARY(255) NOT NULL,
    begins_after BIGINT NOT NULL,
    event_id BINARY(16), -- of the event at that position
    PRIMARY KEY (reaction)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;
