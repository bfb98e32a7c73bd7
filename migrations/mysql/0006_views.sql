-- The rows of all views: a key, and the state that the key's events fold to. Changed in the transactions that move the view's checkpoint.
CREATE TABLE IF NOT EXISTS retell_views (
    view VARBINARY(255) NOT NULL,
    generation BIGINT NOT NULL, -- a view that is rebuilt beside itself has several
    `key` VARBINARY(255) NOT NULL,
    state LONGBLOB, -- JSON in UTF-8; NULL: there is nothing under this key
    fields LONGBLOB, -- what it can be found by, as JSON: [["field", "value"], ..]; NULL: nothing
    position BIGINT NOT NULL, -- of the last event in the state
    PRIMARY KEY (view, generation, `key`)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

-- What the rows can be found by: one row for each entry in `fields`.
CREATE TABLE IF NOT EXISTS retell_view_fields (
    view VARBINARY(255) NOT NULL,
    generation BIGINT NOT NULL,
    field VARBINARY(255) NOT NULL,
    value VARBINARY(255) NOT NULL,
    `key` VARBINARY(255) NOT NULL,
    PRIMARY KEY (view, generation, field, value, `key`)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

-- Which generation readers see; 1 where there is no row.
CREATE TABLE IF NOT EXISTS retell_view_generations (
    view VARBINARY(255) NOT NULL,
    live BIGINT NOT NULL,
    PRIMARY KEY (view)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;
