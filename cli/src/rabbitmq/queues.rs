//! Judges a queue: its arguments, its copies, its bindings, and the policies that change it.

use retell::operate::{Finding, Severity};
use serde_json::{Map, Value};

/// A handler that waits for longer is usual.
const SHORT_CONSUMER_TIMEOUT_MS: u64 = 60_000;

/// The use of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Frames for the workers of a projection, which can also read the store.
    Frames,
    /// Single events for consumers outside this library, which cannot.
    Events,
    /// Dead letters for operators.
    DeadLetters,
}

/// A queue as the topology wants it.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) role: Role,
    arguments: Map<String, Value>,
    pub(super) exchange: String,
    keys: Vec<String>,
}

impl Wanted {
    pub(super) fn new(
        name: String,
        role: Role,
        arguments: Map<String, Value>,
        exchange: &str,
        keys: Vec<String>,
    ) -> Self {
        Self { name, role, arguments, exchange: exchange.to_owned(), keys }
    }

    /// Returns the severity and the harm of losing messages.
    fn loss(&self) -> (Severity, &'static str) {
        match self.role {
            Role::Frames => (Severity::Slow, "workers read from the store what they do not get"),
            Role::Events => (Severity::Risk, "consumers outside this library lose events"),
            Role::DeadLetters => (Severity::Risk, "operators lose dead letters; the events are parked anyway"),
        }
    }

    fn limit(&self, argument: &str) -> Option<u64> {
        self.arguments.get(argument).and_then(Value::as_u64)
    }

    /// Reports the bindings that are missing among those of the exchange.
    pub(super) fn unbound(&self, bindings: &Value) -> Option<Finding> {
        let bindings: Vec<&Value> = bindings.as_array().into_iter().flatten().collect();
        let is_bound = |key: &&String| {
            bindings.iter().any(|each| each["destination"] == self.name.as_str() && each["routing_key"] == key.as_str())
        };
        let missing: Vec<_> = self.keys.iter().filter(|key| !is_bound(key)).map(|key| format!("{key:?}")).collect();
        let (severity, breaks) = self.loss();
        let seen = format!("the queue {} is not bound to {} by {}", self.name, self.exchange, missing.join(", "));
        let finding = || Finding::new("binding-missing", severity, seen).breaks(breaks);
        (!missing.is_empty()).then(|| finding().remedy("connect the program again, which binds it"))
    }
}

/// Judges a queue as the management API shows it, in a cluster of `nodes` nodes.
pub(super) fn judged(wanted: &Wanted, queue: &Value, nodes: Option<usize>) -> Vec<Finding> {
    let mut found = Vec::new();
    found.extend(changed(wanted, queue));
    found.extend(copies(wanted, queue, nodes));
    found.extend(policies(wanted, queue));
    found
}

/// Compares the queue with its declaration.
fn changed(wanted: &Wanted, queue: &Value) -> Option<Finding> {
    let is_same = |(name, value): &(&String, &Value)| queue["arguments"].get(name.as_str()) == Some(value);
    let differs = wanted.arguments.iter().filter(|each| !is_same(each));
    let mut differs: Vec<_> = differs
        .map(|(name, value)| {
            format!("{name} is {} and not {value}", queue["arguments"].get(name).unwrap_or(&Value::Null))
        })
        .collect();
    if queue["durable"] != true {
        differs.push("it is not durable".into());
    }
    let seen = format!("the queue {}: {}", wanted.name, differs.join(", "));
    (!differs.is_empty()).then(|| {
        Finding::new("queue-differs", Severity::Broken, seen)
            .breaks("the program is refused when it declares the queue, and messages may be lost or out of order")
            .remedy("delete the queue and start the program")
    })
}

/// Looks at the nodes that have the queue.
fn copies(wanted: &Wanted, queue: &Value, nodes: Option<usize>) -> Option<Finding> {
    let names = |field: &str| queue[field].as_array().map(Vec::len);
    let (members, online) = (names("members")?, names("online")?);
    let finding = |id, severity, seen: String| Finding::new(id, severity, seen);
    if online * 2 <= members {
        let seen = format!("{online} of {members} nodes of the queue {} are online", wanted.name);
        let found = finding("queue-without-majority", Severity::Broken, seen);
        return Some(found.breaks("nothing is published to it or consumed from it").remedy("start its nodes"));
    }
    if members == 1 && nodes? > 1 {
        let seen = format!("the queue {} is on one node of {}", wanted.name, nodes?);
        let found = finding("queue-on-one-node", Severity::Risk, seen);
        let found = found.breaks("its messages are lost with the node, and it stops while the node is down");
        return Some(found.remedy("rabbitmq-queues grow NODE all, for each other node"));
    }
    None
}

