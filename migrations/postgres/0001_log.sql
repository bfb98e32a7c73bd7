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

-- Numbers commits. Uncached: a session must not keep numbers back for later.
CREATE SEQUENCE {schema}.commit_number AS bigint CACHE 1;

-- What each lane has committed, in number order, and how much of that the sequencer has taken.
CREATE TABLE {schema}.commits (
    lane smallint NOT NULL,
    commit_id bigint NOT NULL,
    events integer NOT NULL,
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (lane, commit_id)
);
CREATE TABLE {schema}.lanes (
    lane smallint PRIMARY KEY,
    sequenced bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 10);
INSERT INTO {schema}.lanes (lane) SELECT generate_series(0, 63);

-- The one order: which commit stands where. All events of a commit have its time; the index by time is here, since an append is the
-- place where an index costs most.
CREATE TABLE {schema}.log (
    first_position bigint PRIMARY KEY,
    commit_id bigint NOT NULL UNIQUE,
    events integer NOT NULL,
    recorded_at timestamptz NOT NULL
);
CREATE INDEX log_recorded_at ON {schema}.log (recorded_at);

-- Which events an append under a key wrote: those at these places of its commit.
CREATE TABLE {schema}.keys (
    idempotency_key text COLLATE "C" PRIMARY KEY,
    commit_id bigint NOT NULL,
    first_ordinal integer NOT NULL,
    last_ordinal integer NOT NULL
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
-- number order. The upper half of the lanes is for callers' transactions, which may last: an append by itself never waits for one.
CREATE FUNCTION {schema}.take_lane(hint integer, callers boolean) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    log_key integer := ('{schema}.events'::regclass::oid::bigint - 2147483648)::integer;
    first_lane integer := CASE WHEN callers THEN 32 ELSE 0 END;
    lane integer;
BEGIN
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

-- Appends what may be appended. Each stream and each key occurs at most once in a call.
--   callers     whether the transaction is a caller's, with an end that we do not know
--   durable     whether the commit waits for the disk, whatever the server's default is
--   key_*       one for each append with a key: which append it is (from 1), and its key
--   part_*      one for each stream: whose append it is, its names, its expected version (-1 any, -2 at least one event), and how many
--               of the events are its own; the parts of one append stand together
--   event_*     one for each event: whose part it is (from 1), its place there (from 1), and what is stored of it. In the order of the
--               streams' names, keys likewise: two calls that want the same streams meet at the first of them and not crosswise
-- Returns the commit's number, each part's version before, the number of events that precede each part in the commit (NULL where its
-- append was refused), and the appends whose key is known, which are refused too.
CREATE FUNCTION {schema}.append(
    lane_hint integer, callers boolean, durable boolean, key_append integer[], key_text text[],
    part_append integer[], part_type text[], part_id text[], part_expected bigint[], part_events integer[],
    event_part integer[], event_place integer[], event_id uuid[], event_type text[], event_schema bigint[], event_codec smallint[],
    event_correlation uuid[], event_causation uuid[], event_metadata text[], event_payload bytea[],
    OUT commit_number bigint, OUT versions bigint[], OUT places integer[], OUT known_keys integer[]
)
LANGUAGE plpgsql
-- Arrays would be planned anew at every call.
SET plan_cache_mode = force_generic_plan
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
            SELECT k.append FROM unnest(key_append, key_text) AS k (append, key)
            WHERE EXISTS (SELECT FROM {schema}.keys o WHERE o.idempotency_key = k.key)
        );
        FOR i IN 1..cardinality(known_keys) LOOP
            refused[known_keys[i]] := true;
        END LOOP;
    END IF;
    FOR p IN 1..cardinality(part_append) LOOP
        IF NOT (CASE part_expected[p] WHEN -1 THEN true WHEN -2 THEN versions[p] > 0 ELSE versions[p] = part_expected[p] END) THEN
            refused[part_append[p]] := true;
        END IF;
    END LOOP;
    places := array_fill(NULL::integer, ARRAY[cardinality(part_append)]);
    FOR p IN 1..cardinality(part_append) LOOP
        IF refused[part_append[p]] IS NULL THEN
            places[p] := total;
            firsts[part_append[p]] := coalesce(firsts[part_append[p]], total + 1);
            total := total + part_events[p];
            lasts[part_append[p]] := total;
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
        SELECT c.lane, c.commit_id, c.events, c.recorded_at
        FROM {schema}.lanes l, LATERAL (
            SELECT * FROM {schema}.commits c WHERE c.lane = l.lane AND c.commit_id > l.sequenced
            OFFSET 0 -- not to be planned as a join, which would read the lanes' whole past
        ) AS c
    ), before AS (
        SELECT coalesce((SELECT first_position + events - 1 FROM {schema}.log ORDER BY first_position DESC LIMIT 1), 0) AS head
    ), placed AS (
        INSERT INTO {schema}.log (first_position, commit_id, events, recorded_at)
        SELECT before.head + 1 + sum(fresh.events) OVER (ORDER BY fresh.commit_id) - fresh.events, fresh.commit_id, fresh.events,
            fresh.recorded_at
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
