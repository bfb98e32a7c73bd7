//! `retell export` and `retell import`.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Args;
use retell::operate::{ArchiveOptions, ArchivedRows, Exported};

use crate::commands::count;
use crate::failure::{Diagnostic, Exit, Failure};
use crate::out::{Answer, Page, remark};
use crate::session::Session;

/// The pause between two reports of progress.
const PAUSE: Duration = Duration::from_secs(1);

/// Arguments of `retell export`.
#[derive(Debug, Args)]
pub(crate) struct ExportLog {
    /// The new file, or - for standard output
    file: PathBuf,
    /// Write JSON Lines without compression
    #[arg(long)]
    plain: bool,
}

impl ExportLog {
    pub(crate) fn is_stdout(&self) -> bool {
        self.file == Path::new("-")
    }

    fn options(&self) -> ArchiveOptions {
        if self.plain { reporting().without_compression() } else { reporting() }
    }
}

/// Arguments of `retell import`.
#[derive(Debug, Args)]
pub(crate) struct ImportLog {
    /// The file of an export, or - for standard input
    file: PathBuf,
    /// Create the tables of the log and of the read models first
    #[arg(long)]
    pub(crate) create: bool,
}

/// Exports to a file. Until the export is whole, the name of the file ends with `.part`.
pub(super) async fn export(session: &Session, arguments: &ExportLog) -> Result<Answer, Failure> {
    let path = &arguments.file;
    if path.exists() {
        return Err(Failure::Refused(format!("{} exists already", path.display())));
    }
    let mut part = path.clone().into_os_string();
    part.push(".part");
    let part = PathBuf::from(part);
    let mut file = File::create(&part).map_err(|error| unusable("write", &part, &error))?;
    let exported = match write(session, arguments, &mut file).await {
        Ok(exported) => exported,
        Err(failure) => {
            // The failure itself is more important.
            drop(fs::remove_file(&part));
            return Err(failure);
        }
    };
    file.sync_all()?;
    fs::rename(&part, path)?;
    let bytes = file.metadata()?.len();
    let mut page = Page::default();
    page.line(format!("{}, up to position {}", rows(exported.rows), exported.head));
    page.line(format!("{bytes} bytes in {}", path.display()));
    Answer::new(&exported, page, remarks(&exported))
}

/// Exports to standard output, which then has nothing else.
pub(super) async fn export_to_stdout(session: &Session, arguments: &ExportLog) -> Result<Exit, Failure> {
    let exported = write(session, arguments, &mut io::stdout()).await?;
    remark(&Diagnostic::note("exported", format!("{}, up to position {}", rows(exported.rows), exported.head)));
    remarks(&exported).iter().for_each(remark);
    Ok(Exit::Good)
}

async fn write(session: &Session, arguments: &ExportLog, to: &mut (dyn Write + Send)) -> Result<Exported, Failure> {
    let stores = &session.stores;
    Ok(stores.models.export(&*stores.log, to, arguments.options()).await?)
}

pub(super) async fn import(session: &Session, arguments: &ImportLog) -> Result<Answer, Failure> {
    let path = &arguments.file;
    let mut from: Box<dyn Read + Send> = if path == Path::new("-") {
        Box::new(io::stdin())
    } else {
        Box::new(File::open(path).map_err(|error| unusable("read", path, &error))?)
    };
    let stores = &session.stores;
    let imported = stores.models.import(&*stores.log, &mut *from, reporting()).await?;
    let mut page = Page::default();
    page.line(format!("{}, up to position {}", rows(imported.rows), imported.head));
    Answer::new(&imported, page, Vec::new())
}

fn unusable(attempt: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::Usage(format!("cannot {attempt} {}: {error}", path.display()))
}

/// Returns options that report the progress on standard error, now and then.
fn reporting() -> ArchiveOptions {
    let (begin, last) = (Instant::now(), Mutex::new(Instant::now()));
    ArchiveOptions::new().with_progress(move |through, head| {
        let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.elapsed() >= PAUSE {
            *last = Instant::now();
            let rate = through.get() / begin.elapsed().as_secs().max(1);
            let message = format!("position {through} of {head}, {rate} events a second");
            remark(&Diagnostic::note("progress", message));
        }
    })
}

fn remarks(exported: &Exported) -> Vec<Diagnostic> {
    let commits = exported.without_position;
    let remark = || {
        let commits = count(commits, "commit");
        Diagnostic::note("without_position", format!("{commits} had no position yet and are not in the export"))
    };
    (commits > 0).then(remark).into_iter().collect()
}

fn rows(rows: ArchivedRows) -> String {
    let others = [(rows.keys, "idempotency key"), (rows.claims, "claim"), (rows.seals, "seal")];
    let others = others.iter().filter(|(number, _)| *number > 0).map(|(number, noun)| count(*number, noun));
    [count(rows.events, "event")].into_iter().chain(others).collect::<Vec<_>>().join(", ")
}
