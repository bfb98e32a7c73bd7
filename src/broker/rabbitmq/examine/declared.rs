//! Compares exchanges and queues with those of the topology.

use lapin::options::{ExchangeDeclareOptions, QueueDeclareOptions};
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::FieldTable;
use lapin::{Channel, Connection, ExchangeKind};
use tokio::time::timeout;

use crate::broker::SubscriptionMode;
use crate::broker::rabbitmq::options::RabbitMqOptions;
use crate::broker::rabbitmq::topology::Exchange;
use crate::finding::{Finding, Severity};
use crate::id::ProjectionName;

const UNDECLARED: &str = "the connection is refused when it declares its topology, so no message is sent or received";

/// The exchanges and queues of a topology, on an open connection.
pub(super) struct Declared<'a> {
    connection: &'a Connection,
    options: &'a RabbitMqOptions,
}

/// An exchange or a queue.
enum Object<'a> {
    Exchange(&'a Exchange),
    Queue(&'a str, FieldTable),
}

impl Object<'_> {
    async fn declare(&self, channel: &Channel, passive: bool) -> lapin::Result<()> {
        match self {
            Self::Exchange(exchange) => {
                let options = ExchangeDeclareOptions { durable: true, passive, ..ExchangeDeclareOptions::default() };
                let kind = ExchangeKind::Custom(exchange.kind.clone());
                // The topology has checked the length of each name.
                channel.exchange_declare(exchange.name.as_str().into(), kind, options, FieldTable::default()).await
            }
            Self::Queue(name, arguments) => {
                let options = QueueDeclareOptions { passive, ..QueueDeclareOptions::durable() };
                channel.queue_declare((*name).into(), options, arguments.clone()).await.map(drop)
            }
        }
    }
}

/// How the broker answers a declaration.
enum Answer {
    Good,
    Missing(String),
    Differs(String),
    Denied(String),
    Failed(String),
}

impl<'a> Declared<'a> {
    pub(super) fn new(connection: &'a Connection, options: &'a RabbitMqOptions) -> Self {
        Self { connection, options }
    }

    /// Examines everything but the queues of projections.
    pub(super) async fn fixed(&self) -> Vec<Finding> {
        let topology = &self.options.topology;
        let mut found = Vec::new();
        if !self.options.creates {
            let seen = "the check of arguments could not run: this broker declares nothing";
            found.push(
                Finding::new("unknown", Severity::Info, seen)
                    .breaks("whether queues have the arguments of the topology is not known")
                    .remedy("compare them with `rabbitmqctl list_queues name arguments`"),
            );
        }
        let exchanges =
            [&topology.log_exchange, &topology.event_exchange].into_iter().chain(&topology.dead_letter_exchange);
        for exchange in exchanges {
            found.extend(self.exchange(exchange).await);
        }
        let dead_letters = topology.dead_letter_exchange.as_ref().map(|_| &topology.dead_letter_queue);
        for channel in dead_letters.into_iter().chain(&topology.channels) {
            match self.queue(&channel.queue, channel.arguments()).await {
                Answer::Missing(reason) => found.push(self.missing("queue", &channel.queue, &reason)),
                answer => found.extend(judged("queue", &channel.queue, answer)),
            }
        }
        found
    }

    /// Examines the queues of a projection. Only its mode of subscription has one.
    pub(super) async fn of_projection(&self, projection: &ProjectionName) -> Vec<Finding> {
        let (mut found, mut exists) = (Vec::new(), false);
        for (queue, mode) in queues(self.options, projection) {
            match self.queue(&queue, self.options.topology.projection_arguments(mode)).await {
                Answer::Missing(_) => {}
                answer => {
                    exists = true;
                    found.extend(judged("queue", &queue, answer));
                }
            }
        }
        if !exists {
            found.push(
                Finding::new("queue-missing", Severity::Info, format!("{projection} has no queue"))
                    .breaks("nothing, if its workers do not use this broker: they find new events by polling")
                    .remedy("start a worker of it with this broker"),
            );
        }
        found
    }

