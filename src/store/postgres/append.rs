//! Commits appends: one call of the server's `append` function for all that wait.

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use sqlx::{Executor, PgConnection, PgExecutor, PgPool, Row};
use uuid::Uuid;

use crate::error::{Error, ErrorKind, Result};
use crate::id::{ExpectedVersion, IdempotencyKey, StreamId, Version};
use crate::store::group_commit::BatchAppend;
use crate::store::postgres::connection::{Schema, Statement, classify, code, refusal};
use crate::store::postgres::signals::Signals;
use crate::store::sql::{self, Refusal, Rounds, commit_id, count, from_sql, to_sql};
use crate::store::{Append, Appended, KeptOutcome, Outcome};

/// The driver's side of group commit.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) pool: PgPool,
    pub(super) lane: i32,
    pub(super) durable: bool,
    pub(super) signals: Signals,
    append: Statement,
    outcome: Statement,
    known_ids: Statement,
}

impl Writer {
    pub(super) fn new(pool: PgPool, schema: &Schema, durable: bool, signals: Signals) -> Self {
        // Each process starts its search for a free lane at a place of its own.
        let lane = i32::from(Uuid::new_v4().as_bytes()[0] % 64);
        Self {
            pool,
            lane,
            durable,
            signals,
            append: schema.statement(APPEND),
            outcome: schema.statement(OUTCOME),
            known_ids: schema.statement(KNOWN_IDS),
        }
    }

    /// What the append under `key` did.
    pub(super) async fn outcome(&self, key: &IdempotencyKey) -> Result<Option<KeptOutcome>> {
        let row = sqlx::query(self.outcome.sql()).bind(key.as_str()).fetch_optional(&self.pool).await;
        let row = row.map_err(|error| classify(error, "look up an idempotency key"))?;
        row.map(|row| kept_outcome(&row)).transpose()
    }

    /// Appends inside a transaction of the caller's. A failure is undone to a savepoint, so that the transaction stays usable.
    pub(super) async fn append_in(&self, tx: &mut PgConnection, append: &Append) -> Result<Appended> {
        let failed = |error| classify(error, "append");
        // Plain statements: the caller may have begun its transaction in any way, also past sqlx's counting.
        tx.execute(SAVEPOINT).await.map_err(|error| match code(&error).as_deref() {
            Some("25P01") => ErrorKind::Invalid("the connection has no open transaction".into()).into(),
            _ => failed(error),
        })?;
        let called = self.call(&mut *tx, &[append]).await;
        tx.execute(if called.is_ok() { RELEASE } else { ROLL_BACK }).await.map_err(failed)?;
        match called {
            Ok(mut results) => results.pop().unwrap_or_else(|| Err(sql::lost())),
            Err(error) => match refusal(&error) {
                Refusal::Duplicate => Err(sql::duplicate(self, append, error).await),
                Refusal::Taken => Err(sql::lost_race(append, error)),
                Refusal::Blocked | Refusal::Other => Err(failed(error)),
            },
        }
    }

    async fn call<'e>(
        &self,
        executor: impl PgExecutor<'e>,
        round: &[&Append],
    ) -> Result<Vec<Result<Appended>>, sqlx::Error> {
        let binds = Binds::of(round);
        let rows = sqlx::query(self.append.sql())
            .bind(self.lane)
            .bind(self.durable)
            .bind(binds.keys)
            .bind(binds.part_append)
            .bind(binds.part_type)
            .bind(binds.part_id)
            .bind(binds.part_expected)
            .bind(binds.part_events)
            .bind(binds.event_part)
            .bind(binds.event_id)
            .bind(binds.event_type)
            .bind(binds.event_schema)
            .bind(binds.event_codec)
            .bind(binds.event_correlation)
            .bind(binds.event_causation)
            .bind(binds.event_metadata)
            .bind(binds.event_payload)
            .fetch_all(executor)
            .await?;
        let mut rows = rows.iter();
        round.iter().map(|append| read_result(append, &mut rows)).collect()
    }
}

#[async_trait]
impl Rounds for Writer {
    async fn append_round(&self, round: &[&Append]) -> Result<Vec<Result<Appended>>, sqlx::Error> {
        self.call(&self.pool, round).await
    }

    async fn known_id(&self, ids: &[Uuid]) -> Result<Option<Uuid>, sqlx::Error> {
        sqlx::query_scalar(self.known_ids.sql()).bind(ids).fetch_optional(&self.pool).await
    }

    fn refusal(&self, error: &sqlx::Error) -> Refusal {
        refusal(error)
    }

    fn classify(&self, error: sqlx::Error, attempt: &str) -> Error {
        classify(error, attempt)
    }
}

#[async_trait]
impl BatchAppend for Writer {
    async fn append_batch(&self, batch: Vec<Append>) -> Vec<Result<Appended>> {
        let results = sql::append_batch(self, &batch).await;
        self.signals.kick();
        results
    }
}

/// The arguments of the server's function, in its order.
#[derive(Default)]
struct Binds<'a> {
    keys: Vec<Option<&'a str>>,
    part_append: Vec<i32>,
    part_type: Vec<&'a str>,
    part_id: Vec<&'a str>,
    part_expected: Vec<i64>,
    part_events: Vec<i32>,
    event_part: Vec<i32>,
    event_id: Vec<Uuid>,
    event_type: Vec<&'a str>,
    event_schema: Vec<i64>,
    event_codec: Vec<i16>,
    event_correlation: Vec<Option<Uuid>>,
    event_causation: Vec<Option<Uuid>>,
    event_metadata: Vec<Option<String>>,
    event_payload: Vec<&'a [u8]>,
}

