//! Commits appends: one transaction for all that wait.

use std::sync::Arc;

use async_trait::async_trait;
use sqlx::mysql::MySqlRow;
use sqlx::{MySqlConnection, QueryBuilder, Row, raw_sql};
use tokio::sync::watch;
use uuid::Uuid;

use crate::error::{Error, ErrorKind, Result};
use crate::id::{ClaimScope, ClaimValue, IdempotencyKey, Position, StreamId, Version};
use crate::store::log::append::{Append, Appended, KeptOutcome, Outcome, StreamAppend};
use crate::store::log::group_commit::BatchAppend;
use crate::store::log::inline::{Inline, Inlines};
use crate::store::mysql::connection::{Connections, begin};
use crate::store::mysql::convert::text;
use crate::store::mysql::error::{classify, classify_work, is_no_savepoint, refusal};
use crate::store::mysql::log::claims::{self, Claims};
use crate::store::mysql::log::insert::{insert_events, insert_keys};
use crate::store::mysql::log::plan::{Newest, Plan};
use crate::store::mysql::log::statement::{LOOKED_UP, ROWS, padded, push_list};
use crate::store::server::convert::{commit_id, count, from_sql};
use crate::store::server::rounds::{Ended, Refusal, Rounds};
use crate::store::server::{inline, rounds};

/// Bytes one statement brings, unless a single row has more: or half of the largest packet the server takes, if that is less.
const STATEMENT_BYTES: usize = 4 * 1024 * 1024;

/// How often an append in a caller's transaction looks again because what it saw was taken back.
const SETTLING_LOOKS: usize = 20;

/// The driver's side of group commit.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    pub(crate) connections: Connections,
    statement_bytes: usize,
    pub(crate) grown: watch::Sender<Position>,
    /// What runs within each transaction.
    pub(crate) inline: Inlines<MySqlConnection>,
}

impl Writer {
    /// `packet`: the largest that the server takes, in bytes.
    pub(crate) fn new(connections: Connections, packet: usize) -> Self {
        let grown = watch::Sender::new(Position::ZERO);
        Self { connections, statement_bytes: STATEMENT_BYTES.min(packet / 2), grown, inline: Inlines::none() }
    }

    /// One more that runs within each transaction.
    pub(crate) fn with_inline(&self, inline: Arc<dyn Inline<MySqlConnection>>) -> Self {
        Self { inline: self.inline.and(inline), ..self.clone() }
    }

    /// What the append under `key` did.
    pub(crate) async fn find_by_key(&self, key: &IdempotencyKey) -> Result<Option<KeptOutcome>> {
        let failed = |error| classify(error, "look up an idempotency key");
        let mut lease = self.connections.lease().await.map_err(failed)?;
        let row = sqlx::query(OUTCOME).bind(key.as_str().as_bytes()).fetch_optional(&mut *lease).await;
        lease.end(row).map_err(failed)?.map(|row| kept_outcome(&row)).transpose()
    }

    pub(crate) fn watch_head(&self) -> watch::Receiver<Position> {
        self.grown.subscribe()
    }

    /// Closes the connections, once no append needs them any more.
    pub(crate) async fn close(&self) {
        self.connections.close().await;
    }

    /// The stream that holds a value.
    pub(crate) async fn holder(&self, scope: &ClaimScope, value: &ClaimValue) -> Result<Option<StreamId>> {
        let failed = |error| classify(error, "look up a unique value");
        let mut lease = self.connections.lease().await.map_err(failed)?;
        let (scope, value) = claims::key(scope, value);
        let row = sqlx::query(claims::HOLDER).bind(scope).bind(value).fetch_optional(&mut *lease).await;
        let row = lease.end(row).map_err(failed)?;
        row.map_or(Ok(None), |row| claims::holder(&row).map_err(failed))
    }

    /// Appends inside a transaction of the caller's. A failure is undone to a savepoint, so that the transaction stays usable.
    pub(crate) async fn append_in(&self, tx: &mut MySqlConnection, append: &Append) -> Result<Appended> {
        let failed = |error| classify(error, "append");
        let mut error = match self.try_in(tx, append).await? {
            Ok(result) => return result,
            Err(error) => error,
        };
        if refusal(&error) == Refusal::Taken {
            // In read committed a second look sees who was faster. In the levels above, the snapshot stays as it was.
            error = match self.try_in(tx, append).await? {
                Ok(result) => return result,
                Err(error) => error,
            };
        }
        if refusal(&error) != Refusal::Taken {
            return Err(failed(error));
        }
        let ids = rounds::event_ids(append);
        let known = match rounds::twice(&ids) {
            Some(twice) => Some(twice),
            None => known_id(tx, &ids).await.map_err(failed)?,
        };
        Err(match known {
            Some(id) => Error::with_source(ErrorKind::DuplicateEvent(id.into()), error),
            None => rounds::lost_race(append, error),
        })
    }

