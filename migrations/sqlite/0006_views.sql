-- The rows of all views: a key, and the state that the key's events fold to. Changed in the transactions that move the view's checkpoint.
CREATE TABLE retell_views (
    view TEXT NOT NULL,
    generation INTEGER NOT NULL, -- a view that is rebuilt beside itself has several
    key TEXT NOT NULL,
    state TEXT, -- JSON; NULL: there is nothing under this key
    fields TEXT, -- what it can be found by, as JSON: [["field", "value"], ..]; NULL: nothing
    position INTEGER NOT NULL, -- of the last event in the state
    PRIMARY KEY (view, generation, key)
) STRICT, WITHOUT ROWID;

-- What the rows can be found by: one row for each entry in `fields`.
CREATE TABLE retell_view_fields (
    view TEXT NOT NULL,
    generation INTEGER NOT NULL,
    field TEXT NOT NULL,
    value TEXT NOT NULL,
    key TEXT NOT NULL,
    PRIMARY KEY (view, generation, field, value, key)
) STRICT, WITHOUT ROWID;

-- Which generation readers see; 1 where there is no row.
CREATE TABLE retell_view_generations (
    view TEXT PRIMARY KEY,
    live INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
