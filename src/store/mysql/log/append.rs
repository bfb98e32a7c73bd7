//! Commits appends: one transaction commits all waiting appends.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::mysql::MySqlRow;
use sqlx::{MySql, MySqlConnection, QueryBuilder, Row, raw_sql};
use tokio::sync::watch;
use uuid::Uuid;

use crate::error::{Error, ErrorKind, Result};
use crate::id::{ClaimScope, ClaimValue, IdempotencyKey, Position, StreamId, Version};
use crate::store::held::holding;
use crate::store::log::append::{Append, Appended, KeyedOutcome, Outcome, StreamAppend};
use crate::store::log::group_commit::BatchAppend;
use crate::store::log::inline::{Inline, Inlines};
use crate::store::mysql::check::Opened;
use crate::store::mysql::connection::Connections;
use crate::store::mysql::convert::text;
use crate::store::mysql::error::{classify, classify_work, commit_failed, is_before_work, is_no_savepoint, refusal};
use crate::store::mysql::log::claims::{self, Claims};
use crate::store::mysql::log::insert::{insert_events, insert_keys};
use crate::store::mysql::log::plan::{Newest, Plan};
use crate::store::mysql::log::statement::{LOOKED_UP, ROWS, padded, push_list};
use crate::store::mysql::session;
use crate::store::server::convert::{commit_id, count, fingerprint_from, from_sql};
use crate::store::server::fault::Server;
use crate::store::server::lease::Lease;
use crate::store::server::rounds::{Ended, Refusal, Rounds};
use crate::store::server::{inline, rounds};

/// The most bytes of rows in one statement, unless a single row is larger. The limit is lower if half of the server's largest packet is less.
const STATEMENT_BYTES: usize = 4 * 1024 * 1024;

/// The most attempts of an append in the caller's transaction to read rows that no other transaction rolls back.
const MAX_SETTLE_ATTEMPTS: usize = 20;

/// The driver's side of group commit.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    pub(crate) connections: Connections,
    statement_bytes: usize,
    keeps_refused_locks: bool,
    pub(crate) growth: watch::Sender<Position>,
    /// The projections that run within each transaction.
    pub(crate) inline: Inlines<MySqlConnection>,
}

impl Writer {
    pub(crate) fn new(connections: Connections, opened: &Opened) -> Self {
        let (growth, statement_bytes) = (watch::Sender::new(Position::ZERO), STATEMENT_BYTES.min(opened.packet / 2));
        let keeps_refused_locks = opened.keeps_refused_locks;
        Self { connections, statement_bytes, keeps_refused_locks, growth, inline: Inlines::none() }
    }

    /// Returns a writer that also runs `inline` within each transaction.
    pub(crate) fn with_inline(&self, inline: Arc<dyn Inline<MySqlConnection>>) -> Self {
        Self { inline: self.inline.and(inline), ..self.clone() }
    }

    /// Returns the outcome of the append under `key`.
    pub(crate) async fn find_by_key(&self, key: &IdempotencyKey) -> Result<Option<KeyedOutcome>> {
        let failed = |error| classify(error, "look up an idempotency key");
        let mut lease = self.connections.lease().await.map_err(failed)?;
        let query = sqlx::query(OUTCOME).bind(key.as_str().as_bytes()).fetch_optional(&mut *lease);
        let row = self.connections.limits().statements(query).await;
        lease.end(row).map_err(failed)?.map(|row| kept_outcome(&row)).transpose()
    }

    pub(crate) fn watch_head(&self) -> watch::Receiver<Position> {
        self.growth.subscribe()
    }

    /// Closes the connections after the last append has ended.
    pub(crate) async fn close(&self) {
        self.connections.close().await;
    }

    /// Returns the stream that holds a value.
    pub(crate) async fn holder(&self, scope: &ClaimScope, value: &ClaimValue) -> Result<Option<StreamId>> {
        let failed = |error| classify(error, "look up a unique value");
        let mut lease = self.connections.lease().await.map_err(failed)?;
        let (scope, value) = claims::key(scope, value);
        let query = sqlx::query(claims::HOLDER).bind(scope).bind(value).fetch_optional(&mut *lease);
        let row = self.connections.limits().statements(query).await;
        let row = lease.end(row).map_err(failed)?;
        row.map_or(Ok(None), |row| claims::holder(&row).map_err(failed))
    }

