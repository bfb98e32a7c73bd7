-- Writes the appends of a round that are allowed, and returns a verdict on each. A stream, a key and a claimed value each occur at most once in
-- a call.
--   lane_hint   where to search for a free lane
--   callers     whether the transaction belongs to a caller and may stay open
--   durable     whether the commit waits for the disk even if the server's default is not to
--   key_*       one entry for each append with an idempotency key: the append (from 1), the key, and the fingerprint of the request
--   part_*      one entry for each stream: its append, its names, the kind and number of its expected version (see `version_fits`; the number
--               is NULL unless the kind is exact), the id that its last event must have (NULL for any), and the number of its events. The parts of an append are adjacent.
--   event_*     one entry for each event: its part (from 1), its place in the part (from 1), and the columns of its row
--   claim_*     one entry for each claimed value: its append, the value, and the parts that reserve and release it (NULL if none does); all
--               five are NULL if nothing is claimed
-- Events are in the order of their streams' names, keys and values each in their own order. So two calls that want the same rows wait for each
-- other at the first of them and cannot deadlock.
-- Returns
--   commit_number   the commit, if an append was written
--   verdicts        one for each append: written, repeated (its key has an outcome), conflict, changed (the last event of a stream is another one), or taken
--   culprits        one for each append: the first part that conflicts or changed, or the first claim that is taken; NULL if every append is allowed
--   versions        one for each part: the version of its stream before the append
--   places          one for each part: the number of events before its own in the commit; NULL if they were not written
--   holder_types, holder_ids    one for each claim: the stream that held the value before; empty text if there was none
CREATE OR REPLACE FUNCTION {schema}.append(
    lane_hint integer, callers boolean, durable boolean,
    key_append integer[], key_text text[], key_fingerprint bytea[],
    part_append integer[], part_type text[], part_id text[], part_kind text[], part_version bigint[],
    part_last_event uuid[], part_events integer[],
    event_part integer[], event_place integer[], event_id uuid[], event_type text[], event_schema bigint[], event_codec smallint[],
    event_correlation uuid[], event_causation uuid[], event_metadata text[], event_payload bytea[],
    claim_append integer[], claim_scope text[], claim_value text[], claim_reserve integer[], claim_release integer[],
    OUT commit_number bigint, OUT verdicts text[], OUT culprits integer[], OUT versions bigint[], OUT places integer[],
    OUT holder_types text[], OUT holder_ids text[]
)
LANGUAGE plpgsql
-- Otherwise PostgreSQL plans statements with arrays again in every call.
SET plan_cache_mode = force_generic_plan
-- A session keeps its plans, and a table may have been empty when it made them.
SET enable_seqscan = off
-- Otherwise PostgreSQL compiles a statement whose estimated cost is high, in each session and for up to a second. The estimates grow with the log,
-- the work does not.
SET jit = off
AS $$
DECLARE
    durability text := {schema}.wait_for_disk(durable);
    held_lane integer;
    at timestamptz;
    -- One entry for each part: whether its last event is the required one.
    continues boolean[];
    known_keys integer[];
    firsts integer[];
    lasts integer[];
    total integer := 0;
