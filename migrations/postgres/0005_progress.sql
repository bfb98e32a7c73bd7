-- How far each projection with order per aggregate has got with each aggregate. A row is locked by whoever applies events of the aggregate.
-- Each change writes a new version of a row: the room is for those.
CREATE TABLE {schema}.progress (
    projection text COLLATE "C" NOT NULL,
    aggregate_type text COLLATE "C" NOT NULL,
    aggregate_id text COLLATE "C" NOT NULL,
    applied bigint NOT NULL, -- the last version that is applied or not wanted
    seen bigint NOT NULL, -- the last version that is applied, or passed over since the aggregate is parked
    PRIMARY KEY (projection, aggregate_type, aggregate_id)
) WITH (fillfactor = 80);

-- Whether the position is the swept position of such a projection.
ALTER TABLE {schema}.checkpoints ADD COLUMN per_aggregate boolean NOT NULL DEFAULT false;
