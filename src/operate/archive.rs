//! Copies a log into a file, and a file into an empty log.

pub(super) mod counted;
mod event;
mod line;
mod read;
mod value;
mod write;

use std::fmt;
use std::io::{Read, Write};
use std::sync::Arc;

use serde::Serialize;

use crate::error::{Error, ErrorKind, Result};
use crate::id::{Position, ProjectionName};
use crate::operate::archive::counted::ArchivedRows;
use crate::operate::archive::line::Line;
use crate::operate::archive::read::Source;
use crate::operate::archive::write::File;
use crate::operate::rows::Rows;
use crate::store::log::archive::{Archive, ArchivedClaim, ClaimVisitor, Part, Parts};
use crate::store::log::inspect::LogRow;
use crate::store::model::processors::RegisteredProcessor;
use crate::store::model::read_model::ReadModel;

/// The idempotency keys and the seals that are read at a time.
const PAGE: usize = 500;

/// Receives the last copied position and the head of the export.
type OnProgress = Arc<dyn Fn(Position, Position) + Send + Sync>;

/// Options of [`export`] and [`import`].
///
/// # Examples
/// ```
/// use retell::operate::ArchiveOptions;
///
/// let options = ArchiveOptions::new()
///     .without_compression()
///     .with_progress(|through, head| eprintln!("{through} of {head}"));
/// assert!(!options.compresses);
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct ArchiveOptions {
    /// Whether an export is compressed with zstd, which needs the feature `zstd`. The default is whether the feature is there. An import finds out by
    /// the first byte.
    pub compresses: bool,
    on_progress: Option<OnProgress>,
}

impl ArchiveOptions {
    /// Creates options with the defaults.
    pub fn new() -> Self {
        Self { compresses: cfg!(feature = "zstd"), on_progress: None }
    }

    /// Writes plain JSON Lines.
    pub fn without_compression(mut self) -> Self {
        self.compresses = false;
        self
    }

    /// Calls `progress` after each page of events, with the last copied position and the head of the export.
    pub fn with_progress(mut self, progress: impl Fn(Position, Position) + Send + Sync + 'static) -> Self {
        self.on_progress = Some(Arc::new(progress));
        self
    }

    fn report(&self, through: Position, head: Position) {
        if let Some(on_progress) = &self.on_progress {
            on_progress(through, head);
        }
    }
}

impl Default for ArchiveOptions {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for ArchiveOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ArchiveOptions").field("compresses", &self.compresses).finish_non_exhaustive()
    }
}

/// The result of [`export`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Exported {
    /// The last position in the export: the head of the log when the export began.
    pub head: Position,
    /// The rows in the export.
    pub rows: ArchivedRows,
    /// The number of commits that had no position when the export began. They are not in it.
    pub without_position: u64,
}

/// The result of [`import`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Imported {
    /// The head of the log.
    pub head: Position,
    /// The imported rows.
    pub rows: ArchivedRows,
}

