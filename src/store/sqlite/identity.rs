//! Notices that the file of a store was deleted, moved or replaced while the store has it open.
//!
//! SQLite continues with the open file. On Unix, that file may have no name any more, and everything in it is lost when the last process closes
//! it. So the device and the inode of each path are compared with those at the time of opening. Other systems do not let a file be deleted or
//! renamed while SQLite has it open.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rusqlite::Connection;

use crate::error::{Error, ErrorKind, Result};

/// Calls that do not write compare the files again after this time, because the question costs as much as a few percent of a short read.
const INTERVAL: Duration = Duration::from_millis(5);

/// The files of a database, as they were when it was opened.
#[derive(Debug)]
pub(crate) struct OpenFiles {
    /// The path that the caller opened. Links in it are followed each time.
    path: PathBuf,
    database: Identity,
    /// The files of SQLite's write-ahead log. Commits that the database file does not have yet are in the first of them; processes that do
    /// not share the second one do not see each other's locks.
    wal: Vec<(PathBuf, Identity)>,
    opened: Instant,
    /// The microseconds from opening after which a comparison is due again.
    due: AtomicU64,
}

/// The device and the inode of a file.
type Identity = (u64, u64);

impl OpenFiles {
    /// Returns the files behind `db`, which was opened at `path` and has been read from. Returns `None` if the system does not tell files
    /// apart.
    pub(crate) fn of(path: &Path, db: &Connection) -> Option<Self> {
        // Calls may come after the program has changed its working directory.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let database = identity(&path)?;
        let beside = |ending: &str| {
            let path = PathBuf::from(format!("{}{ending}", db.path()?));
            identity(&path).map(|identity| (path, identity))
        };
        let wal = ["-wal", "-shm"].into_iter().filter_map(beside).collect();
        Some(Self { path, database, wal, opened: Instant::now(), due: AtomicU64::new(0) })
    }

    /// Compares the files unless a call did so a moment ago.
    pub(crate) fn check_now_and_then(&self) -> Result<()> {
        let now = self.opened.elapsed();
        if now < Duration::from_micros(self.due.load(Ordering::Relaxed)) {
            return Ok(());
        }
        self.check()?;
        self.due.store(u64::try_from((now + INTERVAL).as_micros()).unwrap_or(0), Ordering::Relaxed);
        Ok(())
    }

    /// Compares the files.
    ///
    /// # Errors
    /// [`ErrorKind::FileReplaced`] if one of them is not at its path.
    pub(crate) fn check(&self) -> Result<()> {
        let is_there = |path: &Path, opened: Identity| identity(path) == Some(opened);
        let moved = std::iter::once((&self.path, self.database)).chain(self.wal.iter().map(|(path, id)| (path, *id)));
        match moved.into_iter().find(|(path, opened)| !is_there(path, *opened)) {
            None => Ok(()),
            Some((path, _)) => {
                // The next call compares before it writes anything.
                self.due.store(0, Ordering::Relaxed);
                Err(Error::new(ErrorKind::FileReplaced(path.clone())))
            }
        }
    }
}

/// Asks for the inode alone. To ask for a file's times would be expensive: since version 6.13, Linux gives a write a new time if the last one has been
/// read, so each commit would have to write the inode of the write-ahead log, too.
#[cfg(target_os = "linux")]
fn identity(path: &Path) -> Option<Identity> {
    use rustix::fs::{AtFlags, CWD, StatxFlags, makedev, statx};
    use rustix::io::Errno;

    match statx(CWD, path, AtFlags::STATX_DONT_SYNC, StatxFlags::INO) {
        Ok(file) => Some((makedev(file.stx_dev_major, file.stx_dev_minor), file.stx_ino)),
        // Linux before 4.11, and sandboxes that do not know the call.
        Err(Errno::NOSYS | Errno::PERM) => identity_of_metadata(path),
        Err(_) => None,
    }
}

#[cfg(all(unix, not(target_os = "linux")))]
fn identity(path: &Path) -> Option<Identity> {
    identity_of_metadata(path)
}

#[cfg(unix)]
fn identity_of_metadata(path: &Path) -> Option<Identity> {
    use std::os::unix::fs::MetadataExt;
    let file = path.metadata().ok()?;
    Some((file.dev(), file.ino()))
}

#[cfg(not(unix))]
fn identity(_: &Path) -> Option<Identity> {
    None
}
