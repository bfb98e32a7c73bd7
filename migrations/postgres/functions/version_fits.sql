-- Returns whether an append to a stream at version `actual` is allowed. This is the only place in SQL that judges expected versions.
--   kind        any (every version), exists (at least one event), or exact
--   expected    the version that `exact` demands; zero for a stream without events
-- Returns NULL for an unknown kind. PostgreSQL inlines the function.
CREATE OR REPLACE FUNCTION {schema}.version_fits(kind text, expected bigint, actual bigint) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE kind WHEN 'exact' THEN actual = expected WHEN 'any' THEN true WHEN 'exists' THEN actual > 0 END
$$;
