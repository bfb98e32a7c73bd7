//! Looks at a broker over AMQP for everything that would break a promise.

mod declared;
mod greeting;
mod probe;

use std::time::Duration;

use async_trait::async_trait;
use lapin::Connection;

use crate::broker::rabbitmq::RabbitMqBroker;
use crate::broker::rabbitmq::connection::{Link, Purpose};
use crate::broker::rabbitmq::examine::declared::Declared;
use crate::error::chain;
use crate::finding::{Examine, Finding, Severity};
use crate::id::ProjectionName;

/// The smallest AMQP frame that has room for the headers of a dead letter, whose reason is a text of any length.
const SMALL_FRAME_BYTES: u32 = 16 * 1024;

/// A broker as a part of [`doctor`](crate::operate::doctor), with projections whose queues are examined, too. Made by [`RabbitMqBroker::examination`].
#[derive(Debug, Clone)]
pub struct RabbitMqExamination {
    broker: RabbitMqBroker,
    projections: Vec<ProjectionName>,
}

impl RabbitMqBroker {
    /// Returns this broker as a part of [`doctor`](crate::operate::doctor) that also examines the queues of these projections. The broker alone
    /// examines its exchanges, its channels and the queue of dead letters.
    ///
    /// The examination opens a connection of its own and creates nothing. It declares what exists once more with the arguments of its topology, since
    /// RabbitMQ compares them in no other way; a queue that is deleted at this very moment would come back. It also publishes one message of 1 MiB
    /// that reaches no queue.
    ///
    /// # Examples
    /// ```no_run
    /// use std::time::Duration;
    ///
    /// use retell::{ProjectionName, RabbitMqBroker, RabbitMqOptions, operate};
    ///
    /// # async fn example() -> retell::Result<()> {
    /// let broker = RabbitMqBroker::new(RabbitMqOptions::new("amqp://localhost/%2f")?)?;
    /// let broker = broker.examination([ProjectionName::new("order_list")?]);
    /// let diagnosis = operate::doctor(&[&broker], Duration::from_secs(10)).await;
    /// for finding in diagnosis.findings() {
    ///     println!("{}: {}", finding.id, finding.remedy);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn examination(&self, projections: impl IntoIterator<Item = ProjectionName>) -> RabbitMqExamination {
        RabbitMqExamination { broker: self.clone(), projections: projections.into_iter().collect() }
    }
}

#[async_trait]
impl Examine for RabbitMqBroker {
    fn part(&self) -> String {
        "broker in RabbitMQ".into()
    }

    async fn examine(&self, patience: Duration) -> Option<Vec<Finding>> {
        self.examination([]).examine(patience).await
    }
}

#[async_trait]
impl Examine for RabbitMqExamination {
    fn part(&self) -> String {
        self.broker.part()
    }

    async fn examine(&self, _: Duration) -> Option<Vec<Finding>> {
        let options = &self.broker.inner.options;
        let mut findings = greeting::findings(options).await;
        let link = Link::new(options.clone(), Purpose::Examining);
        let connection = match link.open().await {
            Ok(connection) => connection,
            Err(error) => {
                findings.push(unconnected(&error));
                return Some(findings);
            }
        };
        findings.extend(agreed(&connection, self.projections.len()));
        let declared = Declared::new(&connection, options);
        findings.extend(declared.fixed().await);
        for projection in &self.projections {
            findings.extend(declared.of_projection(projection).await);
        }
        findings.extend(probe::findings(&connection, options).await);
        // The connection ends with this examination. The findings are complete.
        drop(link.within("close the connection", connection.close(200, "done".into())).await);
        Some(findings)
    }
}

/// Reports that no node lets this process in.
fn unconnected(error: &crate::error::Error) -> Finding {
    let causes: Vec<_> = chain(error).map(ToString::to_string).collect();
    let (id, severity, remedy) = if error.is_transient() {
        ("broker-unreachable", Severity::Risk, "start RabbitMQ, or correct the host and the port")
    } else {
        (
            "broker-refuses",
            Severity::Broken,
            "correct the user, the password or the virtual host, or add them to RabbitMQ",
        )
    };
    Finding::new(id, severity, causes.join(": "))
        .breaks("workers find new events by polling, and consumers outside this library get none")
        .remedy(remedy)
}

/// Judges the limits on which both sides have agreed.
fn agreed(connection: &Connection, projections: usize) -> Vec<Finding> {
    let mut found = Vec::new();
    let agreed = connection.configuration();
    let needed = projections + 1;
    if usize::from(agreed.channel_max()) < needed {
        let seen =
            format!("channel_max is {}, and one process with all projections needs {needed}", agreed.channel_max());
        found.push(
            Finding::new("channels-few", Severity::Risk, seen)
                .breaks("a worker that gets no channel finds new events by polling")
                .remedy("raise channel_max in rabbitmq.conf, or in the URL"),
        );
    }
    if agreed.frame_max() < SMALL_FRAME_BYTES {
        found.push(
            Finding::new("frame-small", Severity::Risk, format!("frame_max is {} bytes", agreed.frame_max()))
                .breaks("the reason of a dead letter may not fit into one frame, and each message takes many of them")
                .remedy("raise frame_max in rabbitmq.conf, or in the URL; 131072 is the default"),
        );
    }
    if agreed.heartbeat() == 0 {
        found.push(
            Finding::new("heartbeat-off", Severity::Risk, "the connection has no heartbeat")
                .breaks("a connection that is lost without a word stays open, and its worker waits")
                .remedy("remove heartbeat=0 from the URL"),
        );
    }
    found
}
