-- Returns whether an append may be made to a stream at the version `actual`. This is the only place in SQL that judges expected versions.
--   kind        any (every version), exists (at least one event), or exact
--   expected    the version that `exact` demands; zero for a stream without events
-- PostgreSQL inlines the function where it is called. A kind that is not known gives NULL.
CREATE OR REPLACE FUNCTION {schema}.version_fits(kind text, expected bigint, actual bigint) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
    SELECT CASE kind WHEN 'exact' THEN actual = expected WHEN 'any' THEN true WHEN 'exists' THEN actual > 0 END
$$;
