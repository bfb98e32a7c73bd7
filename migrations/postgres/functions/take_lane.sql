-- Takes a free lane to the end of the transaction, searching from `hint`. A transaction gets a lane only after the last transaction that held
-- it has ended, so within a lane commits become visible in number order. The upper half of the lanes is for callers' transactions, which may
-- stay open, so the library's own appends never wait for one.
CREATE OR REPLACE FUNCTION {schema}.take_lane(hint integer, callers boolean) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    log_key integer := {schema}.lane_key();
    first_lane integer := CASE WHEN callers THEN 32 ELSE 0 END;
    lane integer;
BEGIN
    /* hook: before-lane */
    FOR step IN 0..31 LOOP
        lane := first_lane + (hint + step) % 32;
        IF pg_try_advisory_xact_lock(log_key, lane) THEN
            RETURN lane;
        END IF;
    END LOOP;
    lane := first_lane + hint % 32;
    PERFORM pg_advisory_xact_lock(log_key, lane);
    RETURN lane;
END
$$;
