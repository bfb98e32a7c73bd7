-- The log. An event is keyed by its commit and its place there; its position is given later, in commit order, by the sequencer.
-- Names are VARBINARY: they compare byte by byte, with their trailing spaces, under MySQL and MariaDB alike.
-- MySQL commits each statement of a schema change by itself. So each can be run again: a start that was killed half-way is healed by the next.
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
    -- The second guard behind the version check, and the way to load a stream.
    UNIQUE KEY events_stream (aggregate_type, aggregate_id, version),
    UNIQUE KEY events_id (event_id),
    KEY events_type (event_type, commit_id),
    KEY events_recorded_at (recorded_at)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

-- Numbers commits, and holds those that have no positions yet. A row leaves in the transaction that gives its commit a position.
CREATE TABLE IF NOT EXISTS retell_commits (
    commit_id BIGINT NOT NULL AUTO_INCREMENT,
    events INT NOT NULL,
    PRIMARY KEY (commit_id)
) ENGINE = InnoDB;

-- The one order: which commit stands where.
CREATE TABLE IF NOT EXISTS retell_log (
    first_position BIGINT NOT NULL,
    commit_id BIGINT NOT NULL,
    events INT NOT NULL,
    PRIMARY KEY (first_position),
    UNIQUE KEY log_commit (commit_id)
) ENGINE = InnoDB;

-- One row each. The first is locked by whoever gives out positions; the second says up to where they are known to be on the disk:
-- nobody reads beyond it.
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

-- What the append under each idempotency key did: [[aggregate type, aggregate id, version], ..].
CREATE TABLE IF NOT EXISTS retell_keys (
    idempotency_key VARBINARY(255) NOT NULL,
    commit_id BIGINT NOT NULL,
    last_ordinal INT NOT NULL, -- the place of the append's last event in its commit
    streams LONGBLOB NOT NULL,
    PRIMARY KEY (idempotency_key)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

CREATE TABLE IF NOT EXISTS retell_snapshots (
    aggregate_type VARBINARY(255) NOT NULL,
    aggregate_id VARBINARY(255) NOT NULL,
    version BIGINT NOT NULL,
    fingerprint BIGINT NOT NULL, -- the 64 bits as a signed number
    state LONGBLOB NOT NULL,
    PRIMARY KEY (aggregate_type, aggregate_id)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

CREATE TABLE IF NOT EXISTS retell_relays (
    relay VARBINARY(255) NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (relay)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

DROP TRIGGER IF EXISTS retell_events_no_update;
CREATE TRIGGER retell_events_no_update BEFORE UPDATE ON retell_events
    FOR EACH ROW SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'events are immutable';
DROP TRIGGER IF EXISTS retell_events_no_delete;
CREATE TRIGGER retell_events_no_delete BEFORE DELETE ON retell_events
    FOR EACH ROW SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'events are immutable';

-- For people at a prompt: the log in order, with readable payloads.
CREATE OR REPLACE VIEW retell_readable_log AS
SELECT
    l.first_position + e.ordinal - 1 AS position, CONVERT(e.aggregate_type USING utf8mb4) AS aggregate_type,
    CONVERT(e.aggregate_id USING utf8mb4) AS aggregate_id, e.version, CONVERT(e.event_type USING utf8mb4) AS event_type, e.schema_version,
    CASE e.codec WHEN 0 THEN CONVERT(e.payload USING utf8mb4) ELSE CONCAT('compact: ', LOWER(HEX(e.payload))) END AS payload,
    e.recorded_at, LOWER(HEX(e.event_id)) AS event_id, LOWER(HEX(e.correlation_id)) AS correlation_id,
    LOWER(HEX(e.causation_id)) AS causation_id, CONVERT(e.metadata USING utf8mb4) AS metadata
FROM retell_log l JOIN retell_events e ON e.commit_id = l.commit_id;
