//! Gives out a log in a SQLite file, and fills an empty one in one transaction.

use async_trait::async_trait;
use rusqlite::{Connection, Row};
use tokio::sync::mpsc;

use crate::error::{Error, Result};
use crate::id::{IdempotencyKey, Position};
use crate::store::log::archive::{
    Archive, ArchivedClaim, ArchivedEvent, ArchivedKey, ClaimVisitor, Part, Parts, not_empty, utf8,
};
use crate::store::log::fingerprint::Fingerprint;
use crate::store::sqlite::convert::to_sql;
use crate::store::sqlite::error::Failure;
use crate::store::sqlite::inspect::add_seal;
use crate::store::sqlite::log::append::{INSERT_CLOCK_STEP, INSERT_EVENT, INSERT_KEY};
use crate::store::sqlite::log::claims::RESERVE;
use crate::store::sqlite::log::{read, shapes};
use crate::store::sqlite::store::SqliteStore;
use crate::store::sqlite::transaction::OpenTransaction;

/// The most chunks that wait between the thread of the connection and the caller.
const CHUNKS_AHEAD: usize = 2;

/// The most claims of a chunk.
const CHUNK_CLAIMS: usize = 500;

#[async_trait]
impl Archive for SqliteStore {
    async fn claims(&self, visitor: &mut dyn ClaimVisitor) -> Result<bool> {
        let (chunks, mut arriving) = mpsc::channel(CHUNKS_AHEAD);
        let reading = self.readers.run("read the claims", move |db| read_claims(db, &chunks));
        let visiting = async {
            while let Some(chunk) = arriving.recv().await {
                match chunk {
                    Chunk::Head(head) => visitor.head(head)?,
                    Chunk::Claims(claims) => claims.into_iter().try_for_each(|claim| visitor.claim(claim))?,
                }
            }
            Ok::<(), Error>(())
        };
        // After an error of the visitor, the reading thread finds the channel closed and ends.
        futures::future::try_join(reading, visiting).await?;
        Ok(true)
    }

    async fn keys(
        &self,
        through: Position,
        after: Option<&IdempotencyKey>,
        limit: usize,
    ) -> Result<Option<Vec<ArchivedKey>>> {
        let after = after.map_or_else(String::new, ToString::to_string);
        let read = move |db: &mut Connection| {
            let mut select = db.prepare_cached(KEYS)?;
            let mut rows = select.query((after, to_sql(through.get()), to_sql(limit as u64)))?;
            let mut keys = Vec::new();
            while let Some(row) = rows.next()? {
                keys.push(key(row)?);
            }
            Ok(keys)
        };
        self.readers.run("read the idempotency keys", read).await.map(Some)
    }

    async fn import(&self, head: Position, parts: &mut dyn Parts) -> Result<()> {
        let (sender, arriving) = mpsc::channel(CHUNKS_AHEAD);
        let writing = self.writer.pool.run("import a log", move |db| write(db, arriving));
        let feeding = async move {
            while let Some(part) = parts.next()? {
                // A closed channel means that the writer has failed, and it returns its error.
                if sender.send(Some(part)).await.is_err() {
                    return Ok(());
                }
            }
            drop(sender.send(None).await);
            Ok::<(), Error>(())
        };
        // After an error of `parts`, the channel is closed before its end, and the writer rolls back.
        let (written, fed) = futures::future::join(writing, feeding).await;
        fed?;
        written?;
        self.writer.advance_head(head);
        Ok(())
    }
}

enum Chunk {
    Head(Position),
    Claims(Vec<ArchivedClaim>),
}

/// Reads head and claims in one snapshot.
fn read_claims(db: &mut Connection, chunks: &mpsc::Sender<Chunk>) -> Result<(), Failure> {
    let snapshot = db.transaction()?;
    if chunks.blocking_send(Chunk::Head(read::head(&snapshot)?)).is_err() {
        return Ok(());
    }
    let mut select = snapshot.prepare_cached(CLAIMS)?;
    let mut rows = select.query([])?;
    let mut claims = Vec::new();
    while let Some(row) = rows.next()? {
        let text = |column| row.get::<_, String>(column);
        claims.push(ArchivedClaim::parse(&text(0)?, &text(1)?, &text(2)?, &text(3)?)?);
        if claims.len() >= CHUNK_CLAIMS && chunks.blocking_send(Chunk::Claims(std::mem::take(&mut claims))).is_err() {
            return Ok(());
        }
    }
    drop(chunks.blocking_send(Chunk::Claims(claims)));
    Ok(())
}