/// Looks at the settings that policies of the broker's operators add. For each of these limits, RabbitMQ uses the smaller value.
fn policies(wanted: &Wanted, queue: &Value) -> Vec<Finding> {
    let effective = &queue["effective_policy_definition"];
    let number = |key: &str| effective[key].as_u64();
    let text = |key: &str| effective[key].as_str();
    let names: Vec<_> = ["operator_policy", "policy"].iter().filter_map(|kind| queue[*kind].as_str()).collect();
    let policy = names.iter().filter(|name| !name.is_empty()).copied().collect::<Vec<_>>().join(" and ");
    let (severity, loss) = wanted.loss();
    let mut found = Vec::new();
    let mut add = |id: &str, severity, setting: String, breaks: &str| {
        let seen = format!("the policy {policy} sets {setting} for the queue {}", wanted.name);
        found.push(Finding::new(id, severity, seen).breaks(breaks).remedy(
            "remove the setting, or leave the queue out of the pattern: rabbitmqctl set_policy, set_operator_policy",
        ));
    };
    let is_less =
        |key: &str, argument: &str| number(key).filter(|limit| wanted.limit(argument).is_none_or(|ours| *limit < ours));
    for (key, argument, id) in [
        ("max-length", "x-max-length", "policy-max-length"),
        ("max-length-bytes", "x-max-length-bytes", "policy-max-length"),
        ("message-ttl", "x-message-ttl", "policy-message-ttl"),
        ("expires", "x-expires", "policy-expires"),
    ] {
        if let Some(limit) = is_less(key, argument) {
            add(id, severity, format!("{key} = {limit}"), loss);
        }
    }
    if let Some(overflow) = text("overflow").filter(|overflow| overflow.starts_with("reject-publish")) {
        let breaks = match wanted.role {
            Role::Frames => loss,
            _ => {
                "a full queue refuses messages, so the relay sends them again until there is room, and nothing after them"
            }
        };
        add("policy-overflow", severity, format!("overflow = {overflow}"), breaks);
    }
    if wanted.role == Role::Frames {
        if let Some(limit) = is_less("delivery-limit", "x-delivery-limit") {
            add("policy-delivery-limit", Severity::Slow, format!("delivery-limit = {limit}"), loss);
        }
        if let Some(exchange) = text("dead-letter-exchange") {
            let breaks = "frames that the queue drops are sent there, though workers read their events from the store";
            add("policy-dead-letters", Severity::Slow, format!("dead-letter-exchange = {exchange}"), breaks);
        }
        if let Some(limit) = number("consumer-timeout").filter(|limit| *limit < SHORT_CONSUMER_TIMEOUT_MS) {
            let breaks = "a worker whose handler is slower loses its consumer and subscribes again";
            add("policy-consumer-timeout", Severity::Slow, format!("consumer-timeout = {limit} ms"), breaks);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn wanted(role: Role) -> Wanted {
        let arguments = json!({"x-queue-type": "quorum", "x-max-length": 100, "x-delivery-limit": 20});
        let arguments = arguments.as_object().unwrap().clone();
        Wanted::new("q".into(), role, arguments, "log", vec![String::new()])
    }

    fn queue(policy: &Value) -> Value {
        json!({
            "durable": true, "members": ["a", "b", "c"], "online": ["a", "b"], "operator_policy": "small", "policy": "",
            "arguments": {"x-queue-type": "quorum", "x-max-length": 100, "x-delivery-limit": 20, "x-other": 1},
            "effective_policy_definition": policy,
        })
    }

    fn ids(found: &[Finding]) -> Vec<&str> {
        found.iter().map(|finding| finding.id.as_str()).collect()
    }

    #[test]
    fn each_policy_that_changes_a_queue_is_found() {
        let cases = [
            (json!({}), ""),
            (json!({"max-length": 100}), ""),
            (json!({"max-length": 99}), "policy-max-length"),
            (json!({"max-length-bytes": 1}), "policy-max-length"),
            (json!({"message-ttl": 1}), "policy-message-ttl"),
            (json!({"expires": 1}), "policy-expires"),
            (json!({"overflow": "drop-head"}), ""),
            (json!({"overflow": "reject-publish"}), "policy-overflow"),
            (json!({"delivery-limit": 30}), ""),
            (json!({"delivery-limit": 3}), "policy-delivery-limit"),
            (json!({"dead-letter-exchange": "x"}), "policy-dead-letters"),
            (json!({"consumer-timeout": 60_000}), ""),
            (json!({"consumer-timeout": 10}), "policy-consumer-timeout"),
        ];
        for (policy, id) in cases {
            let found = judged(&wanted(Role::Frames), &queue(&policy), Some(3));
            assert_eq!(ids(&found).join(" "), id, "{policy}");
            assert!(found.iter().all(|finding| finding.seen.contains("the policy small sets")), "{found:?}");
        }
        let lost = judged(&wanted(Role::Events), &queue(&json!({"max-length": 9, "delivery-limit": 3})), Some(3));
        assert_eq!((ids(&lost), lost[0].severity), (vec!["policy-max-length"], Severity::Risk));
    }

    #[test]
    fn arguments_copies_and_bindings_are_compared() {
        let change = |field: &str, value: Value| {
            let mut queue = queue(&Value::Null);
            queue[field] = value;
            judged(&wanted(Role::Frames), &queue, Some(3))
        };
        assert_eq!(ids(&change("durable", json!(false))), ["queue-differs"]);
        let found = change("arguments", json!({"x-queue-type": "quorum", "x-max-length": 9}));
        assert_eq!(ids(&found), ["queue-differs"]);
        assert!(
            found[0].seen.contains("x-max-length is 9 and not 100")
                && found[0].seen.contains("x-delivery-limit is null")
        );
        assert_eq!(ids(&change("online", json!(["a"]))), ["queue-without-majority"]);
        let alone =
            json!({"durable": true, "members": ["a"], "online": ["a"], "arguments": queue(&Value::Null)["arguments"]});
        assert_eq!(ids(&judged(&wanted(Role::Frames), &alone, Some(3))), ["queue-on-one-node"]);
        assert!(judged(&wanted(Role::Frames), &alone, Some(1)).is_empty());
        let bound = json!([{"destination": "q", "routing_key": ""}]);
        assert_eq!(wanted(Role::Frames).unbound(&bound), None);
        assert!(wanted(Role::Frames).unbound(&json!([{"destination": "q", "routing_key": "x"}])).is_some());
    }
}
