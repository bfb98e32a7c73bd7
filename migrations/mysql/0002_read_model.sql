-- How far each projection has got. Lives beside the read models it speaks of, and changes in their transactions.
CREATE TABLE IF NOT EXISTS retell_checkpoints (
    projection VARBINARY(255) NOT NULL,
    position BIGINT NOT NULL,
    PRIMARY KEY (projection)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;
