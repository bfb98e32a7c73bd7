//! Commits appends. An append is also the sequencer of this driver: one writer at a time assigns the positions.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use chrono::{DateTime, SubsecRound, Utc};
use rusqlite::{CachedStatement, Connection, OptionalExtension, Row, ffi};
use tokio::runtime::Handle;
use tokio::sync::watch;
use uuid::Uuid;

use crate::error::{Error, ErrorKind, Result};
use crate::event::{NewEvent, RecordedEvent};
use crate::id::{CommitId, EventId, IdempotencyKey, Position, StreamId, Version};
use crate::store::log::append::{Append, Appended, KeyedOutcome, Outcome, StreamAppend};
use crate::store::log::clock::recorded_time;
use crate::store::log::fingerprint::Fingerprint;
use crate::store::log::group_commit::BatchAppend;
use crate::store::log::history::stream_changed;
use crate::store::log::inline::Inlines;
use crate::store::sqlite::connection::Pool;
use crate::store::sqlite::convert::{from_sql, to_sql};
use crate::store::sqlite::error::{Failure, corrupt};
use crate::store::sqlite::log::{apply, claims};
use crate::store::sqlite::transaction::OpenTransaction;

/// The driver's side of group commit.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) pool: Arc<Pool>,
    /// The newest position that this process knows.
    pub(crate) head: watch::Sender<Position>,
    /// The projections that run within each commit.
    pub(crate) inline: Inlines<Connection>,
}

impl Writer {
    /// Appends and runs the caller's work in one transaction. It bypasses group commit, because the work may take long.
    pub(crate) async fn append_with<T: Send + 'static, E: From<Error> + Send + 'static>(
        self: &Arc<Self>,
        append: Append,
        work: impl FnOnce(&Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<(Appended, Option<T>), E> {
        let (writer, runtime) = (self.clone(), Handle::current());
        self.pool
            .run("append", move |db| {
                let written = commit_with(db, &append, work, (&writer.inline, &runtime))?;
                // Signaled here, because the caller's task may already be dropped.
                Ok(written.map(|(result, head)| {
                    writer.advance_head(head);
                    result
                }))
            })
            .await?
    }

    /// Raises the known head. Commits end one after another, but their results may arrive in any order.
    pub(crate) fn advance_head(&self, head: Position) {
        self.head.send_if_modified(|known| {
            let grown = head > *known;
            *known = head.max(*known);
            grown
        });
    }
}

#[async_trait]
impl BatchAppend for Writer {
    async fn append_batch(&self, batch: Vec<Append>) -> Vec<Result<Appended>> {
        let (size, inline, runtime) = (batch.len(), self.inline.clone(), Handle::current());
        let calls_handlers = !inline.is_empty();
        let work = move |db: &mut Connection| Ok(commit(db, &batch, (&inline, &runtime)));
        let committed = if calls_handlers {
            self.pool.run_handler("append", work).await
        } else {
            self.pool.run("append", work).await
        };
        match committed {
            Ok((results, head)) => {
                self.advance_head(head);
                results
            }
            Err(error) => vec![Err(error); size],
        }
    }
}

/// The inline projections of a commit, and the runtime that runs them.
type InlineContext<'i> = (&'i Inlines<Connection>, &'i Handle);

/// Commits all valid appends of a batch together and returns their results and the new head. If one of them may be at fault for a failure,
/// halves the batch until it finds that append.
fn commit(db: &mut Connection, batch: &[Append], context: InlineContext<'_>) -> (Vec<Result<Appended>>, Position) {
    let failure = match commit_all(db, batch, context) {
        Ok(done) => return done,
        Err(failure) => failure,
    };
    if batch.len() == 1 || !failure.may_be_of_one_append() {
        return (vec![Err(failure.to("append")); batch.len()], Position::ZERO);
    }
    let (first, second) = batch.split_at(batch.len() / 2);
    let (mut results, head) = commit(db, first, context);
    let (more, new_head) = commit(db, second, context);
    results.extend(more);
    (results, head.max(new_head))
}

/// Commits all valid appends of a batch in one transaction. If only the insert finds an append at fault (a duplicate event id), starts again
/// without that append: this is rare, so the common case does not pay for a check in advance.
fn commit_all(
    db: &mut Connection,
    batch: &[Append],
    (inline, runtime): InlineContext<'_>,
) -> Result<(Vec<Result<Appended>>, Position), Failure> {
    let mut refused: Vec<Option<Error>> = vec![None; batch.len()];
    'attempt: loop {
        // The transaction has the write lock, so the versions read below stay the same until the commit.
        let open = OpenTransaction::begin(db)?;
        let mut results = Vec::with_capacity(batch.len());
        let (before, written, head) = {
            let mut commit = Commit::begin(open.db, inline)?;
            let before = commit.head;
            for (append, refused) in batch.iter().zip(&mut refused) {
                results.push(match (refused.clone(), commit.check(append)?) {
                    (Some(error), _) | (None, Check::Refused(error)) => Err(error),
                    (None, Check::Repeated(first)) => Ok(first),
                    (None, Check::Free(versions)) => match commit.write(append, versions)? {
                        Ok(appended) => Ok(appended),
                        Err(error) => {
                            *refused = Some(error);
                            continue 'attempt;
                        }
                    },
                });
            }
            (before, commit.written, commit.head)
        };
        apply::apply(open.db, runtime, inline, before, &written)?;
        open.commit()?;
        return Ok((results, head));
    }
}

/// The results of an append and the caller's work, and the new head.
type WrittenWith<T> = ((Appended, Option<T>), Position);

/// Commits an append and the caller's work. The outer error is this library's, the inner one the caller's. After either, or in a panic, dropping the
/// transaction rolls it back.
fn commit_with<T, E: From<Error>>(
    db: &mut Connection,
    append: &Append,
    work: impl FnOnce(&Connection) -> Result<T, E>,
    (inline, runtime): InlineContext<'_>,
) -> Result<Result<WrittenWith<T>, E>, Failure> {
    let open = OpenTransaction::begin(db)?;
    let (appended, before, written, head) = {
        let mut commit = Commit::begin(open.db, inline)?;
        let before = commit.head;
        let appended = match commit.check(append)? {
            Check::Refused(error) => return Err(error.into()),
            // The caller's rows were written with the events of the first append.
            Check::Repeated(first) => return Ok(Ok(((first, None), commit.head))),
            Check::Free(versions) => commit.write(append, versions)??,
        };
        (appended, before, commit.written, commit.head)
    };
    let guard = TransactionGuard::over(open.db)?;
    let result = work(open.db);
    if guard.was_ended() {
        let ended = "the work of `append_with` ended the transaction";
        return Ok(result.and_then(|_| Err(Error::new(ErrorKind::Invalid(ended.into())).into())));
    }
    drop(guard);
    match result {
        Ok(value) => {
            apply::apply(open.db, runtime, inline, before, &written)?;
            open.commit()?;
            Ok(Ok(((appended, Some(value)), head)))
        }
        Err(error) => Ok(Err(error)),
    }
}

/// Prevents every commit and detects a rollback while it exists. SQLite itself also rolls back, for example if the disk is full or a statement
/// says `OR ROLLBACK`; later statements would then commit at once.
struct TransactionGuard<'tx> {
    tx: &'tx Connection,
    rolled_back: Arc<AtomicBool>,
}

