//! Commits appends: one call of the server's `append` function commits all waiting appends.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::{Executor, PgConnection, PgExecutor, Postgres};
use tokio::sync::watch;
use uuid::Uuid;

use crate::error::{Error, ErrorKind, Result};
use crate::id::{ClaimScope, ClaimValue, CommitId, IdempotencyKey, Position, StreamId, Version};
use crate::store::held::holding;
use crate::store::log::append::{Append, Appended, KeyedOutcome, Outcome};
use crate::store::log::group_commit::BatchAppend;
use crate::store::log::inline::{Inline, Inlines};
use crate::store::postgres::connection::Connections;
use crate::store::postgres::error::{classify, classify_work, code, is_before_work, refusal};
use crate::store::postgres::log::binds::{Batch, One};
use crate::store::postgres::log::claims;
use crate::store::postgres::log::signals::Signals;
use crate::store::postgres::log::verdict::{self, Answer, Verdict};
use crate::store::postgres::schema::Schema;
use crate::store::server::convert::{commit_id, fingerprint_from, from_sql};
use crate::store::server::fault::Server;
use crate::store::server::lease::Lease;
use crate::store::server::rounds::{Ended, Refusal, Rounds};
use crate::store::server::{inline, rounds};

/// The driver's side of group commit.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    pub(crate) connections: Connections,
    pub(crate) lane: i32,
    pub(crate) durable: bool,
    pub(crate) signals: Arc<Signals>,
    /// The projections that run within each transaction.
    pub(crate) inline: Inlines<PgConnection>,
    pub(crate) schema: Schema,
}

impl Writer {
    pub(crate) fn new(connections: Connections, schema: Schema, durable: bool, signals: Signals) -> Self {
        // Each process starts its search for a free lane at a random lane, so that processes rarely try the same one.
        let lane = i32::from(Uuid::new_v4().as_bytes()[0] % 32);
        Self { connections, lane, durable, signals: Arc::new(signals), inline: Inlines::none(), schema }
    }

    /// Returns a writer that also runs `inline` within each transaction.
    pub(crate) fn with_inline(&self, inline: Arc<dyn Inline<PgConnection>>) -> Self {
        Self { inline: self.inline.and(inline), ..self.clone() }
    }

    /// Returns the outcome of the append under `key`.
    pub(crate) async fn find_by_key(&self, key: &IdempotencyKey) -> Result<Option<KeyedOutcome>> {
        let query = sqlx::query_as(self.schema.sql(OUTCOME)).bind(key.as_str());
        let rows = self.connections.all(query).await.map_err(|error| classify(error, "look up an idempotency key"))?;
        (!rows.is_empty()).then(|| kept_outcome(rows)).transpose()
    }

    /// Returns the stream that holds a value.
    pub(crate) async fn holder(&self, scope: &ClaimScope, value: &ClaimValue) -> Result<Option<StreamId>> {
        let row = sqlx::query_as(self.schema.sql(HOLDER)).bind(scope.as_str()).bind(value.as_str());
        let row: Option<(String, String)> =
            self.connections.optional(row).await.map_err(|error| classify(error, "look up a unique value"))?;
        Ok(row.map(|(kind, id)| StreamId::parse(&kind, &id)).transpose()?)
    }

    pub(crate) fn watch_head(&self) -> watch::Receiver<Position> {
        self.signals.subscribe()
    }

    /// Closes the connections after the last append has ended.
    pub(crate) async fn close(&self) {
        self.signals.close().await;
        self.connections.close().await;
    }

