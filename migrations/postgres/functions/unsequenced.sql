-- Returns the number of visible commits without a position. Like the sequencer, looks up each lane's commits past its mark, with the same settings.
CREATE OR REPLACE FUNCTION {schema}.unsequenced() RETURNS bigint LANGUAGE sql STABLE
SET enable_seqscan = off
SET jit = off
AS $$
    SELECT count(*) FROM {schema}.lanes l, LATERAL (
        SELECT FROM {schema}.commits c WHERE c.lane = l.lane AND c.commit_id > l.sequenced OFFSET 0
    ) AS waiting
$$;