impl<'tx> TransactionGuard<'tx> {
    fn over(tx: &'tx Connection) -> Result<Self, Failure> {
        let guard = Self { tx, rolled_back: Arc::default() };
        let rolled_back = guard.rolled_back.clone();
        tx.rollback_hook(Some(move || rolled_back.store(true, Ordering::Relaxed)))?;
        // A commit hook that returns `true` turns the commit into a rollback.
        tx.commit_hook(Some(|| true))?;
        Ok(guard)
    }

    fn was_ended(&self) -> bool {
        self.rolled_back.load(Ordering::Relaxed) || self.tx.is_autocommit()
    }
}

impl Drop for TransactionGuard<'_> {
    fn drop(&mut self) {
        // Both calls fail only on a connection that rusqlite does not own.
        drop(self.tx.commit_hook(None::<fn() -> bool>));
        drop(self.tx.rollback_hook(None::<fn()>));
    }
}

/// The statements of one commit, and its place in the log.
struct Commit<'tx> {
    tx: &'tx Connection,
    version: CachedStatement<'tx>,
    newest: CachedStatement<'tx>,
    insert: CachedStatement<'tx>,
    outcome: CachedStatement<'tx>,
    keep_outcome: CachedStatement<'tx>,
    head: Position,
    /// The number of events written so far.
    events: u32,
    recorded_at: i64,
    /// Whether the clock has gone back by more than recorded times hide. The first event then marks its position.
    steps_back: bool,
    /// The written events, if inline projections need them.
    written: Vec<RecordedEvent>,
    keeps_written: bool,
}

/// The result of checking an append before it is written.
enum Check {
    /// The append may be written. The field holds the current versions of its streams.
    Free(Vec<Version>),
    Repeated(Appended),
    Refused(Error),
}

