//! Read models: checkpoints, parked aggregates, per-aggregate order and inboxes, in the transaction of the projection's own changes.

use std::collections::HashMap;
use std::path::Path;

use redb::WriteTransaction;
use retell::id::EventId;
use retell::store::driver::{self, Checkpoint};
use retell::store::{
    Parked, ParkedState, Parking, ParkingChange, ProjectionState, ProjectionStatus, ReadModel, RegisteredProcessor,
    Seen, Step, Turn, Work,
};
use retell::{BoxError, Error, Mark, Position, ProjectionName, Result, StreamId, Version, async_trait};
use serde::de::DeserializeOwned;
use tokio::runtime::Handle;

use crate::file::{File, classify, corrupt, kind};
use crate::log::{RedbStore, from_micros};
use crate::rows::{Readable, Rows, Saved, key, rows};

/// `processor`, projection, filter -> number, filter, time, program.
type ProcessorRow = (u64, String, i64, String);
/// `checkpoint`, projection -> position and event, number of changes that a worker must know, whether the projection has per-aggregate order, state.
type CheckpointRow = (Mark, u64, bool, String);
/// `parked`, projection, aggregate -> the aggregate, version and position of the event that failed, error, attempts, next time, state.
type ParkedRow = (StreamId, (Version, Position), String, u32, i64, String);
/// `progress`, projection, aggregate -> versions applied and seen.
type ProgressRow = driver::ProgressRow;

/// Read models in a redb file. Cloning gives another handle.
#[derive(Debug, Clone)]
pub struct RedbReadModel {
    pub(crate) file: File,
}

impl RedbReadModel {
    /// Opens read models in their own file, and creates the file if it does not exist. Their commits do not wait for commits of the log.
    ///
    /// # Errors
    /// As [`RedbStore::open`].
    pub async fn open(path: impl AsRef<Path>) -> Result<Self> {
        Ok(Self { file: File::open(path.as_ref().to_owned()).await? })
    }
}

impl RedbStore {
    /// Returns the read models in the log's file. Commits and appends wait for each other, and [`close`](ReadModel::close) closes both.
    pub fn read_model(&self) -> RedbReadModel {
        RedbReadModel { file: self.file.clone() }
    }
}

#[async_trait]
impl ReadModel for RedbReadModel {
    /// A projection opens its own tables in this transaction, which commits them with the checkpoint.
    type Tx = WriteTransaction;

    async fn mark(&self, projection: &ProjectionName) -> Result<Mark> {
        let name = projection.clone();
        self.file.read("read a checkpoint", move |rows| Ok(checkpoint(rows, &name)?.mark)).await
    }

    async fn state(&self, projection: &ProjectionName) -> Result<ProjectionState> {
        self.check_name(projection).await?;
        let name = projection.clone();
        self.file.read("read a checkpoint", move |rows| Ok(checkpoint(rows, &name)?.state)).await
    }

    async fn names(&self) -> Result<Option<Vec<ProjectionName>>> {
        let read = |rows: &Saved| {
            let names = rows.below::<CheckpointRow>(&key!("checkpoint"), "")?;
            names.map(|row| Ok(ProjectionName::new(row?.0)?)).collect::<Result<_, BoxError>>().map(Some)
        };
        self.file.read("list the projections", read).await
    }

    async fn parking(&self, projection: &ProjectionName) -> Result<Parking> {
        self.check_name(projection).await?;
        let name = projection.clone();
        // Both reads use one snapshot, so the count belongs to the rows.
        let read = move |rows: &Saved| {
            let changes = checkpoint(rows, &name)?.changes;
            Ok(Parking::new(changes, parked(rows, &name)?))
        };
        self.file.read("read parked aggregates", read).await
    }

    async fn projections(&self, limit: usize) -> Result<Vec<ProjectionStatus>> {
        let read = move |rows: &Saved| {
            let found = rows.below::<CheckpointRow>(&key!("checkpoint"), "")?.take(limit);
            let status = |row: Result<(String, CheckpointRow), BoxError>| {
                let (name, (mark, _, per_aggregate, state)) = row?;
                let status = ProjectionStatus::new(ProjectionName::new(name)?, mark);
                Ok(status.with_per_aggregate(per_aggregate).with_state(ProjectionState::parse(&state)?))
            };
            found.map(status).collect()
        };
        self.file.read("list the projections", read).await
    }

