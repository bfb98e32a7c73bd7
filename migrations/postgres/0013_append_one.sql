-- What `append` does, for the commonest call: one event of one stream, without a key and without claims. Plain values instead of arrays take
-- half of the processor time. `SET`: as for `append`.
--   expected    the expected version (-1 any, -2 at least one event)
-- Returns the commit's number and the stream's version before. Nothing is written unless that is the expected one.
CREATE FUNCTION {schema}.append_one(
    lane_hint integer, callers boolean, durable boolean, kind text, id text, expected bigint,
    event_id uuid, event_type text, event_schema bigint, event_codec smallint,
    event_correlation uuid, event_causation uuid, event_metadata text, event_payload bytea
) RETURNS bigint[]
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
AS $$
DECLARE
    log_key integer := ('{schema}.events'::regclass::oid::bigint - 2147483648)::integer;
    held_lane integer := lane_hint;
    commit_number bigint;
    found_version bigint;
    at timestamptz;
BEGIN
    IF durable AND current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    -- The first step of `take_lane`, without the call.
    IF callers OR NOT pg_try_advisory_xact_lock(log_key, held_lane) THEN
        held_lane := {schema}.take_lane(lane_hint, callers);
    END IF;
    -- One statement: the number is drawn after the snapshot that checks the version was taken.
    SELECT nextval('{schema}.commit_number'), coalesce(last.version, 0), greatest(clock_timestamp(), last.recorded_at)
    INTO commit_number, found_version, at
    FROM (SELECT) AS one LEFT JOIN LATERAL (
        SELECT e.version, e.recorded_at FROM {schema}.events e WHERE e.aggregate_type = kind AND e.aggregate_id = id
        ORDER BY e.version DESC LIMIT 1
    ) AS last ON true;
    IF (CASE expected WHEN -1 THEN true WHEN -2 THEN found_version > 0 ELSE found_version = expected END) THEN
        INSERT INTO {schema}.events (commit_id, ordinal, event_id, aggregate_type, aggregate_id, version, event_type, schema_version, codec,
            recorded_at, correlation_id, causation_id, metadata, payload)
        VALUES (commit_number, 1, append_one.event_id, kind, id, found_version + 1, append_one.event_type, event_schema, event_codec,
            at, event_correlation, event_causation, event_metadata, event_payload);
        INSERT INTO {schema}.commits (lane, commit_id, events, recorded_at) VALUES (held_lane, commit_number, 1, at);
    END IF;
    RETURN ARRAY[commit_number, found_version];
END
$$;
