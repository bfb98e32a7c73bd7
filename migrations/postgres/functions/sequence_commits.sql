-- Assigns positions to the commits that have none, and returns the head of the log. One transaction does this at a time. If another one holds
-- the lock, returns NULL.
CREATE OR REPLACE FUNCTION {schema}.sequence_commits() RETURNS bigint LANGUAGE plpgsql
-- A session keeps its plans, and a table may have been empty when it made them or when it was analyzed. A scan of `commits` would run for each lane.
SET enable_seqscan = off
-- The planner expects a third of all commits to have no position. In a long log, that estimate would make PostgreSQL compile the statement below.
SET jit = off
AS $$
DECLARE
    durability text;
    head bigint;
BEGIN
    /* hook: before-sequencer-lock */
    IF /* hook: sequencer-lock */ NOT pg_try_advisory_xact_lock({schema}.lane_key(), 64) THEN
        RETURN NULL;
    END IF;
    -- A reader may act on a position at once. If a crash took the position back, the event could get a different one.
    durability := {schema}.wait_for_disk(true);
    -- One statement and so one snapshot, taken after the lock. It sees the work of all earlier sequencers, and of each lane every commit up to
    -- some number.
    WITH fresh AS MATERIALIZED (
        SELECT c.lane, c.commit_id, c.events, c.recorded_at
        FROM {schema}.lanes l, LATERAL (
            SELECT * FROM {schema}.commits c WHERE c.lane = l.lane AND c.commit_id > l.sequenced
            OFFSET 0 -- keeps the planner from making this a join, which would read every commit that the lanes ever had
        ) AS c
    ), before AS (
        SELECT coalesce((SELECT first_position + events - 1 FROM {schema}.log ORDER BY first_position DESC LIMIT 1), 0) AS head
    ), placed AS (
        INSERT INTO {schema}.log (first_position, commit_id, events, recorded_at)
        SELECT before.head + 1 + sum(fresh.events) OVER (ORDER BY fresh.commit_id) - fresh.events, fresh.commit_id, fresh.events,
            fresh.recorded_at
        FROM fresh, before
    ), marked AS (
        UPDATE {schema}.lanes l SET sequenced = newest.commit_id
        FROM (SELECT fresh.lane, max(fresh.commit_id) AS commit_id FROM fresh GROUP BY fresh.lane) AS newest
        WHERE l.lane = newest.lane
    )
    SELECT before.head + coalesce((SELECT sum(fresh.events) FROM fresh), 0) INTO head FROM before;
    /* hook: before-end */
    RETURN head;
END
$$;