    async fn parked(
        &self,
        projection: &ProjectionName,
        stream: Option<&StreamId>,
        limit: usize,
    ) -> Result<Vec<Parked>> {
        let (name, stream) = (projection.clone(), stream.cloned());
        let read = move |rows: &Saved| {
            // Reads all rows of the projection. A larger store would keep an index by position.
            let mut parked = parked(rows, &name)?;
            parked.retain(|parked| stream.as_ref().is_none_or(|stream| parked.stream == *stream));
            parked.truncate(limit);
            Ok(parked)
        };
        self.file.read("read parked aggregates", read).await
    }

    async fn retry_parked(&self, projection: &ProjectionName, stream: &StreamId) -> Result<bool> {
        self.check_name(projection).await?;
        let revive = |row: Option<ParkedRow>| {
            let parked = row.map(parse).transpose()?.map(|mut parked| {
                parked.revive();
                to_row(parked)
            });
            let was_parked = parked.is_some();
            Ok((parked, was_parked))
        };
        self.file.update("retry a parked aggregate", of_aggregate("parked", projection, stream), revive).await
    }

    async fn commit(&self, step: Step, work: Work<WriteTransaction>) -> Result<()> {
        let runtime = Handle::current();
        let commit = move |tx: &mut WriteTransaction| {
            checkpoint(&rows(tx)?, &step.projection)?.check(&step)?;
            runtime.block_on(work(tx)).map_err(of_work)?;
            let to = Checkpoint::new(step.to).with_changes(step.changes_after());
            park(tx, &step.projection, step.parking)?;
            set_checkpoint(tx, &step.projection, to)
        };
        self.file.write("commit a batch", commit).await
    }

    async fn begin(&self, projection: &ProjectionName, work: Work<WriteTransaction>) -> Result<()> {
        let (name, runtime) = (projection.clone(), Handle::current());
        let begin = move |tx: &mut WriteTransaction| {
            let mut checkpoint = checkpoint(&rows(tx)?, &name)?;
            checkpoint.state.check_running(&name)?;
            checkpoint.check_aggregate_order(&name)?;
            runtime.block_on(work(tx)).map_err(of_work)?;
            checkpoint.per_aggregate = true;
            set_checkpoint(tx, &name, checkpoint)
        };
        self.file.write("begin a projection", begin).await
    }

    async fn seen(&self, projection: &ProjectionName, streams: &[StreamId]) -> Result<HashMap<StreamId, Seen>> {
        let (name, streams) = (projection.clone(), streams.to_vec());
        let read = move |rows: &Saved| {
            let progress = find::<ProgressRow>("progress", rows, &name, &streams)?;
            Ok(progress.into_iter().map(|(stream, row)| (stream, Seen::of(row))).collect())
        };
        self.file.read("read the progress of aggregates", read).await
    }

    async fn turn(
        &self,
        projection: &ProjectionName,
        known: u64,
        streams: Vec<StreamId>,
        turn: Turn<WriteTransaction>,
    ) -> Result<()> {
        let (name, runtime) = (projection.clone(), Handle::current());
        let turn = move |tx: &mut WriteTransaction| {
            driver::check_changes(&name, known, checkpoint(&rows(tx)?, &name)?.changes)?;
            let streams = driver::in_key_order(streams);
            let progress = find("progress", &rows(tx)?, &name, &streams)?;
            let parked = find("parked", &rows(tx)?, &name, &streams)?;
            let parked = parked.into_values().map(parse).collect::<Result<_>>()?;
            let before = driver::progress_of(streams, &progress, parked)?;
            let mut after = before.clone();
            runtime.block_on(turn(tx, &mut after)).map_err(of_work)?;
            let (changed, parking) = driver::changes(&before, &after);
            for row in changed {
                rows(tx)?.put(&of_aggregate("progress", &name, &row.stream), &(row.applied, row.seen, row.seen_id))?;
            }
            park(tx, &name, parking)
        };
        self.file.write("commit a batch", turn).await
    }

