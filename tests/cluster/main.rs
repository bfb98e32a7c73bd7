//! A RabbitMQ cluster of three nodes under load, over TLS: nodes are killed, restarted, separated and emptied. Afterwards the view has every event once
//! and in order, and the channel has every event. Each drill prints how long frames paused, and how far the view was behind.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../support/certificates.rs"]
mod certificates;
mod drill;
#[path = "../support/programs.rs"]
mod programs;
#[path = "../support/rabbitmq.rs"]
mod rabbitmq;

use std::thread::sleep;
use std::time::Duration;

use drill::Drill;
use rabbitmq::RabbitMq;

/// Long enough that something depends on the node that is away.
const AWAY: Duration = Duration::from_secs(1);

/// One test, because a cluster takes long to start.
#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_loses_and_doubles_nothing() {
    let mut drill = Drill::start().await;
    drill.phase("the leader of the view's queue is killed", |nodes| kill_for_a_while(nodes, leader(nodes))).await;
    drill.phase("a node is separated from the others", |nodes| separate(nodes, leader(nodes))).await;
    drill.without_frames(|nodes| nodes[..2].iter_mut().for_each(RabbitMq::kill)).await;
    drill.phase("two nodes were killed", start_two).await;
    drill.phase("a node comes back empty", come_back_empty).await;
    // The copies on the new node carry the queues.
    drill.phase("another node is killed", |nodes| kill_for_a_while(nodes, 1)).await;
    drill.finish().await;
}

fn separate(nodes: &mut [RabbitMq], number: usize) {
    let others: Vec<&RabbitMq> = (0..nodes.len()).filter(|&other| other != number).map(|other| &nodes[other]).collect();
    nodes[number].part_from(&others);
    assert_eq!(others[0].connected(), [others[1].name()]);
    sleep(AWAY);
    nodes[number].join(&others);
}

fn start_two(nodes: &mut [RabbitMq]) {
    // Each of them may wait for the other.
    nodes[..2].iter_mut().for_each(RabbitMq::spawn);
    nodes[..2].iter_mut().for_each(RabbitMq::wait);
}

fn come_back_empty(nodes: &mut [RabbitMq]) {
    nodes[0].kill();
    nodes[0].wipe();
    // An operator lets the cluster forget the lost node, which then joins as a new one and gets a copy of each queue.
    nodes[1].ctl(&["forget_cluster_node", &nodes[0].name()]);
    nodes[0].start_again();
    nodes[1].grow(&nodes[0]);
}

fn kill_for_a_while(nodes: &mut [RabbitMq], number: usize) {
    nodes[number].kill();
    sleep(AWAY);
    nodes[number].start_again();
}

/// Returns the node that leads the view's queue.
fn leader(nodes: &[RabbitMq]) -> usize {
    let queues = nodes[1].ctl(&["list_queues", "--quiet", "name", "leader"]);
    let line = queues.lines().find(|line| line.contains("followed")).expect("the queue exists");
    nodes.iter().position(|node| line.contains(&node.name())).expect("a node leads it")
}
