-- Who does what only one may do, and until when.
CREATE TABLE retell_leases (
    name TEXT PRIMARY KEY,
    holder BLOB, -- NULL: given back
    fence INTEGER NOT NULL, -- grows by one with each change of holders
    ends_at INTEGER NOT NULL -- microseconds since 1970
) STRICT, WITHOUT ROWID;

-- The fence of whoever moved the position last: nobody with a smaller one moves it again.
ALTER TABLE retell_relays ADD COLUMN fence INTEGER NOT NULL DEFAULT 0;