    async fn sweep(&self, projection: &ProjectionName, changes: u64, from: Mark, to: Mark) -> Result<Mark> {
        let name = projection.clone();
        let sweep = move |tx: &mut WriteTransaction| {
            let found = checkpoint(&rows(tx)?, &name)?;
            driver::check_changes(&name, changes, found.changes)?;
            let swept = found.swept(from, to);
            set_checkpoint(tx, &name, swept)?;
            Ok(swept.mark)
        };
        self.file.write("move a swept position", sweep).await
    }

    async fn register_processor(&self, projection: &ProjectionName, processor: &RegisteredProcessor) -> Result<()> {
        let (name, new) = (projection.clone(), processor.clone());
        let register = move |tx: &mut WriteTransaction| {
            let key = of_processor(&name, &new);
            if rows(tx)?.get::<ProcessorRow>(&key)?.is_some() {
                return Ok(());
            }
            let number = count_change(tx, &name)?;
            rows(tx)?.put(&key, &(number, new.stored(), new.first_seen.timestamp_micros(), new.program))
        };
        self.file.write("register a processor", register).await
    }

    async fn processors(&self, projection: &ProjectionName) -> Result<Vec<RegisteredProcessor>> {
        let name = projection.clone();
        let read = move |rows: &Saved| {
            let found = rows.below::<ProcessorRow>(&key!("processor", name), "")?.map(|row| Ok(row?.1));
            let mut found = found.collect::<Result<Vec<_>, BoxError>>()?;
            found.sort_by_key(|row| row.0);
            let processor = |(_, filter, time, program): ProcessorRow| -> Result<_, BoxError> {
                Ok(RegisteredProcessor::parse(&filter, from_micros(time)?, program)?)
            };
            found.into_iter().map(processor).collect()
        };
        self.file.read("list processors", read).await
    }

    async fn forget_processor(&self, projection: &ProjectionName, processor: &RegisteredProcessor) -> Result<bool> {
        let (name, key) = (projection.clone(), of_processor(projection, processor));
        let forget = move |tx: &mut WriteTransaction| {
            let was_there = rows(tx)?.remove::<ProcessorRow>(&key)?.is_some();
            if was_there {
                count_change(tx, &name)?;
            }
            Ok(was_there)
        };
        self.file.write("forget a processor", forget).await
    }

    async fn reset(&self, projection: &ProjectionName, to: Mark, work: Work<WriteTransaction>) -> Result<()> {
        self.check_name(projection).await?;
        let (name, runtime) = (projection.clone(), Handle::current());
        let reset = move |tx: &mut WriteTransaction| {
            let checkpoint = checkpoint(&rows(tx)?, &name)?.reset(&name, to)?;
            runtime.block_on(work(tx)).map_err(of_work)?;
            forget(tx, &name)?;
            set_checkpoint(tx, &name, checkpoint)?;
            let (start, mut rows) = (key!("start", name), rows(tx)?);
            match rows.get::<Mark>(&start)? {
                Some(_) if to != Mark::START => rows.put(&start, &to),
                _ => Ok(()),
            }
        };
        self.file.write("reset a projection", reset).await
    }

    async fn mark_handled(&self, tx: &mut WriteTransaction, reaction: &ProjectionName, event: EventId) -> Result<bool> {
        let key = key!("handled", reaction, event.to_string());
        let mark = || {
            let mut rows = rows(tx)?;
            let is_new = rows.get::<()>(&key)?.is_none();
            rows.put(&key, &()).map(|()| is_new)
        };
        mark().map_err(|error| classify("mark an event as handled", error))
    }

    async fn start_after(&self, reaction: &ProjectionName, mark: Mark) -> Result<Mark> {
        let start = move |kept: Option<Mark>| Ok((kept.or(Some(mark)), kept.unwrap_or(mark)));
        self.file.update("store where a reaction starts", key!("start", reaction), start).await
    }

    async fn close(&self) -> Result<()> {
        self.file.close().await;
        Ok(())
    }
}

/// Returns the work's own error unchanged, unless the file is its cause.
fn of_work(error: Error) -> Error {
    driver::of_work(error, kind)
}

