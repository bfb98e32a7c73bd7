-- The events that each reaction has had. A row is written in the transaction of what the reaction did, and stays when a checkpoint is set back.
CREATE TABLE retell_inbox (
    reaction TEXT NOT NULL,
    event_id BLOB NOT NULL,
    PRIMARY KEY (reaction, event_id)
) STRICT, WITHOUT ROWID;

-- Where each reaction has begun: it never reacts to what is before that, wherever its checkpoint is set back to.
CREATE TABLE retell_reactions (
    reaction TEXT PRIMARY KEY,
    begins_after INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
