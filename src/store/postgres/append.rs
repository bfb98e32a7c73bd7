//! Commits appends: one call of the server's `append` function for all that wait.

use std::collections::HashSet;

use async_trait::async_trait;
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row};
use tokio::sync::watch;
use uuid::Uuid;

use crate::error::{Error, ErrorKind, Result};
use crate::id::{CommitId, ExpectedVersion, IdempotencyKey, Position, StreamId, Version};
use crate::store::group_commit::BatchAppend;
use crate::store::postgres::connection::{Schema, Statement, classify, from_sql, lost_race, to_sql, violated};
use crate::store::{Append, Appended, KeptOutcome, Outcome};

/// Attempts of a call that lost a race. Each loss means that another append went through.
const ATTEMPTS: usize = 20;

/// The driver's side of group commit.
#[derive(Debug)]
pub(super) struct Writer {
    pub(super) pool: PgPool,
    pub(super) lane: i32,
    pub(super) durable: bool,
    pub(super) grown: watch::Sender<Position>,
    append: Statement,
    outcome: Statement,
    known_ids: Statement,
}

impl Writer {
    pub(super) fn new(pool: PgPool, schema: &Schema, durable: bool) -> Self {
        // Each process starts its search for a free lane at a place of its own.
        let lane = i32::from(Uuid::new_v4().as_bytes()[0] % 64);
        Self {
            pool,
            lane,
            durable,
            grown: watch::Sender::new(Position::ZERO),
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

    /// Appends that share no stream and no key, in one call. A lost race is run again, and seen as the conflict it is then; what keeps
    /// failing is taken apart, so that only the append at fault fails.
    async fn call(&self, round: &[&Append]) -> Vec<Result<Appended>> {
        let mut error = None;
        for attempt in 0..ATTEMPTS {
            match self.call_once(round).await {
                Ok(results) => return results,
                Err(failed) => match violated(&failed) {
                    Some("events_id") if round.len() == 1 => return vec![Err(self.duplicate(round[0], failed).await)],
                    Some("events_id") => break,
                    Some(_) if round.len() == 1 || attempt < 2 => error = Some(classify_race(failed)),
                    Some(_) => break,
                    None if lost_race(&failed) => error = Some(classify(failed, "append")),
                    None => return vec![Err(classify(failed, "append")); round.len()],
                },
            }
        }
        match error {
            Some(error) if round.len() == 1 => vec![Err(error)],
            _ => {
                let mut results = Vec::with_capacity(round.len());
                for append in round {
                    results.extend(Box::pin(self.call(std::slice::from_ref(append))).await);
                }
                results
            }
        }
    }

    async fn call_once(&self, round: &[&Append]) -> Result<Vec<Result<Appended>>, sqlx::Error> {
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
            .fetch_all(&self.pool)
            .await?;
        let mut rows = rows.iter();
        round.iter().map(|append| read_result(append, &mut rows)).collect()
    }

    /// Which of the append's events is in the log already.
    async fn duplicate(&self, append: &Append, failed: sqlx::Error) -> Error {
        let ids: Vec<Uuid> =
            append.streams().iter().flat_map(|part| &part.events).map(|event| *event.id.as_uuid()).collect();
        let mut seen = HashSet::new();
        let twice = ids.iter().copied().find(|id| !seen.insert(*id));
        let known = match twice {
            Some(id) => Ok(Some(id)),
            None => sqlx::query_scalar(self.known_ids.sql()).bind(ids).fetch_optional(&self.pool).await,
        };
        match known {
            Ok(Some(id)) => Error::with_source(ErrorKind::DuplicateEvent(id.into()), failed),
            Ok(None) => classify(failed, "append"),
            Err(error) => classify(error, "append"),
        }
    }
}

#[async_trait]
impl BatchAppend for Writer {
    async fn append_batch(&self, batch: Vec<Append>) -> Vec<Result<Appended>> {
        let mut results: Vec<Option<Result<Appended>>> = vec![None; batch.len()];
        let mut waiting: Vec<usize> = (0..batch.len()).collect();
        while !waiting.is_empty() {
            let (round, later) = split_round(&batch, &waiting);
            let appends: Vec<&Append> = round.iter().map(|&place| &batch[place]).collect();
            for (place, result) in round.into_iter().zip(self.call(&appends).await) {
                results[place] = Some(result);
            }
            waiting = later;
        }
        // The number only says that something is new; positions come later.
        self.grown.send_modify(|grown| *grown = grown.next());
        let unanswered = || Err(Error::new(ErrorKind::Transient("learn the outcome of an append".into())));
        results.into_iter().map(|result| result.unwrap_or_else(unanswered)).collect()
    }
}

/// The appends that share no stream and no key with one before them, and the rest for the next round.
fn split_round(batch: &[Append], waiting: &[usize]) -> (Vec<usize>, Vec<usize>) {
    let (mut streams, mut keys) = (HashSet::new(), HashSet::new());
    waiting.iter().partition(|&&place| {
        let append = &batch[place];
        // Also where it has to wait, what it names is taken: appends to one stream keep their order.
        let streams_free = append.stream_ids().filter(|stream| !streams.insert(*stream)).count() == 0;
        let key_free = append.key().is_none_or(|key| keys.insert(key));
        streams_free && key_free
    })
}

fn classify_race(error: sqlx::Error) -> Error {
    Error::with_source(ErrorKind::Transient("append: others were faster each time".into()), error)
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

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
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

/// Bits of a `CommitId` that say the place of an append's last event in its commit; the rest is the commit's number.
const ORDINAL_BITS: u32 = 24;

fn commit_id(number: i64, ordinal: i32) -> CommitId {
    CommitId::new(number.unsigned_abs() << ORDINAL_BITS | u64::from(ordinal.unsigned_abs()))
}

/// The commit's number, and the place of the append's last event in it.
pub(super) fn split_commit_id(commit: CommitId) -> (i64, i64) {
    let (number, ordinal) = (commit.get() >> ORDINAL_BITS, commit.get() & ((1 << ORDINAL_BITS) - 1));
    (to_sql(number), to_sql(ordinal))
}

/// Binds: lane, durable, keys, five arrays of parts, nine of events.
const APPEND: &str =
    "SELECT * FROM {schema}.append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)";

const OUTCOME: &str = "
    SELECT commit_id AS kept_commit, last_ordinal AS kept_ordinal, aggregate_types AS kept_types, aggregate_ids AS kept_ids, versions AS kept_versions
    FROM {schema}.keys WHERE idempotency_key = $1";

const KNOWN_IDS: &str = "SELECT event_id FROM {schema}.events WHERE event_id = ANY($1) LIMIT 1";
