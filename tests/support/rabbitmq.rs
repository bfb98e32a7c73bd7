//! A RabbitMQ for a single test, which may kill it, stop it and delete its data: one node or a cluster of several.

#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::ffi::OsStr;
use std::fmt::Write;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use crate::programs;

/// Time limit of a start.
const START_TIMEOUT: Duration = Duration::from_mins(5);

pub(crate) struct RabbitMq {
    folder: TempDir,
    port: u16,
    distribution_port: u16,
    names: Arc<Names>,
    /// The start script and the processes that it started, as one process group.
    broker: Option<Child>,
}

impl RabbitMq {
    pub(crate) fn start() -> Self {
        Self::start_with("[].")
    }

    /// Starts a broker with `settings`, in the syntax of `advanced.config`.
    pub(crate) fn start_with(settings: &str) -> Self {
        let mut server = Self::new(Arc::new(Names::start()));
        server.set(settings);
        server.start_again();
        server
    }

    /// Starts a broker with a management API, and returns the API's port.
    pub(crate) fn start_managed() -> (Self, u16) {
        let (mut server, port) = (Self::new(Arc::new(Names::start())), free_port());
        fs::write(server.folder.path().join("plugins"), "[rabbitmq_management].").unwrap();
        server.set(&format!("[{{rabbitmq_management, [{{listener, [{{port, {port}}}, {{ip, \"127.0.0.1\"}}]}}]}}]."));
        server.start_again();
        (server, port)
    }

    fn new(names: Arc<Names>) -> Self {
        let folder = programs::folder("rabbitmq");
        Self { folder, port: free_port(), distribution_port: free_port(), names, broker: None }
    }

    /// Starts a cluster. The nodes of a minority pause, as recommended.
    pub(crate) fn start_cluster(nodes: usize) -> Vec<Self> {
        Self::start_cluster_with(&vec!["[].".to_owned(); nodes])
    }

    /// Starts a cluster with one node for each of `settings`, which are in the syntax of `advanced.config`.
    pub(crate) fn start_cluster_with(of_nodes: &[String]) -> Vec<Self> {
        let names = Arc::new(Names::start());
        let mut nodes: Vec<Self> = of_nodes.iter().map(|_| Self::new(names.clone())).collect();
        let mut settings = String::from("cluster_partition_handling = pause_minority\n");
        settings += "cluster_formation.peer_discovery_backend = classic_config\n";
        for (number, node) in nodes.iter().enumerate() {
            writeln!(settings, "cluster_formation.classic_config.nodes.{} = {}", number + 1, node.name()).unwrap();
        }
        for (node, own) in nodes.iter().zip(of_nodes) {
            let folder = node.folder.path();
            node.set(own);
            fs::write(folder.join("rabbitmq.conf"), &settings).unwrap();
            // The nodes trust each other by a secret in a file that only their user may read.
            let cookie = folder.join(".erlang.cookie");
            fs::write(&cookie, "retelltests").unwrap();
            fs::set_permissions(&cookie, fs::Permissions::from_mode(0o400)).unwrap();
            chown(&cookie, Some(fs::metadata(folder).unwrap().uid()), None).unwrap();
        }
        // Each waits for the others when it starts for the first time.
        nodes.iter_mut().for_each(Self::spawn);
        nodes.iter_mut().for_each(Self::wait);
        nodes[0].ctl(&["await_online_nodes", &nodes.len().to_string()]);
        nodes
    }

    pub(crate) fn name(&self) -> String {
        format!("own{}@localhost", self.port)
    }

    /// Separates this node from others of its cluster. With a secret that the other one does not have, no connection between them succeeds.
    pub(crate) fn part_from(&self, others: &[&Self]) {
        let part = |node: &Self, other: &Self| {
            format!("erlang:set_cookie('{1}', '{0}'), erlang:disconnect_node('{1}')", node.name(), other.name())
        };
        self.for_each(others, part);
    }

