-- How far each projection has got. Lives beside the read models it speaks of, and changes in their transactions.
CREATE TABLE retell_checkpoints (
    projection TEXT PRIMARY KEY,
    position INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
