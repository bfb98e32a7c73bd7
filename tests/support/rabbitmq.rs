//! A RabbitMQ for a single test, which may kill it, stop it and delete its data.

#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::OsStr;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use crate::programs;

/// Time limit of a start.
const START_TIMEOUT: Duration = Duration::from_mins(2);

pub(crate) struct RabbitMq {
    folder: TempDir,
    port: u16,
    distribution_port: u16,
    names_port: u16,
    /// Erlang's name server. One started by the broker would outlive the test.
    names: Child,
    /// The start script and the processes that it started, as one process group.
    broker: Option<Child>,
}

impl RabbitMq {
    pub(crate) fn start() -> Self {
        Self::start_with("[].")
    }

    /// Starts a broker with `settings`, in the syntax of `advanced.config`.
    pub(crate) fn start_with(settings: &str) -> Self {
        let folder = programs::folder("rabbitmq");
        fs::write(folder.path().join("advanced.config"), settings).unwrap();
        let (port, distribution_port, names_port) = (free_port(), free_port(), free_port());
        let mut names = as_user("epmd");
        names.args(["-port", &names_port.to_string(), "-address", "127.0.0.1"]);
        let names = names.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut server = Self { folder, port, distribution_port, names_port, names, broker: None };
        server.start_again();
        server
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Starts the broker again, on its existing data if there is any.
    pub(crate) fn start_again(&mut self) {
        assert!(self.broker.is_none(), "the broker already runs");
        let folder = self.folder.path();
        let log = fs::File::options().create(true).append(true).open(folder.join("out")).unwrap();
        let mut broker = as_user(program());
        broker.env("HOME", folder).env("RABBITMQ_NODENAME", format!("own{}@localhost", self.port));
        broker.env("RABBITMQ_NODE_PORT", self.port.to_string()).env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1");
        broker.env("RABBITMQ_DIST_PORT", self.distribution_port.to_string());
        broker.env("ERL_EPMD_PORT", self.names_port.to_string()).env("ERL_EPMD_ADDRESS", "127.0.0.1");
        broker.env("RABBITMQ_MNESIA_BASE", folder.join("data")).env("RABBITMQ_LOG_BASE", folder.join("log"));
        for file in ["ENABLED_PLUGINS_FILE", "CONF_ENV_FILE", "CONFIG_FILE"] {
            broker.env(format!("RABBITMQ_{file}"), folder.join("none"));
        }
        broker.env("RABBITMQ_ADVANCED_CONFIG_FILE", folder.join("advanced.config"));
        broker.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
        self.broker = Some(broker.spawn().unwrap());
        self.wait();
    }

    /// Replaces the settings that the broker reads when it starts.
    pub(crate) fn set(&self, settings: &str) {
        fs::write(self.folder.path().join("advanced.config"), settings).unwrap();
    }

    /// Kills the broker with SIGKILL.
    pub(crate) fn kill(&mut self) {
        let Some(mut broker) = self.broker.take() else { return };
        let group = Pid::from_raw(i32::try_from(broker.id()).unwrap()).unwrap();
        kill_process_group(group, Signal::KILL).unwrap();
        broker.wait().unwrap();
        // The port is released a moment later.
        while TcpStream::connect(self.address()).is_ok() {
            sleep(Duration::from_millis(10));
        }
    }

    /// Deletes all data of the broker.
    pub(crate) fn wipe(&mut self) {
        assert!(self.broker.is_none(), "the broker still runs");
        fs::remove_dir_all(self.folder.path().join("data")).unwrap();
    }

    fn wait(&mut self) {
        let started = Instant::now();
        while TcpStream::connect(self.address()).is_err() {
            let ended = self.broker.as_mut().unwrap().try_wait().unwrap();
            let late = started.elapsed() > START_TIMEOUT;
            assert!(ended.is_none() && !late, "RabbitMQ does not start: {}", self.log());
            sleep(Duration::from_millis(50));
        }
    }

    /// Runs `rabbitmqctl` against the broker, and returns what it prints.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> String {
        let program = program().with_file_name("rabbitmqctl");
        let mut ctl = as_user(program);
        ctl.env("HOME", self.folder.path()).env("RABBITMQ_NODENAME", format!("own{}@localhost", self.port));
        ctl.env("ERL_EPMD_PORT", self.names_port.to_string());
        let output = ctl.args(arguments).stdin(Stdio::null()).output().unwrap();
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{arguments:?}: {printed}{}", String::from_utf8_lossy(&output.stderr));
        printed
    }

    /// Returns whether the broker's log contains `words`.
    pub(crate) fn log_contains(&self, words: &str) -> bool {
        let files = fs::read_dir(self.folder.path().join("log")).into_iter().flatten().flatten();
        files.filter_map(|file| fs::read_to_string(file.path()).ok()).any(|log| log.contains(words))
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("out")).unwrap_or_default()
    }
}

impl Drop for RabbitMq {
    fn drop(&mut self) {
        self.kill();
        drop(self.names.kill().and_then(|()| self.names.wait()));
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn program() -> PathBuf {
    let program = programs::newest("/usr/lib/rabbitmq/lib", "sbin/rabbitmq-server");
    program.expect("rabbitmq-server is missing: install its package")
}

fn as_user(program: impl AsRef<OsStr>) -> Command {
    programs::as_user("rabbitmq", program)
}
