//! One run of a build: reads pages of the log while it folds, folds them in memory and writes large transactions.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::backoff::{self, Delays, retry_transient};
use crate::error::{Error, ErrorKind, Result};
use crate::id::mark::Mark;
use crate::id::{Position, StreamId, ViewKey};
use crate::rebuild::cache::{Cache, Change, Rows};
use crate::rebuild::job::Job;
use crate::rebuild::progress::Speed;
use crate::store::log::query::{Filter, Page};
use crate::store::log::reader::{EventReader, EventReaderExt};
use crate::store::model::checkpoint::ProjectionState;
use crate::store::model::parking::Step;
use crate::store::model::read_model::Work;
use crate::store::model::views::{ViewId, ViewRow, ViewStore};
use crate::view::View;
use crate::view::fold::{ViewProjection, check_rows};
use crate::worker::Worker;
use crate::worker::wanted::Wanted;

/// Events per page of the log.
pub(super) const PAGE_EVENTS: usize = 10_000;

/// Maximum number of pages that are read ahead.
const PAGES_AHEAD: usize = 2;

/// Rows per call to the database within one transaction.
const ROWS_PER_CALL: usize = 5_000;

pub(super) struct Build<'r, V: View, M> {
    job: &'r Job<V, M>,
    id: ViewId,
    /// The events that this release and the newest one need.
    wanted: Wanted,
    /// The checkpoint as stored.
    kept: Mark,
    /// Place up to which everything is folded.
    folded: Mark,
    /// Count of changes, read with the checkpoint: a worker that retries a parked aggregate changes rows too, and another release may register.
    changes: u64,
    parked: HashSet<StreamId>,
    cache: Cache<V>,
    speed: Speed,
    standby: Delays,
    stop: CancellationToken,
}

/// The result of one part of the build.
enum Ended {
    /// Everything is written, or the build is stopped.
    Through,
    /// An event up to this position fails.
    Failing(Position),
    /// Only a newer release of the view reads the next event.
    Behind(Error),
    /// Another process has moved the checkpoint.
    Moved,
}

impl<'r, V: View, M: ViewStore + Clone> Build<'r, V, M> {
    /// Builds until the generation has caught up with the live one.
    pub(super) async fn to_end(job: &'r Job<V, M>, stop: CancellationToken) -> Result<()> {
        if job.models.state(job.id()?.projection()).await? == ProjectionState::Inline {
            // Appends keep an inline view complete.
            return Ok(());
        }
        let mut build = Self::begin(job, stop).await?;
        while !build.pass_once().await? && !build.stop.is_cancelled() {}
        Ok(())
    }

    /// Builds once from the checkpoint to the log's head.
    pub(super) async fn to_head(job: &'r Job<V, M>) -> Result<()> {
        let mut build = Self::begin(job, CancellationToken::new()).await?;
        build.pass_once().await.map(drop)
    }

    async fn begin(job: &'r Job<V, M>, stop: CancellationToken) -> Result<Self> {
        let id = job.id()?;
        if job.models.state(id.projection()).await? == ProjectionState::Deleting {
            // Finish a deletion that was interrupted.
            job.delete_generation(&id).await?;
        }
        let mut build = Self {
            cache: Cache::new(job.view.clone(), Position::ZERO),
            wanted: Wanted::by(id.projection().as_str(), job.processor()?),
            job,
            id,
            kept: Mark::START,
            folded: Mark::START,
            changes: 0,
            parked: HashSet::new(),
            speed: Speed::new(),
            standby: delays(),
            stop,
        };
        check_rows::<V>(&build.id, &job.models).await?;
        build.wanted.register(&job.models, build.id.projection()).await?;
        build.reload().await?;
        build.speed.begin(build.kept.position);
        job.check(build.kept).await?;
        Ok(build)
    }