impl<'tx> Commit<'tx> {
    fn begin(tx: &'tx Connection, inline: &Inlines<Connection>) -> Result<Self, Failure> {
        let last = tx.prepare_cached(LAST)?.query_row([], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
        let (head, last_time): (i64, Option<i64>) = last.unwrap_or((0, None));
        let last_time = last_time.and_then(DateTime::from_timestamp_micros);
        let recorded_at = recorded_time(Utc::now().trunc_subsecs(6), last_time);
        Ok(Self {
            tx,
            version: tx.prepare_cached(VERSION)?,
            newest: tx.prepare_cached(NEWEST)?,
            insert: tx.prepare_cached(INSERT_EVENT)?,
            outcome: tx.prepare_cached(OUTCOME)?,
            keep_outcome: tx.prepare_cached(INSERT_KEY)?,
            head: Position::new(from_sql(head, "position")?),
            events: 0,
            recorded_at: recorded_at.timestamp_micros(),
            steps_back: last_time.is_some_and(|last| recorded_at < last),
            written: Vec::new(),
            keeps_written: !inline.is_empty(),
        })
    }

    fn check(&mut self, append: &Append) -> Result<Check, Failure> {
        if let Some(key) = append.key()
            && let Some(kept) = read_outcome(&mut self.outcome, key)?
        {
            return Ok(match kept.repeat(append) {
                Ok(first) => Check::Repeated(first),
                Err(error) => Check::Refused(error),
            });
        }
        let mut versions = Vec::with_capacity(append.streams().len());
        for part in append.streams() {
            let (actual, last_event) = self.newest_of(part)?;
            if !part.expected.allows(actual) {
                let (stream, expected) = (part.stream.clone(), part.expected);
                return Ok(Check::Refused(ErrorKind::Conflict { stream, expected, actual }.into()));
            }
            if let Some(remembered) = part.last_event
                && last_event != Some(remembered)
            {
                return Ok(Check::Refused(stream_changed(&part.stream, actual, remembered, last_event)));
            }
            versions.push(actual);
        }
        Ok(claims::refusal(self.tx, append)?.map_or(Check::Free(versions), Check::Refused))
    }

    /// Returns the version of a part's stream, and the id of the event there if the part requires one.
    fn newest_of(&mut self, part: &StreamAppend) -> Result<(Version, Option<EventId>), Failure> {
        let names = (part.stream.aggregate_type().as_str(), part.stream.aggregate_id().as_str());
        let (version, id): (i64, Option<Uuid>) = if part.last_event.is_none() {
            // The index has every column that this statement reads.
            let version = self.version.query_row(names, |row| row.get(0)).optional()?;
            (version.unwrap_or(0), None)
        } else {
            let newest = |row: &Row<'_>| Ok((row.get(0)?, Some(Uuid::from_bytes(row.get(1)?))));
            self.newest.query_row(names, newest).optional()?.unwrap_or((0, None))
        };
        Ok((Version::new(from_sql(version, "version")?), id.map(EventId::from)))
    }

    /// Writes an append. The inner error means that the append itself is at fault.
    fn write(&mut self, append: &Append, mut versions: Vec<Version>) -> Result<Result<Appended>, Failure> {
        for (part, version) in append.streams().iter().zip(&mut versions) {
            for event in &part.events {
                *version = version.next();
                if let Err(error) = self.insert(&part.stream, *version, event)? {
                    return Ok(Err(error));
                }
            }
        }
        let Some(last_event) = append.last_new_event() else {
            return Ok(Err(ErrorKind::Invalid("the append has no events".into()).into()));
        };
        claims::keep(self.tx, append)?;
        let commit = CommitId::new(self.head.get());
        if let Some(key) = append.key() {
            let streams: Vec<_> = append
                .streams()
                .iter()
                .zip(&versions)
                .map(|(part, version)| {
                    let (kind, id) = (part.stream.aggregate_type().as_str(), part.stream.aggregate_id().as_str());
                    (kind, id, version.get() - part.events.len() as u64, version.get())
                })
                .collect();
            let streams = serde_json::to_string(&streams).map_err(|error| {
                Error::with_source(ErrorKind::Unencodable("the outcome of an idempotency key".into()), error)
            })?;
            let fingerprint = append.fingerprint();
            self.keep_outcome.execute((key.as_str(), to_sql(commit.get()), fingerprint.as_bytes(), streams))?;
        }
        Ok(Ok(Appended { commit, last_event, versions, outcome: Outcome::Written }))
    }

    fn insert(&mut self, stream: &StreamId, version: Version, event: &NewEvent) -> Result<Result<()>, Failure> {
        let metadata = match event.metadata.to_json() {
            Ok(metadata) => metadata,
            Err(error) => {
                let what = format!("metadata of {} for {stream}", event.event_type);
                return Ok(Err(Error::with_source(ErrorKind::Unencodable(what), error)));
            }
        };
        let position = self.head.next();
        let inserted = self.insert.execute((
            to_sql(position.get()),
            event.id.as_uuid().as_bytes(),
            stream.aggregate_type().as_str(),
            stream.aggregate_id().as_str(),
            to_sql(version.get()),
            event.event_type.as_str(),
            event.schema_version,
            event.codec.number(),
            self.recorded_at,
            event.metadata.correlation_id.as_ref().map(|id| id.as_uuid().as_bytes()),
            event.metadata.causation_id.as_ref().map(|id| id.as_uuid().as_bytes()),
            metadata,
            &event.payload[..],
            self.events + 1,
        ));
        match inserted {
            Ok(_) => {
                self.head = position;
                self.events += 1;
                if std::mem::take(&mut self.steps_back) {
                    self.tx.prepare_cached(INSERT_CLOCK_STEP)?.execute([to_sql(position.get())])?;
                }
                if self.keeps_written {
                    let (stream, event) = (stream.clone(), event.clone());
                    let recorded_at = DateTime::from_timestamp_micros(self.recorded_at).unwrap_or_default();
                    self.written.push(RecordedEvent { position, stream, version, recorded_at, event });
                }
                Ok(Ok(()))
            }
            // Position and version were read under the write lock, so only the event id can be a duplicate.
            Err(error) if is_unique_violation(&error) => {
                Ok(Err(Error::with_source(ErrorKind::DuplicateEvent(event.id), error)))
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn is_unique_violation(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error().map(|error| error.extended_code);
    matches!(code, Some(ffi::SQLITE_CONSTRAINT_UNIQUE | ffi::SQLITE_CONSTRAINT_PRIMARYKEY))
}

/// Returns the outcome of the append under `key`.
pub(crate) fn find_by_key(db: &Connection, key: &IdempotencyKey) -> Result<Option<KeyedOutcome>, Failure> {
    read_outcome(&mut db.prepare_cached(OUTCOME)?, key)
}

/// The commit, the fingerprint, the streams as JSON, and the last event.
type OutcomeRow = (i64, [u8; Fingerprint::BYTES], String, Option<[u8; 16]>);

fn read_outcome(statement: &mut CachedStatement<'_>, key: &IdempotencyKey) -> Result<Option<KeyedOutcome>, Failure> {
    let columns = |row: &Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?));
    let row: Option<OutcomeRow> = statement.query_row([key.as_str()], columns).optional()?;
    let Some((commit, fingerprint, json, last_event)) = row else { return Ok(None) };
    let last_event = last_event.ok_or_else(|| corrupt(format!("the events of idempotency key {key} are missing")))?;
    let last_event = EventId::from(Uuid::from_bytes(last_event));
    let parts: Vec<(String, String, u64, u64)> = serde_json::from_str(&json)
        .map_err(|error| corrupt(format!("cannot decode the outcome of idempotency key {key}: {error}")))?;
    let before = parts.iter().map(|(_, _, before, _)| Version::new(*before)).collect();
    let versions = parts.iter().map(|(_, _, _, version)| Version::new(*version)).collect();
    let streams = parts.iter().map(|(kind, id, ..)| StreamId::parse(kind, id)).collect::<Result<_, _>>();
    let commit = CommitId::new(from_sql(commit, "commit")?);
    let appended = Appended { commit, last_event, versions, outcome: Outcome::Repeated };
    let streams = streams.map_err(Error::from)?;
    Ok(Some(KeyedOutcome::new(streams, before, Fingerprint::from_bytes(fingerprint), appended)))
}

const LAST: &str = "SELECT position, recorded_at FROM retell_events ORDER BY position DESC LIMIT 1";

const VERSION: &str = "
    SELECT version FROM retell_events WHERE aggregate_type = ?1 AND aggregate_id = ?2
    ORDER BY version DESC LIMIT 1";

const NEWEST: &str = "
    SELECT version, event_id FROM retell_events WHERE aggregate_type = ?1 AND aggregate_id = ?2
    ORDER BY version DESC LIMIT 1";

pub(crate) const INSERT_EVENT: &str = "
    INSERT INTO retell_events
        (position, event_id, aggregate_type, aggregate_id, version, event_type, schema_version, codec, recorded_at,
         correlation_id, causation_id, metadata, payload, ordinal)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14)";

pub(crate) const INSERT_CLOCK_STEP: &str = "INSERT INTO retell_clock_steps (position) VALUES (?1)";

/// The number of a commit is the position of its last event.
const OUTCOME: &str = "
    SELECT commit_id, fingerprint, streams, (SELECT event_id FROM retell_events WHERE position = commit_id)
    FROM retell_keys WHERE idempotency_key = ?1";

/// Binds: key, commit, fingerprint, streams as JSON.
pub(crate) const INSERT_KEY: &str =
    "INSERT INTO retell_keys (idempotency_key, commit_id, fingerprint, streams) VALUES (?1, ?2, ?3, ?4)";