/// Writes a log to `to`, up to its head: every event as it is stored with its place and its commit, idempotency keys, claims, seals, registered
/// shapes and registered processors.
///
/// Programs may append meanwhile. Events after the head at the beginning are not in the export, and claims and keys are those of that head.
/// Reads pages and holds one of them in memory. Writes to `to` from the calling task, so a slow `to` delays the tasks of the same thread.
///
/// Snapshots, checkpoints, positions of relays, parked aggregates and read models are not in the export. Programs make snapshots again, and
/// workers begin at the first position.
///
/// # The form
/// One JSON object a line, compressed with zstd. The first line is the header `{"retell_export":1,"head":..}`. Each line after it has one name
/// and one object: `claim`, `shape`, `processor`, `event`, `key` or `seal`, in this order. The last line, `end`, has the number of each and the
/// SHA-256 digest of the lines between. Everything after the header is the same for the same log, whatever store it is in.
///
/// A payload is JSON in `payload` if this keeps its bytes, otherwise text in `payload_text` or base64 in `payload_base64`. Times are in RFC 3339
/// and UTC, to the microsecond as in every store.
///
/// # Examples
/// ```
/// use retell::prelude::*;
/// use retell::operate::{self, ArchiveOptions};
///
/// #[derive(Debug, Event)]
/// enum ShelfEvent {
///     #[event("shelf.filled")]
///     Filled { books: u32 },
/// }
///
/// # tokio::runtime::Runtime::new().unwrap().block_on(async {
/// let log = MemoryStore::new();
/// log.append_events(("shelf", "1"), ExpectedVersion::NoStream, [ShelfEvent::Filled { books: 12 }]).await?;
/// let mut file = Vec::new();
/// let exported = operate::export(&log, &log.read_model(), &mut file, ArchiveOptions::new()).await?;
/// assert_eq!(exported.head, Position::new(1));
///
/// let copy = MemoryStore::new();
/// operate::import(&copy, &copy.read_model(), &file[..], ArchiveOptions::new()).await?;
/// assert_eq!(copy.head().await?, Position::new(1));
/// # Ok::<(), BoxError>(())
/// # }).unwrap();
/// ```
///
/// # Errors
/// - [`ErrorKind::Corrupt`] if the log is damaged; [`verify`](crate::operate::verify()) says where
/// - [`ErrorKind::Transient`] if the log grows too fast to read its claims at one position
/// - [`ErrorKind::Backend`] if `to` cannot be written
/// - [`ErrorKind::Invalid`] if the store does not give out its claims and keys, or if compression needs the feature `zstd`
/// - otherwise a [read error](crate::Error#read-errors)
///
/// `to` then has no whole export, and no import accepts it.
pub async fn export<L, M>(log: &L, models: &M, to: impl Write + Send, options: ArchiveOptions) -> Result<Exported>
where
    L: Archive + ?Sized,
    M: ReadModel + ?Sized,
{
    let mut claims = Claims { file: File::to(to, options.compresses)?, head: Position::ZERO };
    if !log.claims(&mut claims).await? {
        return Err(unsupported());
    }
    let Claims { mut file, head } = claims;
    let without_position = log.unsequenced().await?;
    let mut shapes = log.registered_shapes().await?;
    shapes.sort_by_cached_key(|shape| {
        (shape.event_type.as_str().to_owned(), shape.version, shape.codec.number(), shape.digest())
    });
    for shape in &shapes {
        file.line(&Line::of_shape(shape)?)?;
    }
    let mut names = models.names().await?.unwrap_or_default();
    names.sort_unstable_by(|a, b| a.as_str().cmp(b.as_str()));
    for name in names {
        for processor in models.processors(&name).await? {
            file.line(&Line::of_processor(&name, &processor)?)?;
        }
    }
    export_events(log, &mut file, head, &options).await?;
    export_keys(log, &mut file, head).await?;
    let mut sealed = Position::ZERO;
    while let Some(seals) = log.seals(sealed, PAGE).await?.filter(|seals| !seals.is_empty()) {
        for seal in seals.iter().filter(|seal| seal.last <= head) {
            file.line(&Line::of_seal(seal)?)?;
        }
        sealed = seals.last().map_or(head, |seal| seal.last);
        if sealed >= head {
            break;
        }
    }
    Ok(Exported { head, rows: file.end()?, without_position })
}

fn unsupported() -> Error {
    ErrorKind::Invalid("this store does not give out its claims and idempotency keys".into()).into()
}

/// Begins the file when the head is known.
struct Claims<W: Write> {
    file: File<W>,
    head: Position,
}

impl<W: Write + Send> ClaimVisitor for Claims<W> {
    fn head(&mut self, head: Position) -> Result<()> {
        self.head = head;
        self.file.begin(head)
    }

    fn claim(&mut self, claim: ArchivedClaim) -> Result<()> {
        self.file.line(&Line::of_claim(&claim))
    }
}

