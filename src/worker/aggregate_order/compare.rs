//! Compares the memory of a worker with order per aggregate with the log and with the rows.

use crate::backoff::retry_transient;
use crate::error::{Error, ErrorKind, Result};
use crate::id::mark::Mark;
use crate::id::{EventId, Place, Position, StreamId, Version};
use crate::store::log::mark::changed_stream;
use crate::store::log::reader::{EventReader, EventReaderExt};
use crate::store::model::read_model::ReadModel;
use crate::worker::aggregate_order::has_new_release;
use crate::worker::aggregate_order::remembered::{Ahead, Swept, last_events};
use crate::worker::aggregate_order::state::AggregateOrder;
use crate::worker::runner::{Order, Runner};

/// A distance beyond the end of every log.
const BEYOND: u64 = 1 << 40;

/// Attempts to store that a projection has applied lost events, while other workers move the swept position.
const REFUSALS: usize = 16;

impl<M: ReadModel> Runner<'_, M, AggregateOrder> {
    /// Continues from the swept position as stored. If it went back, the read model was restored and no longer has what this worker has applied.
    pub(super) fn follow(&mut self, swept: Mark) {
        if swept == self.applied {
            return;
        }
        if swept.position <= self.applied.position {
            (self.order.moved, self.order.swept) = (Vec::new(), None);
        }
        // After another worker has swept, this one does not read the events that it looks for.
        self.order.ahead = Ahead::default();
        self.reach(swept);
    }

    /// Checks that the log has the last event that this worker has applied.
    pub(super) async fn compare_newest(&mut self) -> Result<()> {
        let moved = std::mem::take(&mut self.order.moved);
        let Some(newest) = moved.iter().max_by_key(|moved| moved.mark.position) else { return Ok(()) };
        if newest.mark.position > self.applied.position {
            match self.job.reader.check(newest.mark).await {
                Ok(()) => {}
                // The sweeps after this one look for it.
                Err(error) if error.is_outage() => {}
                Err(error) => Box::pin(self.refuse(&newest.stream, newest.version, error)).await?,
            }
        }
        Ok(())
    }

    /// Checks that the log has the events that rows have seen and that a whole sweep did not read.
    pub(super) async fn compare_ahead(&mut self) -> Result<()> {
        for (stream, version, id) in self.order.ahead.begin_sweep() {
            match has(&*self.job.reader, &stream, version, id).await {
                // The sweep did not get that far, or a replica lags behind.
                Ok(()) => continue,
                Err(error) if error.is_outage() => continue,
                Err(error) => Box::pin(self.refuse_row(error)).await?,
            }
            self.order.ahead.remove(&stream, version);
        }
        Ok(())
    }

    /// Checks that the rows still have the page that the last sweep has moved over, unless the next sweep follows at once and checks it.
    pub(super) async fn compare_swept(&mut self) -> Result<()> {
        let Some(swept) = self.order.swept.take_if(|swept| swept.at.elapsed() >= self.job.options.sweep) else {
            return Ok(());
        };
        let streams: Vec<_> = swept.streams().cloned().collect();
        match self.job.models.seen(&self.name, &streams).await {
            Ok(seen) if swept.is_in(&seen) => {
                swept.add_rows_ahead(&seen, &mut self.order.ahead);
                Ok(())
            }
            Ok(_) => Box::pin(self.apply_again(swept)).await.map(drop),
            Err(error) if error.is_outage() => {
                self.order.swept = Some(swept);
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Applies a page again whose events the restored rows lack, unless the swept position was restored too. Returns whether to read on.
    pub(super) async fn apply_again(&mut self, lacking: Swept) -> Result<bool> {
        self.return_to_stored().await?;
        let (reader, limit, scope) = (self.job.reader.clone(), self.job.options.batch_events, self.scope());
        let mut after = lacking.from;
        while after.position < lacking.to.position && lacking.to.position <= self.applied.position {
            let page = match retry_transient(&self.stop, self.delays(), || reader.read_all(after, limit, &scope)).await
            {
                Ok(page) => page,
                // The log was restored, too. Everything that is remembered now is compared with it.
                Err(error) if error.is_history_changed() => return Ok(true),
                Err(error) => {
                    self.order.swept = Some(lacking);
                    return self.unless_stopped(error).map(|()| false);
                }
            };
            let through = page.mark();
            if through.position == after.position {
                break;
            }
            let mut events = page.events;
            self.leave_out_unknown_kinds(&mut events);
            let last = last_events(&events);
            if !self.apply_timed(events).await? {
                self.order.swept = Some(lacking);
                return Ok(false);
            }
            self.order.swept = Swept::over(after, through, last);
            after = through;
        }
        Ok(true)
    }

    /// As [`refuse`](Self::refuse), for an error that names the stream.
    pub(super) async fn refuse_row(&mut self, error: Error) -> Result<()> {
        match error.kind() {
            ErrorKind::HistoryChanged { place: Place::Stream(stream, version), .. } => {
                let (stream, version) = (stream.clone(), *version);
                Box::pin(self.refuse(&stream, version, error)).await
            }
            _ => Err(error),
        }
    }

    /// Names the projection in `error`, if it says that the log lost an event which the projection has applied. If the row of the event no longer
    /// has it, the read model was restored and nothing is wrong.
    ///
    /// Stores the lost event as the one at the swept position, so that every worker is refused from now on: the events of the projection that the
    /// log does not have can be anywhere after the swept position.
    pub(super) async fn refuse(&mut self, stream: &StreamId, version: Version, error: Error) -> Result<()> {
        let ErrorKind::HistoryChanged { remembered: Some(lost), .. } = error.kind() else { return Err(error) };
        let (models, name, lost) = (&self.job.models, &self.name, *lost);
        let streams = [stream.clone()];
        let seen = retry_transient(&self.stop, self.delays(), || models.seen(name, &streams)).await?;
        if seen.get(stream).is_none_or(|seen| seen.version < version) {
            return Ok(());
        }
        let mut from = retry_transient(&self.stop, self.delays(), || models.mark(name)).await?;
        for _ in 0..REFUSALS {
            let refused = Mark::new(from.position.max(Position::new(1)), lost);
            let known = retry_transient(&self.stop, self.delays(), || models.parking(name)).await?.changes;
            let sweep = || models.sweep(name, known, from, refused);
            let stored = match retry_transient(&self.stop, self.delays(), sweep).await {
                Err(error) if has_new_release(&error) => continue,
                swept => swept?,
            };
            if stored == refused {
                break;
            }
            from = stored;
        }
        Err(self.of_this_projection(error))
    }
}

/// Checks that the log has the event `id` as `version` of `stream`.
async fn has(reader: &dyn EventReader, stream: &StreamId, version: Version, id: EventId) -> Result<()> {
    let before = Version::new(version.get().saturating_sub(1));
    let found = reader.read_stream(stream, before, 1).await?.first().map(|event| event.event.id);
    if found == Some(id) {
        return Ok(());
    }
    if found.is_none() {
        // A log that may lag behind answers this with a transient error.
        let beyond = Mark::new(reader.head().await?.plus(BEYOND), id);
        reader.check(beyond).await.or_else(|error| if error.is_history_changed() { Ok(()) } else { Err(error) })?;
    }
    Err(changed_stream(stream, version, id, found))
}
