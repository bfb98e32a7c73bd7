-- Returns the first key of this log's advisory locks. The second key is a lane, or 64 for the sequencer. Advisory locks belong to a database, so
-- the name of the schema is enough. Unlike the oid of a table, it stays when a dump is restored under running programs, whose open transactions
-- hold locks. Two schemas whose names have one hash share lanes, which costs waits and no correctness. PostgreSQL inlines the function.
CREATE OR REPLACE FUNCTION {schema}.lane_key() RETURNS integer LANGUAGE sql IMMUTABLE AS $$
    SELECT hashtext('retell {schema}')
$$;
