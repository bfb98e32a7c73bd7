-- Returns the first key of this log's advisory locks. The second key is a lane, or 64 for the sequencer. The first key is derived from the oid
-- of `events`, so two schemas never share lanes. PostgreSQL inlines the function.
CREATE OR REPLACE FUNCTION {schema}.lane_key() RETURNS integer LANGUAGE sql STABLE AS $$
    SELECT ('{schema}.events'::regclass::oid::bigint - 2147483648)::integer
$$;
