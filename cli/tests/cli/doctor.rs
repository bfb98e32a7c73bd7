//! `doctor` with a broker. Starts a RabbitMQ with its management API.

use std::fs;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use retell::broker::rabbitmq::topology::{Channel, Topology};
use retell::broker::{Broker, SubscriptionMode};
use retell::store::Step;
use retell::{
    EventStore, Mark, Position, ProjectionName, RabbitMqBroker, RabbitMqOptions, ReadModel, SqliteReadModel,
    SqliteStore,
};
use serde_json::Value;
use tempfile::TempDir;

use crate::planted::{id, nothing};
use crate::rabbitmq::RabbitMq;
use crate::tool::{Ran, Tool};

/// The broker tells what it has changed a moment later.
const PATIENCE: Duration = Duration::from_mins(3);

struct Setup {
    folder: TempDir,
    server: RabbitMq,
    management: String,
}

impl Setup {
    fn doctor(&self, user: &str, manager: &str) -> Ran {
        let broker = format!("amqp://{user}:secret{user}@{}/%2f", self.server.address());
        let management = format!("http://{manager}:secret{manager}@{}", self.management);
        let topology = self.folder.path().join("topology.json");
        let topology = topology.to_str().unwrap();
        let tool = Tool::at(format!("sqlite:{}", self.folder.path().join("shop.db").display()));
        let ran =
            tool.run(["doctor", "--json", "--broker", &broker, "--management", &management, "--topology", topology]);
        assert!(!ran.stdout.contains("secret") && !ran.stderr.contains("secret"), "{ran:?}");
        ran
    }

    fn ids(&self, user: &str, manager: &str) -> (i32, Vec<String>) {
        let ran = self.doctor(user, manager);
        let envelope: Value = serde_json::from_str(&ran.stdout).unwrap();
        let parts = envelope["data"]["parts"].as_array().unwrap();
        let findings = parts.iter().flat_map(|part| part["findings"].as_array().unwrap());
        // The management API never tells consumer_timeout: good to know, and no problem.
        let findings = findings.filter(|finding| finding["id"] != "unknown" || finding["severity"] != "info");
        let mut ids: Vec<_> = findings.map(|finding| finding["id"].as_str().unwrap().to_owned()).collect();
        ids.sort_unstable();
        ids.dedup();
        (ran.exit, ids)
    }

    /// Waits for findings.
    fn until(&self, (user, manager): (&str, &str), exit: i32, ids: &[&str]) {
        let begun = Instant::now();
        loop {
            let found = self.ids(user, manager);
            if found.0 == exit && found.1 == ids {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "expected {ids:?}, found {found:?}");
            std::thread::sleep(Duration::from_millis(500));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn problems_of_a_broker_are_found() {
    let folder = TempDir::new().unwrap();
    let log = SqliteStore::open(folder.path().join("shop.db")).await.unwrap();
    let models = SqliteReadModel::open(folder.path().join("shop.db.models")).await.unwrap();
    let sales = ProjectionName::new("sales").unwrap();
    let step = Step::new(&sales, Position::ZERO, Mark::new(Position::new(1), id(1)));
    models.commit(step, nothing()).await.unwrap();
    models.close().await.unwrap();
    log.close().await.unwrap();

    let (server, port) = RabbitMq::start_managed();
    for user in ["shop", "boss", "clerk"] {
        server.ctl(&["add_user", user, &format!("secret{user}")]);
    }
    server.ctl(&["set_user_tags", "boss", "administrator"]);
    server.ctl(&["set_permissions", "shop", ".*", ".*", ".*"]);
    let topology = Topology::new().with_channel(Channel::new("all.events", ["#"]));
    fs::write(folder.path().join("topology.json"), serde_json::to_string(&topology).unwrap()).unwrap();
    let url = format!("amqp://shop:secretshop@{}/%2f", server.address());
    let broker = RabbitMqBroker::new(RabbitMqOptions::new(&url).unwrap().with_topology(topology)).unwrap();
    broker.declare().await.unwrap();
    drop(broker.subscribe(&sales, SubscriptionMode::Exclusive).await.unwrap());
    broker.close().await.unwrap();

    let setup = Setup { folder, server, management: format!("127.0.0.1:{port}") };
    let begun = Instant::now();
    while TcpStream::connect(&setup.management).is_err() {
        assert!(begun.elapsed() < PATIENCE, "the management API does not start");
        std::thread::sleep(Duration::from_millis(100));
    }
    tokio::task::block_in_place(|| plant(&setup));
}

fn plant(setup: &Setup) {
    let (server, boss) = (&setup.server, ("shop", "boss"));
    setup.until(boss, 0, &[]);
    // The API hides itself from a user without a tag.
    setup.until(("shop", "clerk"), 1, &["unknown"]);

    let definition = r#"{"max-length": 10, "message-ttl": 1000, "delivery-limit": 3, "overflow": "reject-publish"}"#;
    server.ctl(&["set_policy", "small", "^projection", definition, "--apply-to", "queues"]);
    let ids = ["policy-delivery-limit", "policy-max-length", "policy-message-ttl", "policy-overflow"];
    // Workers read the store, so this is slow and nothing else.
    setup.until(boss, 0, &ids);
    server.ctl(&["clear_policy", "small"]);
    server.ctl(&["set_operator_policy", "short", "events$", r#"{"max-length": 10}"#, "--apply-to", "queues"]);
    // Consumers outside the library lose events.
    setup.until(boss, 1, &["policy-max-length"]);
    server.ctl(&["clear_operator_policy", "short"]);
    setup.until(boss, 0, &[]);

    server.ctl(&["set_permissions", "shop", ".*", "^event", ".*"]);
    setup.until(boss, 1, &["right-missing", "unknown"]);
    server.ctl(&["set_permissions", "shop", ".*", ".*", ".*"]);
    setup.until(boss, 0, &[]);

    server.ctl(&["set_vm_memory_high_watermark", "absolute", "1000"]);
    setup.until(boss, 1, &["memory-alarm", "publishers-blocked"]);
}

#[test]
fn management_is_no_use_without_a_broker() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("shop.db");
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        SqliteStore::open(&path).await.unwrap().close().await.unwrap();
    });
    let tool = Tool::at(format!("sqlite:{}", path.display()));
    let broker = "--broker=amqp://a:secret@127.0.0.1:1/%2f";
    let cases: [&[&str]; 5] = [
        &["doctor", "--management=http://a:secret@localhost"],
        &["doctor", broker, "--management=https://a:secret@localhost"],
        &["doctor", "--broker=http://a:secret@localhost"],
        &["doctor", broker, "--topology=none.json"],
        &["doctor", broker, "--topology=."],
    ];
    for arguments in cases {
        let ran = tool.run(arguments);
        assert_eq!((ran.exit, ran.stdout.as_str()), (2, ""), "{ran:?}");
        assert!(!ran.stderr.contains("secret"), "{ran:?}");
    }
    let ran = tool.run(["doctor", broker]);
    assert!(ran.exit == 1 && ran.stdout.contains("broker-unreachable") && !ran.stdout.contains("secret"), "{ran:?}");
}
