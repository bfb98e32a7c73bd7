-- The log. An event is keyed by its commit and its place there; its position is given later, in commit order, by the sequencer.
CREATE TABLE {schema}.events (
    commit_id bigint NOT NULL,
    ordinal integer NOT NULL,
    event_id uuid NOT NULL,
    aggregate_type text COLLATE "C" NOT NULL,
    aggregate_id text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    event_type text COLLATE "C" NOT NULL,
    schema_version bigint NOT NULL,
    codec smallint NOT NULL,
    recorded_at timestamptz NOT NULL,
    correlation_id uuid,
    causation_id uuid,
    metadata text,
    payload bytea NOT NULL,
    CONSTRAINT events_pkey PRIMARY KEY (commit_id, ordinal),
    -- The second guard behind the version check, and the way to load a stream.
    CONSTRAINT events_stream UNIQUE (aggregate_type, aggregate_id, version),
    CONSTRAINT events_id UNIQUE (event_id)
);
CREATE INDEX events_type ON {schema}.events (event_type, commit_id);
CREATE INDEX events_recorded_at ON {schema}.events (recorded_at);

-- Numbers commits. Uncached: a session must not keep numbers back for later.
CREATE SEQUENCE {schema}.commit_number AS bigint CACHE 1;

-- What each lane has committed, in number order, and how much of that the sequencer has taken.
CREATE TABLE {schema}.commits (
    lane smallint NOT NULL,
    commit_id bigint NOT NULL,
    events integer NOT NULL,
    PRIMARY KEY (lane, commit_id)
);
CREATE TABLE {schema}.lanes (
    lane smallint PRIMARY KEY,
    sequenced bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 10);
INSERT INTO {schema}.lanes (lane) SELECT generate_series(0, 63);

-- The one order: which commit stands where.
CREATE TABLE {schema}.log (
    first_position bigint PRIMARY KEY,
    commit_id bigint NOT NULL UNIQUE,
    events integer NOT NULL
);

CREATE TABLE {schema}.keys (
    idempotency_key text COLLATE "C" PRIMARY KEY,
    commit_id bigint NOT NULL,
    last_ordinal integer NOT NULL, -- the place of the append's last event in its commit
    aggregate_types text[] NOT NULL,
    aggregate_ids text[] NOT NULL,
    versions bigint[] NOT NULL
);

CREATE TABLE {schema}.snapshots (
    aggregate_type text COLLATE "C" NOT NULL,
    aggregate_id text COLLATE "C" NOT NULL,
    version bigint NOT NULL,
    fingerprint bigint NOT NULL, -- the 64 bits as a signed number
    state bytea NOT NULL,
    PRIMARY KEY (aggregate_type, aggregate_id)
);

CREATE TABLE {schema}.relays (
    relay text PRIMARY KEY,
    position bigint NOT NULL
);

CREATE FUNCTION {schema}.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'events are immutable' USING ERRCODE = 'restrict_violation';
END
$$;
CREATE TRIGGER events_no_change BEFORE UPDATE OR DELETE ON {schema}.events
    FOR EACH ROW EXECUTE FUNCTION {schema}.refuse_change();
CREATE TRIGGER events_no_truncate BEFORE TRUNCATE ON {schema}.events
    FOR EACH STATEMENT EXECUTE FUNCTION {schema}.refuse_change();

-- Takes a free lane until the end of the transaction. The key's upper half names this log by its table, so that two schemas never share
-- lanes. Whoever gets a lane does so after the end of the last transaction that held it: so within a lane, commits become visible in
-- number order.
CREATE FUNCTION {schema}.take_lane(hint integer) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    log_key integer := ('{schema}.events'::regclass::oid::bigint - 2147483648)::integer;
    lane integer;
BEGIN
    FOR step IN 0..63 LOOP
        lane := (hint + step) % 64;
        IF pg_try_advisory_xact_lock(log_key, lane) THEN
            RETURN lane;
        END IF;
    END LOOP;
    PERFORM pg_advisory_xact_lock(log_key, hint % 64);
    RETURN hint % 64;
