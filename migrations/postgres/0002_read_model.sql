-- How far each projection has got. Lives beside the read models it speaks of, and changes in their transactions.
CREATE TABLE {schema}.checkpoints (
    projection text COLLATE "C" PRIMARY KEY,
    position bigint NOT NULL
);
