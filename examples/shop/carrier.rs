//! The broker that carries events to the consumers: RabbitMQ, or a broker inside this process.

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
    /// Opens `broker`, or a broker inside this process if there is none.
    #[cfg_attr(
        not(feature = "rabbitmq"),
        expect(
            clippy::unused_async,
            unused_variables,
            reason = "the broker inside this process has no topology and opens without waiting"
        )
    )]
    pub async fn open(broker: Option<Broker>, topology: Option<&Path>) -> Result<Self, Failure> {
        match broker {
            #[cfg(feature = "rabbitmq")]
            Some(Broker::RabbitMq(url)) => Self::open_rabbitmq(&url, topology).await,
            None => Ok(Self::Memory(MemoryBroker::new())),
        }
    }

    /// Declares the topology on the broker at `url`. An unreachable broker only causes a warning; every other error is returned.
    #[cfg(feature = "rabbitmq")]
    async fn open_rabbitmq(url: &str, topology: Option<&Path>) -> Result<Self, Failure> {
        let failed = |error| Failure::of("set up RabbitMQ", error);
        let options = RabbitMqOptions::new(url).map_err(failed)?;
        let options = options.with_name("shop").with_topology(topology::read(topology)?);
        let broker = RabbitMqBroker::new(options).map_err(failed)?;
        match broker.declare().await {
            Err(error) if error.is_transient() => {
                eprintln!("shop: RabbitMQ is unreachable, the consumers read the store instead: {}", chain(&error));
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
            // Ignoring an error loses nothing: the broker has confirmed every message, or the relay sends it again.
            #[cfg(feature = "rabbitmq")]
            Self::RabbitMq(broker) => drop(broker.close().await),
        }
    }
}
