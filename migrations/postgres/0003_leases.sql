-- Who does what only one may do, and until when.
CREATE TABLE {schema}.leases (
    name text COLLATE "C" PRIMARY KEY,
    holder uuid, -- NULL: given back
    fence bigint NOT NULL, -- grows by one with each change of holders
    ends_at timestamptz NOT NULL
);

-- The fence of whoever moved the position last: nobody with a smaller one moves it again.
ALTER TABLE {schema}.relays ADD COLUMN fence bigint NOT NULL DEFAULT 0;