    async fn outcome_in<'e>(
        &self,
        executor: impl PgExecutor<'e>,
        key: &IdempotencyKey,
    ) -> Result<Option<Result<KeyedOutcome>>, sqlx::Error> {
        let rows = sqlx::query_as(self.schema.sql(OUTCOME)).bind(key.as_str()).fetch_all(executor).await?;
        Ok((!rows.is_empty()).then(|| kept_outcome(rows)))
    }

    /// Appends inside the caller's transaction. A failure rolls back to a savepoint, so the transaction stays usable.
    pub(crate) async fn append_in(&self, tx: &mut PgConnection, append: &Append) -> Result<Appended> {
        let failed = |error| classify(error, "append");
        // Plain statements, because the caller may have begun its transaction without sqlx, which then does not count it.
        tx.execute(SAVEPOINT).await.map_err(|error| match code(&error).as_deref() {
            Some("25P01") => ErrorKind::Invalid("the connection has no open transaction".into()).into(),
            _ => failed(error),
        })?;
        let called = match self.call(&mut *tx, &[append], true).await {
            Ok(results) => inline::apply_inline(&self.inline, &mut *tx, &[append], &results)
                .await
                .map(|()| results)
                .map_err(Ended::Inline),
            Err(error) => Err(Ended::Server(error)),
        };
        tx.execute(if called.is_ok() { RELEASE } else { ROLL_BACK }).await.map_err(failed)?;
        match called {
            Ok(mut results) => results.pop().unwrap_or_else(|| Err(rounds::lost())),
            Err(Ended::Inline(error)) => Err(classify_work(error)),
            Err(Ended::Server(error)) => match refusal(&error) {
                Refusal::Duplicate => Err(rounds::duplicate(self, append, error).await),
                Refusal::Taken => Err(rounds::lost_race(append, error)),
                Refusal::Blocked | Refusal::Other => Err(failed(error)),
            },
        }
    }

    async fn try_round(&self, round: &[&Append]) -> Result<Vec<Result<Appended>>, Ended> {
        let limits = self.connections.limits();
        let mut lease = self.connections.lease().await?;
        let done = if self.inline.is_empty() {
            limits.statements(self.call(&mut lease, round, false)).await.map_err(Ended::Server)
        } else {
            limits.statements(self.commit(&mut lease, round)).await
        };
        match done {
            Ok(results) => Ok(lease.end(Ok(results))?),
            Err(Ended::Server(error)) => Ok(lease.end(Err(error))?),
            // A projection may have dropped a query half-way, so the connection is closed, which ends the transaction.
            Err(inline) => Err(inline),
        }
    }

    /// Appends a round and applies the inline projections, in one transaction.
    async fn commit(&self, lease: &mut Lease<Postgres>, round: &[&Append]) -> Result<Vec<Result<Appended>>, Ended> {
        let mut tx = lease.begin_with(BEGIN_INLINE).await?;
        let results = self.call(&mut tx, round, false).await?;
        holding(self.connections.held(), inline::apply_inline(&self.inline, &mut *tx, round, &results))
            .await
            .map_err(classify_work)
            .map_err(Ended::Inline)?;
        tx.commit().await?;
        Ok(results)
    }

    /// Appends a round by one call of the server's function. `callers` says whether the transaction belongs to the caller.
    async fn call(
        &self,
        db: &mut PgConnection,
        round: &[&Append],
        callers: bool,
    ) -> Result<Vec<Result<Appended>>, sqlx::Error> {
        if let Some(one) = One::from_round(round) {
            let query =
                sqlx::query_scalar(self.schema.sql(APPEND_ONE)).bind(self.lane).bind(callers).bind(self.durable);
            let numbers: Vec<Option<i64>> = one.bind(query).fetch_one(db).await?;
            return Ok(vec![verdict::decode_one(&numbers, round[0])]);
        }
        let claims = claims::numbered(round);
        let query = sqlx::query(self.schema.sql(APPEND)).bind(self.lane).bind(callers).bind(self.durable);
        let query = claims::bind(Batch::from_round(round).bind(query), &claims);
        let answer = Answer::from_row(&query.fetch_one(&mut *db).await?)?;
        let mut results = Vec::with_capacity(round.len());
        for (verdict, append) in answer.verdicts(round, &claims).into_iter().zip(round) {
            results.push(match (verdict, append.key()) {
                (Verdict::Written(appended), _) => Ok(appended),
                (Verdict::Refused(error), _) => Err(error),
                (Verdict::Repeated, Some(key)) => match self.outcome_in(&mut *db, key).await? {
                    Some(kept) => kept.and_then(|kept| kept.repeat(append)),
                    None => Err(ErrorKind::Corrupt(format!("the events of idempotency key {key} are missing")).into()),
                },
                (Verdict::Repeated, None) => Err(verdict::missing_verdict()),
            });
        }
        Ok(results)
    }
}

