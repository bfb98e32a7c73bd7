//! Compares the rights of a user with those that the topology needs.

use regex::Regex;
use retell::broker::rabbitmq::topology::Topology;
use retell::operate::{Finding, Severity};
use serde_json::Value;

/// Judges the rights of a user on a virtual host: three patterns, or nothing if there are none. `frames` are the queues of projections.
pub(super) fn missing(
    granted: &Value,
    (user, host): (&str, &str),
    topology: &Topology,
    frames: &[&str],
) -> Vec<Finding> {
    let exchanges =
        [&topology.log_exchange, &topology.event_exchange].into_iter().chain(&topology.dead_letter_exchange);
    let exchanges: Vec<_> = exchanges.map(|exchange| exchange.name.as_str()).collect();
    let dead_letters = topology.dead_letter_exchange.as_ref().map(|_| topology.dead_letter_queue.queue.as_str());
    let queues = topology.channels.iter().map(|channel| channel.queue.as_str()).chain(dead_letters);
    let queues: Vec<_> = queues.chain(frames.iter().copied()).collect();
    // A binding needs the right to read its exchange and to write to its queue. Workers read the queues of frames.
    let all = [exchanges.clone(), queues].concat();
    let read = [exchanges.as_slice(), frames].concat();
    let wanted = [("configure", &all), ("write", &all), ("read", &read)];
    let judged = |(right, objects): (&str, &Vec<&str>)| {
        let Some(pattern) = granted[right].as_str() else { return Some(lacking(user, host, right, objects)) };
        // RabbitMQ takes an empty pattern as one that matches nothing.
        let allowed = match Regex::new(if pattern.is_empty() { "^$" } else { pattern }) {
            Ok(allowed) => allowed,
            Err(error) => return Some(Finding::unknown("rights", error)),
        };
        let lacks: Vec<_> = objects.iter().copied().filter(|name| !allowed.is_match(name)).collect();
        (!lacks.is_empty()).then(|| lacking(user, host, right, &lacks))
    };
    wanted.into_iter().filter_map(judged).collect()
}

fn lacking(user: &str, host: &str, right: &str, objects: &[&str]) -> Finding {
    let seen = format!("{user} lacks the right {right} in the virtual host {host} on {}", objects.join(", "));
    Finding::new("right-missing", Severity::Broken, seen)
        .breaks("the program cannot declare, publish or consume, and its workers find new events by polling")
        .remedy("rabbitmqctl set_permissions -p VIRTUAL-HOST USER CONFIGURE WRITE READ, with patterns that match these names")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn rights_are_compared_with_the_names_of_the_topology() {
        let topology = Topology::new();
        let missing = |granted: Value| {
            let found = missing(&granted, ("shop", "/"), &topology, &["projection.sales"]);
            found.into_iter().map(|finding| finding.seen).collect::<Vec<_>>()
        };
        let all = "^(event\\.|dead\\.|projection\\.)";
        assert!(missing(json!({"configure": all, "write": all, "read": ".*"})).is_empty());
        let found = missing(json!({"configure": all, "write": "^event\\.", "read": ""}));
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(
            found[0].ends_with("lacks the right write in the virtual host / on dead.events, projection.sales"),
            "{found:?}"
        );
        assert!(found[1].contains("read") && found[1].ends_with("event.dead, projection.sales"), "{found:?}");
        assert_eq!(missing(json!({})).len(), 3);
        assert!(missing(json!({"configure": "(?=a)", "write": ".*", "read": ".*"}))[0].contains("could not run"));
    }
}