    /// Appends inside the caller's transaction. A failure rolls back to a savepoint, so the transaction stays usable.
    pub(crate) async fn append_in(&self, tx: &mut MySqlConnection, append: &Append) -> Result<Appended> {
        let failed = |error| classify(error, "append");
        let mut error = match self.try_in(tx, append).await? {
            Ok(result) => return result,
            Err(error) => error,
        };
        if refusal(&error) == Refusal::Taken {
            // In read committed, a second attempt sees the winner's commit. In the stricter levels, the snapshot stays the same.
            error = match self.try_in(tx, append).await? {
                Ok(result) => return result,
                Err(error) => error,
            };
        }
        if refusal(&error) != Refusal::Taken {
            return Err(failed(error));
        }
        if self.keeps_refused_locks {
            // Usually the snapshot is older than the winner's commit, and the refused insert has left locks. In read committed, this is a
            // second lost race in a row.
            raw_sql("ROLLBACK").execute(&mut *tx).await.map_err(failed)?;
            return Err(Error::with_source(ErrorKind::Transient(ROLLED_BACK.into()), error));
        }
        Err(match known(tx, &rounds::event_ids(append)).await.map_err(failed)? {
            Some(id) => Error::with_source(ErrorKind::DuplicateEvent(id.into()), error),
            None => rounds::lost_race(append, error),
        })
    }

    /// Makes one attempt, inside a savepoint. The inner error is that of an attempt that was rolled back.
    async fn try_in(&self, tx: &mut MySqlConnection, append: &Append) -> Result<Result<Result<Appended>, sqlx::Error>> {
        let failed = |error| classify(error, "append");
        // Plain statements, because the caller may have begun its transaction without sqlx, which then does not count it.
        raw_sql(SAVEPOINT).execute(&mut *tx).await.map_err(|error| {
            let kind = ErrorKind::Invalid("the connection has no open transaction".into());
            if is_no_savepoint(&error) { kind.into() } else { failed(error) }
        })?;
        let error = match self.write_settled(tx, append).await {
            Ok(result) => {
                let results = [result];
                if let Err(error) = inline::apply_inline(&self.inline, &mut *tx, &[append], &results).await {
                    raw_sql(ROLL_BACK).execute(&mut *tx).await.map_err(failed)?;
                    return Err(classify_work(error));
                }
                let [result] = results;
                raw_sql(RELEASE).execute(&mut *tx).await.map_err(failed)?;
                return Ok(Ok(result));
            }
            Err(error) => error,
        };
        match raw_sql(ROLL_BACK).execute(&mut *tx).await {
            Ok(_) => Ok(Err(error)),
            Err(gone) if is_no_savepoint(&gone) => {
                Err(Error::with_source(ErrorKind::Transient(ROLLED_BACK.into()), error))
            }
            Err(_) => Err(failed(error)),
        }
    }

    /// Writes on top of rows that are committed or belong to the transaction itself: the caller's isolation level may also show rows that other
    /// transactions later roll back.
    ///
    /// Reads each row again under a shared lock, which waits until the row's transaction ends. The lookup is by the table's primary key, and a
    /// committed row is never deleted, so the lock covers only these rows and no gaps.
    async fn write_settled(&self, tx: &mut MySqlConnection, append: &Append) -> Result<Result<Appended>, sqlx::Error> {
        let claims = Claims::lock(&mut *tx, &[append]).await?;
        let parts: Vec<&StreamAppend> = append.streams().iter().collect();
        for _ in 0..MAX_SETTLE_ATTEMPTS {
            let found = versions(&mut *tx, &parts).await?;
            let mut outcomes = kept(&mut *tx, &[append], KEPT_END).await?;
            if outcomes[0].is_some() {
                outcomes = kept(&mut *tx, &[append], KEPT_END_LOCKED).await?;
            } else if !are_settled(&mut *tx, &found).await? {
                continue;
            }
            let ids = if self.keeps_refused_locks { rounds::event_ids(append) } else { Vec::new() };
            let mut results = self.write(tx, &[append], &found, outcomes, &claims, &ids).await?;
            return Ok(results.pop().unwrap_or_else(|| Err(rounds::lost())));
        }
        Ok(Err(rounds::lost()))
    }