    /// Reads the checkpoint, the parked aggregates and the registered releases. The checkpoint comes first: a process that changes the others
    /// later also changes the count that is read with the parked aggregates.
    async fn reload(&mut self) -> Result<()> {
        let models = &self.job.models;
        self.kept = models.mark(self.id.projection()).await?;
        let parking = models.parking(self.id.projection()).await?;
        let registered = models.processors(self.id.projection()).await?;
        let skipped = models.skipped(self.id.projection(), None, usize::MAX).await?;
        self.wanted = self.wanted.with(self.id.projection(), registered, skipped)?;
        if let Some(pause) = models.paused(self.id.projection()).await? {
            return Err(pause.refuse(self.id.projection()));
        }
        self.folded = self.kept;
        self.changes = parking.changes;
        self.parked = parking.parked.into_iter().map(|parked| parked.stream).collect();
        self.cache = Cache::new(self.job.view.clone(), self.kept.position);
        Ok(())
    }

    /// Runs one pass. Returns whether the generation has caught up with the live one.
    async fn pass_once(&mut self) -> Result<bool> {
        match self.pass().await? {
            Ended::Through => {
                let live = self.job.live_checkpoint().await?;
                return Ok(self.kept.position >= live);
            }
            Ended::Failing(position) => self.hand_over(position).await?,
            Ended::Behind(error) => return Err(error),
            Ended::Moved => {
                self.standby.pause(&self.stop).await;
            }
        }
        self.reload().await?;
        Ok(false)
    }

    /// Folds and writes from the checkpoint to the current head.
    async fn pass(&mut self) -> Result<Ended> {
        let head = self.job.reader.head().await?;
        self.report_progress(head);
        let mut pages = Pages::read(self.job.reader.clone(), self.folded, head, self.wanted.query().clone());
        while !self.stop.is_cancelled()
            && let Some(page) = pages.next().await?
        {
            if let Some(ended) = self.fold(page).await? {
                return match self.flush().await? {
                    Ended::Through => Ok(ended),
                    other => Ok(other),
                };
            }
            self.report_progress(head);
            if self.is_full() {
                match self.flush().await? {
                    Ended::Through => {}
                    other => return Ok(other),
                }
            }
        }
        self.flush().await
    }

    fn is_full(&self) -> bool {
        let options = &self.job.options;
        self.cache.changed() >= options.rows || self.cache.payload_bytes() >= options.payload_bytes
    }

    fn report_progress(&self, head: Position) {
        self.job.progress.send_replace(self.speed.progress(self.folded.position, head));
    }

    /// Folds a page. Returns why the build ends at an event of it, if it does; everything before that event is folded.
    async fn fold(&mut self, page: Page) -> Result<Option<Ended>> {
        let mut changes = Vec::with_capacity(page.events.len());
        let (mut ended, mut through, end) = (None, self.folded, page.mark());
        for event in page.events {
            let mark = event.mark();
            if self.parked.contains(&event.stream) || !self.wanted.passes(&event) {
                through = mark;
                continue;
            }
            if let Err(error) = self.wanted.check(&event) {
                ended = Some(Ended::Behind(error));
                break;
            }
            let position = event.position;
            if Change::add(&mut changes, &*self.job.view, event).is_err() {
                ended = Some(Ended::Failing(position));
                break;
            }
            through = mark;
        }
        let missing = self.cache.missing(&changes);
        if !missing.is_empty() {
            let found = self.load(&missing).await?;
            if self.cache.keep(found).is_err() {
                // A row whose state cannot be decoded fails its events.
                return Ok(Some(Ended::Failing(end.position)));
            }
        }
        if self.cache.fold(changes).is_err() {
            // The row of the event that panicked is lost, so everything since the checkpoint is folded again, by a worker.
            (self.cache, self.folded) = (Cache::new(self.job.view.clone(), self.kept.position), self.kept);
            return Ok(Some(Ended::Failing(end.position)));
        }
        self.folded = if ended.is_some() { through } else { end };
        Ok(ended)
    }