    /// Returns the nodes that this one is connected to.
    pub(crate) fn connected(&self) -> Vec<String> {
        let nodes = self.ctl(&["eval", "[io:format(\"~s \", [N]) || N <- nodes()], ok."]);
        nodes.split_whitespace().filter(|name| name.starts_with("own")).map(str::to_owned).collect()
    }

    /// Ends a separation.
    pub(crate) fn join(&self, others: &[&Self]) {
        self.for_each(others, |_, other| format!("erlang:set_cookie('{}', erlang:get_cookie())", other.name()));
    }

    /// Runs code on this node for each other one, and on each other one for this node.
    fn for_each(&self, others: &[&Self], code: impl Fn(&Self, &Self) -> String) {
        let eval = |node: &Self, code: &[String]| node.ctl(&["eval", &format!("{}.", code.join(", "))]);
        eval(self, &others.iter().map(|other| code(self, other)).collect::<Vec<_>>());
        for other in others {
            eval(other, &[code(other, self)]);
        }
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Starts the broker again, on its existing data if there is any.
    pub(crate) fn start_again(&mut self) {
        self.spawn();
        self.wait();
    }

    pub(crate) fn spawn(&mut self) {
        assert!(self.broker.is_none(), "the broker already runs");
        let folder = self.folder.path();
        let log = fs::File::options().create(true).append(true).open(folder.join("out")).unwrap();
        let mut broker = as_user(program());
        broker.env("HOME", folder).env("RABBITMQ_NODENAME", self.name());
        broker.env("RABBITMQ_NODE_PORT", self.port.to_string()).env("RABBITMQ_NODE_IP_ADDRESS", "127.0.0.1");
        broker.env("RABBITMQ_DIST_PORT", self.distribution_port.to_string());
        broker.env("ERL_EPMD_PORT", self.names.port.to_string()).env("ERL_EPMD_ADDRESS", "127.0.0.1");
        broker.env("RABBITMQ_MNESIA_BASE", folder.join("data")).env("RABBITMQ_LOG_BASE", folder.join("log"));
        broker.env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("plugins"));
        broker.env("RABBITMQ_CONF_ENV_FILE", folder.join("none"));
        broker.env("RABBITMQ_CONFIG_FILE", folder.join("rabbitmq.conf"));
        broker.env("RABBITMQ_ADVANCED_CONFIG_FILE", folder.join("advanced.config"));
        broker.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).process_group(0);
        self.broker = Some(broker.spawn().unwrap());
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

    /// Stops the broker in its orderly way.
    pub(crate) fn stop(&mut self) {
        self.ctl(&["stop"]);
        self.kill();
    }

    pub(crate) fn wait(&mut self) {
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
        self.run("rabbitmqctl", arguments)
    }

    /// Gives a node a copy of each quorum queue of the cluster.
    pub(crate) fn grow(&self, node: &Self) {
        self.run("rabbitmq-queues", &["grow", &node.name(), "all"]);
    }

    fn run(&self, program_of_broker: &str, arguments: &[&str]) -> String {
        let mut command = as_user(program().with_file_name(program_of_broker));
        command.env("HOME", self.folder.path()).env("RABBITMQ_NODENAME", self.name());
        command.env("ERL_EPMD_PORT", self.names.port.to_string());
        let output = command.args(arguments).stdin(Stdio::null()).output().unwrap();
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
    }
}

/// Erlang's name server. One started by a broker would outlive the test.
struct Names {
    port: u16,
    process: Child,
}

impl Names {
    fn start() -> Self {
        let port = free_port();
        let mut names = as_user("epmd");
        names.args(["-port", &port.to_string(), "-address", "127.0.0.1"]);
        let process = names.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Self { port, process }
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        drop(self.process.kill().and_then(|()| self.process.wait()));
    }
}

pub(crate) fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn program() -> PathBuf {
    let program = programs::newest("/usr/lib/rabbitmq/lib", "sbin/rabbitmq-server");
    program.expect("rabbitmq-server is missing: install its package")
}

fn as_user(program: impl AsRef<OsStr>) -> Command {
    programs::as_user("rabbitmq", program)
}
