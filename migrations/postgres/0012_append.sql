-- The same function, with less to do for the common call: appends without a key, whose versions are the expected ones. The lookup of keys
-- is fenced (`OFFSET 0`), so that it goes key by key without the planner's settings of migration 11, each of which costs microseconds a call.
CREATE OR REPLACE FUNCTION {schema}.append(
    lane_hint integer, callers boolean, durable boolean, key_append integer[], key_text text[],
    part_append integer[], part_type text[], part_id text[], part_expected bigint[], part_events integer[],
    event_part integer[], event_place integer[], event_id uuid[], event_type text[], event_schema bigint[], event_codec smallint[],
    event_correlation uuid[], event_causation uuid[], event_metadata text[], event_payload bytea[],
    OUT commit_number bigint, OUT versions bigint[], OUT places integer[], OUT known_keys integer[]
)
LANGUAGE plpgsql
-- Arrays would be planned anew at every call.
SET plan_cache_mode = force_generic_plan
-- A plan is made once a session, and a table may have been empty then.
SET enable_seqscan = off
AS $$
DECLARE
    held_lane integer;
    at timestamptz;
    refused boolean[];
    firsts integer[];
    lasts integer[];
    total integer := 0;
BEGIN
    IF durable AND current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    held_lane := {schema}.take_lane(lane_hint, callers);
    -- One statement: the number is drawn after the snapshot that checks the versions was taken. Drawn before it, version 2 of a stream
    -- could get a smaller number than version 1. `unnest` stands in the select list here and below: in FROM, each array costs a buffer.
    SELECT nextval('{schema}.commit_number'), greatest(clock_timestamp(), max(last.recorded_at)),
        array_agg(coalesce(last.version, 0) ORDER BY part.place)
    INTO commit_number, at, versions
    FROM (SELECT unnest(part_type) AS kind, unnest(part_id) AS id, generate_subscripts(part_id, 1) AS place) AS part
    LEFT JOIN LATERAL (
        SELECT e.version, e.recorded_at FROM {schema}.events e WHERE e.aggregate_type = part.kind AND e.aggregate_id = part.id
        ORDER BY e.version DESC LIMIT 1
    ) AS last ON true;
    -- After the versions: whoever sees an append's events sees its key.
    IF cardinality(key_append) > 0 THEN
        known_keys := ARRAY(
            SELECT k.append FROM unnest(key_append, key_text) AS k (append, key),
                LATERAL (SELECT FROM {schema}.keys o WHERE o.idempotency_key = k.key OFFSET 0) AS known
        );
        FOR i IN 1..cardinality(known_keys) LOOP
            refused[known_keys[i]] := true;
        END LOOP;
    END IF;
    IF versions <> part_expected THEN
        FOR p IN 1..cardinality(part_append) LOOP
            IF NOT (CASE part_expected[p] WHEN -1 THEN true WHEN -2 THEN versions[p] > 0 ELSE versions[p] = part_expected[p] END) THEN
                refused[part_append[p]] := true;
            END IF;
        END LOOP;
    END IF;
    FOR p IN 1..cardinality(part_append) LOOP
        IF refused[part_append[p]] THEN
            places[p] := NULL;
        ELSE
            places[p] := total;
            IF cardinality(key_append) > 0 THEN
                firsts[part_append[p]] := coalesce(firsts[part_append[p]], total + 1);
                lasts[part_append[p]] := total + part_events[p];
            END IF;
            total := total + part_events[p];
        END IF;
    END LOOP;
    IF total = 0 THEN
        RETURN;
    END IF;
    INSERT INTO {schema}.events (commit_id, ordinal, event_id, aggregate_type, aggregate_id, version, event_type, schema_version, codec,
        recorded_at, correlation_id, causation_id, metadata, payload)
    SELECT commit_number, places[e.part] + e.place, e.id, part_type[e.part], part_id[e.part], versions[e.part] + e.place, e.type, e.schema, e.codec,
        at, e.correlation, e.causation, e.metadata, e.payload
    FROM (
        SELECT unnest(event_part) AS part, unnest(event_place) AS place, unnest(event_id) AS id, unnest(event_type) AS type,
            unnest(event_schema) AS schema, unnest(event_codec) AS codec, unnest(event_correlation) AS correlation,
            unnest(event_causation) AS causation, unnest(event_metadata) AS metadata, unnest(event_payload) AS payload
    ) AS e
    WHERE places[e.part] IS NOT NULL;
    IF cardinality(key_append) > 0 THEN
        INSERT INTO {schema}.keys (idempotency_key, commit_id, first_ordinal, last_ordinal)
        SELECT k.key, commit_number, firsts[k.append], lasts[k.append] FROM unnest(key_append, key_text) AS k (append, key)
        WHERE firsts[k.append] IS NOT NULL;
    END IF;
    INSERT INTO {schema}.commits (lane, commit_id, events, recorded_at) VALUES (held_lane, commit_number, total, at);
END
$$;
