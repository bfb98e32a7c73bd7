//! Problems of a RabbitMQ, as far as AMQP shows them. Each test starts a RabbitMQ.

use lapin::options::{ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ConnectionProperties, ExchangeKind};
use retell::broker::rabbitmq::RabbitMqExamination;
use retell::broker::rabbitmq::topology::{Channel, Topology};
use retell::broker::{Broker, SubscriptionMode};
use retell::operate::{self, Severity};
use retell::{ProjectionName, RabbitMqBroker, RabbitMqOptions};

use crate::rabbitmq::{RabbitMq, free_port};
use crate::{PATIENCE, expect, findings};

fn options(user: &str, server: &str) -> RabbitMqOptions {
    let topology = Topology::new().with_channel(Channel::new("all.events", ["#"]));
    let options = RabbitMqOptions::new(&format!("amqp://{user}:{user}@{server}/%2f")).unwrap();
    options.with_topology(topology).with_timeout(std::time::Duration::from_mins(1))
}

fn broker(options: RabbitMqOptions) -> RabbitMqExamination {
    let names = ["sales", "stock"].map(|name| ProjectionName::new(name).unwrap());
    RabbitMqBroker::new(options).unwrap().examination(names)
}

/// Creates everything that a program with two projections creates.
async fn declare(options: &RabbitMqOptions) {
    let broker = RabbitMqBroker::new(options.clone()).unwrap();
    broker.declare().await.unwrap();
    for (name, mode) in [("sales", SubscriptionMode::Exclusive), ("stock", SubscriptionMode::Competing)] {
        drop(broker.subscribe(&ProjectionName::new(name).unwrap(), mode).await.unwrap());
    }
    broker.close().await.unwrap();
}

#[tokio::test]
async fn problems_of_a_rabbitmq_are_found() {
    let server = RabbitMq::start();
    let options = options("guest", &server.address());
    let objects = || server.ctl(&["-q", "list_queues", "name"]) + &server.ctl(&["-q", "list_exchanges", "name"]);
    let empty = objects();
    let examined = broker(options.clone());
    expect(&examined, &["exchange-missing", "queue-missing"]).await;
    assert!(!operate::doctor(&[&examined], PATIENCE).await.needs_attention(), "a program declares what is missing");
    assert_eq!(objects(), empty, "doctor creates nothing");
    let reading = broker(options.clone().without_declaring());
    expect(&reading, &["exchange-missing", "queue-missing", "unknown"]).await;
    assert!(operate::doctor(&[&reading], PATIENCE).await.needs_attention());

    declare(&options).await;
    expect(&examined, &[]).await;
    expect(&reading, &["unknown"]).await;
    assert!(!operate::doctor(&[&reading], PATIENCE).await.needs_attention());
    // The broker itself has no projections.
    expect(&RabbitMqBroker::new(options.clone()).unwrap(), &[]).await;

    let url = format!("amqp://{}/%2f", server.address());
    let plain = Connection::connect(&url, ConnectionProperties::default()).await.unwrap();
    let plain = plain.create_channel().await.unwrap();
    for queue in ["projection.sales", "all.events"] {
        plain.queue_delete(queue.into(), lapin::options::QueueDeleteOptions::default()).await.unwrap();
        let mut arguments = FieldTable::default();
        arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(1));
        plain.queue_declare(queue.into(), QueueDeclareOptions::durable(), arguments).await.unwrap();
    }
    expect(&examined, &["queue-differs"]).await;
    assert_eq!(findings(&examined).await.len(), 2);
    let exchange = "event.exchange";
    plain.exchange_delete(exchange.into(), lapin::options::ExchangeDeleteOptions::default()).await.unwrap();
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    plain.exchange_declare(exchange.into(), ExchangeKind::Fanout, durable, FieldTable::default()).await.unwrap();
    expect(&examined, &["exchange-differs", "queue-differs"]).await;
}

#[tokio::test]
async fn users_alarms_and_nodes_are_found() {
    let server = RabbitMq::start();
    let guest = options("guest", &server.address());
    declare(&guest).await;
    server.ctl(&["add_user", "shop", "shop"]);
    let shop = broker(options("shop", &server.address()));
    expect(&shop, &["broker-refuses"]).await;
    server.ctl(&["set_permissions", "shop", "^(event|all|dead)", ".*", ".*"]);
    expect(&shop, &["right-missing"]).await;
    assert_eq!(findings(&shop).await.len(), 2, "the queues of two projections");
    server.ctl(&["set_permissions", "shop", ".*", ".*", ".*"]);
    expect(&shop, &[]).await;

    // A second node that is down.
    let nodes = format!("{},127.0.0.1:{}", server.address(), free_port());
    expect(&broker(options("guest", &nodes)), &["node-unreachable"]).await;
    expect(&broker(options("guest", &format!("127.0.0.1:{}", free_port()))), &["broker-unreachable"]).await;

    server.ctl(&["set_vm_memory_high_watermark", "absolute", "1000"]);
    expect(&shop, &["publishers-blocked"]).await;
    let found = findings(&shop).await;
    assert!(found[0].severity == Severity::Risk && found[0].remedy.contains("vm_memory_high_watermark"), "{found:?}");
}

#[tokio::test]
async fn small_limits_are_found() {
    let limits = "{max_message_size, 100000}, {channel_max, 3}, {frame_max, 8192}, {heartbeat, 0}";
    let server = RabbitMq::start_with(&format!("[{{rabbit, [{limits}]}}]."));
    declare(&options("guest", &server.address())).await;
    let silent = RabbitMqOptions::new(&format!("amqp://{}/%2f?heartbeat=0", server.address())).unwrap();
    let names = ["sales", "stock", "new"].map(|name| ProjectionName::new(name).unwrap());
    let examined = RabbitMqBroker::new(silent).unwrap().examination(names);
    // The queue of the third projection is missing.
    let ids = ["channels-few", "frame-small", "heartbeat-off", "message-size-small", "queue-missing"];
    expect(&examined, &ids).await;
    assert!(findings(&examined).await.iter().any(|finding| finding.seen == "max_message_size is 100000 bytes"));
}
