-- The deadlines that process managers have to watch. An index of what stands in the streams of the processes: a row too many does no harm.
CREATE TABLE IF NOT EXISTS retell_deadlines (
    process VARBINARY(255) NOT NULL,
    deadline_id BINARY(16) NOT NULL,
    process_key VARBINARY(255) NOT NULL,
    name LONGBLOB NOT NULL, -- text in UTF-8
    due_at DATETIME(6) NOT NULL,
    correlation_id BINARY(16),
    attempts BIGINT NOT NULL DEFAULT 0,
    error LONGBLOB, -- of the last attempt; text in UTF-8
    PRIMARY KEY (process, deadline_id),
    KEY deadlines_due (process, due_at)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;
