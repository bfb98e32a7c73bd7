-- Does what `append` does for the most common call: one event of one stream, without a key and without claims. Plain values instead of arrays
-- halve the processor time. The settings are those of `append`, for the same reasons.
--   kind, expected    the expected version, as in `version_fits`
--   last_event        the id that the stream's last event must have; NULL for any
-- Returns [commit number, version before] if the event was written, [NULL, version found] if it conflicts, and [NULL, version found, 1] if
-- the last event is another one.
CREATE OR REPLACE FUNCTION {schema}.append_one(
    lane_hint integer, callers boolean, durable boolean, stream_type text, stream_id text, kind text, expected bigint, last_event uuid,
    event_id uuid, event_type text, event_schema bigint, event_codec smallint,
    event_correlation uuid, event_causation uuid, event_metadata text, event_payload bytea
) RETURNS bigint[]
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET jit = off
AS $$
DECLARE
    durability text := {schema}.wait_for_disk(durable);
    held_lane integer := lane_hint;
    commit_number bigint;
    found_version bigint;
    found_event uuid;
    at timestamptz;
BEGIN
    -- The first step of `take_lane`, inlined to save the cost of the call.
    IF callers OR NOT pg_try_advisory_xact_lock({schema}.lane_key(), held_lane) THEN
        held_lane := {schema}.take_lane(lane_hint, callers);
    END IF;
    /* hook: before-number */
    -- One statement, which draws the number after it has taken the snapshot that checks the version.
    -- A time far ahead of the clock is not followed: it was recorded while the clock was wrong.
    SELECT nextval('{schema}.commit_number'), coalesce(last.version, 0), last.event_id,
        greatest(clock_timestamp(), CASE WHEN last.recorded_at < clock_timestamp() + interval '10 seconds' THEN last.recorded_at END)
    INTO commit_number, found_version, found_event, at
    FROM (SELECT) AS one LEFT JOIN LATERAL (
        SELECT e.version, e.event_id, e.recorded_at FROM {schema}.events e WHERE e.aggregate_type = stream_type AND e.aggregate_id = stream_id
        ORDER BY e.version DESC LIMIT 1
    ) AS last ON true;
    /* hook: after-number */
    IF {schema}.version_fits(kind, expected, found_version) IS NOT TRUE THEN
        RETURN ARRAY[NULL, found_version];
    END IF;
    IF last_event IS NOT NULL AND last_event IS DISTINCT FROM found_event THEN
        RETURN ARRAY[NULL, found_version, 1];
    END IF;
    INSERT INTO {schema}.events (commit_id, ordinal, event_id, aggregate_type, aggregate_id, version, event_type, schema_version, codec,
        recorded_at, correlation_id, causation_id, metadata, payload)
    VALUES (commit_number, 1, append_one.event_id, stream_type, stream_id, found_version + 1, append_one.event_type, event_schema, event_codec,
        at, event_correlation, event_causation, event_metadata, event_payload);
    INSERT INTO {schema}.commits (lane, commit_id, events, recorded_at) VALUES (held_lane, commit_number, 1, at);
    /* hook: before-end */
    RETURN ARRAY[commit_number, found_version];
END
$$;
