//! The broker as a part of `doctor`: over AMQP, and over the management API.

mod http;
mod management;
mod nodes;
mod queues;
mod rights;

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use retell::broker::rabbitmq::topology::Topology;
use retell::operate::Examine;
use retell::{ProjectionName, RabbitMqBroker, RabbitMqOptions};

use crate::failure::Failure;
use crate::rabbitmq::http::Api;
use crate::rabbitmq::management::Management;

/// The broker that `doctor` examines.
#[derive(Debug, Args)]
pub(crate) struct BrokerArguments {
    /// Examine RabbitMQ, too: amqp://USER:PASSWORD@HOST/VIRTUAL-HOST
    #[arg(long, value_name = "URL", env = "RETELL_BROKER", hide_env_values = true)]
    broker: Option<String>,
    /// Read RabbitMQ's management API, too: http://USER:PASSWORD@HOST:15672
    #[arg(long, value_name = "URL", env = "RETELL_MANAGEMENT", hide_env_values = true)]
    management: Option<String>,
    /// The exchanges and queues as JSON, if they differ from the default ones
    #[arg(long, value_name = "FILE")]
    topology: Option<PathBuf>,
}

impl BrokerArguments {
    /// Returns the parts to examine, with the queues of these projections.
    pub(crate) fn parts(
        &self,
        projections: Vec<ProjectionName>,
        limit: Duration,
    ) -> Result<Vec<Box<dyn Examine>>, Failure> {
        let Some(url) = &self.broker else {
            return match self.management {
                None => Ok(Vec::new()),
                Some(_) => Err(Failure::Usage("--management needs --broker, which names the virtual host".into())),
            };
        };
        let options =
            RabbitMqOptions::new(url)?.with_name("retell doctor").with_topology(self.topology()?).with_timeout(limit);
        let mut parts: Vec<Box<dyn Examine>> = Vec::new();
        if let Some(url) = &self.management {
            parts.push(Box::new(Management::new(Api::parse(url, limit)?, &options, projections.clone())));
        }
        parts.insert(0, Box::new(RabbitMqBroker::new(options)?.examination(projections)));
        Ok(parts)
    }

    pub(crate) fn is_named(&self) -> bool {
        self.broker.is_some()
    }

    fn topology(&self) -> Result<Topology, Failure> {
        let Some(path) = &self.topology else { return Ok(Topology::new()) };
        let shown = path.display();
        let text =
            std::fs::read_to_string(path).map_err(|error| Failure::Usage(format!("cannot read {shown}: {error}")))?;
        serde_json::from_str(&text).map_err(|error| Failure::Usage(format!("{shown} is no topology: {error}")))
    }
}
