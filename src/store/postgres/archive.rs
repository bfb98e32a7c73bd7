//! Gives out a log in PostgreSQL, and fills an empty one in one transaction.

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use sqlx::{PgConnection, Postgres};
use tokio::time::sleep;
use uuid::Uuid;

use crate::error::{Error, Result};
use crate::id::{IdempotencyKey, Position, StreamId, Version};
use crate::store::log::archive::{
    Archive, ArchivedClaim, ArchivedCommit, ArchivedEvent, ArchivedKey, ClaimVisitor, Part, Parts, not_empty, utf8,
};
use crate::store::log::seal::Seal;
use crate::store::log::shapes::RegisteredShape;
use crate::store::postgres::error::classify;
use crate::store::postgres::inspect::ADD_SEAL;
use crate::store::postgres::log::read::Reader;
use crate::store::postgres::log::shapes::REGISTER;
use crate::store::postgres::schema::Schema;
use crate::store::postgres::store::PostgresStore;
use crate::store::server::archive::{SNAPSHOTS, busy, time, uuid};
use crate::store::server::convert::{fingerprint_from, from_sql, limit_to_sql, to_sql};
use crate::store::server::lease::Lease;
use crate::store::server::limits::Limits;

#[async_trait]
impl Archive for PostgresStore {
    async fn claims(&self, visitor: &mut dyn ClaimVisitor) -> Result<bool> {
        for pause in SNAPSHOTS {
            // Gives the commits so far their positions.
            self.reader.connections.repeat("read the head", || self.reader.head()).await?;
            if read_claims(&self.reader, visitor).await? {
                return Ok(true);
            }
            sleep(Duration::from_millis(pause)).await;
        }
        Err(busy())
    }

    async fn archived_keys(
        &self,
        through: Position,
        after: Option<&IdempotencyKey>,
        limit: usize,
    ) -> Result<Option<Vec<ArchivedKey>>> {
        let Reader { connections, schema, .. } = &self.reader;
        let after = after.map_or("", IdempotencyKey::as_str);
        let select =
            || sqlx::query_as(schema.sql(KEYS)).bind(after).bind(to_sql(through.get())).bind(limit_to_sql(limit));
        let attempt = "read the idempotency keys";
        let read = || async { connections.all(select()).await.map_err(|error| classify(error, attempt)) };
        let rows: Vec<KeyRow> = connections.repeat(attempt, read).await?;
        let mut keys: Vec<ArchivedKey> = Vec::new();
        for row in rows {
            add_key(&mut keys, row)?;
        }
        Ok(Some(keys))
    }

    async fn import(&self, head: Position, parts: &mut dyn Parts) -> Result<()> {
        let connections = &self.writer.connections;
        let mut lease = connections.lease().await.map_err(failed)?;
        let target = Target { schema: &self.schema, limits: connections.limits().long() };
        let imported = target.fill(&mut lease, head, parts).await;
        lease.finish(imported)?;
        self.writer.signals.committed(1);
        Ok(())
    }
}

fn failed(error: sqlx::Error) -> Error {
    classify(error, "import a log")
}

/// Reads head and claims in one snapshot. Returns `false` if the snapshot has commits without positions: their claims may be those of no
/// position.
async fn read_claims(reader: &Reader, visitor: &mut dyn ClaimVisitor) -> Result<bool> {
    let failed = |error| classify(error, "read the claims");
    let Reader { connections, schema, .. } = reader;
    let limits = connections.limits();
    let mut lease = connections.lease().await.map_err(failed)?;
    let read = async {
        let mut tx = lease.begin_snapshot().await.map_err(failed)?;
        let place = sqlx::query_as(schema.sql(PLACE)).fetch_one(&mut *tx);
        let (head, waiting): (i64, i64) = limits.statements(place).await.map_err(failed)?;
        if waiting == 0 {
            visitor.head(Position::new(from_sql(head, "position")?))?;
            let mut rows = sqlx::query_as(schema.sql(CLAIMS)).fetch(&mut *tx);
            while let Some(row) = limits.next_row(&mut rows).await.map_err(failed)? {
                let (scope, value, kind, id): (String, String, String, String) = row;
                visitor.claim(ArchivedClaim::parse(&scope, &value, &kind, &id)?)?;
            }
        }
        tx.rollback().await.map_err(failed)?;
        Ok(waiting == 0)
    };
    let read = read.await;
    lease.finish(read)
}

