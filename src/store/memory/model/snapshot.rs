//! Snapshots of a read model in memory, including the state that its workers continue from.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::error::{BoxError, Error, ErrorKind, Result};
use crate::id::mark::Mark;
use crate::id::{
    AggregateId, CorrelationId, EventId, Generation, Position, ProjectionName, StreamId, Version, ViewKey,
};
use crate::store::memory::model::MemoryReadModel;
use crate::store::memory::model::committed::{Committed, Tables};
use crate::store::memory::model::rows::{Generations, Rows};
use crate::store::model::deadlines::Deadline;
use crate::store::model::interventions::{AuditEntry, Pause};
use crate::store::model::parking::{Parked, ParkedState, Parking};
use crate::store::model::processors::RegisteredProcessor;
use crate::store::model::progress::Row;
use crate::store::model::skipped::Skipped;
use crate::store::model::views::{Fields, ViewId, ViewRow};
use crate::trace::context::TraceContext;

const FORMAT: u32 = 1;

/// The stored form of a model. It uses lists of pairs, because the keys of a JSON object are always text.
#[derive(Debug, Serialize, Deserialize)]
struct StoredModel<V> {
    format: u32,
    value: V,
    checkpoints: Vec<(ProjectionName, Mark)>,
    /// The number of changes and the parked aggregates of each projection.
    parking: Vec<(ProjectionName, u64, Vec<StoredParked>)>,
    /// The registered releases of each projection, the newest last.
    processors: Vec<(ProjectionName, Vec<StoredProcessor>)>,
    pauses: Vec<(ProjectionName, Pause)>,
    skipped: Vec<Skipped>,
    audit: Vec<AuditEntry>,
    inline: Vec<ProjectionName>,
    /// The applied and seen versions of each projection with per-aggregate order.
    progress: Vec<(ProjectionName, Vec<(StreamId, Row)>)>,
    handled: Vec<(ProjectionName, EventId)>,
    starts: Vec<(ProjectionName, Mark)>,
    views: Vec<(ProjectionName, Generation, Vec<StoredRow>)>,
    live: Vec<(ProjectionName, Generation)>,
    deadlines: Vec<(ProjectionName, Vec<StoredDeadline>)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredParked {
    stream: StreamId,
    from_version: Version,
    from_position: Position,
    error: String,
    attempts: u32,
    next_at: DateTime<Utc>,
    state: String,
}

/// The stored form, time and program of a registered release.
type StoredProcessor = (String, DateTime<Utc>, String);

/// The key, state, fields and position of a row.
type StoredRow = (ViewKey, String, Fields, Position);

#[derive(Debug, Serialize, Deserialize)]
struct StoredDeadline {
    id: Uuid,
    key: AggregateId,
    name: String,
    at: DateTime<Utc>,
    correlation_id: Option<CorrelationId>,
    causation_id: Option<EventId>,
    trace: Option<TraceContext>,
    attempts: u32,
}

impl<T> MemoryReadModel<T> {
    /// Encodes the state of the last commit: the value, the rows of all views, the inboxes, the deadlines and the progress of each projection.
    ///
    /// A model that is [restored](Self::restore) after a restart continues from this state instead of from the first event. To store the
    /// bytes in a file, write them to a temporary file and rename it.
    ///
    /// # Errors
    /// [`ErrorKind::Unencodable`] if the value cannot be encoded as JSON.
    pub fn snapshot(&self) -> Result<Vec<u8>>
    where
        T: Serialize,
    {
        let committed = self.read();
        let refused = |error| Error::with_source(ErrorKind::Unencodable("a snapshot of a read model".into()), error);
        serde_json::to_vec(&StoredModel::of(&*committed.value, &committed.tables)).map_err(refused)
    }

    /// Creates a model from a [`snapshot`](Self::snapshot).
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] if the bytes are not a snapshot of a model with this type of value, or if a newer release has written them.
    /// Start from an empty model then.
    pub fn restore(snapshot: &[u8]) -> Result<Self>
    where
        T: DeserializeOwned,
    {
        let damaged =
            |error: BoxError| Error::with_source(ErrorKind::Corrupt("a snapshot of a read model".into()), error);
        let stored: StoredModel<T> = serde_json::from_slice(snapshot).map_err(|error| damaged(error.into()))?;
        if stored.format != FORMAT {
            return Err(damaged(
                format!("format {} is unknown, this release reads format {FORMAT}", stored.format).into(),
            ));
        }
        Ok(Self::of(stored.restored().map_err(|error| damaged(error.into()))?))
    }
}

