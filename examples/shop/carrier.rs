//! What carries the events to the consumers: RabbitMQ, or a broker within this process.

use std::path::Path;

use retell::MemoryBroker;
#[cfg(feature = "rabbitmq")]
use retell::{RabbitMqBroker, RabbitMqOptions};

use crate::addresses::Broker;
use crate::run::Failure;
#[cfg(feature = "rabbitmq")]
use crate::{chain, topology};

#[derive(Debug, Clone)]
pub enum Carrier {
    Memory(MemoryBroker),
    #[cfg(feature = "rabbitmq")]
    RabbitMq(RabbitMqBroker),
}

impl Carrier {
    /// Opens `broker`, or one within this process.
    #[cfg_attr(
        not(feature = "rabbitmq"),
        expect(
            clippy::unused_async,
            unused_variables,
            reason = "a broker within this process has no topology and is not waited for"
        )
    )]
    pub async fn open(broker: Option<Broker>, topology: Option<&Path>) -> Result<Self, Failure> {
        match broker {
            #[cfg(feature = "rabbitmq")]
            Some(Broker::RabbitMq(url)) => Self::open_rabbitmq(&url, topology).await,
            None => Ok(Self::Memory(MemoryBroker::new())),
        }
    }

    /// Declares the topology on the broker at `url`. An unreachable broker only costs a warning; every other error is returned.
    #[cfg(feature = "rabbitmq")]
    async fn open_rabbitmq(url: &str, topology: Option<&Path>) -> Result<Self, Failure> {
        let failed = |error| Failure::of("set up RabbitMQ", error);
        let options = RabbitMqOptions::new(url).map_err(failed)?;
        let options = options.with_name("shop").with_topology(topology::read(topology)?);
        let broker = RabbitMqBroker::new(options).map_err(failed)?;
        match broker.declare().await {
            Err(error) if error.is_transient() => {
                eprintln!("shop: RabbitMQ is out of reach, the store carries the events: {}", chain(&error));
            }
            declared => declared.map_err(failed)?,
        }
        Ok(Self::RabbitMq(broker))
    }

    pub fn name(&self) -> &'static str {
        match self {
            Self::Memory(_) => "memory",
            #[cfg(feature = "rabbitmq")]
            Self::RabbitMq(_) => "rabbitmq",
        }
    }

    #[cfg_attr(not(feature = "rabbitmq"), expect(clippy::unused_async, reason = "only RabbitMQ is closed"))]
    pub async fn close(&self) {
        match self {
            Self::Memory(_) => {}
            // An error is no loss: the broker has confirmed every message, or the relay will send it again.
            #[cfg(feature = "rabbitmq")]
            Self::RabbitMq(broker) => drop(broker.close().await),
        }
    }
}
