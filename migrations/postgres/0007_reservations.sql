-- Which stream holds a value that only one may hold. Written with the events that say so. A row without a holder is there within its
-- transaction only.
CREATE TABLE {schema}.reservations (
    scope text COLLATE "C" NOT NULL,
    value text COLLATE "C" NOT NULL,
    aggregate_type text COLLATE "C" NOT NULL,
    aggregate_id text COLLATE "C" NOT NULL,
    PRIMARY KEY (scope, value)
);

-- As `append`, for appends of which some reserve or release values. Each value occurs at most once in a call.
--   claim_*     one for each value, in their order: whose append it is, the value, the part that reserves it and the part that releases
--               it (NULL if none does)
-- Returns besides, for each value that is taken, which one it is (from 1) and who holds it: its append was refused.
CREATE FUNCTION {schema}.append_claiming(
    lane_hint integer, callers boolean, durable boolean, key_append integer[], key_text text[],
    part_append integer[], part_type text[], part_id text[], part_expected bigint[], part_events integer[],
    event_part integer[], event_place integer[], event_id uuid[], event_type text[], event_schema bigint[], event_codec smallint[],
    event_correlation uuid[], event_causation uuid[], event_metadata text[], event_payload bytea[],
    claim_append integer[], claim_scope text[], claim_value text[], claim_reserve integer[], claim_release integer[],
    OUT commit_number bigint, OUT versions bigint[], OUT places integer[], OUT known_keys integer[],
    OUT taken integer[], OUT taken_type text[], OUT taken_id text[]
)
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    holder_type text[];
    holder_id text[];
    refused boolean[];
    demands bigint[] := part_expected;
BEGIN
    -- First the rows, in their order, to the transaction's end: the commit's number is drawn later, so in the log whoever reserves a value
    -- stands behind whoever has released it.
    WITH locked AS (
        INSERT INTO {schema}.reservations AS r (scope, value, aggregate_type, aggregate_id)
        SELECT unnest(claim_scope), unnest(claim_value), '', ''
        ON CONFLICT (scope, value) DO UPDATE SET aggregate_type = r.aggregate_type
        RETURNING r.scope, r.value, r.aggregate_type, r.aggregate_id
    )
    SELECT array_agg(locked.aggregate_type ORDER BY c.place), array_agg(locked.aggregate_id ORDER BY c.place) INTO holder_type, holder_id
    FROM (
        SELECT unnest(claim_scope) AS scope, unnest(claim_value) AS value, generate_subscripts(claim_scope, 1) AS place
    ) AS c JOIN locked ON locked.scope = c.scope AND locked.value = c.value;
    FOR c IN 1..cardinality(claim_append) LOOP
        -- What is NULL below has no such part, and no holder is it.
        IF claim_reserve[c] IS NOT NULL AND holder_type[c] <> ''
            AND (holder_type[c], holder_id[c]) IS DISTINCT FROM (part_type[claim_reserve[c]], part_id[claim_reserve[c]])
            AND (holder_type[c], holder_id[c]) IS DISTINCT FROM (part_type[claim_release[c]], part_id[claim_release[c]])
        THEN
            taken := taken || c;
            taken_type := taken_type || holder_type[c];
            taken_id := taken_id || holder_id[c];
            refused[claim_append[c]] := true;
        END IF;
    END LOOP;
    FOR p IN 1..cardinality(part_append) LOOP
        IF refused[part_append[p]] THEN
            demands[p] := -3; -- which no stream is at
        END IF;
    END LOOP;
    SELECT a.commit_number, a.versions, a.places, a.known_keys INTO commit_number, versions, places, known_keys
    FROM {schema}.append(
        lane_hint, callers, durable, key_append, key_text, part_append, part_type, part_id, demands, part_events,
        event_part, event_place, event_id, event_type, event_schema, event_codec, event_correlation, event_causation, event_metadata,
        event_payload
    ) AS a;
    UPDATE {schema}.reservations r SET aggregate_type = part_type[c.reserve], aggregate_id = part_id[c.reserve]
    FROM unnest(claim_scope, claim_value, claim_reserve) AS c (scope, value, reserve)
    WHERE r.scope = c.scope AND r.value = c.value AND places[c.reserve] IS NOT NULL;
    -- What was released for nobody, and what was locked for an append that was refused.
    DELETE FROM {schema}.reservations r USING unnest(claim_scope, claim_value, claim_reserve, claim_release) AS c (scope, value, reserve, release)
    WHERE r.scope = c.scope AND r.value = c.value AND (
        r.aggregate_type = ''
        OR c.reserve IS NULL AND places[c.release] IS NOT NULL
            AND (r.aggregate_type, r.aggregate_id) = (part_type[c.release], part_id[c.release])
    );
END
$$;