impl<V> StoredModel<V> {
    fn of(value: V, tables: &Tables) -> Self {
        let progress = tables.progress.iter().map(|(name, rows)| (name.clone(), pairs(rows)));
        let parking = tables.parking.iter().map(|(name, own)| {
            let parked = own.parked.iter().map(StoredParked::of).collect();
            (name.clone(), own.changes, parked)
        });
        let processors = tables.processors.iter().map(|(name, own)| {
            let own = own.iter().map(|each| (each.stored(), each.first_seen, each.program.clone())).collect();
            (name.clone(), own)
        });
        let views = tables.views.rows.iter().map(|(id, rows)| {
            let rows = rows.by_key.after(String::new()).map(|(_, row)| {
                (row.key.clone(), row.state.clone().unwrap_or_default(), row.fields.clone(), row.position)
            });
            (id.view().clone(), id.generation(), rows.collect())
        });
        let deadlines = tables.deadlines.iter().map(|(name, own)| {
            let own = own.values().map(StoredDeadline::of).collect();
            (name.clone(), own)
        });
        Self {
            format: FORMAT,
            value,
            checkpoints: pairs(&tables.checkpoints),
            parking: parking.collect(),
            processors: processors.collect(),
            pauses: pairs(&tables.pauses),
            skipped: tables.skipped.clone(),
            audit: tables.audit.clone(),
            inline: tables.inline.iter().cloned().collect(),
            progress: progress.collect(),
            handled: tables.handled.iter().cloned().collect(),
            starts: pairs(&tables.starts),
            views: views.collect(),
            live: tables.views.live.iter().map(|(view, live)| (view.clone(), *live)).collect(),
            deadlines: deadlines.collect(),
        }
    }

    fn restored(self) -> Result<Committed<V>> {
        let progress = self.progress.into_iter().map(|(name, rows)| (name, rows.into_iter().collect()));
        let parking = self.parking.into_iter().map(|(name, changes, parked)| {
            let parked = parked.into_iter().map(StoredParked::restored).collect::<Result<_>>()?;
            Ok((name, Parking { changes, parked }))
        });
        let processors = self.processors.into_iter().map(|(name, own)| {
            let own = own.into_iter().map(|(reads, time, program)| RegisteredProcessor::parse(&reads, time, program));
            Ok((name, own.collect::<Result<_>>()?))
        });
        let rows = self.views.into_iter().map(|(view, generation, rows)| {
            let id = ViewId::new(view.as_str(), generation)?;
            Ok((id, restored_rows(rows)))
        });
        let deadlines = self.deadlines.into_iter().map(|(name, own)| {
            let own = own.into_iter().map(|deadline| (deadline.id, deadline.restored())).collect();
            (name, own)
        });
        let tables = Tables {
            checkpoints: self.checkpoints.into_iter().collect(),
            parking: parking.collect::<Result<_>>()?,
            processors: processors.collect::<Result<_>>()?,
            pauses: self.pauses.into_iter().collect(),
            skipped: self.skipped,
            audit: self.audit,
            inline: self.inline.into_iter().collect(),
            progress: progress.collect(),
            handled: self.handled.into_iter().collect(),
            starts: self.starts.into_iter().collect(),
            views: Generations { rows: rows.collect::<Result<_>>()?, live: self.live.into_iter().collect() },
            deadlines: deadlines.collect(),
        };
        Ok(Committed { value: Arc::new(self.value), tables })
    }
}

fn pairs<K: Clone, V: Clone>(map: &HashMap<K, V>) -> Vec<(K, V)> {
    map.iter().map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn restored_rows(stored: Vec<StoredRow>) -> Rows {
    let (mut by_key, mut entries) = (BTreeMap::new(), BTreeMap::new());
    for (key, state, fields, position) in stored {
        let text = key.as_str().to_owned();
        entries
            .extend(fields.iter().map(|(field, value)| ((field.to_owned(), value.to_owned(), text.clone()), Some(()))));
        by_key.insert(text, Some(Arc::new(ViewRow { key, state: Some(state), fields, position })));
    }
    let mut rows = Rows::default();
    rows.by_key.change(by_key);
    rows.entries.change(entries);
    rows
}

impl StoredParked {
    fn of(parked: &Parked) -> Self {
        Self {
            stream: parked.stream.clone(),
            from_version: parked.from_version,
            from_position: parked.from_position,
            error: parked.error.clone(),
            attempts: parked.attempts,
            next_at: parked.next_at,
            state: parked.state.to_string(),
        }
    }

    fn restored(self) -> Result<Parked> {
        let unknown =
            || ErrorKind::Corrupt(format!("parked aggregate {}: unknown state {:?}", self.stream, self.state));
        let state = ParkedState::parse(&self.state).ok_or_else(unknown)?;
        Ok(Parked {
            stream: self.stream,
            from_version: self.from_version,
            from_position: self.from_position,
            error: self.error,
            attempts: self.attempts,
            next_at: self.next_at,
            state,
        })
    }
}

impl StoredDeadline {
    fn of(deadline: &Deadline) -> Self {
        Self {
            id: deadline.id,
            key: deadline.key.clone(),
            name: deadline.name.clone(),
            at: deadline.at,
            correlation_id: deadline.correlation_id,
            causation_id: deadline.causation_id,
            trace: deadline.trace.clone(),
            attempts: deadline.attempts,
        }
    }

    fn restored(self) -> Deadline {
        Deadline {
            id: self.id,
            key: self.key,
            name: self.name,
            at: self.at,
            correlation_id: self.correlation_id,
            causation_id: self.causation_id,
            trace: self.trace,
            attempts: self.attempts,
        }
    }
}
