-- Which stream holds a value that only one may hold. Written with the events that say so. A row without a holder is there within its
-- transaction only.
CREATE TABLE IF NOT EXISTS retell_reservations (
    scope VARBINARY(255) NOT NULL,
    value VARBINARY(255) NOT NULL,
    aggregate_type VARBINARY(255) NOT NULL,
    aggregate_id VARBINARY(255) NOT NULL,
    PRIMARY KEY (scope, value)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;
