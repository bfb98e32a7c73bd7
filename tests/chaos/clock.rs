//! Clocks that jump: each process that the run starts gets a clock of its own, by libfaketime.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::random::Random;

/// Offsets of a clock, in the syntax of libfaketime.
const OFFSETS: [&str; 5] = ["+0", "+70y", "-5h", "+3d", "-20m"];

/// The files that hold the processes' clocks.
pub(crate) struct Clocks {
    folder: TempDir,
    made: u32,
}

impl Clocks {
    pub(crate) fn new() -> Self {
        Self { folder: TempDir::new().unwrap(), made: 0 }
    }

    /// Makes the file of a new clock.
    pub(crate) fn make(&mut self, random: &mut Random) -> Clock {
        self.made += 1;
        let clock = Clock(self.folder.path().join(self.made.to_string()));
        clock.jump(random);
        clock
    }
}

/// The file of one process's clock.
#[derive(Debug, Clone)]
pub(crate) struct Clock(PathBuf);

impl Clock {
    pub(crate) fn jump(&self, random: &mut Random) {
        self.set(OFFSETS[usize::try_from(random.below(OFFSETS.len() as u64)).unwrap()]);
    }

    pub(crate) fn set(&self, offset: &str) {
        // Renamed, so that a process never reads half a file.
        let written = self.0.with_extension("new");
        fs::write(&written, offset).unwrap();
        fs::rename(written, &self.0).unwrap();
    }

    /// Returns the environment that gives a process this clock. Waits, which count by another clock, stay as they are.
    pub(crate) fn environment(&self) -> [(&'static str, PathBuf); 6] {
        let on = || PathBuf::from("1");
        [
            ("LD_PRELOAD", library()),
            ("FAKETIME_TIMESTAMP_FILE", self.0.clone()),
            ("FAKETIME_NO_CACHE", on()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", on()),
            ("DONT_FAKE_MONOTONIC", on()),
            ("NO_FAKE_STAT", on()),
        ]
    }
}

fn library() -> PathBuf {
    let folders = fs::read_dir("/usr/lib").unwrap().flatten().map(|folder| folder.path().join("faketime"));
    let found = folders.map(|folder| folder.join("libfaketimeMT.so.1")).find(|path| Path::exists(path));
    found.expect("libfaketime is missing: on Debian or Ubuntu: apt-get install faketime")
}
