-- Returns one row for each of these keys, in the order given, which is the order of their bytes. In log order only one transaction holds the
-- checkpoint, so the rows need no locks. With order per aggregate, each key without a row first gets an empty one, because a row that does not
-- exist cannot be locked. Then the rows are locked in key order and read as the last transaction left them. A transaction that waits to insert
-- a row holds only rows that it inserted, in key order, and a transaction that waits for a lock waits for a committed row. So there is no
-- deadlock. No row is missing at the end, because with order per aggregate rows are emptied and never deleted.
-- A session keeps its plans. `LATERAL` with `OFFSET 0` or a lock makes each key a lookup, even if the table was small when the plan was made.
CREATE OR REPLACE FUNCTION {schema}.load_rows(of_view text, of_generation bigint, keys text[], by_projection text)
RETURNS TABLE (row_state text, row_fields text, row_position bigint)
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
SET enable_seqscan = off
SET jit = off
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM {schema}.checkpoints WHERE projection = by_projection AND per_aggregate) THEN
        RETURN QUERY
        SELECT found.state, found.fields, found.position
        FROM unnest(keys) WITH ORDINALITY AS wanted (key, place)
        LEFT JOIN LATERAL (
            SELECT v.state, v.fields, v.position FROM {schema}.views AS v
            WHERE v.view = of_view AND v.generation = of_generation AND v.key = wanted.key
            OFFSET 0
        ) AS found ON true
        ORDER BY place;
        RETURN;
    END IF;
    INSERT INTO {schema}.views (view, generation, key, position)
    SELECT of_view, of_generation, wanted.key, 0
    FROM unnest(keys) WITH ORDINALITY AS wanted (key, place)
    LEFT JOIN LATERAL (
        SELECT v.key FROM {schema}.views AS v
        WHERE v.view = of_view AND v.generation = of_generation AND v.key = wanted.key
        OFFSET 0
    ) AS found ON true
    WHERE found.key IS NULL
    ORDER BY place
    ON CONFLICT DO NOTHING;
    RETURN QUERY
    SELECT locked.state, locked.fields, locked.position
    FROM (SELECT key FROM unnest(keys) WITH ORDINALITY AS k (key, place) ORDER BY place OFFSET 0) AS wanted,
    LATERAL (
        SELECT v.state, v.fields, v.position FROM {schema}.views AS v
        WHERE v.view = of_view AND v.generation = of_generation AND v.key = wanted.key
        FOR UPDATE
    ) AS locked;
END
$$;
