-- Writes the new holder of each claimed value whose append was written. Deletes the rows of values that were released, and the rows that
-- `lock_claims` created for an append that was refused. For parameters and settings see `append` and `lock_claims`.
CREATE OR REPLACE FUNCTION {schema}.keep_claims(
    claim_scope text[], claim_value text[], claim_reserve integer[], claim_release integer[],
    part_type text[], part_id text[], places integer[]
) RETURNS void
LANGUAGE plpgsql
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_material = off
AS $$
BEGIN
    UPDATE {schema}.reservations r SET aggregate_type = part_type[c.reserve], aggregate_id = part_id[c.reserve]
    FROM unnest(claim_scope, claim_value, claim_reserve) AS c (scope, value, reserve)
    WHERE r.scope = c.scope AND r.value = c.value AND places[c.reserve] IS NOT NULL;
    DELETE FROM {schema}.reservations r USING unnest(claim_scope, claim_value, claim_reserve, claim_release) AS c (scope, value, reserve, release)
    WHERE r.scope = c.scope AND r.value = c.value AND (
        r.aggregate_type = ''
        OR c.reserve IS NULL AND places[c.release] IS NOT NULL
            AND (r.aggregate_type, r.aggregate_id) = (part_type[c.release], part_id[c.release])
    );
END
$$;
