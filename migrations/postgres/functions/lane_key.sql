-- Returns the first key of this log's advisory locks: the second is a lane, or 64 for the sequencer. It is made of the table's oid, so that
-- two schemas never share lanes. PostgreSQL inlines the function where it is called.
CREATE OR REPLACE FUNCTION {schema}.lane_key() RETURNS integer LANGUAGE sql STABLE AS $$
    SELECT ('{schema}.events'::regclass::oid::bigint - 2147483648)::integer
$$;