/// A stream of an append under a key: key, fingerprint, first position of the commit, last position of the append, aggregate type, aggregate
/// id, first and last version.
type KeyRow = (String, Vec<u8>, i64, i64, String, String, i64, i64);

fn add_key(keys: &mut Vec<ArchivedKey>, row: KeyRow) -> Result<()> {
    let (key, fingerprint, commit, last, kind, id, from, to) = row;
    let version = |number| from_sql(number, "version").map(Version::new);
    let stream = (StreamId::parse(&kind, &id)?, version(from - 1)?, version(to)?);
    match keys.last_mut() {
        Some(same) if same.key.as_str() == key => same.streams.push(stream),
        _ => {
            let (key, fingerprint) = (IdempotencyKey::new(key)?, fingerprint_from(&fingerprint)?);
            keys.push(ArchivedKey { key, fingerprint, commit, last, streams: vec![stream] });
        }
    }
    Ok(())
}

/// The empty log that an import fills.
struct Target<'s> {
    schema: &'s Schema,
    limits: Limits,
}

impl Target<'_> {
    async fn fill(&self, lease: &mut Lease<Postgres>, head: Position, parts: &mut dyn Parts) -> Result<()> {
        let mut tx = lease.begin().await.map_err(failed)?;
        // With all lanes, no append has drawn a number or draws one until this transaction ends.
        self.execute(&mut tx, sqlx::query(self.schema.sql(TAKE_LANES))).await?;
        let found = sqlx::query_as(self.schema.sql(CONTENTS)).fetch_one(&mut *tx);
        let (events, keys, claims, seals, inline) = self.limits.statements(found).await.map_err(failed)?;
        not_empty([events, keys, claims, seals, inline])?;
        while let Some(part) = parts.next()? {
            self.write(&mut tx, part).await?;
        }
        if head > Position::ZERO {
            // The numbers of the commits are their first positions.
            self.execute(&mut tx, sqlx::query(self.schema.sql(SET_NUMBER)).bind(to_sql(head.get()))).await?;
        }
        self.limits.statements(tx.commit()).await.map_err(failed)
    }

    async fn execute(&self, tx: &mut PgConnection, query: Query<'_, Postgres, PgArguments>) -> Result<()> {
        self.limits.statements(query.execute(tx)).await.map(drop).map_err(failed)
    }

    async fn write(&self, tx: &mut PgConnection, part: Part) -> Result<()> {
        match part {
            Part::Events(events) => self.execute(tx, self.events(&events)?).await,
            Part::Commits(commits) => self.execute(tx, self.commits(&commits)?).await,
            Part::Keys(keys) => self.execute(tx, self.keys(&keys)).await,
            Part::Claims(claims) => self.execute(tx, self.claims(&claims)).await,
            Part::Shapes(shapes) => {
                for shape in &shapes {
                    self.execute(tx, self.shape(shape)).await?;
                }
                Ok(())
            }
            Part::Seals(seals) => {
                for seal in &seals {
                    self.execute(tx, self.seal(seal)).await?;
                }
                Ok(())
            }
        }
    }

    fn events<'e>(&self, events: &'e [ArchivedEvent]) -> Result<Query<'e, Postgres, PgArguments>> {
        let rows = || events.iter().map(|event| &event.row);
        let ids = rows().map(|row| uuid(&row.event_id)).collect::<Result<Vec<_>>>()?;
        let optional = |id: &Option<Vec<u8>>| id.as_deref().map(uuid).transpose();
        let correlations = rows().map(|row| optional(&row.correlation_id)).collect::<Result<Vec<Option<Uuid>>>>()?;
        let causations = rows().map(|row| optional(&row.causation_id)).collect::<Result<Vec<Option<Uuid>>>>()?;
        let types = rows().map(|row| utf8(&row.aggregate_type, "aggregate type")).collect::<Result<Vec<_>>>()?;
        let aggregates = rows().map(|row| utf8(&row.aggregate_id, "aggregate id")).collect::<Result<Vec<_>>>()?;
        let names = rows().map(|row| utf8(&row.event_type, "event type")).collect::<Result<Vec<_>>>()?;
        let text = |text: &'e Option<Vec<u8>>| text.as_deref().map(|text| utf8(text, "metadata")).transpose();
        let metadata = rows().map(|row| text(&row.metadata)).collect::<Result<Vec<_>>>()?;
        let times = rows().map(|row| time(row.recorded_at)).collect::<Result<Vec<DateTime<Utc>>>>()?;
        let codecs = rows().map(|row| i16::try_from(row.codec).unwrap_or(i16::MAX)).collect::<Vec<_>>();
        Ok(sqlx::query(self.schema.sql(INSERT_EVENTS))
            .bind(events.iter().map(|event| event.first).collect::<Vec<_>>())
            .bind(events.iter().map(|event| event.ordinal).collect::<Vec<_>>())
            .bind(ids)
            .bind(types)
            .bind(aggregates)
            .bind(rows().map(|row| row.version).collect::<Vec<_>>())
            .bind(names)
            .bind(rows().map(|row| row.schema_version).collect::<Vec<_>>())
            .bind(codecs)
            .bind(times)
            .bind(correlations)
            .bind(causations)
            .bind(metadata)
            .bind(rows().map(|row| &row.payload[..]).collect::<Vec<_>>()))
    }

    fn commits(&self, commits: &[ArchivedCommit]) -> Result<Query<'static, Postgres, PgArguments>> {
        let times = commits.iter().map(|commit| time(commit.recorded_at)).collect::<Result<Vec<_>>>()?;
        Ok(sqlx::query(self.schema.sql(INSERT_COMMITS))
            .bind(commits.iter().map(|commit| commit.first).collect::<Vec<_>>())
            .bind(commits.iter().map(|commit| commit.events).collect::<Vec<_>>())
            .bind(times))
    }

    fn keys<'k>(&self, keys: &'k [ArchivedKey]) -> Query<'k, Postgres, PgArguments> {
        let ordinal = |key: &ArchivedKey, position: i64| i32::try_from(position - key.commit + 1).unwrap_or(i32::MAX);
        sqlx::query(self.schema.sql(INSERT_KEYS))
            .bind(keys.iter().map(|key| key.key.as_str()).collect::<Vec<_>>())
            .bind(keys.iter().map(|key| key.commit).collect::<Vec<_>>())
            .bind(keys.iter().map(|key| ordinal(key, key.last - key.events() + 1)).collect::<Vec<_>>())
            .bind(keys.iter().map(|key| ordinal(key, key.last)).collect::<Vec<_>>())
            .bind(keys.iter().map(|key| key.fingerprint.as_bytes().to_vec()).collect::<Vec<_>>())
    }

    fn claims<'c>(&self, claims: &'c [ArchivedClaim]) -> Query<'c, Postgres, PgArguments> {
        sqlx::query(self.schema.sql(INSERT_CLAIMS))
            .bind(claims.iter().map(|claim| claim.scope.as_str()).collect::<Vec<_>>())
            .bind(claims.iter().map(|claim| claim.value.as_str()).collect::<Vec<_>>())
            .bind(claims.iter().map(|claim| claim.holder.aggregate_type().as_str()).collect::<Vec<_>>())
            .bind(claims.iter().map(|claim| claim.holder.aggregate_id().as_str()).collect::<Vec<_>>())
    }

    fn shape<'s>(&self, shape: &'s RegisteredShape) -> Query<'s, Postgres, PgArguments> {
        sqlx::query(self.schema.sql(REGISTER))
            .bind(shape.event_type.as_str())
            .bind(i64::from(shape.version))
            .bind(i16::from(shape.codec.number()))
            .bind(shape.digest())
            .bind(&shape.shape)
            .bind(shape.first_seen)
            .bind(&shape.program)
    }

    fn seal(&self, seal: &Seal) -> Query<'static, Postgres, PgArguments> {
        sqlx::query(self.schema.sql(ADD_SEAL))
            .bind(to_sql(seal.first.get()))
            .bind(to_sql(seal.last.get()))
            .bind(seal.previous.as_bytes().to_vec())
            .bind(seal.digest.as_bytes().to_vec())
            .bind(seal.sealed_at)
    }
}

