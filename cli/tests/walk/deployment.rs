//! The shop as processes on one database and one broker, with queues of its own.

use std::fs;
use std::process::Command;

use retell::broker::rabbitmq::topology::Topology;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;
use uuid::Uuid;

use crate::process::{Shop, run, shop};

const HEADER: &str = " customer_id  date number_of_cds  dollar_value";

pub(crate) struct Deployment {
    /// The URL of the log and of the read models.
    pub(crate) store: String,
    server: String,
    broker: String,
    names: [String; 2],
    folder: TempDir,
}

impl Deployment {
    /// Creates an empty database on the server at `POSTGRES_URL`.
    pub(crate) async fn create() -> Self {
        let variable =
            |name: &str| std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set, see tests/run.sh"));
        let (server, broker) = (variable("POSTGRES_URL"), variable("AMQP_URL"));
        let folder = TempDir::new().unwrap();
        let (name, id) = (format!("walk{}", std::process::id()), Uuid::new_v4());
        let topology = Topology::new().with_prefix(&format!("walk-{id}."));
        fs::write(folder.path().join("topology.json"), serde_json::to_vec(&topology).unwrap()).unwrap();
        let store = format!("{}/{name}", server.rsplit_once('/').unwrap().0);
        let deployment = Self { store, server, broker, names: [name.clone(), format!("{name}_backup")], folder };
        run_at(&deployment.server, &format!("CREATE DATABASE {name}")).await;
        deployment
    }

    /// Starts a process that sells these orders, publishes or runs the consumers.
    pub(crate) fn start(&self, role: &str, orders: &[&str]) -> Shop {
        let file = self.folder.path().join(format!("orders{}.txt", orders.len()));
        fs::write(&file, [&[HEADER], orders].concat().join("\r\n") + "\r\n").unwrap();
        let mut command = Command::new(shop());
        command.arg("--orders").arg(file).args(["--store", &self.store, "--broker", &self.broker, "--role", role]);
        run(command.arg("--topology").arg(self.folder.path().join("topology.json")).args(["--writers", "1", "--json"]))
    }

    /// Runs statements in the database.
    pub(crate) async fn run(&self, sql: &str) {
        run_at(&self.store, sql).await;
    }

    /// Copies the database. No process may use it.
    pub(crate) async fn back_up(&self) {
        let [name, backup] = &self.names;
        run_at(&self.server, &format!("CREATE DATABASE {backup} TEMPLATE {name}")).await;
    }

    /// Returns the URL of the copy.
    pub(crate) fn backup(&self) -> String {
        format!("{}_backup", self.store)
    }

    pub(crate) async fn remove(self) {
        for name in &self.names {
            run_at(&self.server, &format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)")).await;
        }
    }
}

async fn run_at(url: &str, sql: &str) {
    let mut db = PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut db).await.unwrap();
    db.close().await.unwrap();
}
