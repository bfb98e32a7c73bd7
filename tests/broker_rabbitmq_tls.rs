//! RabbitMQ over TLS, with a private certificate authority.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/programs.rs"]
mod programs;
#[path = "support/rabbitmq.rs"]
mod rabbitmq;

use std::fs;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use rabbitmq::RabbitMq;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use retell::broker::Publisher;
use retell::broker::frame::Frame;
use retell::{ErrorKind, Position, RabbitMqBroker, RabbitMqOptions};
use tempfile::TempDir;

/// Creates the certificate files of a server in a folder that it can read. Returns the folder and the authority that
/// signed them.
fn certificates() -> (TempDir, String) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["localhost".into()]).unwrap().signed_by(&key, &authority).unwrap();
    let folder = programs::folder("rabbitmq");
    for (name, text) in [("ca", authority.pem()), ("certificate", certificate.pem()), ("key", key.serialize_pem())] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    (folder, authority.pem())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_is_trusted_only_through_its_own_authority() {
    let (folder, authority) = certificates();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let file = |name| folder.path().join(name).display().to_string();
    let settings = format!(
        "[{{rabbit, [{{ssl_listeners, [{{\"127.0.0.1\", {port}}}]}}, {{ssl_options, [{{cacertfile, \"{}\"}}, \
         {{certfile, \"{}\"}}, {{keyfile, \"{}\"}}]}}]}}].",
        file("ca"),
        file("certificate"),
        file("key")
    );
    let _server = RabbitMq::start_with(&settings);
    let options = || RabbitMqOptions::new(&format!("amqps://guest:guest@localhost:{port}/%2f")).unwrap();
    let trusting = RabbitMqBroker::new(options().with_ca(authority)).unwrap();
    // The plain port may answer before the TLS port does.
    let started = Instant::now();
    while let Err(error) = trusting.declare().await {
        assert!(error.is_transient() && started.elapsed() < Duration::from_mins(1), "{error}");
    }
    let position = Position::new(1);
    trusting.publish(&[Frame::unchecked(position, vec![1])]).await.unwrap().await.unwrap();
    trusting.close().await.unwrap();
    let (_folder, other_authority) = certificates();
    for options in [options(), options().with_ca(other_authority)] {
        let error = RabbitMqBroker::new(options).unwrap().declare().await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Transient(_)), "{error}");
        let reason = std::error::Error::source(&error).unwrap().to_string();
        assert!(reason.contains("certificate"), "{reason}");
    }
}