    async fn exchange(&self, exchange: &Exchange) -> Option<Finding> {
        match self.ask(Object::Exchange(exchange)).await {
            Answer::Missing(reason) => Some(self.missing("exchange", &exchange.name, &reason)),
            answer => judged("exchange", &exchange.name, answer),
        }
    }

    async fn queue(&self, queue: &str, arguments: FieldTable) -> Answer {
        self.ask(Object::Queue(queue, arguments)).await
    }

    /// Looks an object up, and declares it again if it exists. A refusal closes the channel, so each object has its own.
    async fn ask(&self, object: Object<'_>) -> Answer {
        let asked = async {
            let channel = self.connection.create_channel().await?;
            object.declare(&channel, true).await?;
            // RabbitMQ compares the arguments only if the declaration is not passive.
            if self.options.creates {
                object.declare(&channel, false).await?;
            }
            channel.close(200, "done".into()).await
        };
        match timeout(self.options.timeout, asked).await {
            Ok(answer) => answer.map_or_else(|error| Answer::of(&error), |()| Answer::Good),
            Err(_) => Answer::Failed(format!("no answer within {:?}", self.options.timeout)),
        }
    }

    fn missing(&self, kind: &str, name: &str, reason: &str) -> Finding {
        let found = |severity| Finding::new(format!("{kind}-missing"), severity, format!("{kind} {name}: {reason}"));
        if self.options.creates {
            let found = found(Severity::Info).breaks("nothing: the program declares it when it connects");
            return found.remedy("start a relay and a worker with this broker");
        }
        found(Severity::Broken)
            .breaks("messages are not sent or not received, since this broker declares nothing")
            .remedy("declare it, or leave `without_declaring` out")
    }
}

impl Answer {
    fn of(error: &lapin::Error) -> Self {
        let lapin::ErrorKind::ProtocolError(problem) = error.kind() else { return Self::Failed(error.to_string()) };
        let said = problem.get_message().to_string();
        match problem.kind() {
            // A queue whose node is down has this code, too.
            AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND)
                if said.contains("no queue") || said.contains("no exchange") =>
            {
                Self::Missing(said)
            }
            AMQPErrorKind::Soft(AMQPSoftError::PRECONDITIONFAILED | AMQPSoftError::RESOURCELOCKED) => {
                Self::Differs(said)
            }
            AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED) => Self::Denied(said),
            _ => Self::Failed(said),
        }
    }
}

fn judged(kind: &str, name: &str, answer: Answer) -> Option<Finding> {
    let found = |id: String, severity, said: &str| Finding::new(id, severity, format!("{kind} {name}: {said}"));
    match answer {
        Answer::Good | Answer::Missing(_) => None,
        Answer::Differs(said) => {
            Some(found(format!("{kind}-differs"), Severity::Broken, &said).breaks(UNDECLARED).remedy(format!(
                "delete the {kind} and start the program, or give the topology the arguments of the {kind}"
            )))
        }
        Answer::Denied(said) => {
            Some(found("right-missing".into(), Severity::Broken, &said).breaks(UNDECLARED).remedy(
                "rabbitmqctl set_permissions, or `without_declaring` for a user without the right to configure",
            ))
        }
        Answer::Failed(said) => Some(
            found(format!("{kind}-unavailable"), Severity::Risk, &said)
                .breaks("messages wait until its node or a majority of its nodes is back")
                .remedy("start the nodes that have it; rabbitmq-queues quorum_status shows them"),
        ),
    }
}

/// Returns the names of the queues that a projection may have.
fn queues(options: &RabbitMqOptions, projection: &ProjectionName) -> Vec<(String, SubscriptionMode)> {
    let modes = [SubscriptionMode::Exclusive, SubscriptionMode::Competing];
    // A name that is too long has no queue: the worker was refused.
    modes.into_iter().filter_map(|mode| Some((options.topology.queue(projection, mode).ok()?, mode))).collect()
}