/// Selects the head, and the number of commits without positions.
const PLACE: &str = "
    SELECT coalesce((SELECT first_position + events - 1 FROM {schema}.log ORDER BY first_position DESC LIMIT 1), 0), {schema}.unsequenced()";

const CLAIMS: &str =
    "SELECT scope, value, aggregate_type, aggregate_id FROM {schema}.reservations ORDER BY scope, value";

/// Binds: after, through, limit. One row for each stream of an append, in the order of its events.
const KEYS: &str = "
    SELECT k.idempotency_key, k.fingerprint, l.first_position, l.first_position + k.last_ordinal - 1, e.aggregate_type, e.aggregate_id,
        min(e.version), max(e.version)
    FROM (
        SELECT k.* FROM {schema}.keys k JOIN {schema}.log l ON l.commit_id = k.commit_id
        WHERE k.idempotency_key > $1 AND l.first_position <= $2 ORDER BY k.idempotency_key LIMIT $3
    ) AS k JOIN {schema}.log l ON l.commit_id = k.commit_id
    JOIN {schema}.events e ON e.commit_id = k.commit_id AND e.ordinal BETWEEN k.first_ordinal AND k.last_ordinal
    GROUP BY k.idempotency_key, k.fingerprint, l.first_position, k.last_ordinal, e.aggregate_type, e.aggregate_id
    ORDER BY k.idempotency_key, min(e.ordinal)";