async fn export_events<L: Archive + ?Sized, W: Write + Send>(
    log: &L,
    file: &mut File<W>,
    head: Position,
    options: &ArchiveOptions,
) -> Result<()> {
    let mut rows = Rows::after(log, Position::ZERO);
    let mut before: Option<(i64, i32, i64)> = None;
    let mut due = 1;
    while due <= head.get() {
        let page = rows.next().await?;
        if page.is_empty() {
            return Err(damaged(due));
        }
        for row in page.iter().filter(|row| row.position() <= head.get()) {
            let (LogRow { first, ordinal, event: Some(event), .. }, true) = (row, row.position() == due) else {
                return Err(damaged(due));
            };
            // The commit continues, or the next one begins. The events of a commit have one time.
            let fits = match before {
                Some((same, last, time)) if same == *first => *ordinal == last + 1 && event.recorded_at == time,
                _ => *ordinal == 1,
            };
            if !fits || !row.is_on_time {
                return Err(damaged(due));
            }
            before = Some((*first, *ordinal, event.recorded_at));
            file.line(&Line::of_event(due, *ordinal, event)?)?;
            due += 1;
        }
        options.report(Position::new(due - 1), head);
    }
    Ok(())
}

async fn export_keys<L: Archive + ?Sized, W: Write + Send>(log: &L, file: &mut File<W>, head: Position) -> Result<()> {
    let mut after = None;
    loop {
        let keys = log.archived_keys(head, after.as_ref(), PAGE).await?.ok_or_else(unsupported)?;
        for key in &keys {
            file.line(&Line::of_key(key))?;
        }
        match keys.into_iter().last() {
            Some(last) => after = Some(last.key),
            None => return Ok(()),
        }
    }
}

fn damaged(position: u64) -> Error {
    let problem = format!("position {position}: the log is damaged there, so it is not exported; run `verify`");
    ErrorKind::Corrupt(problem).into()
}

/// Reads an [export](export()) from `from` into `log`, which is empty. Positions, commits, ids, versions, times, payloads, metadata, keys, claims
/// and seals are exactly those of the export. The next append gets the position after it.
///
/// The log is written in one transaction, which ends after the last line of the export has proved it whole. Until then no reader sees an event, and
/// appends wait. If the process ends before, the log is still empty: import again. Reads and writes in batches of about 1 MiB. Reads `from` in the
/// calling task.
///
/// After the log, registers the processors of the export in `models`. Workers and relays begin at the first position. A relay publishes the whole
/// log once more, and consumers tell by the event ids. A token from before the copy is one of another log.
///
/// # Errors
/// - [`ErrorKind::NotEmpty`] if the log has anything, or an inline projection
/// - [`ErrorKind::BadExport`] if `from` is cut, changed, of a newer release, or no export
/// - [`ErrorKind::Invalid`] if the store takes no import or cannot keep a row exactly
/// - [`ErrorKind::DuplicateEvent`] or [`ErrorKind::Backend`] if the store refuses a row
/// - otherwise a [write error](crate::Error#write-errors)
///
/// Nothing is written then, unless registering a processor failed: workers register themselves when they start.
///
/// # Cancel safety
/// A dropped call writes nothing, unless it was about to end.
pub async fn import<L, M>(log: &L, models: &M, from: impl Read + Send, options: ArchiveOptions) -> Result<Imported>
where
    L: Archive + ?Sized,
    M: ReadModel + ?Sized,
{
    let mut parts = Reported { source: Source::of(from)?, options };
    let head = parts.source.head();
    log.import(head, &mut parts).await?;
    let (rows, processors) = parts.source.end();
    for (name, processor) in &processors {
        register(models, name, processor).await?;
    }
    Ok(Imported { head, rows })
}

async fn register<M: ReadModel + ?Sized>(
    models: &M,
    name: &ProjectionName,
    processor: &RegisteredProcessor,
) -> Result<()> {
    // A worker that has started meanwhile may have registered the same release.
    let known = models.processors(name).await?;
    if known.iter().any(|each| each.is_same(processor)) {
        return Ok(());
    }
    models.register_processor(name, processor).await
}

/// Reports the progress of an import.
struct Reported<R> {
    source: Source<R>,
    options: ArchiveOptions,
}

impl<R: std::io::BufRead + Send> Parts for Reported<R> {
    fn next(&mut self) -> Result<Option<Part>> {
        let part = self.source.next()?;
        if let Some(Part::Events(events)) = &part
            && let Some(last) = events.last()
        {
            self.options.report(Position::new(last.position().unsigned_abs()), self.source.head());
        }
        Ok(part)
    }
}
