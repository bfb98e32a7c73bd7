//! A model of views as bytes, with everything that its workers go on from.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use chrono::DateTime;
use serde::{Deserialize, Serialize};

use crate::error::{BoxError, Error, ErrorKind, Result};
use crate::id::{Generation, Position, ProjectionName, StreamId, Version, ViewKey};
use crate::store::memory::model::Committed;
use crate::store::memory::model::MemoryReadModel;
use crate::store::memory::model::inbox::Inboxes;
use crate::store::memory::model::views::{MemoryViews, Rows};
use crate::store::model::parking::{Parked, ParkedColumns, Parking};
use crate::store::model::views::{Fields, ViewId, ViewRow};

const FORMAT: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
struct Kept {
    format: u32,
    views: Vec<KeptView>,
    live: Vec<(String, u64)>,
    checkpoints: Vec<(String, u64)>,
    parking: Vec<(String, u64, Vec<KeptParked>)>,
    /// Of the projections with order per aggregate.
    progress: Vec<(String, Vec<KeptProgress>)>,
}

/// Aggregate type and id, applied, seen.
type KeptProgress = (String, String, u64, u64);

#[derive(Debug, Serialize, Deserialize)]
struct KeptView {
    view: String,
    generation: u64,
    /// Key, state, fields, position.
    rows: Vec<(String, String, Fields, u64)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct KeptParked {
    aggregate_type: String,
    aggregate_id: String,
    from_version: i64,
    from_position: i64,
    error: String,
    attempts: i64,
    /// Microseconds since 1970.
    next_at: i64,
    state: String,
}

impl MemoryReadModel<MemoryViews> {
    /// All rows, and how far their views have got, as of one moment: for [`restore`](Self::restore) after a restart, which then goes on from
    /// there instead of from the first event. Where the bytes are kept is the caller's: as a file, write it under another name first, and
    /// rename it.
    ///
    /// # Errors
    /// [`ErrorKind::Unencodable`], which cannot be.
    pub fn snapshot(&self) -> Result<Vec<u8>> {
        let kept = Kept::of(&self.read());
        let refused = |error| Error::with_source(ErrorKind::Unencodable("a snapshot of views".into()), error);
        serde_json::to_vec(&kept).map_err(refused)
    }

    /// A model as it was when the snapshot was taken.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] for bytes that are no snapshot, or one of a newer release. Start from an empty model then.
    pub fn restore(snapshot: &[u8]) -> Result<Self> {
        let damaged = |error: BoxError| Error::with_source(ErrorKind::Corrupt("a snapshot of views".into()), error);
        let kept: Kept = serde_json::from_slice(snapshot).map_err(|error| damaged(error.into()))?;
        if kept.format != FORMAT {
            return Err(damaged(format!("it has format {}, known is {FORMAT}", kept.format).into()));
        }
        let model = Self::new(MemoryViews::new());
        *model.write() = kept.restored().map_err(|error| damaged(error.into()))?;
        Ok(model)
    }
}

impl Kept {
    fn of(committed: &Committed<MemoryViews>) -> Self {
        let text = ProjectionName::to_string;
        let streams = |rows: &HashMap<StreamId, (Version, Version)>| {
            let row = |(stream, (applied, seen)): (&StreamId, &(Version, Version))| {
                let (kind, id) = (stream.aggregate_type().to_string(), stream.aggregate_id().to_string());
                (kind, id, applied.get(), seen.get())
            };
            rows.iter().map(row).collect()
        };
        let parked = |parking: &Parking| parking.parked.iter().map(KeptParked::of).collect();
        Self {
            format: FORMAT,
            views: committed.value.views.iter().map(|(id, rows)| KeptView::of(id, rows)).collect(),
            live: committed.value.live.iter().map(|(view, live)| (text(view), live.get())).collect(),
            checkpoints: committed.checkpoints.iter().map(|(name, at)| (text(name), at.get())).collect(),
            parking: committed.parking.iter().map(|(name, own)| (text(name), own.changes, parked(own))).collect(),
            progress: committed.progress.iter().map(|(name, rows)| (text(name), streams(rows))).collect(),
        }
    }

    fn restored(self) -> Result<Committed<MemoryViews>> {
        let views = self.views.into_iter().map(KeptView::restored).collect::<Result<_>>()?;
        let live = self.live.into_iter().map(|(view, live)| Ok((ProjectionName::new(view)?, Generation::new(live))));
        let live = live.collect::<Result<_>>()?;
        let checkpoints = self.checkpoints.into_iter();
        let checkpoints = checkpoints.map(|(name, at)| Ok((ProjectionName::new(name)?, Position::new(at))));
        let parking = self.parking.into_iter().map(|(name, changes, parked)| {
            let parked = parked.iter().map(KeptParked::restored).collect::<Result<_>>()?;
            Ok((ProjectionName::new(name)?, Parking { changes, parked }))
        });
        let progress = self.progress.into_iter().map(|(name, rows)| {
            let row = |(kind, id, applied, seen): KeptProgress| {
                Ok((StreamId::parse(&kind, &id)?, (Version::new(applied), Version::new(seen))))
            };
            Ok((ProjectionName::new(name)?, rows.into_iter().map(row).collect::<Result<_>>()?))
        });
        Ok(Committed {
            value: Arc::new(MemoryViews { views, live }),
            checkpoints: checkpoints.collect::<Result<_>>()?,
            parking: parking.collect::<Result<_>>()?,
            progress: progress.collect::<Result<_>>()?,
            inboxes: Inboxes::default(),
        })
    }
}

impl KeptView {
    fn of(id: &ViewId, rows: &Rows) -> Self {
        let row = |(_, row): (&String, &Arc<ViewRow>)| {
            let state = row.state.clone().unwrap_or_default();
            (row.key.to_string(), state, row.fields.clone(), row.position.get())
        };
        let rows = rows.rows.after(String::new()).map(row).collect();
        Self { view: id.view().to_string(), generation: id.generation().get(), rows }
    }

    fn restored(self) -> Result<(ViewId, Rows)> {
        let (mut rows, mut entries) = (BTreeMap::new(), BTreeMap::new());
        for (key, state, fields, position) in self.rows {
            let entry = |(field, value): (&str, &str)| ((field.to_owned(), value.to_owned(), key.clone()), Some(()));
            entries.extend(fields.iter().map(entry));
            let row =
                ViewRow { key: ViewKey::new(&key)?, state: Some(state), fields, position: Position::new(position) };
            rows.insert(key, Some(Arc::new(row)));
        }
        let mut restored = Rows::default();
        restored.rows.change(rows);
        restored.entries.change(entries);
        Ok((ViewId::new(&self.view, Generation::new(self.generation))?, restored))
    }
}

impl KeptParked {
    fn of(parked: &Parked) -> Self {
        let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        Self {
            aggregate_type: parked.stream.aggregate_type().to_string(),
            aggregate_id: parked.stream.aggregate_id().to_string(),
            from_version: number(parked.from_version.get()),
            from_position: number(parked.from_position.get()),
            error: parked.error.clone(),
            attempts: i64::from(parked.attempts),
            next_at: parked.next_at.timestamp_micros(),
            state: parked.state.to_string(),
        }
    }

    fn restored(&self) -> Result<Parked> {
        let columns = ParkedColumns {
            aggregate_type: &self.aggregate_type,
            aggregate_id: &self.aggregate_id,
            from_version: self.from_version,
            from_position: self.from_position,
            error: &self.error,
            attempts: self.attempts,
            next_at: DateTime::from_timestamp_micros(self.next_at).unwrap_or_default(),
            state: &self.state,
        };
        columns.parse()
    }
}