    /// Commits a round. Reads before it writes, so during the reads it holds no locks except those on claimed values.
    async fn commit(&self, lease: &mut Lease<MySql>, round: &[&Append]) -> Result<Vec<Result<Appended>>, Ended> {
        let session = lease.session();
        let mut tx = lease.begin().await?;
        let claims = Claims::lock(&mut tx, round).await?;
        let parts: Vec<&StreamAppend> = round.iter().flat_map(|append| append.streams()).collect();
        let found = versions(&mut tx, &parts).await?;
        // The keys are read after the versions: a transaction that sees a version written under the same key then also sees the key.
        let kept = kept(&mut tx, round, KEPT_END).await?;
        let results = self.write(&mut tx, round, &found, kept, &claims, &[]).await?;
        if !self.inline.is_empty() {
            session::identify(&mut tx, &session).await?;
        }
        holding(self.connections.held(), inline::apply_inline(&self.inline, &mut *tx, round, &results))
            .await
            .map_err(classify_work)
            .map_err(Ended::Inline)?;
        tx.commit().await.map_err(commit_failed)?;
        Ok(results)
    }

    async fn try_round(&self, round: &[&Append]) -> Result<Vec<Result<Appended>>, Ended> {
        let mut lease = self.connections.lease().await?;
        match self.connections.limits().statements(self.commit(&mut lease, round)).await {
            Ok(results) => Ok(lease.end(Ok(results))?),
            Err(Ended::Server(error)) => Ok(lease.end(Err(error))?),
            // A projection may have dropped a query half-way, so the connection is closed, which ends the transaction.
            Err(inline) => Err(inline),
        }
    }

    /// Writes the appends that the versions and the outcomes in `found` and `kept` allow. Before it writes anything, looks for `new_ids` in the
    /// log, which refuses the round's only append without a refused insert.
    async fn write(
        &self,
        tx: &mut MySqlConnection,
        round: &[&Append],
        found: &[Newest],
        kept: Vec<Option<Result<KeyedOutcome>>>,
        claims: &Claims<'_>,
        new_ids: &[Uuid],
    ) -> Result<Vec<Result<Appended>>, sqlx::Error> {
        let mut plan = Plan::new(round, found, kept, |append| claims.refusal(append));
        if plan.events > 0
            && let Some(known) = known(&mut *tx, new_ids).await?
        {
            claims.keep(&mut *tx, |_| false).await?;
            return Ok(vec![Err(ErrorKind::DuplicateEvent(known.into()).into())]);
        }
        claims.keep(&mut *tx, |append| plan.is_written(append)).await?;
        if plan.events == 0 {
            if plan.repeats() {
                // A commit becomes visible before it is on the disk. A repeated append acknowledges such a commit, so it writes a row: its own
                // commit then waits for the disk.
                let number = sqlx::query(INSERT_COMMIT).bind(0).execute(&mut *tx).await?.last_insert_id();
                sqlx::query(DELETE_COMMIT).bind(number).execute(&mut *tx).await?;
            }
            return Ok(plan.outcomes(0));
        }
        // The number is drawn after the versions were read and the server assigns numbers in the order of the requests, so it is larger than
        // the numbers of the commits that wrote these versions.
        let commit = sqlx::query(INSERT_COMMIT).bind(count(plan.events)).execute(&mut *tx).await?.last_insert_id();
        let commit = i64::try_from(commit).unwrap_or(i64::MAX);
        insert_events(tx, commit, &plan.rows(), self.statement_bytes).await?;
        insert_keys(tx, commit, &plan).await?;
        Ok(plan.outcomes(commit))
    }
}

#[async_trait]
impl BatchAppend for Writer {
    async fn append_batch(&self, batch: Vec<Append>) -> Vec<Result<Appended>> {
        let results = rounds::append_batch(self, &batch).await;
        // The number only signals that something is new. It is no position of the log: a commit gets its positions later.
        self.growth.send_modify(|growth| *growth = growth.next());
        results
    }
}

#[async_trait]
impl Rounds for Writer {
    async fn append_round(&self, round: &[&Append]) -> Result<Vec<Result<Appended>>, Ended> {
        let mut retries = self.connections.retries();
        loop {
            match self.try_round(round).await {
                // The statement was not executed, and another session may be able to write.
                Err(Ended::Server(error)) if is_before_work(&error) && retries.may_pass_after(MySql::fault(&error)) => {
                }
                ended => return ended,
            }
        }
    }

    async fn known_id(&self, ids: &[Uuid]) -> Result<Option<Uuid>, sqlx::Error> {
        let mut lease = self.connections.lease().await?;
        let known = self.connections.limits().statements(known_id(&mut lease, ids)).await;
        lease.end(known)
    }

