-- The events that each reaction has had. A row is written in the transaction of what the reaction did, and stays when a checkpoint is set back.
CREATE TABLE IF NOT EXISTS retell_inbox (
    reaction VARBINARY(255) NOT NULL,
    event_id BINARY(16) NOT NULL,
    PRIMARY KEY (reaction, event_id)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;

-- Where each reaction has begun: it never reacts to what is before that, wherever its checkpoint is set back to.
CREATE TABLE IF NOT EXISTS retell_reactions (
    reaction VARBINARY(255) NOT NULL,
    begins_after BIGINT NOT NULL,
    PRIMARY KEY (reaction)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC;