fn key(row: &Row<'_>) -> Result<ArchivedKey, Failure> {
    let name: String = row.get(0)?;
    let (last, ordinal): (i64, i64) = (row.get(1)?, row.get(4)?);
    let streams = ArchivedKey::streams_from_json(&name, row.get::<_, String>(3)?.as_bytes())?;
    let fingerprint = Fingerprint::from_bytes(row.get(2)?);
    let key = IdempotencyKey::new(name).map_err(Error::from)?;
    Ok(ArchivedKey { key, fingerprint, commit: last - ordinal + 1, last, streams })
}

/// Writes parts up to `None`. Rolls back if the channel ends before that.
fn write(db: &mut Connection, mut parts: mpsc::Receiver<Option<Part>>) -> Result<(), Failure> {
    let open = OpenTransaction::begin(db)?;
    let found =
        open.db.query_row(CONTENTS, [], |row| Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?]))?;
    not_empty(found)?;
    let mut time = i64::MIN;
    loop {
        match parts.blocking_recv() {
            Some(Some(Part::Events(events))) => {
                for event in &events {
                    insert(open.db, event, &mut time)?;
                }
            }
            Some(Some(part)) => write_part(open.db, part)?,
            Some(None) => return open.commit(),
            None => return Ok(()),
        }
    }
}

/// Inserts an event. `time` is that of the event before it.
fn insert(db: &Connection, event: &ArchivedEvent, time: &mut i64) -> Result<(), Failure> {
    let (position, row) = (event.position(), &event.row);
    db.prepare_cached(INSERT_EVENT)?.execute((
        position,
        &row.event_id,
        utf8(&row.aggregate_type, "aggregate type")?,
        utf8(&row.aggregate_id, "aggregate id")?,
        row.version,
        utf8(&row.event_type, "event type")?,
        row.schema_version,
        row.codec,
        row.recorded_at,
        &row.correlation_id,
        &row.causation_id,
        row.metadata.as_deref().map(|text| utf8(text, "metadata")).transpose()?,
        &row.payload,
        event.ordinal,
    ))?;
    if row.recorded_at < *time {
        db.prepare_cached(INSERT_CLOCK_STEP)?.execute([position])?;
    }
    *time = row.recorded_at;
    Ok(())
}

fn write_part(db: &Connection, part: Part) -> Result<(), Failure> {
    match part {
        // An event has its number in its commit, and its time.
        Part::Events(_) | Part::Commits(_) => {}
        Part::Keys(keys) => {
            for key in keys {
                let fingerprint = key.fingerprint.as_bytes();
                let binds = (key.key.as_str(), key.last, fingerprint, key.streams_to_json());
                db.prepare_cached(INSERT_KEY)?.execute(binds)?;
            }
        }
        Part::Claims(claims) => {
            for ArchivedClaim { scope, value, holder } in claims {
                let names = (holder.aggregate_type().as_str(), holder.aggregate_id().as_str());
                db.prepare_cached(RESERVE)?.execute((scope.as_str(), value.as_str(), names.0, names.1))?;
            }
        }
        Part::Shapes(shapes) => shapes::register(db, &shapes)?,
        Part::Seals(seals) => seals.iter().try_for_each(|seal| add_seal(db, seal))?,
    }
    Ok(())
}

/// Selects what can keep a log from being empty, in the order of [`crate::store::log::archive::CONTENTS`].
const CONTENTS: &str = "
    SELECT EXISTS (SELECT 1 FROM retell_events), EXISTS (SELECT 1 FROM retell_keys), EXISTS (SELECT 1 FROM retell_reservations),
        EXISTS (SELECT 1 FROM retell_seals), EXISTS (SELECT 1 FROM retell_checkpoints WHERE inline = 1)";

const CLAIMS: &str = "SELECT scope, value, aggregate_type, aggregate_id FROM retell_reservations ORDER BY scope, value";

/// Binds: after, through, limit. The last column is the number of the append's last event in its commit.
const KEYS: &str = "
    SELECT k.idempotency_key, k.commit_id, k.fingerprint, k.streams, e.ordinal
    FROM retell_keys k JOIN retell_events e ON e.position = k.commit_id
    WHERE k.idempotency_key > ?1 AND k.commit_id <= ?2 ORDER BY k.idempotency_key LIMIT ?3";