    /// One attempt, inside a savepoint. The inner error is what was undone.
    async fn try_in(&self, tx: &mut MySqlConnection, append: &Append) -> Result<Result<Result<Appended>, sqlx::Error>> {
        let failed = |error| classify(error, "append");
        // Plain statements: the caller may have begun its transaction in any way, also past sqlx's counting.
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
                let kind = ErrorKind::Transient("append: the server has rolled the whole transaction back".into());
                Err(Error::with_source(kind, error))
            }
            Err(_) => Err(failed(error)),
        }
    }

    /// Writes on top of what is committed, or of the transaction itself: the caller's may be one that reads what others take back.
    ///
    /// What was found is read once more under a lock that waits for its end. These rows are named by their tables' keys, and are there
    /// for good once they are committed: so it is they alone that are locked, no gap beside them, and for reading.
    async fn write_settled(&self, tx: &mut MySqlConnection, append: &Append) -> Result<Result<Appended>, sqlx::Error> {
        let claims = Claims::lock(&mut *tx, &[append]).await?;
        let parts: Vec<&StreamAppend> = append.streams().iter().collect();
        for _ in 0..SETTLING_LOOKS {
            let found = versions(&mut *tx, &parts).await?;
            let mut outcomes = kept(&mut *tx, &[append], KEPT_END).await?;
            if outcomes[0].is_some() {
                outcomes = kept(&mut *tx, &[append], KEPT_END_LOCKED).await?;
            } else if !are_settled(&mut *tx, &found).await? {
                continue;
            }
            let mut results = self.write(tx, &[append], &found, outcomes, &claims).await?;
            return Ok(results.pop().unwrap_or_else(|| Err(rounds::lost())));
        }
        Ok(Err(rounds::lost()))
    }

    /// Reads before it writes: so none of its locks is held while it looks, but those of the values it claims.
    async fn commit(
        &self,
        connection: &mut MySqlConnection,
        round: &[&Append],
    ) -> Result<Vec<Result<Appended>>, Ended> {
        let mut tx = begin(connection).await?;
        let claims = Claims::lock(&mut tx, round).await?;
        let parts: Vec<&StreamAppend> = round.iter().flat_map(|append| append.streams()).collect();
        let found = versions(&mut tx, &parts).await?;
        // After the versions: whoever sees that another append under the same key has moved the stream sees the key as well.
        let kept = kept(&mut tx, round, KEPT_END).await?;
        let results = self.write(&mut tx, round, &found, kept, &claims).await?;
        inline::apply_inline(&self.inline, &mut *tx, round, &results)
            .await
            .map_err(classify_work)
            .map_err(Ended::Inline)?;
        tx.commit().await?;
        Ok(results)
    }

    /// Writes what goes with the versions and the outcomes found.
    async fn write(
        &self,
        tx: &mut MySqlConnection,
        round: &[&Append],
        found: &[Newest],
        kept: Vec<Option<Result<KeptOutcome>>>,
        claims: &Claims<'_>,
    ) -> Result<Vec<Result<Appended>>, sqlx::Error> {
        let mut plan = Plan::of(round, found, kept, |append| claims.refusal(append));
        claims.keep(&mut *tx, |append| plan.is_written(append)).await?;
        if plan.events == 0 {
            if plan.repeats() {
                // A commit can be seen before it is on the disk, and this one acknowledges what it saw: so it writes something, and waits.
                let number = sqlx::query(INSERT_COMMIT).bind(0).execute(&mut *tx).await?.last_insert_id();
                sqlx::query(DELETE_COMMIT).bind(number).execute(&mut *tx).await?;
            }
            return Ok(plan.outcomes(0));
        }
        // Drawn after the versions were read, and given out in the order of asking, so never smaller than what they were written under.
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
        // The number only says that something is new; positions come later.
        self.grown.send_modify(|grown| *grown = grown.next());
        results
    }
}

#[async_trait]
impl Rounds for Writer {
    async fn append_round(&self, round: &[&Append]) -> Result<Vec<Result<Appended>>, Ended> {
        let mut lease = self.connections.lease().await?;
        match self.commit(&mut lease, round).await {
            Ok(results) => Ok(lease.end(Ok(results))?),
            Err(Ended::Server(error)) => Ok(lease.end(Err(error))?),
            // A projection may have left a query half-way: the connection is closed, and with it ends the transaction.
            Err(inline) => Err(inline),
        }
    }

    async fn known_id(&self, ids: &[Uuid]) -> Result<Option<Uuid>, sqlx::Error> {
        let mut lease = self.connections.lease().await?;
        let known = known_id(&mut lease, ids).await;
        lease.end(known)
    }

    fn refusal(&self, error: &sqlx::Error) -> Refusal {
        refusal(error)
    }

    fn classify(&self, error: sqlx::Error, attempt: &str) -> Error {
        classify(error, attempt)
    }
}

/// One of these ids that is in the log already.
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

