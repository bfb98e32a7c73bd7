-- How far each projection with order per aggregate has got with each aggregate. A row is locked by whoever applies events of the aggregate.
CREATE TABLE IF NOT EXISTS retell_progress (
    projection VARBINARY(255) NOT NULL,
    aggregate_type VARBINARY(255) NOT NULL,
    aggregate_id VARBINARY(255) NOT NULL,
    applied BIGINT NOT NULL, -- the last version that is applied or not wanted
    seen BIGINT NOT NULL, -- the last version that is applied, or passed over since the aggregate is parked
    PRIMARY KEY (projection, aggregate_type, aggregate_id)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

-- Whether the position is the swept position of such a projection.
-- Only MariaDB can be told to add a column if it is not there.
SET @add_per_aggregate = IF(
    EXISTS (
        SELECT 1 FROM information_schema.columns
        WHERE table_schema = DATABASE() AND table_name = 'retell_checkpoints' AND column_name = 'per_aggregate'
    ),
    'DO 0',
    'ALTER TABLE retell_checkpoints ADD COLUMN per_aggregate BOOLEAN NOT NULL DEFAULT FALSE'
);
PREPARE add_per_aggregate FROM @add_per_aggregate;
EXECUTE add_per_aggregate;
DEALLOCATE PREPARE add_per_aggregate;
