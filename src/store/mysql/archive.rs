//! Gives out a log in MySQL or MariaDB, and fills an empty one in one transaction.

use std::time::Duration;

use async_trait::async_trait;
use sqlx::mysql::MySqlArguments;
use sqlx::query::Query;
use sqlx::{MySql, MySqlConnection, QueryBuilder, raw_sql};
use tokio::time::sleep;

use crate::error::{Error, Result};
use crate::id::{IdempotencyKey, Position};
use crate::store::log::archive::{
    Archive, ArchivedClaim, ArchivedCommit, ArchivedEvent, ArchivedKey, ClaimVisitor, Part, Parts, not_empty, utf8,
};
use crate::store::mysql::connection::Connections;
use crate::store::mysql::convert::time_to_sql;
use crate::store::mysql::error::{classify, commit_failed};
use crate::store::mysql::inspect::ADD_SEAL;
use crate::store::mysql::log::shapes::REGISTER;
use crate::store::mysql::store::MySqlStore;
use crate::store::server::archive::{SNAPSHOTS, busy, time, uuid};
use crate::store::server::convert::{fingerprint_from, from_sql, limit_to_sql, to_sql};
use crate::store::server::lease::Lease;
use crate::store::server::limits::Limits;

#[async_trait]
impl Archive for MySqlStore {
    async fn claims(&self, visitor: &mut dyn ClaimVisitor) -> Result<bool> {
        let connections = &self.reader.connections;
        for pause in SNAPSHOTS {
            // Gives the commits so far their positions.
            let head = connections.repeat("read the head", || self.reader.head()).await?;
            if read_claims(connections, head, visitor).await? {
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
        let connections = &self.reader.connections;
        let after = after.map_or("", IdempotencyKey::as_str).as_bytes();
        let select = || sqlx::query_as(KEYS).bind(after).bind(to_sql(through.get())).bind(limit_to_sql(limit));
        let attempt = "read the idempotency keys";
        let read = || async { connections.all(select()).await.map_err(|error| classify(error, attempt)) };
        let rows: Vec<KeyRow> = connections.repeat(attempt, read).await?;
        rows.into_iter().map(key).collect::<Result<_>>().map(Some)
    }

    async fn import(&self, head: Position, parts: &mut dyn Parts) -> Result<()> {
        let connections = &self.writer.connections;
        let mut lease = connections.lease().await.map_err(failed)?;
        let target = Target { limits: connections.limits().long() };
        let imported = target.fill(&mut lease, head, parts).await;
        lease.finish(imported)?;
        self.writer.growth.send_modify(|growth| *growth = growth.next());
        Ok(())
    }
}

fn failed(error: sqlx::Error) -> Error {
    classify(error, "import a log")
}

/// Reads head and claims in one snapshot. Returns `false` if the log has grown past `head`: claims may be those of no position. A snapshot of
/// MariaDB may miss a commit that ends while it is taken, but none up to `head`, which have ended before.
async fn read_claims(connections: &Connections, head: Position, visitor: &mut dyn ClaimVisitor) -> Result<bool> {
    let failed = |error| classify(error, "read the claims");
    let limits = connections.limits();
    let mut lease = connections.lease().await.map_err(failed)?;
    let read = async {
        let mut tx = lease.begin_snapshot().await.map_err(failed)?;
        let place = sqlx::query_as(PLACE).fetch_one(&mut *tx);
        let (last, waiting): (i64, i64) = limits.statements(place).await.map_err(failed)?;
        let is_at_head = waiting == 0 && from_sql(last, "position")? == head.get();
        if is_at_head {
            visitor.head(head)?;
            let mut rows = sqlx::query_as(CLAIMS).fetch(&mut *tx);
            while let Some(row) = limits.next_row(&mut rows).await.map_err(failed)? {
                let row: (Vec<u8>, Vec<u8>, Vec<u8>, Vec<u8>) = row;
                let text = |bytes| utf8(bytes, "a claim");
                let (scope, value) = (text(&row.0)?, text(&row.1)?);
                visitor.claim(ArchivedClaim::parse(scope, value, text(&row.2)?, text(&row.3)?)?)?;
            }
        }
        tx.rollback().await.map_err(failed)?;
        Ok(is_at_head)
    };
    let read = read.await;
    lease.finish(read)
}

/// Key, fingerprint, first position of the commit, last position of the append, streams as JSON.
type KeyRow = (Vec<u8>, Vec<u8>, i64, i64, Vec<u8>);

fn key((key, fingerprint, commit, last, streams): KeyRow) -> Result<ArchivedKey> {
    let name = utf8(&key, "an idempotency key")?;
    let streams = ArchivedKey::streams_from_json(name, &streams)?;
    let (key, fingerprint) = (IdempotencyKey::new(name)?, fingerprint_from(&fingerprint)?);
    Ok(ArchivedKey { key, fingerprint, commit, last, streams })
}

/// The empty log that an import fills.
struct Target {
    limits: Limits,
}

impl Target {
    async fn fill(&self, lease: &mut Lease<MySql>, head: Position, parts: &mut dyn Parts) -> Result<()> {
        check_empty(self.limits, lease).await?;
        self.reserve_numbers(lease, head).await?;
        let mut tx = lease.begin().await.map_err(failed)?;
        // Positions are given out by this transaction alone, until it ends.
        self.execute(&mut tx, sqlx::query(HOLD_SEQUENCER)).await?;
        check_empty(self.limits, &mut tx).await?;
        while let Some(part) = parts.next()? {
            self.write(&mut tx, part).await?;
        }
        self.limits.statements(tx.commit()).await.map_err(commit_failed).map_err(failed)?;
        // A second commit, as the sequencer makes it: only then is the first one on the disk.
        self.execute(lease, sqlx::query(MOVE_HEAD).bind(to_sql(head.get())).bind(to_sql(head.get()))).await
    }

    /// Lets every append from now on draw a number after `head`: the numbers of the imported commits are their first positions.
    async fn reserve_numbers(&self, lease: &mut Lease<MySql>, head: Position) -> Result<()> {
        if head == Position::ZERO {
            return Ok(());
        }
        let mut tx = lease.begin().await.map_err(failed)?;
        self.execute(&mut tx, sqlx::query(ADVANCE_COUNTER).bind(to_sql(head.get()))).await?;
        self.execute(&mut tx, sqlx::query(DELETE_PLACEHOLDER).bind(to_sql(head.get()))).await?;
        self.limits.statements(tx.commit()).await.map_err(failed)?;
        // Waits for the appends that have drawn a smaller number.
        self.limits.statements(raw_sql(WAIT_FOR_APPENDS).execute(&mut **lease)).await.map(drop).map_err(failed)
    }

    async fn execute(&self, tx: &mut MySqlConnection, query: Query<'_, MySql, MySqlArguments>) -> Result<()> {
        self.limits.statements(query.execute(tx)).await.map(drop).map_err(failed)
    }

    async fn write(&self, tx: &mut MySqlConnection, part: Part) -> Result<()> {
        match part {
            Part::Events(events) => self.execute(tx, insert_events(&events)?.build()).await,
            Part::Commits(commits) => self.execute(tx, insert_commits(&commits).build()).await,
            Part::Keys(keys) => self.execute(tx, insert_keys(&keys).build()).await,
            Part::Claims(claims) => self.execute(tx, insert_claims(&claims).build()).await,
            Part::Shapes(shapes) => {
                for shape in &shapes {
                    let register = sqlx::query(REGISTER)
                        .bind(shape.event_type.as_str().as_bytes())
                        .bind(i64::from(shape.version))
                        .bind(i16::from(shape.codec.number()))
                        .bind(shape.digest().to_vec())
                        .bind(shape.shape.as_bytes())
                        .bind(time_to_sql(shape.first_seen))
                        .bind(shape.program.as_bytes());
                    self.execute(tx, register).await?;
                }
                Ok(())
            }
            Part::Seals(seals) => {
                for seal in &seals {
                    let add = sqlx::query(ADD_SEAL).bind(to_sql(seal.first.get())).bind(to_sql(seal.last.get()));
                    let add = add.bind(seal.previous.as_bytes().to_vec()).bind(seal.digest.as_bytes().to_vec());
                    self.execute(tx, add.bind(time_to_sql(seal.sealed_at))).await?;
                }
                Ok(())
            }
        }
    }
}

async fn check_empty(limits: Limits, db: &mut MySqlConnection) -> Result<()> {
    let found = sqlx::query_as(CONTENTS).fetch_one(db);
    let (events, keys, claims, seals, inline): (i64, i64, i64, i64, i64) =
        limits.statements(found).await.map_err(failed)?;
    not_empty([events, keys, claims, seals, inline].map(|found| found > 0))
}

fn insert_events(events: &[ArchivedEvent]) -> Result<QueryBuilder<MySql>> {
    let mut query = QueryBuilder::new(INSERT_EVENTS);
    let optional = |id: &Option<Vec<u8>>| id.as_deref().map(uuid).transpose();
    let mut bound = Ok(());
    query.push_values(events, |mut values, event| {
        let row = &event.row;
        let mut bind = || -> Result<()> {
            values
                .push_bind(event.first)
                .push_bind(event.ordinal)
                .push_bind(uuid(&row.event_id)?)
                .push_bind(row.aggregate_type.clone())
                .push_bind(row.aggregate_id.clone())
                .push_bind(row.version)
                .push_bind(row.event_type.clone())
                .push_bind(row.schema_version)
                .push_bind(row.codec)
                .push_bind(time_to_sql(time(row.recorded_at)?))
                .push_bind(optional(&row.correlation_id)?)
                .push_bind(optional(&row.causation_id)?)
                .push_bind(row.metadata.clone())
                .push_bind(row.payload.clone());
            Ok(())
        };
        if bound.is_ok() {
            bound = bind();
        }
    });
    bound.map(|()| query)
}

fn insert_commits(commits: &[ArchivedCommit]) -> QueryBuilder<MySql> {
    let mut query = QueryBuilder::new(INSERT_COMMITS);
    query.push_values(commits, |mut values, commit| {
        values.push_bind(commit.first).push_bind(commit.first).push_bind(commit.events);
    });
    query
}

fn insert_keys(keys: &[ArchivedKey]) -> QueryBuilder<MySql> {
    let mut query = QueryBuilder::new(INSERT_KEYS);
    query.push_values(keys, |mut values, key| {
        values
            .push_bind(key.key.as_str().as_bytes().to_vec())
            .push_bind(key.commit)
            .push_bind(i32::try_from(key.last - key.commit + 1).unwrap_or(i32::MAX))
            .push_bind(key.fingerprint.as_bytes().to_vec())
            .push_bind(key.streams_to_json().into_bytes());
    });
    query
}

fn insert_claims(claims: &[ArchivedClaim]) -> QueryBuilder<MySql> {
    let mut query = QueryBuilder::new(INSERT_CLAIMS);
    query.push_values(claims, |mut values, claim| {
        let bytes = |text: &str| text.as_bytes().to_vec();
        values
            .push_bind(bytes(claim.scope.as_str()))
            .push_bind(bytes(claim.value.as_str()))
            .push_bind(bytes(claim.holder.aggregate_type().as_str()))
            .push_bind(bytes(claim.holder.aggregate_id().as_str()));
    });
    query
}

/// Selects the last position, and whether commits wait for positions.
const PLACE: &str = "
    SELECT CAST(COALESCE((SELECT first_position + events - 1 FROM retell_log ORDER BY first_position DESC LIMIT 1), 0) AS SIGNED),
        CAST(EXISTS (SELECT 1 FROM retell_commits) AS SIGNED)";

const CLAIMS: &str = "SELECT scope, value, aggregate_type, aggregate_id FROM retell_reservations ORDER BY scope, value";

/// Binds: after, through, limit.
const KEYS: &str = "
    SELECT k.idempotency_key, k.fingerprint, l.first_position, l.first_position + k.last_ordinal - 1, k.streams
    FROM retell_keys k JOIN retell_log l ON l.commit_id = k.commit_id
    WHERE k.idempotency_key > ? AND l.first_position <= ? ORDER BY k.idempotency_key LIMIT ?";

/// Selects what can keep a log from being empty, in the order of [`crate::store::log::archive::CONTENTS`].
const CONTENTS: &str = "
    SELECT CAST(EXISTS (SELECT 1 FROM retell_events) AS SIGNED), CAST(EXISTS (SELECT 1 FROM retell_keys) AS SIGNED),
        CAST(EXISTS (SELECT 1 FROM retell_reservations) AS SIGNED), CAST(EXISTS (SELECT 1 FROM retell_seals) AS SIGNED),
        CAST(EXISTS (SELECT 1 FROM retell_checkpoints WHERE state = 'inline') AS SIGNED)";

/// Binds: number. An explicit number in an insert moves the counter past that number.
const ADVANCE_COUNTER: &str = "INSERT INTO retell_commits (commit_id, events) VALUES (?, 0)";

/// Binds: number.
const DELETE_PLACEHOLDER: &str = "DELETE FROM retell_commits WHERE commit_id = ? AND events = 0";

/// The lock is given when every transaction that uses the table has ended.
const WAIT_FOR_APPENDS: &str = "LOCK TABLES retell_commits WRITE; UNLOCK TABLES";

const HOLD_SEQUENCER: &str = "SELECT id FROM retell_sequencer WHERE id = 1 FOR UPDATE";

/// Binds: position, twice.
const MOVE_HEAD: &str = "UPDATE retell_head SET position = ? WHERE id = 1 AND position < ?";

const INSERT_EVENTS: &str = "
    INSERT INTO retell_events (commit_id, ordinal, event_id, aggregate_type, aggregate_id, version, event_type, schema_version, codec,
        recorded_at, correlation_id, causation_id, metadata, payload) ";

const INSERT_COMMITS: &str = "INSERT INTO retell_log (first_position, commit_id, events) ";

const INSERT_KEYS: &str = "INSERT INTO retell_keys (idempotency_key, commit_id, last_ordinal, fingerprint, streams) ";

const INSERT_CLAIMS: &str = "INSERT INTO retell_reservations (scope, value, aggregate_type, aggregate_id) ";