impl<'a> Binds<'a> {
    fn of(round: &[&'a Append]) -> Self {
        let mut binds = Self::default();
        for append in round {
            binds.keys.push(append.key().map(IdempotencyKey::as_str));
            for part in append.streams() {
                binds.part_append.push(count(binds.keys.len()));
                binds.part_type.push(part.stream.aggregate_type().as_str());
                binds.part_id.push(part.stream.aggregate_id().as_str());
                binds.part_expected.push(expected(part.expected));
                binds.part_events.push(count(part.events.len()));
                for event in &part.events {
                    binds.event_part.push(count(binds.part_id.len()));
                    binds.event_id.push(*event.id.as_uuid());
                    binds.event_type.push(event.event_type.as_str());
                    binds.event_schema.push(i64::from(event.schema_version));
                    binds.event_codec.push(i16::from(event.codec.number()));
                    binds.event_correlation.push(event.metadata.correlation_id.map(|id| *id.as_uuid()));
                    binds.event_causation.push(event.metadata.causation_id.map(|id| *id.as_uuid()));
                    // `Append::check` has refused what cannot be written.
                    binds.event_metadata.push(event.metadata.to_json().ok().flatten());
                    binds.event_payload.push(&event.payload);
                }
            }
        }
        binds
    }
}

fn expected(expected: ExpectedVersion) -> i64 {
    match expected {
        ExpectedVersion::Any => -1,
        ExpectedVersion::Exists => -2,
        ExpectedVersion::NoStream => 0,
        ExpectedVersion::Exact(version) => to_sql(version.get()),
    }
}

/// Takes the rows of one append's parts.
fn read_result<'r>(
    append: &Append,
    rows: &mut impl Iterator<Item = &'r PgRow>,
) -> Result<Result<Appended>, sqlx::Error> {
    let mut versions = Vec::with_capacity(append.streams().len());
    let (mut commit, mut conflict, mut kept) = (None, None, None);
    for part in append.streams() {
        let row = rows.next().ok_or(sqlx::Error::RowNotFound)?;
        let found = Version::new(row.try_get::<i64, _>("found")?.unsigned_abs());
        if !part.expected.allows(found) && conflict.is_none() {
            let (stream, expected) = (part.stream.clone(), part.expected);
            conflict = Some(ErrorKind::Conflict { stream, expected, actual: found });
        }
        versions.push(found.plus(part.events.len() as u64));
        // The last part's is the append's.
        let ordinal: Option<i32> = row.try_get("written_ordinal")?;
        commit = row.try_get::<Option<i64>, _>("written_commit")?.zip(ordinal);
        if row.try_get::<Option<i64>, _>("kept_commit")?.is_some() {
            kept = Some(kept_outcome(row));
        }
    }
    Ok(match (kept, append.key(), commit, conflict) {
        (Some(kept), Some(key), ..) => kept.and_then(|kept| kept.repeat(key, append.stream_ids())),
        (_, _, Some((commit, ordinal)), _) => {
            Ok(Appended { commit: commit_id(commit, ordinal), versions, outcome: Outcome::Written })
        }
        (_, _, None, Some(conflict)) => Err(conflict.into()),
        (_, _, None, None) => Err(ErrorKind::Corrupt("an append was neither written nor refused".into()).into()),
    })
}

fn kept_outcome(row: &PgRow) -> Result<KeptOutcome> {
    let failed = |error| classify(error, "read an outcome");
    let commit: i64 = row.try_get("kept_commit").map_err(failed)?;
    let kinds: Vec<String> = row.try_get("kept_types").map_err(failed)?;
    let ids: Vec<String> = row.try_get("kept_ids").map_err(failed)?;
    let versions: Vec<i64> = row.try_get("kept_versions").map_err(failed)?;
    let streams = kinds.iter().zip(&ids).map(|(kind, id)| StreamId::parse(kind, id)).collect::<Result<_, _>>()?;
    let versions =
        versions.into_iter().map(|version| from_sql(version, "version").map(Version::new)).collect::<Result<_>>()?;
    let commit = commit_id(commit, row.try_get("kept_ordinal").map_err(failed)?);
    Ok(KeptOutcome { streams, appended: Appended { commit, versions, outcome: Outcome::Repeated } })
}

const SAVEPOINT: &str = "SAVEPOINT retell_append";

const RELEASE: &str = "RELEASE SAVEPOINT retell_append";

const ROLL_BACK: &str = "ROLLBACK TO SAVEPOINT retell_append";

/// Binds: lane, durable, keys, five arrays of parts, nine of events.
const APPEND: &str =
    "SELECT * FROM {schema}.append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)";

const OUTCOME: &str = "
    SELECT commit_id AS kept_commit, last_ordinal AS kept_ordinal, aggregate_types AS kept_types, aggregate_ids AS kept_ids, versions AS kept_versions
    FROM {schema}.keys WHERE idempotency_key = $1";

const KNOWN_IDS: &str = "SELECT event_id FROM {schema}.events WHERE event_id = ANY($1) LIMIT 1";
