-- The aggregates that a projection has set aside, each from the event that failed. Beside the checkpoint, and changed in its transactions.
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
    PRIMARY KEY (projection, aggregate_type, aggregate_id)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

-- Counts the changes of those rows: compared with the checkpoint, since an aggregate can be released without moving it.
-- Only MariaDB can be told to add a column if it is not there.
SET @add_parking_changes = IF(
    EXISTS (
        SELECT 1 FROM information_schema.columns
        WHERE table_schema = DATABASE() AND table_name = 'retell_checkpoints' AND column_name = 'parking_changes'
    ),
    'DO 0',
    'ALTER TABLE retell_checkpoints ADD COLUMN parking_changes BIGINT NOT NULL DEFAULT 0'
);
PREPARE add_parking_changes FROM @add_parking_changes;
EXECUTE add_parking_changes;
DEALLOCATE PREPARE add_parking_changes;