BEGIN
    verdicts := array_fill('written'::text, ARRAY[part_append[cardinality(part_append)]]);
    IF cardinality(claim_append) > 0 THEN
        -- Before the commit number is drawn, so that a reservation is always later in the log than the release that made it possible.
        SELECT l.holder_types, l.holder_ids INTO holder_types, holder_ids FROM {schema}.lock_claims(claim_scope, claim_value) AS l;
        FOR c IN REVERSE cardinality(claim_append)..1 LOOP
            -- If a part is NULL, its names are NULL, and no holder has those.
            IF claim_reserve[c] IS NOT NULL AND holder_types[c] <> ''
                AND (holder_types[c], holder_ids[c]) IS DISTINCT FROM (part_type[claim_reserve[c]], part_id[claim_reserve[c]])
                AND (holder_types[c], holder_ids[c]) IS DISTINCT FROM (part_type[claim_release[c]], part_id[claim_release[c]])
            THEN
                culprits := coalesce(culprits, array_fill(NULL::integer, ARRAY[cardinality(verdicts)]));
                verdicts[claim_append[c]] := 'taken';
                culprits[claim_append[c]] := c;
            END IF;
        END LOOP;
    END IF;
    held_lane := {schema}.take_lane(lane_hint, callers);
    /* hook: before-number */
    -- One statement, which draws the number after it has taken the snapshot that checks the versions. If the number were drawn earlier, version
    -- 2 of a stream could get a smaller number than version 1. Here and below, `unnest` is in the select list: in FROM it would fill a buffer.
    -- A time far ahead of the clock is not followed: it was recorded while the clock was wrong.
    -- The aggregates get the parts in their order from the inner query, which sorts them once.
    SELECT nextval('{schema}.commit_number'), greatest(clock_timestamp(), max(found.recorded_at) FILTER (
            WHERE found.recorded_at IS NOT NULL AND found.recorded_at < clock_timestamp() + interval '10 seconds')),
        array_agg(coalesce(found.version, 0)), array_agg(found.continues)
    INTO commit_number, at, versions, continues
    FROM (
        SELECT last.version, last.recorded_at, part.last_event IS NULL OR part.last_event IS NOT DISTINCT FROM last.event_id AS continues
        FROM (
            SELECT unnest(part_type) AS kind, unnest(part_id) AS id, unnest(part_last_event) AS last_event,
                generate_subscripts(part_id, 1) AS place
        ) AS part
        LEFT JOIN LATERAL (
            SELECT e.version, e.event_id, e.recorded_at FROM {schema}.events e WHERE e.aggregate_type = part.kind AND e.aggregate_id = part.id
            ORDER BY e.version DESC LIMIT 1
        ) AS last ON true
        ORDER BY part.place
    ) AS found;
    /* hook: after-number */
    -- A NULL in `part_version` equals no version, so the loop is skipped only if every part demands an exact version, all are found,
    -- and the last events are the required ones.
    IF versions <> part_version OR false = ANY (continues) THEN
        FOR p IN REVERSE cardinality(part_append)..1 LOOP
            IF {schema}.version_fits(part_kind[p], part_version[p], versions[p]) IS NOT TRUE THEN
                culprits := coalesce(culprits, array_fill(NULL::integer, ARRAY[cardinality(verdicts)]));
                verdicts[part_append[p]] := 'conflict';
                culprits[part_append[p]] := p;
            ELSIF NOT continues[p] THEN
                culprits := coalesce(culprits, array_fill(NULL::integer, ARRAY[cardinality(verdicts)]));
                verdicts[part_append[p]] := 'changed';
                culprits[part_append[p]] := p;
            END IF;
        END LOOP;
    END IF;
    -- After the versions, so that a transaction that sees an append's events also sees its key. `OFFSET 0` makes this one lookup per key.
    IF cardinality(key_append) > 0 THEN
        known_keys := ARRAY(
            SELECT k.append FROM unnest(key_append, key_text) AS k (append, key),
                LATERAL (SELECT FROM {schema}.keys o WHERE o.idempotency_key = k.key OFFSET 0) AS known
        );
        FOR i IN 1..cardinality(known_keys) LOOP
            verdicts[known_keys[i]] := 'repeated';
        END LOOP;
    END IF;
    FOR p IN 1..cardinality(part_append) LOOP
        IF verdicts[part_append[p]] = 'written' THEN
            places[p] := total;
            IF cardinality(key_append) > 0 THEN
                firsts[part_append[p]] := coalesce(firsts[part_append[p]], total + 1);
                lasts[part_append[p]] := total + part_events[p];
            END IF;
            total := total + part_events[p];
        ELSE
            places[p] := NULL;
        END IF;
    END LOOP;
    IF total > 0 THEN
        INSERT INTO {schema}.events (commit_id, ordinal, event_id, aggregate_type, aggregate_id, version, event_type, schema_version, codec,
            recorded_at, correlation_id, causation_id, metadata, payload)
        SELECT commit_number, places[e.part] + e.place, e.id, part_type[e.part], part_id[e.part], versions[e.part] + e.place, e.type, e.schema,
            e.codec, at, e.correlation, e.causation, e.metadata, e.payload
        FROM (
            SELECT unnest(event_part) AS part, unnest(event_place) AS place, unnest(event_id) AS id, unnest(event_type) AS type,
                unnest(event_schema) AS schema, unnest(event_codec) AS codec, unnest(event_correlation) AS correlation,
                unnest(event_causation) AS causation, unnest(event_metadata) AS metadata, unnest(event_payload) AS payload
        ) AS e
        WHERE places[e.part] IS NOT NULL;
        IF cardinality(key_append) > 0 THEN
            INSERT INTO {schema}.keys (idempotency_key, commit_id, first_ordinal, last_ordinal, fingerprint)
            SELECT k.key, commit_number, firsts[k.append], lasts[k.append], k.fingerprint
            FROM unnest(key_append, key_text, key_fingerprint) AS k (append, key, fingerprint)
            WHERE firsts[k.append] IS NOT NULL;
        END IF;
        INSERT INTO {schema}.commits (lane, commit_id, events, recorded_at) VALUES (held_lane, commit_number, total, at);
    END IF;
    IF cardinality(claim_append) > 0 THEN
        PERFORM {schema}.keep_claims(claim_scope, claim_value, claim_reserve, claim_release, part_type, part_id, places);
    END IF;
    /* hook: before-end */
END
$$;