    fn refusal(&self, error: &sqlx::Error) -> Refusal {
        refusal(error)
    }

    fn classify(&self, error: sqlx::Error, attempt: &str) -> Error {
        classify(error, attempt)
    }
}

/// Returns one of `ids` that is already in the log.
async fn known_id(connection: &mut MySqlConnection, ids: &[Uuid]) -> Result<Option<Uuid>, sqlx::Error> {
    for ids in ids.chunks(ROWS) {
        let mut query = QueryBuilder::new(KNOWN_IDS);
        push_list(&mut query, ids.iter().copied(), ROWS);
        let id = query.push(" LIMIT 1").build_query_scalar().fetch_optional(&mut *connection).await?;
        if id.is_some() {
            return Ok(id);
        }
    }
    Ok(None)
}

/// Returns one of the `ids` of an append that is twice in it or already in the log.
async fn known(tx: &mut MySqlConnection, ids: &[Uuid]) -> Result<Option<Uuid>, sqlx::Error> {
    match rounds::twice(ids) {
        Some(twice) => Ok(Some(twice)),
        None => known_id(tx, ids).await,
    }
}

/// Returns whether the events in `found` still exist after the transactions that wrote them have ended.
async fn are_settled(tx: &mut MySqlConnection, found: &[Newest]) -> Result<bool, sqlx::Error> {
    let known: Vec<&Newest> = found.iter().filter(|newest| newest.version > Version::ZERO).collect();
    for chunk in known.chunks(LOOKED_UP) {
        let mut query = QueryBuilder::new("");
        for place in 0..padded(chunk.len(), LOOKED_UP) {
            let newest = chunk.get(place);
            query.push(if place == 0 { "" } else { " UNION ALL " });
            query.push(SETTLED_COMMIT).push_bind(newest.map(|newest| newest.commit));
            query.push(SETTLED_ORDINAL).push_bind(newest.map(|newest| newest.ordinal)).push(SETTLED_END);
        }
        if query.build().fetch_all(&mut *tx).await?.len() < chunk.len() {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Returns the newest event of each part's stream, in the order of `parts`.
async fn versions(tx: &mut MySqlConnection, parts: &[&StreamAppend]) -> Result<Vec<Newest>, sqlx::Error> {
    let mut found = vec![Newest::default(); parts.len()];
    for (chunk, first) in parts.chunks(LOOKED_UP).zip((0..).step_by(LOOKED_UP)) {
        let mut query = QueryBuilder::new("");
        for place in 0..padded(chunk.len(), LOOKED_UP) {
            // A padding entry binds NULL and finds no stream.
            let stream = chunk.get(place).map(|part| &part.stream);
            query.push(if place == 0 { "" } else { " UNION ALL " });
            query.push(VERSION_PLACE).push_bind(count(place));
            query.push(VERSION_TYPE).push_bind(stream.map(|stream| stream.aggregate_type().as_str().as_bytes()));
            query.push(VERSION_ID).push_bind(stream.map(|stream| stream.aggregate_id().as_str().as_bytes()));
            query.push(VERSION_NEWEST);
        }
        for (place, version, commit, ordinal, event) in query.build_query_as().fetch_all(&mut *tx).await? {
            let (place, version, event): (i64, i64, Uuid) = (place, version, event);
            if let Some(found) = usize::try_from(place).ok().and_then(|place| found.get_mut(first + place)) {
                let version = Version::new(version.unsigned_abs());
                *found = Newest { version, commit, ordinal, event: Some(event.into()) };
            }
        }
    }
    Ok(found)
}

/// Returns the outcome under the key of each append of the round, or `None` for an append without a key or with an unused key.
async fn kept(
    tx: &mut MySqlConnection,
    round: &[&Append],
    end: &str,
) -> Result<Vec<Option<Result<KeyedOutcome>>>, sqlx::Error> {
    let mut kept: Vec<Option<Result<KeyedOutcome>>> = vec![None; round.len()];
    let keyed: Vec<_> =
        round.iter().zip(0..).filter_map(|(append, place)| Some((append.key()?.as_str(), place))).collect();
    for chunk in keyed.chunks(LOOKED_UP) {
        let mut query = QueryBuilder::new(KEPT);
        push_list(&mut query, chunk.iter().map(|(key, _)| key.as_bytes()), LOOKED_UP);
        query.push(end);
        for row in query.build().fetch_all(&mut *tx).await? {
            let key: &[u8] = row.try_get("idempotency_key")?;
            if let Some(&(_, place)) = chunk.iter().find(|(asked, _)| asked.as_bytes() == key) {
                let place: usize = place;
                kept[place] = Some(kept_outcome(&row));
            }
        }
    }
    Ok(kept)
}

fn kept_outcome(row: &MySqlRow) -> Result<KeyedOutcome> {
    let failed = |error| classify(error, "read an outcome");
    let json = text(row.try_get("streams").map_err(failed)?).map_err(failed)?;
    let kept: Vec<(String, String, i64, i64)> = serde_json::from_str(json).map_err(|error| {
        Error::with_source(ErrorKind::Corrupt("cannot decode the outcome of an idempotency key".into()), error)
    })?;
    let streams = kept.iter().map(|(kind, id, ..)| StreamId::parse(kind, id)).collect::<Result<_, _>>()?;
    let version = |number: i64| from_sql(number, "version").map(Version::new);
    let before = kept.iter().map(|(_, _, before, _)| version(*before)).collect::<Result<_>>()?;
    let versions = kept.iter().map(|(.., after)| version(*after)).collect::<Result<_>>()?;
    let fingerprint = fingerprint_from(row.try_get("fingerprint").map_err(failed)?)?;
    let commit = commit_id(row.try_get("commit_id").map_err(failed)?, row.try_get("last_ordinal").map_err(failed)?);
    let last_event: Option<Uuid> = row.try_get("last_event").map_err(failed)?;
    let missing = || Error::new(ErrorKind::Corrupt("the events of an idempotency key are missing".into()));
    let last_event = last_event.ok_or_else(missing)?.into();
    let appended = Appended { commit, last_event, versions, outcome: Outcome::Repeated };
    Ok(KeyedOutcome::new(streams, before, fingerprint, appended))
}

/// The lookup of a stream's version is these four parts with the binds between them. UNION ALL joins the streams.
const VERSION_PLACE: &str = "(SELECT CAST(";
const VERSION_TYPE: &str =
    " AS SIGNED) AS place, version, commit_id, ordinal, event_id FROM retell_events WHERE aggregate_type = ";
const VERSION_ID: &str = " AND aggregate_id = ";
const VERSION_NEWEST: &str = " ORDER BY version DESC LIMIT 1)";

const KEPT: &str = "
    SELECT idempotency_key, commit_id, last_ordinal, fingerprint, streams, (
        SELECT event_id FROM retell_events e WHERE e.commit_id = k.commit_id AND e.ordinal = k.last_ordinal
    ) AS last_event
    FROM retell_keys k WHERE idempotency_key IN ";

/// The end of the lookup, after the list of keys.
const KEPT_END: &str = "";
const KEPT_END_LOCKED: &str = " LOCK IN SHARE MODE";

/// Looks up a stream's newest event by the primary key: with another index, the server would also lock the gap before the row. UNION ALL joins
/// the streams.
const SETTLED_COMMIT: &str = "(SELECT ordinal FROM retell_events WHERE commit_id = ";
const SETTLED_ORDINAL: &str = " AND ordinal = ";
const SETTLED_END: &str = " LOCK IN SHARE MODE)";

const ROLLED_BACK: &str = "append: this rolled back the whole transaction; roll back and begin again";

/// Outside a transaction the second statement fails, because the savepoint ends with the first one.
const SAVEPOINT: &str = "SAVEPOINT retell_append; ROLLBACK TO SAVEPOINT retell_append";

const RELEASE: &str = "RELEASE SAVEPOINT retell_append";

const ROLL_BACK: &str = "ROLLBACK TO SAVEPOINT retell_append; RELEASE SAVEPOINT retell_append";

const OUTCOME: &str = "
    SELECT commit_id, last_ordinal, fingerprint, streams, (
        SELECT event_id FROM retell_events e WHERE e.commit_id = k.commit_id AND e.ordinal = k.last_ordinal
    ) AS last_event
    FROM retell_keys k WHERE idempotency_key = ?";

/// Draws the commit's number. The server's counter assigns numbers in order and holds no lock until the transaction's end.
const INSERT_COMMIT: &str = "INSERT INTO retell_commits (events) VALUES (?)";

const DELETE_COMMIT: &str = "DELETE FROM retell_commits WHERE commit_id = ?";

const KNOWN_IDS: &str = "SELECT event_id FROM retell_events WHERE event_id IN ";
