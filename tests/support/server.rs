//! A PostgreSQL server for a single test, which may kill, copy and promote it, and let its disk run full.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use std::{fs, thread};

use rustix::process::{Pid, Signal, kill_process};
use sqlx::{Connection, PgConnection};
use tempfile::TempDir;

use crate::programs;

/// Time limit for a server to start, to stop or to catch up.
pub(crate) const TIMEOUT: Duration = Duration::from_mins(5);

pub(crate) struct Server {
    process: Child,
    port: u16,
    settings: Vec<String>,
    place: Place,
    /// How far its clock is off, in the syntax of libfaketime.
    clock: Option<&'static str>,
}

/// The location of a server's files.
pub(crate) enum Place {
    Folder(TempDir),
    Disk(Disk),
}

impl Place {
    fn path(&self) -> &Path {
        match self {
            Self::Folder(folder) => folder.path(),
            Self::Disk(disk) => disk.path(),
        }
    }
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_with(Place::Folder(folder()), &[])
    }

    /// Starts a server with settings such as `fsync=off`.
    pub(crate) fn start_with(place: Place, settings: &[&str]) -> Self {
        init(&place);
        Self::on(place, settings.iter().map(|&setting| setting.to_owned()).collect())
    }

    /// Starts a second server that follows this one by streaming replication.
    pub(crate) fn replica(&self) -> Self {
        let place = Place::Folder(folder());
        let mut backup = program("pg_basebackup");
        backup.arg("-D").arg(place.path().join("data")).arg("-d").arg(self.url());
        run(backup.args(["-R", "-X", "stream", "--checkpoint=fast", "--no-sync"]));
        Self::on(place, self.settings.clone())
    }

    /// Starts a server whose clock is off.
    pub(crate) fn start_with_clock(clock: &'static str) -> Self {
        let place = Place::Folder(folder());
        init(&place);
        Self::with_clock(place, Vec::new(), Some(clock))
    }

    fn on(place: Place, settings: Vec<String>) -> Self {
        Self::with_clock(place, settings, None)
    }

    fn with_clock(place: Place, settings: Vec<String>, clock: Option<&'static str>) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let process = spawn(place.path(), port, &settings, clock);
        let mut server = Self { process, port, settings, place, clock };
        server.wait();
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Kills the server with SIGKILL and starts a new one on the same files.
    pub(crate) fn kill_and_start(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.process = spawn(self.place.path(), self.port, &self.settings, self.clock);
        self.wait();
    }

    /// Stops the server with a fast shutdown, which ends its sessions.
    pub(crate) fn stop(&mut self) {
        self.signal(Signal::INT);
        self.process.wait().unwrap();
    }

    /// Waits until the server answers. A new server exits at once while processes of a killed one remain, so this
    /// starts it again.
    pub(crate) fn wait(&mut self) {
        let started = Instant::now();
        while !answers(&self.url()) {
            assert!(started.elapsed() < TIMEOUT, "the server does not start: {}", self.log());
            if self.process.try_wait().unwrap().is_some() {
                self.process = spawn(self.place.path(), self.port, &self.settings, self.clock);
            }
            sleep(Duration::from_millis(20));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.place.path().join("log")).unwrap_or_default()
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid()).unwrap(), signal).unwrap();
    }

    /// Returns the number of the server's process. One with another clock is the child of faketime, which passes no signal on.
    fn pid(&self) -> i32 {
        let file = self.clock.and_then(|_| fs::read_to_string(self.place.path().join("data/postmaster.pid")).ok());
        let server = file.and_then(|file| file.lines().next()?.parse().ok());
        server.unwrap_or_else(|| i32::try_from(self.process.id()).unwrap())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.process.try_wait().is_ok_and(|ended| ended.is_none()) {
            // SIGQUIT makes the server end its own processes at once. After SIGKILL they would live for a moment longer
            // and keep its disk busy.
            self.signal(Signal::QUIT);
            drop(self.process.wait());
        }
    }
}

/// A small disk that can run full. Needs the permission to mount one.
pub(crate) struct Disk(TempDir);

impl Disk {
    pub(crate) fn of_mib(size: u32) -> Self {
        let folder = folder();
        let options = format!("size={size}m,mode=0777");
        let mounted = as_root("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(folder.path()).output();
        let mounted = mounted.unwrap();
        assert!(mounted.status.success(), "a test of a full disk must mount a disk, as root or with sudo: {mounted:?}");
        Self(folder)
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes up space until `free` is called.
    pub(crate) fn fill_mib(&self, size: usize) {
        fs::write(self.path().join("ballast"), vec![b'x'; size * 1024 * 1024]).unwrap();
    }

    pub(crate) fn free(&self) {
        fs::remove_file(self.path().join("ballast")).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(as_root("umount").arg("-l").arg(self.0.path()).output());
    }
}

fn as_root(name: &str) -> Command {
    if programs::is_root() {
        return Command::new(name);
    }
    let mut sudo = Command::new("sudo");
    sudo.args(["-n", name]);
    sudo
}

/// Returns a folder that the server's user may use.
pub(crate) fn folder() -> TempDir {
    programs::folder("postgres")
}

/// Runs a program, asserts that it succeeds, and returns its output.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Returns whether the server accepts connections. Connects on a new thread, because the caller may be inside a
/// runtime.
fn answers(url: &str) -> bool {
    let ask = || tokio::runtime::Runtime::new().unwrap().block_on(PgConnection::connect(url)).is_ok();
    thread::scope(|scope| scope.spawn(ask).join().unwrap())
}

fn init(place: &Place) {
    let mut initdb = program("initdb");
    initdb.arg("-D").arg(place.path().join("data"));
    run(initdb.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]));
}

fn spawn(directory: &Path, port: u16, settings: &[String], clock: Option<&str>) -> Child {
    let log = fs::File::options().create(true).append(true).open(directory.join("log")).unwrap();
    let mut server = match clock {
        None => program("postgres"),
        Some(offset) => {
            let mut server = programs::as_user("postgres", "faketime");
            // Waits count by another clock, which stays as it is.
            server.args(["-m", "--exclude-monotonic", "-f", offset]).arg(path("postgres"));
            server
        }
    };
    server.arg("-D").arg(directory.join("data")).arg("-p").arg(port.to_string());
    // The library's commits must wait for the disk even if the server's default does not.
    let always =
        ["listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=200", "synchronous_commit=off"];
    for setting in always.into_iter().chain(settings.iter().map(String::as_str)) {
        server.args(["-c", setting]);
    }
    server.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap()
}

/// Returns a command for one of the server's programs. Run by root, it switches to the user that the server requires.
pub(crate) fn program(name: &str) -> Command {
    programs::as_user("postgres", path(name))
}

fn path(name: &str) -> PathBuf {
    programs::find(name).unwrap_or_else(|| panic!("{name} of PostgreSQL is missing: install its server package"))
}