/// Takes the lanes in their order, so that two imports cannot deadlock. Lets the commit wait for the disk.
const TAKE_LANES: &str = "
    SELECT pg_advisory_xact_lock({schema}.lane_key(), lane), {schema}.wait_for_disk(true) FROM generate_series(0, 63) AS lane";

/// Selects what can keep a log from being empty, in the order of [`crate::store::log::archive::CONTENTS`].
const CONTENTS: &str = "
    SELECT EXISTS (SELECT FROM {schema}.events), EXISTS (SELECT FROM {schema}.keys),
        EXISTS (SELECT FROM {schema}.reservations), EXISTS (SELECT FROM {schema}.seals),
        EXISTS (SELECT FROM {schema}.checkpoints WHERE state = 'inline')";

/// Binds: an array for each column.
const INSERT_EVENTS: &str = "
    INSERT INTO {schema}.events (commit_id, ordinal, event_id, aggregate_type, aggregate_id, version, event_type, schema_version, codec,
        recorded_at, correlation_id, causation_id, metadata, payload)
    SELECT * FROM unnest($1::bigint[], $2::integer[], $3::uuid[], $4::text[], $5::text[], $6::bigint[], $7::text[], $8::bigint[],
        $9::smallint[], $10::timestamptz[], $11::uuid[], $12::uuid[], $13::text[], $14::bytea[])";

/// Binds: first positions, numbers of events, times.
const INSERT_COMMITS: &str = "
    INSERT INTO {schema}.log (first_position, commit_id, events, recorded_at)
    SELECT first, first, events, at FROM unnest($1::bigint[], $2::integer[], $3::timestamptz[]) AS c (first, events, at)";

/// Binds: keys, commits, first ordinals, last ordinals, fingerprints.
const INSERT_KEYS: &str = "
    INSERT INTO {schema}.keys (idempotency_key, commit_id, first_ordinal, last_ordinal, fingerprint)
    SELECT * FROM unnest($1::text[], $2::bigint[], $3::integer[], $4::integer[], $5::bytea[])";

/// Binds: scopes, values, aggregate types, aggregate ids.
const INSERT_CLAIMS: &str = "
    INSERT INTO {schema}.reservations (scope, value, aggregate_type, aggregate_id)
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[])";

/// Binds: the last drawn number. It stays if the transaction is rolled back, which leaves a gap.
const SET_NUMBER: &str = "SELECT setval('{schema}.commit_number', $1)";
