-- How far each projection with order per aggregate has got with each aggregate.
CREATE TABLE retell_progress (
    projection TEXT NOT NULL,
    aggregate_type TEXT NOT NULL,
    aggregate_id TEXT NOT NULL,
    applied INTEGER NOT NULL, -- the last version that is applied or not wanted
    seen INTEGER NOT NULL, -- the last version that is applied, or passed over since the aggregate is parked
    PRIMARY KEY (projection, aggregate_type, aggregate_id)
) STRICT, WITHOUT ROWID;

-- Whether the position is the swept position of such a projection.
ALTER TABLE retell_checkpoints ADD COLUMN per_aggregate INTEGER NOT NULL DEFAULT 0;