/// Whether the events found are still there, once those who wrote them have ended.
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

/// The versions the streams are at, in order.
async fn versions(tx: &mut MySqlConnection, parts: &[&StreamAppend]) -> Result<Vec<Newest>, sqlx::Error> {
    let mut found = vec![Newest::default(); parts.len()];
    for (chunk, first) in parts.chunks(LOOKED_UP).zip((0..).step_by(LOOKED_UP)) {
        let mut query = QueryBuilder::new("");
        for place in 0..padded(chunk.len(), LOOKED_UP) {
            // What fills up the statement names no stream, and finds none.
            let stream = chunk.get(place).map(|part| &part.stream);
            query.push(if place == 0 { "" } else { " UNION ALL " });
            query.push(VERSION_PLACE).push_bind(count(place));
            query.push(VERSION_TYPE).push_bind(stream.map(|stream| stream.aggregate_type().as_str().as_bytes()));
            query.push(VERSION_ID).push_bind(stream.map(|stream| stream.aggregate_id().as_str().as_bytes()));
            query.push(VERSION_NEWEST);
        }
        for (place, version, commit, ordinal) in query.build_query_as().fetch_all(&mut *tx).await? {
            let (place, version): (i64, i64) = (place, version);
            if let Some(found) = usize::try_from(place).ok().and_then(|place| found.get_mut(first + place)) {
                *found = Newest { version: Version::new(version.unsigned_abs()), commit, ordinal };
            }
        }
    }
    Ok(found)
}

/// For each append the outcome that its key stands for, if it has one that was used.
async fn kept(
    tx: &mut MySqlConnection,
    round: &[&Append],
    end: &str,
) -> Result<Vec<Option<Result<KeptOutcome>>>, sqlx::Error> {
    let mut kept: Vec<Option<Result<KeptOutcome>>> = vec![None; round.len()];
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

fn kept_outcome(row: &MySqlRow) -> Result<KeptOutcome> {
    let failed = |error| classify(error, "read an outcome");
    let json = text(row.try_get("streams").map_err(failed)?).map_err(failed)?;
    let kept: Vec<(String, String, i64)> = serde_json::from_str(json)
        .map_err(|error| Error::with_source(ErrorKind::Corrupt("the outcome of an idempotency key".into()), error))?;
    let streams = kept.iter().map(|(kind, id, _)| StreamId::parse(kind, id)).collect::<Result<_, _>>()?;
    let versions =
        kept.iter().map(|(_, _, version)| from_sql(*version, "version").map(Version::new)).collect::<Result<_>>()?;
    let commit = commit_id(row.try_get("commit_id").map_err(failed)?, row.try_get("last_ordinal").map_err(failed)?);
    Ok(KeptOutcome { streams, appended: Appended { commit, versions, outcome: Outcome::Repeated } })
}

/// One stream's version is looked up by these four and what is bound between them; UNION ALL joins the streams.
const VERSION_PLACE: &str = "(SELECT CAST(";
const VERSION_TYPE: &str =
    " AS SIGNED) AS place, version, commit_id, ordinal FROM retell_events WHERE aggregate_type = ";
const VERSION_ID: &str = " AND aggregate_id = ";
const VERSION_NEWEST: &str = " ORDER BY version DESC LIMIT 1)";

const KEPT: &str =
    "SELECT idempotency_key, commit_id, last_ordinal, streams FROM retell_keys WHERE idempotency_key IN ";

/// Behind the keys.
const KEPT_END: &str = "";
const KEPT_END_LOCKED: &str = " LOCK IN SHARE MODE";

/// A stream's newest event is looked up by the table's own key: by another, the server would lock the gap before it as well. UNION ALL
/// joins the streams.
const SETTLED_COMMIT: &str = "(SELECT ordinal FROM retell_events WHERE commit_id = ";
const SETTLED_ORDINAL: &str = " AND ordinal = ";
const SETTLED_END: &str = " LOCK IN SHARE MODE)";

/// The second half fails where no transaction is open: there a savepoint ends with its own statement.
const SAVEPOINT: &str = "SAVEPOINT retell_append; ROLLBACK TO SAVEPOINT retell_append";

const RELEASE: &str = "RELEASE SAVEPOINT retell_append";

const ROLL_BACK: &str = "ROLLBACK TO SAVEPOINT retell_append; RELEASE SAVEPOINT retell_append";

const OUTCOME: &str = "SELECT commit_id, last_ordinal, streams FROM retell_keys WHERE idempotency_key = ?";

/// Draws the commit's number. The server's counter gives them out one after the other, and holds no lock to the transaction's end.
const INSERT_COMMIT: &str = "INSERT INTO retell_commits (events) VALUES (?)";

const DELETE_COMMIT: &str = "DELETE FROM retell_commits WHERE commit_id = ?";

const KNOWN_IDS: &str = "SELECT event_id FROM retell_events WHERE event_id IN ";
