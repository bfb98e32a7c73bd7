//! Inserts the rows of a plan, in as few statements as the server accepts.

use chrono::NaiveDateTime;
use sqlx::{MySqlConnection, QueryBuilder};

use crate::id::Version;
use crate::store::log::append::Append;
use crate::store::mysql::log::plan::{NewRow, Plan};
use crate::store::mysql::log::statement::{LOOKED_UP, ROWS};
use crate::store::server::convert::{count, to_sql};

/// Below this number, each number of rows has its own statement. Larger inserts combine such statements, so a connection's cache of 100
/// statements holds all of them.
const FEW_ROWS: usize = 64;

pub(crate) async fn insert_events(
    tx: &mut MySqlConnection,
    commit: i64,
    mut rows: &[NewRow<'_>],
    max_bytes: usize,
) -> Result<(), sqlx::Error> {
    // All statements of a commit use one time. It is read after the versions, so a stream's times never decrease along its versions.
    let mut time: Option<NaiveDateTime> = None;
    if statement_rows(rows, max_bytes) < rows.len() {
        time = sqlx::query_scalar(NOW).fetch_optional(&mut *tx).await?;
    }
    while !rows.is_empty() {
        let (now, later) = rows.split_at(statement_rows(rows, max_bytes));
        let mut query = QueryBuilder::new(INSERT_EVENTS);
        query.push_values(now, |mut values, row| {
            values
                .push_bind(commit)
                .push_bind(count(row.ordinal))
                .push_bind(*row.event.id.as_uuid())
                .push_bind(row.stream.aggregate_type().as_str().as_bytes())
                .push_bind(row.stream.aggregate_id().as_str().as_bytes())
                .push_bind(to_sql(row.version.get()))
                .push_bind(row.event.event_type.as_str().as_bytes())
                .push_bind(i64::from(row.event.schema_version))
                .push_bind(i16::from(row.event.codec.number()))
                .push("COALESCE(")
                .push_bind_unseparated(time)
                .push_unseparated(", UTC_TIMESTAMP(6))")
                .push_bind(row.event.metadata.correlation_id.map(|id| *id.as_uuid()))
                .push_bind(row.event.metadata.causation_id.map(|id| *id.as_uuid()))
                .push_bind(row.metadata.as_deref().map(str::as_bytes))
                .push_bind(&row.event.payload[..]);
        });
        query.build().execute(&mut *tx).await?;
        rows = later;
    }
    Ok(())
}

/// Returns the number of rows in the next statement, which has at most `max_bytes` bytes or a single row.
fn statement_rows(rows: &[NewRow<'_>], max_bytes: usize) -> usize {
    let mut bytes = 0;
    let fit = rows.iter().take_while(|row| {
        bytes += row.bytes();
        bytes <= max_bytes
    });
    match fit.take(ROWS).count() {
        ROWS => ROWS,
        few @ ..FEW_ROWS => few.max(1),
        _ => FEW_ROWS,
    }
}

/// Inserts the idempotency keys, in key order to prevent deadlocks.
pub(crate) async fn insert_keys(tx: &mut MySqlConnection, commit: i64, plan: &Plan<'_>) -> Result<(), sqlx::Error> {
    let mut keyed: Vec<_> = plan.written().filter_map(|written| Some((written.0.key()?.as_str(), written))).collect();
    keyed.sort_by_key(|(key, _)| *key);
    for chunk in keyed.chunks(LOOKED_UP) {
        let mut query = QueryBuilder::new(INSERT_KEYS);
        let mut streams = chunk.iter().map(|(_, (append, versions, _))| streams_to_json(append, versions));
        query.push_values(chunk, |mut values, (key, (append, _, ordinal))| {
            values.push_bind(key.as_bytes()).push_bind(commit).push_bind(*ordinal);
            values.push_bind(append.fingerprint().as_bytes().to_vec()).push_bind(streams.next());
        });
        query.build().execute(&mut *tx).await?;
    }
    Ok(())
}

fn streams_to_json(append: &Append, versions: &[Version]) -> Vec<u8> {
    let streams: Vec<_> = append
        .streams()
        .iter()
        .zip(versions)
        .map(|(part, version)| {
            let (kind, id) = (part.stream.aggregate_type().as_str(), part.stream.aggregate_id().as_str());
            (kind, id, version.get() - part.events.len() as u64, version.get())
        })
        .collect();
    // Text and numbers always encode as JSON.
    serde_json::to_vec(&streams).unwrap_or_default()
}

const NOW: &str = "SELECT UTC_TIMESTAMP(6)";

const INSERT_EVENTS: &str = "
    INSERT INTO retell_events (commit_id, ordinal, event_id, aggregate_type, aggregate_id, version, event_type, schema_version, codec,
        recorded_at, correlation_id, causation_id, metadata, payload) ";

const INSERT_KEYS: &str = "INSERT INTO retell_keys (idempotency_key, commit_id, last_ordinal, fingerprint, streams) ";
