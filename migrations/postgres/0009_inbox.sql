-- The events that each reaction has had. A row is written in the transaction of what the reaction did, and stays when a checkpoint is set back.
CREATE TABLE {schema}.inbox (
    reaction text COLLATE "C" NOT NULL,
    event_id uuid NOT NULL,
    PRIMARY KEY (reaction, event_id)
);

-- Where each reaction has begun: it never reacts to what is before that, wherever its checkpoint is set back to.
CREATE TABLE {schema}.reactions (
    reaction text COLLATE "C" PRIMARY KEY,
    begins_after bigint NOT NULL
);
