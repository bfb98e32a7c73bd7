-- The deadlines that process managers have to watch. An index of what stands in the streams of the processes: a row too many does no harm.
CREATE TABLE {schema}.deadlines (
    process text COLLATE "C" NOT NULL,
    deadline_id uuid NOT NULL,
    process_key text COLLATE "C" NOT NULL,
    name text NOT NULL,
    due_at timestamptz NOT NULL,
    correlation_id uuid,
    attempts bigint NOT NULL DEFAULT 0,
    error text, -- of the last attempt
    PRIMARY KEY (process, deadline_id)
);

CREATE INDEX deadlines_due ON {schema}.deadlines (process, due_at);
