//! Publishes messages and waits for their confirms.

use std::sync::Arc;

use futures::FutureExt;
use lapin::options::BasicPublishOptions;
use lapin::{BasicProperties, Channel, Confirmation, PublisherConfirm};
use tokio::time::{Instant, timeout_at};

use crate::broker::rabbitmq::connection::{Link, failed};
use crate::error::{Error, ErrorKind, Result};

/// Bytes that may be handed to a connection before the caller waits for them to be written. The connection copies them and sends them even
/// if the caller is gone, so this bounds how much it can hold.
const UNWRITTEN_BYTES: usize = 256 * 1024;

/// A message to be published.
pub(super) struct Message<'m> {
    pub(super) key: &'m str,
    pub(super) body: &'m [u8],
    pub(super) properties: BasicProperties,
    pub(super) options: BasicPublishOptions,
}

impl Link {
    /// Sends `messages` to `exchange`, in order.
    pub(super) async fn send<'m>(
        self: &Arc<Self>,
        exchange: &str,
        messages: impl Iterator<Item = Message<'m>> + Send,
    ) -> Result<Sent> {
        let channel = self.channel().await?;
        match self.within("publish", send(&channel, exchange, messages)).await {
            Ok(confirms) => Ok(Sent { link: self.clone(), confirms, until: Instant::now() + self.timeout() }),
            Err(error) => {
                self.forget().await;
                Err(error)
            }
        }
    }
}

/// Messages that the broker has not confirmed yet.
#[must_use = "a message is safe only after the broker has confirmed it"]
pub(super) struct Sent {
    link: Arc<Link>,
    confirms: Vec<PublisherConfirm>,
    until: Instant,
}

impl Sent {
    /// Waits until the broker has confirmed every message. Returns how many of them reached no queue.
    pub(super) async fn confirmed(self) -> Result<u64> {
        let confirmed = timeout_at(self.until, confirmed(self.confirms)).await;
        let confirmed = match confirmed {
            Ok(Ok(Confirmed { refused: 0, unroutable })) => return Ok(unroutable),
            Ok(Ok(Confirmed { refused, .. })) => {
                ErrorKind::Transient(format!("publish: the broker refused {refused} messages")).into()
            }
            Ok(Err(error)) => failed(error, "publish"),
            Err(elapsed) => Error::with_source(ErrorKind::Transient("publish".into()), elapsed),
        };
        self.link.forget().await;
        Err(confirmed)
    }
}

async fn send<'m>(
    channel: &Channel,
    exchange: &str,
    messages: impl Iterator<Item = Message<'m>>,
) -> lapin::Result<Vec<PublisherConfirm>> {
    let (mut confirms, mut handed_over, mut unwritten) = (Vec::new(), Vec::new(), 0);
    for Message { key, body, properties, options } in messages {
        let mut publish = Box::pin(channel.basic_publish(exchange.into(), key.into(), options, body, properties));
        unwritten += body.len();
        // The first poll hands the message to the connection's thread, which fixes the order. Waiting until a message is written costs a
        // turn of that thread and a packet, so it is not done for each message. Messages are written in order: once one is written, so are
        // all before it.
        let written =
            if unwritten < UNWRITTEN_BYTES { publish.as_mut().now_or_never() } else { Some(publish.as_mut().await) };
        let Some(confirm) = written else {
            handed_over.push(publish);
            continue;
        };
        for publish in handed_over.drain(..) {
            confirms.push(publish.await?);
        }
        confirms.push(confirm?);
        unwritten = 0;
    }
    for publish in handed_over {
        confirms.push(publish.await?);
    }
    Ok(confirms)
}

/// The broker's answers to a batch of messages.
#[derive(Debug, Default)]
struct Confirmed {
    refused: u64,
    unroutable: u64,
}

async fn confirmed(confirms: Vec<PublisherConfirm>) -> lapin::Result<Confirmed> {
    let mut confirmed = Confirmed::default();
    for confirm in confirms {
        match confirm.await? {
            Confirmation::Ack(returned) => confirmed.unroutable += u64::from(returned.is_some()),
            _ => confirmed.refused += 1,
        }
    }
    Ok(confirmed)
}