    /// Reads the committed rows. If they are newer than this build's checkpoint, its next commit fails and the build reloads.
    async fn load(&self, keys: &[ViewKey]) -> Result<Vec<ViewRow>> {
        let (models, id) = (&self.job.models, &self.id);
        retry_transient(&self.stop, delays(), || models.rows(id.view(), Some(id.generation()), keys)).await
    }

    /// Writes the changed rows and moves the checkpoint.
    async fn flush(&mut self) -> Result<Ended> {
        if self.folded == self.kept {
            return Ok(Ended::Through);
        }
        let Ok(rows) = self.cache.changes() else { return Ok(Ended::Failing(self.folded.position)) };
        let rows = Arc::new(rows);
        let step = Step::new(self.id.projection(), self.kept, self.folded).with_parking(self.changes, Vec::new());
        let commit = || self.job.models.commit(step.clone(), self.save(&rows));
        match retry_transient(&self.stop, delays(), commit).await {
            Err(error) if matches!(error.kind(), ErrorKind::CheckpointMoved { .. }) => return Ok(Ended::Moved),
            committed => committed?,
        }
        self.kept = self.folded;
        self.standby = self::delays();
        match Arc::into_inner(rows) {
            Some(rows) => self.cache.written(rows, self.job.options.rows),
            // An earlier attempt at the transaction still holds the rows.
            None => self.cache = Cache::new(self.job.view.clone(), self.kept.position),
        }
        Ok(Ended::Through)
    }

    fn save(&self, rows: &Arc<Rows>) -> Work<M::Tx> {
        let (models, id, rows) = (self.job.models.clone(), self.id.clone(), rows.clone());
        Box::new(move |tx| {
            async move {
                for new in rows.new.chunks(ROWS_PER_CALL) {
                    models.insert_rows(tx, &id, new).await?;
                }
                let parts = rows.before.chunks(ROWS_PER_CALL).zip(rows.after.chunks(ROWS_PER_CALL));
                for (before, after) in parts {
                    models.save_rows(tx, &id, before, after).await?;
                }
                Ok(())
            }
            .boxed()
        })
    }

    /// Lets a worker apply the events up to `to`: it parks the aggregates that fail.
    async fn hand_over(&self, to: Position) -> Result<()> {
        let projection = ViewProjection::new(self.job.view.clone(), self.job.models.clone());
        let worker = Worker::new(projection, self.job.reader.clone(), self.job.models.clone());
        let worker = worker.with_options(self.job.options.worker);
        worker.catch_up_to(to, self.stop.clone()).await.map(drop)
    }
}

const MAX_DELAY: Duration = Duration::from_secs(5);

/// Returns the waits between attempts.
fn delays() -> Delays {
    backoff::delays(Duration::from_millis(5), MAX_DELAY)
}

/// Pages of the log up to a position, read by a separate task so that another core does the work.
struct Pages {
    arriving: mpsc::Receiver<Result<Page>>,
    /// Aborts the reading task on drop.
    _reading: JoinSet<()>,
}

impl Pages {
    fn read(reader: Arc<dyn EventReader>, mut after: Mark, to: Position, filter: Filter) -> Self {
        let (pages, arriving) = mpsc::channel(PAGES_AHEAD);
        let mut reading = JoinSet::new();
        reading.spawn(async move {
            // Dropping the task stops it.
            let never = CancellationToken::new();
            while after.position < to {
                let read = || reader.read_all(after, PAGE_EVENTS, &filter);
                let page = retry_transient(&never, delays(), read).await;
                let Ok(through) = page.as_ref().map(Page::mark) else {
                    drop(pages.send(page).await);
                    return;
                };
                if through.position == after.position || pages.send(page).await.is_err() {
                    return;
                }
                after = through;
            }
        });
        Self { arriving, _reading: reading }
    }

    async fn next(&mut self) -> Result<Option<Page>> {
        self.arriving.recv().await.transpose()
    }
}
