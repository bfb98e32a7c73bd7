//! Starts a PgBouncer. Needs `PGBOUNCER`, the path of PgBouncer 1.21 or later.

#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use tempfile::TempDir;

use crate::databases::{Database, Place};
use crate::programs::here_as_user;
use crate::server::{TIMEOUT, folder};

/// A PgBouncer in transaction mode before one database.
pub(crate) struct Pooler {
    process: Child,
    pub(crate) url: String,
    _folder: TempDir,
}

impl Pooler {
    pub(crate) fn start(database: &Database, settings: &str) -> Self {
        let binary = env::var("PGBOUNCER").expect("PGBOUNCER is not set: tests/run.sh makes a PgBouncer");
        Self::start_program(&binary, database, settings)
    }

    pub(crate) fn start_program(binary: &str, database: &Database, settings: &str) -> Self {
        let Place::Postgres(server) = &database.place else { unreachable!("a file has no server") };
        let (host, name) = server.rsplit_once('@').unwrap().1.split_once('/').unwrap();
        let (host, server_port) = host.split_once(':').unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let folder = folder();
        let config = folder.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host={host} port={server_port} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = transaction\ndefault_pool_size = 4\n\
             ignore_startup_parameters = extra_float_digits\n{settings}\n"
        );
        fs::write(&config, text).unwrap();
        let mut command = here_as_user("postgres", binary);
        let process = command.arg("-q").arg(&config).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let started = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(started.elapsed() < TIMEOUT, "PgBouncer does not start");
            thread::sleep(Duration::from_millis(10));
        }
        Self { process, url: format!("postgres://postgres@127.0.0.1:{port}/{name}"), _folder: folder }
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}
