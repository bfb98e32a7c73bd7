//! Looks at a broker over its management API, which knows policies, alarms, copies of queues and rights.

use std::collections::BTreeMap;
use std::time::Duration;

use retell::broker::SubscriptionMode;
use retell::broker::rabbitmq::topology::{Channel, Topology};
use retell::operate::{Examine, Finding, Severity};
use retell::{ProjectionName, RabbitMqOptions, async_trait};
use serde_json::{Map, Value};

use crate::rabbitmq::http::{Api, Unanswered};
use crate::rabbitmq::queues::{Role, Wanted};
use crate::rabbitmq::{nodes, queues, rights};

/// A broker behind its management API.
pub(super) struct Management {
    api: Api,
    user: String,
    virtual_host: String,
    topology: Topology,
    projections: Vec<ProjectionName>,
}

/// A queue that the topology wants, and what the broker tells of it.
struct Found {
    wanted: Wanted,
    queue: Value,
}

impl Management {
    pub(super) fn new(api: Api, options: &RabbitMqOptions, projections: Vec<ProjectionName>) -> Self {
        let (user, virtual_host) = (options.user().to_owned(), options.virtual_host().to_owned());
        Self { api, user, virtual_host, topology: options.topology().clone(), projections }
    }

    /// Returns the queues of the topology. Each projection has one of two.
    fn wanted(&self) -> Vec<Wanted> {
        let topology = &self.topology;
        let log = &topology.log_exchange.name;
        let of_projection = |projection: &ProjectionName, mode| {
            let (name, arguments) =
                (topology.queue(projection, mode).ok()?, topology.projection_arguments_as_json(mode));
            Some(Wanted::new(name, Role::Frames, arguments, log, vec![String::new()]))
        };
        let modes = [SubscriptionMode::Exclusive, SubscriptionMode::Competing];
        let frames = self.projections.iter().flat_map(|each| modes.map(|mode| of_projection(each, mode))).flatten();
        let of_channel = |channel: &Channel, role, exchange: &str, keys| {
            Wanted::new(channel.queue.clone(), role, channel.arguments_as_json(), exchange, keys)
        };
        let events = topology.channels.iter();
        let events =
            events.map(|each| of_channel(each, Role::Events, &topology.event_exchange.name, each.bindings.clone()));
        let dead = topology.dead_letter_exchange.iter();
        let dead = dead.map(|exchange| {
            of_channel(&topology.dead_letter_queue, Role::DeadLetters, &exchange.name, vec!["#".into()])
        });
        frames.chain(events).chain(dead).collect()
    }

    /// Reads the queues that exist.
    async fn queues(&self) -> Result<Vec<Found>, Unanswered> {
        let mut found = Vec::new();
        for wanted in self.wanted() {
            match self.api.get(&["queues", &self.virtual_host, &wanted.name]).await {
                Ok(queue) => found.push(Found { wanted, queue }),
                // The part that uses AMQP reports it.
                Err(Unanswered::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    async fn bindings(&self, queues: &[Found]) -> Result<Vec<Finding>, Unanswered> {
        let mut of_exchanges: BTreeMap<&str, Value> = BTreeMap::new();
        let mut findings = Vec::new();
        for Found { wanted, .. } in queues {
            if !of_exchanges.contains_key(wanted.exchange.as_str()) {
                let path = ["exchanges", &self.virtual_host, &wanted.exchange, "bindings", "source"];
                let bindings = match self.api.get(&path).await {
                    // Without the exchange there are no bindings.
                    Err(Unanswered::NotFound) => Value::Array(Vec::new()),
                    answer => answer?,
                };
                of_exchanges.insert(&wanted.exchange, bindings);
            }
            findings.extend(wanted.unbound(of_exchanges.get(wanted.exchange.as_str()).unwrap_or(&Value::Null)));
        }
        Ok(findings)
    }

    async fn rights(&self, queues: &[Found]) -> Result<Vec<Finding>, Unanswered> {
        let granted = match self.api.get(&["permissions", &self.virtual_host, &self.user]).await {
            Err(Unanswered::NotFound) => Value::Object(Map::new()),
            answer => answer?,
        };
        let frames = queues.iter().filter(|found| found.wanted.role == Role::Frames);
        let frames: Vec<_> = frames.map(|found| found.wanted.name.as_str()).collect();
        Ok(rights::missing(&granted, (&self.user, &self.virtual_host), &self.topology, &frames))
    }
}

#[async_trait]
impl Examine for Management {
    fn part(&self) -> String {
        "management API of RabbitMQ".into()
    }

    async fn examine(&self, _: Duration) -> Option<Vec<Finding>> {
        let mut findings = Vec::new();
        let mut add = |check: &str, found: Result<Vec<Finding>, Unanswered>| match found {
            Ok(found) => findings.extend(found),
            Err(reason) => findings.push(Finding::unknown(check, reason)),
        };
        let nodes = self.api.get(&["nodes"]).await;
        let copies = nodes.as_ref().ok().and_then(|nodes| Some(nodes.as_array()?.len()));
        add("nodes", nodes.map(|nodes| nodes::judged(&nodes)));
        match self.queues().await {
            Ok(queues) => {
                let judged = queues.iter().flat_map(|found| queues::judged(&found.wanted, &found.queue, copies));
                add("queues", Ok(judged.collect()));
                add("bindings", self.bindings(&queues).await);
                add("rights", self.rights(&queues).await);
            }
            Err(reason) => add("queues", Err(reason)),
        }
        findings.push(
            Finding::new("unknown", Severity::Info, "the check of consumer_timeout could not run: the API does not tell it")
                .breaks("a handler that is slower than consumer_timeout, 30 minutes by default, loses its consumer and subscribes again")
                .remedy("rabbitmqctl environment shows it"),
        );
        Some(findings)
    }
}
