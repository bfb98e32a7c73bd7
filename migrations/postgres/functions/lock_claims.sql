-- Locks the row of each claimed value to the end of the transaction, in the order given, and creates the rows that do not exist. Returns the
-- stream that holds each value, or empty text. Only `append` calls this function, and its settings apply here. The joins are switched off so
-- that each row is looked up by its key, even if the table was empty when the session made the plan.
CREATE OR REPLACE FUNCTION {schema}.lock_claims(
    claim_scope text[], claim_value text[],
    OUT holder_types text[], OUT holder_ids text[]
)
LANGUAGE plpgsql
SET enable_hashjoin = off
SET enable_mergejoin = off
SET enable_material = off
AS $$
BEGIN
    WITH locked AS (
        INSERT INTO {schema}.reservations AS r (scope, value, aggregate_type, aggregate_id)
        SELECT unnest(claim_scope), unnest(claim_value), '', ''
        ON CONFLICT (scope, value) DO UPDATE SET aggregate_type = r.aggregate_type
        RETURNING r.scope, r.value, r.aggregate_type, r.aggregate_id
    )
    SELECT array_agg(locked.aggregate_type ORDER BY c.place), array_agg(locked.aggregate_id ORDER BY c.place) INTO holder_types, holder_ids
    FROM (
        SELECT unnest(claim_scope) AS scope, unnest(claim_value) AS value, generate_subscripts(claim_scope, 1) AS place
    ) AS c JOIN locked ON locked.scope = c.scope AND locked.value = c.value;
END
$$;
