//! RabbitMQ over TLS, with a private certificate authority.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/certificates.rs"]
mod certificates;
#[path = "support/programs.rs"]
mod programs;
#[path = "support/rabbitmq.rs"]
mod rabbitmq;

use std::time::{Duration, Instant};

use certificates::Certificates;
use rabbitmq::RabbitMq;
use retell::broker::Publisher;
use retell::broker::frame::Frame;
use retell::{ErrorKind, Position, RabbitMqBroker, RabbitMqOptions};

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_is_trusted_only_through_its_own_authority() {
    let certificates = Certificates::new();
    let port = rabbitmq::free_port();
    let _server = RabbitMq::start_with(&certificates.settings(port));
    let options = || RabbitMqOptions::new(&format!("amqps://guest:guest@localhost:{port}/%2f")).unwrap();
    let trusting = RabbitMqBroker::new(options().with_ca(certificates.authority.clone())).unwrap();
    // The plain port may answer before the TLS port does.
    let started = Instant::now();
    while let Err(error) = trusting.declare().await {
        assert!(error.is_transient() && started.elapsed() < Duration::from_mins(1), "{error}");
    }
    let position = Position::new(1);
    trusting.publish(&[Frame::unchecked(position, vec![1])]).await.unwrap().await.unwrap();
    trusting.close().await.unwrap();
    for options in [options(), options().with_ca(Certificates::new().authority)] {
        let error = RabbitMqBroker::new(options).unwrap().declare().await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Transient(_)), "{error}");
        let reason = std::error::Error::source(&error).unwrap().to_string();
        assert!(reason.contains("certificate"), "{reason}");
    }
}
