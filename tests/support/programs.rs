//! Finds the programs of servers that tests start for themselves: on this machine, or in another system's root at
//! `RETELL_ROOT`, see `tests/matrix.sh`.

#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::OsStr;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use tempfile::TempDir;

/// The folder of the system that has the servers. Paths of its programs are given as seen from within.
fn root() -> PathBuf {
    env::var_os("RETELL_ROOT").map_or_else(|| PathBuf::from("/"), PathBuf::from)
}

fn has_own_root() -> bool {
    root() != Path::new("/")
}

fn outside(path: &Path) -> PathBuf {
    root().join(path.strip_prefix("/").unwrap_or(path))
}

/// Returns the last path, in the order of names, of `within` in a folder of `parent`, such as
/// `/usr/lib/postgresql/17/bin/postgres`.
pub(crate) fn newest(parent: &str, within: &str) -> Option<PathBuf> {
    let versions = fs::read_dir(outside(Path::new(parent))).into_iter().flatten().flatten();
    let mut names: Vec<_> = versions.map(|version| version.file_name()).collect();
    names.sort();
    let paths = names.iter().rev().map(|name| Path::new(parent).join(name).join(within));
    paths.into_iter().find(|path| outside(path).exists())
}

/// Returns the path of a program of PostgreSQL, MySQL or MariaDB. An absolute path is one on this machine.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    if Path::new(name).is_absolute() {
        return Some(name.into());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into()]);
    let found = folders.map(|folder| folder.join(name)).find(|path| outside(path).exists());
    newest("/usr/lib/postgresql", &format!("bin/{name}")).or(found)
}

/// Returns a command for a program of a server. Run by root, it switches to the user that the server requires.
pub(crate) fn as_user(user: &str, program: impl AsRef<OsStr>) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    if !has_own_root() {
        return here_as_user(user, program);
    }
    let mut command = Command::new("chroot");
    command.arg(format!("--userspec={user}:{user}")).arg(root());
    command.env("LANG", "C.UTF-8").arg(program);
    command
}

/// As [`as_user`], for a program of this machine, whatever has the servers.
pub(crate) fn here_as_user(user: &str, program: impl AsRef<OsStr>) -> Command {
    if !is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.arg(format!("--reuid={user}")).arg(format!("--regid={user}")).args(["--init-groups", "--"]).arg(program);
    command
}

/// Returns a command for a client's program, which runs as the current user.
pub(crate) fn client(name: impl AsRef<OsStr>) -> Command {
    if !has_own_root() {
        return Command::new(name);
    }
    let mut command = Command::new("chroot");
    command.arg(root()).arg(name);
    command
}

/// Returns a folder that a server's user may use.
pub(crate) fn folder(user: &str) -> TempDir {
    if !is_root() {
        return TempDir::new().unwrap();
    }
    // Root's own temporary folder may be closed to the server's user. The one of `tests/matrix.sh` is not, and another root sees it.
    let folder = if has_own_root() { TempDir::new() } else { TempDir::new_in("/tmp") };
    let folder = folder.unwrap();
    chown(folder.path(), Some(user_id(user)), None).unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

pub(crate) fn is_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

fn user_id(user: &str) -> u32 {
    let users = fs::read_to_string(outside(Path::new("/etc/passwd"))).unwrap();
    let line = users.lines().find(|line| line.split(':').next() == Some(user)).expect("the server's user exists");
    line.split(':').nth(2).unwrap().parse().unwrap()
}
