//! Reads the greeting that each node sends before a client logs in. The client library does not pass it on.

use std::io;
use std::time::Duration;

use futures::io::{AsyncReadExt, AsyncWriteExt};
use lapin::protocol::connection::AMQPMethod;
use lapin::protocol::{AMQPClass, parse_class};
use lapin::tcp::AMQPUriTcpExt;
use lapin::types::{AMQPValue, FieldTable};
use lapin::uri::AMQPUri;
use tokio::time::timeout;

use crate::broker::rabbitmq::options::RabbitMqOptions;
use crate::finding::{Finding, Severity};

/// The longest wait for a node.
const NODE_TIMEOUT: Duration = Duration::from_secs(5);

/// The longest greeting. Those of RabbitMQ have about 500 bytes.
const MAX_GREETING_BYTES: usize = 64 * 1024;

/// The first bytes of a client: AMQP 0-9-1.
const HELLO: &[u8; 8] = b"AMQP\0\0\x09\x01";

/// The capabilities of the server that this library uses.
const CAPABILITIES: [&str; 4] = ["publisher_confirms", "basic.nack", "consumer_cancel_notify", "connection.blocked"];

/// Judges the greeting of each node. A single node that does not answer is reported when the connection fails.
pub(super) async fn findings(options: &RabbitMqOptions) -> Vec<Finding> {
    let mut found = Vec::new();
    let is_cluster = options.uris.len() > 1;
    for uri in &options.uris {
        let node = format!("{}:{}", uri.authority.host, uri.authority.port);
        let limit = NODE_TIMEOUT.min(options.timeout);
        let greeting = timeout(limit, greeting(uri, options)).await.unwrap_or_else(|late| Err(late.into()));
        match greeting {
            Ok(properties) => found.extend(judged(&node, &properties)),
            Err(error) if is_cluster => found.push(
                Finding::new("node-unreachable", Severity::Risk, format!("the node {node} does not answer: {error}"))
                    .breaks("one node less can fail before publishers and workers are without a broker")
                    .remedy("start the node, or remove it from the URL"),
            ),
            Err(_) => {}
        }
    }
    found
}

async fn greeting(uri: &AMQPUri, options: &RabbitMqOptions) -> io::Result<FieldTable> {
    let runtime = lapin::runtime::default_runtime().map_err(io::Error::other)?;
    let mut stream = Box::pin(uri.connect_with_config_async(options.tls.as_ref(), &runtime)).await?;
    stream.write_all(HELLO).await?;
    stream.flush().await?;
    // Type, channel and size of the frame.
    let mut head = [0; 7];
    stream.read_exact(&mut head).await?;
    let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]);
    let invalid = || io::Error::new(io::ErrorKind::InvalidData, "the answer is not one of AMQP 0-9-1");
    let size =
        usize::try_from(size).ok().filter(|size| head[0] == 1 && *size <= MAX_GREETING_BYTES).ok_or_else(invalid)?;
    let mut method = vec![0; size];
    stream.read_exact(&mut method).await?;
    match parse_class(&method[..]) {
        Ok((_, AMQPClass::Connection(AMQPMethod::Start(start)))) => Ok(start.server_properties),
        _ => Err(invalid()),
    }
}

fn judged(node: &str, properties: &FieldTable) -> Vec<Finding> {
    let text = |name: &str| match properties.inner().get(name) {
        Some(AMQPValue::LongString(text)) => text.to_string(),
        _ => String::new(),
    };
    let (product, version) = (text("product"), text("version"));
    let mut found = Vec::new();
    if product != "RabbitMQ" {
        found.push(Finding::unknown("version", format_args!("{node} is {product:?} {version}, and not RabbitMQ")));
    } else if numbers(&version).is_none_or(|version| version < (3, 10)) {
        found.push(
            Finding::new("version-old", Severity::Broken, format!("{node} has RabbitMQ {version}"))
                .breaks("queues do not keep the settings that frames need")
                .remedy("upgrade to RabbitMQ 3.10 or later"),
        );
    }
    let capabilities = match properties.inner().get("capabilities") {
        Some(AMQPValue::FieldTable(table)) => table.clone(),
        _ => FieldTable::default(),
    };
    let lacks = |name: &&str| capabilities.inner().get(*name) != Some(&AMQPValue::Boolean(true));
    for missing in CAPABILITIES.iter().filter(|name| lacks(name)) {
        found.push(
            Finding::new("capability-missing", Severity::Broken, format!("{node} does not offer {missing}"))
                .breaks("a lost message or a consumer that was cancelled is not noticed")
                .remedy("use RabbitMQ 3.10 or later"),
        );
    }
    found
}

/// Returns the first two numbers of a version such as `3.10.8`.
fn numbers(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split(['.', '-', '+']).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn properties(product: &str, version: &str, capabilities: &[&str]) -> FieldTable {
        let mut table = FieldTable::default();
        for capability in capabilities {
            table.insert((*capability).into(), AMQPValue::Boolean(true));
        }
        let mut properties = FieldTable::default();
        properties.insert("product".into(), AMQPValue::LongString(product.into()));
        properties.insert("version".into(), AMQPValue::LongString(version.into()));
        properties.insert("capabilities".into(), AMQPValue::FieldTable(table));
        properties
    }

    #[test]
    fn old_and_other_servers_are_found() {
        let ids = |product, version, capabilities| {
            let found = judged("mq:5672", &properties(product, version, capabilities));
            found.into_iter().map(|finding| finding.id).collect::<Vec<_>>()
        };
        for version in ["3.10.8", "4.1.0", "4.2.0-rc.1", "10.0.1"] {
            assert!(ids("RabbitMQ", version, &CAPABILITIES).is_empty(), "{version}");
        }
        for version in ["3.9.29", "3", ""] {
            assert_eq!(ids("RabbitMQ", version, &CAPABILITIES), ["version-old"], "{version}");
        }
        assert_eq!(ids("LavinMQ", "2.2.0", &CAPABILITIES), ["unknown"]);
        assert_eq!(ids("RabbitMQ", "4.1.0", &CAPABILITIES[1..]), ["capability-missing"]);
    }
}