END
$$;

-- Appends what may be appended. Each stream and each key occurs at most once in a call.
--   keys        one for each append, NULL where it has none
--   part_*      one for each stream: whose append it is (from 1), its names, its expected version (-1 any, -2 at least one event), and
--               how many of the events are its own, in order
--   event_*     one for each event, in the order of the parts: whose part it is (from 1), and what is stored of it
--   durable     whether the commit waits for the disk, whatever the server's default is
-- Returns one row for each part, in order: the version found, and commit and last place there if it was written. A repeated key returns
-- its first outcome.
CREATE FUNCTION {schema}.append(
    lane_hint integer, durable boolean, keys text[],
    part_append integer[], part_type text[], part_id text[], part_expected bigint[], part_events integer[],
    event_part integer[], event_id uuid[], event_type text[], event_schema bigint[], event_codec smallint[], event_correlation uuid[], event_causation uuid[],
    event_metadata text[], event_payload bytea[]
) RETURNS TABLE (
    append_number integer, found bigint, written_commit bigint, written_ordinal integer,
    kept_commit bigint, kept_ordinal integer, kept_types text[], kept_ids text[], kept_versions bigint[]
)
LANGUAGE plpgsql
-- Arrays would be planned anew at every call.
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    held_lane integer;
BEGIN
    IF durable AND current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    held_lane := {schema}.take_lane(lane_hint);
    -- One statement: the number is drawn after the snapshot that checks the versions was taken. Drawn before it, version 2 of a stream
    -- could get a smaller number than version 1.
    RETURN QUERY
    WITH part AS MATERIALIZED (
        SELECT p.place::integer AS place, p.append, p.kind, p.id, p.expected, p.events,
            (sum(p.events) OVER (ORDER BY p.place) - p.events)::integer AS events_before,
            coalesce((
                SELECT e.version FROM {schema}.events e WHERE e.aggregate_type = p.kind AND e.aggregate_id = p.id
                ORDER BY e.version DESC LIMIT 1
            ), 0) AS actual
        FROM unnest(part_append, part_type, part_id, part_expected, part_events)
            WITH ORDINALITY AS p (append, kind, id, expected, events, place)
    ), kept AS MATERIALIZED (
        SELECT k.place::integer AS append, o.*
        FROM unnest(keys) WITH ORDINALITY AS k (key, place) JOIN {schema}.keys o ON o.idempotency_key = k.key
    ), refused AS MATERIALIZED (
        SELECT kept.append FROM kept
        UNION
        SELECT part.append FROM part
        WHERE NOT CASE part.expected WHEN -1 THEN true WHEN -2 THEN part.actual > 0 ELSE part.actual = part.expected END
    ), free AS MATERIALIZED (
        SELECT part.*, (sum(part.events) OVER (ORDER BY part.place) - part.events)::integer AS ordinal
        FROM part WHERE part.append NOT IN (SELECT refused.append FROM refused)
    ), number AS MATERIALIZED (
        SELECT nextval('{schema}.commit_number') AS commit_id, total.events
        FROM (SELECT sum(free.events)::integer AS events FROM free) AS total WHERE total.events > 0
    ), inserted AS (
        INSERT INTO {schema}.events (commit_id, ordinal, event_id, aggregate_type, aggregate_id, version, event_type, schema_version, codec,
            recorded_at, correlation_id, causation_id, metadata, payload)
        SELECT number.commit_id, free.ordinal + (e.place - free.events_before)::integer, e.id, free.kind, free.id,
            free.actual + (e.place - free.events_before), e.type, e.schema, e.codec, statement_timestamp(), e.correlation, e.causation,
            e.metadata, e.payload
        FROM number,
            unnest(event_part, event_id, event_type, event_schema, event_codec, event_correlation, event_causation, event_metadata,
                event_payload)
            WITH ORDINALITY AS e (part, id, type, schema, codec, correlation, causation, metadata, payload, place)
            JOIN free ON free.place = e.part
        -- In key order, so that two calls that want the same streams meet at the first of them and not crosswise.
        ORDER BY free.kind, free.id, e.place
    ), taken AS (
        INSERT INTO {schema}.commits (lane, commit_id, events) SELECT held_lane, number.commit_id, number.events FROM number
    ), remembered AS (
        INSERT INTO {schema}.keys (idempotency_key, commit_id, last_ordinal, aggregate_types, aggregate_ids, versions)
        SELECT keys[free.append], number.commit_id, max(free.ordinal + free.events), array_agg(free.kind ORDER BY free.place), array_agg(free.id ORDER BY free.place),
            array_agg(free.actual + free.events ORDER BY free.place)
        FROM number, free WHERE keys[free.append] IS NOT NULL GROUP BY free.append, number.commit_id
    )
    SELECT part.append, part.actual, number.commit_id, free.ordinal + free.events, kept.commit_id, kept.last_ordinal, kept.aggregate_types, kept.aggregate_ids, kept.versions
    FROM part
    LEFT JOIN free ON free.place = part.place
    LEFT JOIN number ON free.place IS NOT NULL
    LEFT JOIN kept ON kept.append = part.append
    ORDER BY part.place;
