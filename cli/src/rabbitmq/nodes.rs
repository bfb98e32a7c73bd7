//! Judges the nodes of a cluster.

use retell::operate::{Finding, Severity};
use serde_json::Value;

pub(super) fn judged(nodes: &Value) -> Vec<Finding> {
    nodes.as_array().into_iter().flatten().flat_map(judged_one).collect()
}

fn judged_one(node: &Value) -> Vec<Finding> {
    let name = node["name"].as_str().unwrap_or("?");
    let is = |field: &str| node[field].as_bool() == Some(true);
    let mut found = Vec::new();
    if !is("running") {
        found.push(
            Finding::new("node-down", Severity::Risk, format!("the node {name} does not run"))
                .breaks("one node less can fail before quorum queues stop")
                .remedy("start it, or remove it with rabbitmqctl forget_cluster_node"),
        );
    }
    for (field, id, limit) in [
        ("mem_alarm", "memory-alarm", "vm_memory_high_watermark"),
        ("disk_free_alarm", "disk-alarm", "disk_free_limit"),
    ] {
        if is(field) {
            found.push(
                Finding::new(id, Severity::Risk, format!("the node {name} has the alarm {field}"))
                    .breaks("publishers wait: workers find new events by polling, and consumers outside this library get none")
                    .remedy(format!("free some, or change {limit}")),
            );
        }
    }
    let partitions = node["partitions"].as_array().map_or(0, Vec::len);
    if partitions > 0 {
        found.push(
            Finding::new(
                "partition",
                Severity::Broken,
                format!("the node {name} is separated from {partitions} other nodes"),
            )
            .breaks("queues of the separated nodes have different messages")
            .remedy("repair the network, and restart the nodes of the smaller side"),
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn nodes_are_judged() {
        let ids = |node: Value| judged(&json!([node])).into_iter().map(|finding| finding.id).collect::<Vec<_>>();
        assert!(ids(json!({"name": "a", "running": true, "mem_alarm": false, "partitions": []})).is_empty());
        assert_eq!(ids(json!({"name": "a", "running": false})), ["node-down"]);
        let broken = json!({"running": true, "mem_alarm": true, "disk_free_alarm": true, "partitions": ["b"]});
        assert_eq!(ids(broken), ["memory-alarm", "disk-alarm", "partition"]);
    }
}