/// Reads the checkpoint of a projection. A projection without a row has the default checkpoint.
pub(crate) fn checkpoint(rows: &Rows<impl Readable>, projection: &ProjectionName) -> Result<Checkpoint, BoxError> {
    let row: Option<CheckpointRow> = rows.get(&key!("checkpoint", projection))?;
    let Some((mark, changes, per_aggregate, state)) = row else { return Ok(Checkpoint::default()) };
    let state = ProjectionState::parse(&state)?;
    let mut checkpoint = Checkpoint::new(mark).with_changes(changes).with_state(state);
    checkpoint.per_aggregate = per_aggregate;
    Ok(checkpoint)
}

pub(crate) fn set_checkpoint(
    tx: &WriteTransaction,
    projection: &ProjectionName,
    to: Checkpoint,
) -> Result<(), BoxError> {
    let row = (to.mark, to.changes, to.per_aggregate, to.state.as_str());
    rows(tx)?.put(&key!("checkpoint", projection), &row)
}

/// Counts a change that the workers of a projection must know. Returns the count.
fn count_change(tx: &WriteTransaction, projection: &ProjectionName) -> Result<u64, BoxError> {
    let found = checkpoint(&rows(tx)?, projection)?;
    let changes = found.changes + 1;
    set_checkpoint(tx, projection, found.with_changes(changes))?;
    Ok(changes)
}

fn of_processor(projection: &ProjectionName, processor: &RegisteredProcessor) -> String {
    key!("processor", projection, processor.stored())
}

/// Removes the rows of a projection, except its handled events and its registered releases.
pub(crate) fn forget(tx: &WriteTransaction, projection: &ProjectionName) -> Result<(), BoxError> {
    let mut rows = rows(tx)?;
    rows.remove::<CheckpointRow>(&key!("checkpoint", projection))?;
    rows.clear(&key!("parked", projection), usize::MAX)?;
    rows.clear(&key!("progress", projection), usize::MAX).map(drop)
}

/// Returns the key of an aggregate's row.
fn of_aggregate(row: &str, projection: &ProjectionName, stream: &StreamId) -> String {
    key!(row, projection, stream.aggregate_type(), stream.aggregate_id())
}

/// Reads the rows of kind `row` of `streams`, where they exist.
fn find<V: DeserializeOwned>(
    row: &str,
    rows: &Rows<impl Readable>,
    projection: &ProjectionName,
    streams: &[StreamId],
) -> Result<HashMap<StreamId, V>, BoxError> {
    let found = streams.iter().map(|stream| Ok((stream.clone(), rows.get(&of_aggregate(row, projection, stream))?)));
    found.filter_map(|row| row.map(|(stream, row)| Some((stream, row?))).transpose()).collect()
}

/// Reads the parked aggregates of a projection, sorted by position.
fn parked(rows: &Saved, projection: &ProjectionName) -> Result<Vec<Parked>, BoxError> {
    let parked = rows.below(&key!("parked", projection), "")?.map(|row| Ok(parse(row?.1)?));
    let mut parked = parked.collect::<Result<Vec<_>, BoxError>>()?;
    parked.sort_by_key(|parked| parked.from_position);
    Ok(parked)
}

/// Writes changes of parked aggregates.
fn park(tx: &WriteTransaction, projection: &ProjectionName, changes: Vec<ParkingChange>) -> Result<(), BoxError> {
    let mut rows = rows(tx)?;
    for change in changes {
        let key = of_aggregate("parked", projection, change.stream());
        match change {
            ParkingChange::Park(parked) => rows.put(&key, &to_row(parked))?,
            ParkingChange::Release(_) => drop(rows.remove::<ParkedRow>(&key)?),
        }
    }
    Ok(())
}

fn to_row(parked: Parked) -> ParkedRow {
    let Parked { stream, from_version, from_position, error, attempts, next_at, state, .. } = parked;
    (stream, (from_version, from_position), error, attempts, next_at.timestamp_micros(), state.as_str().to_owned())
}

fn parse((stream, from, error, attempts, next_at, state): ParkedRow) -> Result<Parked> {
    let state = ParkedState::parse(&state).ok_or_else(|| corrupt("state of a parked aggregate", state))?;
    Ok(Parked::new(stream, from.0, from.1, error, attempts, from_micros(next_at)?).with_state(state))
}