#[async_trait]
impl Rounds for Writer {
    async fn append_round(&self, round: &[&Append]) -> Result<Vec<Result<Appended>>, Ended> {
        let mut retries = self.connections.retries();
        loop {
            match self.try_round(round).await {
                // The statement was not executed, and another session may be able to write.
                Err(Ended::Server(error))
                    if is_before_work(&error) && retries.may_pass_after(Postgres::fault(&error)) => {}
                ended => return ended,
            }
        }
    }

    async fn known_id(&self, ids: &[Uuid]) -> Result<Option<Uuid>, sqlx::Error> {
        let known: Option<(Uuid,)> =
            self.connections.optional(sqlx::query_as(self.schema.sql(KNOWN_IDS)).bind(ids)).await?;
        Ok(known.map(|(known,)| known))
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
        let results = rounds::append_batch(self, &batch).await;
        self.signals.committed(batch.len());
        results
    }
}

/// One stream of an append under a key: the commit, the append's last ordinal in it and the event there, the fingerprint, the stream's type and
/// id, and its versions before and after the append.
type KeptRow = (i64, i32, Uuid, Vec<u8>, String, String, i64, i64);

fn kept_outcome(rows: Vec<KeptRow>) -> Result<KeyedOutcome> {
    let (mut streams, mut before, mut after) = (Vec::new(), Vec::new(), Vec::new());
    let (mut end, mut fingerprint) = ((CommitId::default(), Uuid::nil()), Vec::new());
    for (number, last, last_event, kept, kind, id, first, version) in rows {
        (end, fingerprint) = ((commit_id(number, last), last_event), kept);
        streams.push(StreamId::parse(&kind, &id)?);
        before.push(Version::new(from_sql(first - 1, "version")?));
        after.push(Version::new(from_sql(version, "version")?));
    }
    let appended = Appended::new(end.0, end.1.into(), after, Outcome::Repeated);
    Ok(KeyedOutcome::new(streams, before, fingerprint_from(&fingerprint)?, appended))
}

const SAVEPOINT: &str = "SAVEPOINT retell_append";

const RELEASE: &str = "RELEASE SAVEPOINT retell_append";

const ROLL_BACK: &str = "ROLLBACK TO SAVEPOINT retell_append";

/// Begins a transaction that runs projections. If the process is paused, the server ends the transaction after 30 seconds. If a projection is
/// dropped, its connection is closed. On Linux, a server can notice that while a statement of the projection still runs.
const BEGIN_INLINE: &str = "
    BEGIN;
    SELECT set_config('idle_in_transaction_session_timeout', '30s', true),
        CASE WHEN version() LIKE '%linux%' THEN set_config('client_connection_check_interval', '1s', true) END";

/// Binds: lane, whether the transaction is the caller's, durable, three arrays of keys, seven of parts, ten of events, five of claims.
const APPEND: &str = "SELECT * FROM {schema}.append($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27, $28)";

/// Binds: lane, whether the transaction is the caller's, durable, five values of the stream, eight of the event.
const APPEND_ONE: &str =
    "SELECT {schema}.append_one($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16)";

const HOLDER: &str = "SELECT aggregate_type, aggregate_id FROM {schema}.reservations WHERE scope = $1 AND value = $2";

const OUTCOME: &str = "
    SELECT k.commit_id, k.last_ordinal,
        (SELECT event_id FROM {schema}.events l WHERE l.commit_id = k.commit_id AND l.ordinal = k.last_ordinal), k.fingerprint,
        e.aggregate_type, e.aggregate_id, min(e.version), max(e.version)
    FROM {schema}.keys k JOIN {schema}.events e ON e.commit_id = k.commit_id AND e.ordinal BETWEEN k.first_ordinal AND k.last_ordinal
    WHERE k.idempotency_key = $1
    GROUP BY k.commit_id, k.last_ordinal, k.fingerprint, e.aggregate_type, e.aggregate_id ORDER BY min(e.ordinal)";

const KNOWN_IDS: &str = "SELECT event_id FROM {schema}.events WHERE event_id = ANY($1) LIMIT 1";