END
$$;

-- Gives positions to the commits that have none. One at a time: a second caller finds the lock taken and leaves (NULL). Returns the head.
CREATE FUNCTION {schema}.sequence_commits() RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    log_key integer := ('{schema}.events'::regclass::oid::bigint - 2147483648)::integer;
    head bigint;
BEGIN
    IF NOT pg_try_advisory_xact_lock(log_key, 64) THEN
        RETURN NULL;
    END IF;
    -- A reader may have acted on a position that a crash takes back; the event could get another one then.
    IF current_setting('synchronous_commit') = 'off' THEN
        PERFORM set_config('synchronous_commit', 'on', true);
    END IF;
    -- One statement, so one snapshot, taken after the lock: it sees all that earlier sequencers did, and of each lane a run without gaps.
    WITH fresh AS MATERIALIZED (
        SELECT c.lane, c.commit_id, c.events
        FROM {schema}.lanes l, LATERAL (
            SELECT * FROM {schema}.commits c WHERE c.lane = l.lane AND c.commit_id > l.sequenced
        ) AS c
    ), before AS (
        SELECT coalesce((SELECT first_position + events - 1 FROM {schema}.log ORDER BY first_position DESC LIMIT 1), 0) AS head
    ), placed AS (
        INSERT INTO {schema}.log (first_position, commit_id, events)
        SELECT before.head + 1 + sum(fresh.events) OVER (ORDER BY fresh.commit_id) - fresh.events, fresh.commit_id, fresh.events
        FROM fresh, before
    ), marked AS (
        UPDATE {schema}.lanes l SET sequenced = newest.commit_id
        FROM (SELECT fresh.lane, max(fresh.commit_id) AS commit_id FROM fresh GROUP BY fresh.lane) AS newest
        WHERE l.lane = newest.lane
    )
    SELECT before.head + coalesce((SELECT sum(fresh.events) FROM fresh), 0) INTO head FROM before;
    RETURN head;
END
$$;

-- For people at a prompt: the log in order, with readable payloads.
CREATE VIEW {schema}.readable_log AS
SELECT
    l.first_position + e.ordinal - 1 AS position, e.aggregate_type, e.aggregate_id, e.version, e.event_type, e.schema_version,
    CASE e.codec WHEN 0 THEN convert_from(e.payload, 'UTF8') ELSE 'compact: ' || encode(e.payload, 'hex') END AS payload,
    e.recorded_at, e.event_id, e.correlation_id, e.causation_id, e.metadata
FROM {schema}.log l JOIN {schema}.events e ON e.commit_id = l.commit_id;
