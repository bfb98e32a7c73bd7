//! What carries the events to the consumers: RabbitMQ, or a broker within this process.

use std::path::Path;

use retell::{MemoryBroker, RabbitMqBroker, RabbitMqOptions};

use crate::run::Failure;
use crate::{chain, topology};

#[derive(Debug, Clone)]
pub enum Carrier {
    Memory(MemoryBroker),
    RabbitMq(RabbitMqBroker),
}

impl Carrier {
    /// Declares what is to stand on the broker at `url`. What is wrong there ends the program now; a broker out of reach does not.
    pub async fn open(url: Option<&str>, topology: Option<&Path>) -> Result<Self, Failure> {
        let Some(url) = url else { return Ok(Self::Memory(MemoryBroker::new())) };
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
            Self::RabbitMq(_) => "rabbitmq",
        }
    }

    pub async fn close(&self) {
        if let Self::RabbitMq(broker) = self {
            // Everything is confirmed or will be sent again. A broker that does not hear the goodbye finds the connection closed.
            drop(broker.close().await);
        }
    }
}
