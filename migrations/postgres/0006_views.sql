-- The rows of all views: a key, and the state that the key's events fold to. Changed in the transactions that move the view's checkpoint.
-- Each change writes a new version of a row: the room is for those.
CREATE TABLE {schema}.views (
    view text COLLATE "C" NOT NULL,
    generation bigint NOT NULL, -- a view that is rebuilt beside itself has several
    key text COLLATE "C" NOT NULL,
    state text, -- JSON; NULL: there is nothing under this key
    fields text, -- what it can be found by, as JSON: [["field", "value"], ..]; NULL: nothing
    position bigint NOT NULL, -- of the last event in the state
    PRIMARY KEY (view, generation, key)
) WITH (fillfactor = 80);

-- What the rows can be found by: one row for each entry in `fields`.
CREATE TABLE {schema}.view_fields (
    view text COLLATE "C" NOT NULL,
    generation bigint NOT NULL,
    field text COLLATE "C" NOT NULL,
    value text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    PRIMARY KEY (view, generation, field, value, key)
);

-- Which generation readers see; 1 where there is no row.
CREATE TABLE {schema}.view_generations (
    view text COLLATE "C" PRIMARY KEY,
    live bigint NOT NULL
);
